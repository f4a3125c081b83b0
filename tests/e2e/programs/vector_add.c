// vector_add [COUNT [DEVICE]]: c = 3 a + b on a device; prints a checksum of all bytes of c and a few elements.
#include "cl_program.h"

int main(int argc, char** argv) {
  const size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1 << 20;
  const size_t size = count * sizeof(float);
  float* a = malloc(size);
  float* b = malloc(size);
  for (size_t i = 0; i < count; ++i) {
    a[i] = (float)i * 0.25f;
    b[i] = (float)(count - i);
  }
  const Cl cl = OpenDevice(argc > 2 ? (cl_uint)atoi(argv[2]) : 0);
  cl_kernel kernel = MakeKernel(cl,
                                "__kernel void add(__global const float* a, __global const float* b, __global float* c,\n"
                                "                  float factor) {\n"
                                "  size_t i = get_global_id(0);\n"
                                "  c[i] = a[i] * factor + b[i];\n"
                                "}\n",
                                "add");
  cl_mem in_a = MakeBuffer(cl, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, size, a);
  cl_mem in_b = MakeBuffer(cl, CL_MEM_READ_ONLY, size, NULL);
  cl_mem out = MakeBuffer(cl, CL_MEM_WRITE_ONLY, size, NULL);
  const float factor = 3;
  Check("clEnqueueWriteBuffer", clEnqueueWriteBuffer(cl.queue, in_b, CL_FALSE, 0, size, b, 0, NULL, NULL));
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof in_a, &in_a));
  Check("clSetKernelArg", clSetKernelArg(kernel, 1, sizeof in_b, &in_b));
  Check("clSetKernelArg", clSetKernelArg(kernel, 2, sizeof out, &out));
  Check("clSetKernelArg", clSetKernelArg(kernel, 3, sizeof factor, &factor));
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &count, NULL, 0, NULL, NULL));
  Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, out, CL_TRUE, 0, size, a, 0, NULL, NULL));
  unsigned long checksum = 14695981039346656037ul;  // FNV-1a
  for (size_t i = 0; i < size; ++i) checksum = (checksum ^ ((unsigned char*)a)[i]) * 1099511628211ul;
  printf("%zu elements, checksum %016lx, first %g, last %g\n", count, checksum, (double)a[0], (double)a[count - 1]);
  return 0;
}
