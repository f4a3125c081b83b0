// burns: keeps a device busy, several kernels at a time, until standard input ends. Prints "ready" after the first ones, and
// "done after N kernels", all of which it has checked.
#include <poll.h>

#include "cl_program.h"

int main(void) {
  enum { kCount = 512, kAtOnce = 8 };
  static unsigned values[kCount];
  const Cl cl = OpenDevice(0);
  cl_kernel kernel = MakeKernel(cl,
                                "__kernel void burn(__global uint* v) { uint x = 1; for (uint i = 0; i < 100000; ++i) x = x * 5 + i; "
                                "v[get_global_id(0)] += x == 0 ? 2 : 1; }",
                                "burn");
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof values, values);
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffer, &buffer));
  const size_t count = kCount;
  for (unsigned done = kAtOnce;; done += kAtOnce) {
    for (int i = 0; i < kAtOnce; ++i)
      Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &count, NULL, 0, NULL, NULL));
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, 0, sizeof values, values, 0, NULL, NULL));
    for (int i = 0; i < kCount; ++i) {
      if (values[i] == done) continue;
      printf("after %u kernels it is %u\n", done, values[i]);
      return 4;
    }
    if (done == kAtOnce) {
      puts("ready");
      fflush(stdout);
    }
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, 0) == 0) continue;
    printf("done after %u kernels\n", done);
    return 0;
  }
}
