// wild_kernel: runs a kernel that writes where it may not, on a device without memory protection. What is right is
// an error from OpenCL (exit code 3).
#include "cl_program.h"

int main(void) {
  const Cl cl = OpenDevice(0);
  cl_kernel kernel = MakeKernel(cl, "__kernel void wild(ulong address) { *(volatile __global uint*)address = 1; }", "wild");
  const cl_ulong address = 8;
  const size_t one = 1;
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof address, &address));
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &one, NULL, 0, NULL, NULL));
  Check("clFinish", clFinish(cl.queue));
  puts("nothing happened");
  return 0;
}
