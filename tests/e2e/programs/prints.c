// prints: kernels that print, a little and more than a pipe holds. What they print stands between what the
// program itself prints before and after.
#include "cl_program.h"

int main(void) {
  const Cl cl = OpenDevice(0);
  cl_kernel kernel = MakeKernel(cl,
                                "__kernel void count(int round) {\n"
                                "  if (get_global_id(0) != 0) return;\n"
                                "  for (int i = 0; i < round; ++i) printf(\"%d of %d: %s %.2f\\n\", i, round, \"text\", i * 0.5f);\n"
                                "}\n",
                                "count");
  for (cl_int round = 1; round <= 10000; round *= 10) {
    const size_t items = 4;
    printf("before %d\n", round);
    fflush(stdout);
    Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof round, &round));
    Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &items, NULL, 0, NULL, NULL));
    Check("clFinish", clFinish(cl.queue));
    printf("after %d\n", round);
    fflush(stdout);
  }
  return 0;
}
