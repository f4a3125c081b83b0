// forks: computes, forks a child that computes with OpenCL of its own, computes again. The exit code is 0 when all
// three got the right result.
#include <sys/wait.h>
#include <unistd.h>

#include "cl_program.h"

static int Compute(Cl cl, unsigned seed) {
  unsigned value = seed;
  cl_kernel kernel = MakeKernel(cl, "__kernel void twice(__global uint* v) { v[0] *= 2; }", "twice");
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof value, &value);
  const size_t one = 1;
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffer, &buffer));
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &one, NULL, 0, NULL, NULL));
  Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, 0, sizeof value, &value, 0, NULL, NULL));
  return value == 2 * seed ? 0 : 1;
}

int main(void) {
  const Cl cl = OpenDevice(0);
  if (Compute(cl, 7) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) _exit(Compute(OpenDevice(0), 21));
  if (Compute(cl, 100) != 0) return 1;
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) return 2;
  puts("all right");
  return 0;
}
