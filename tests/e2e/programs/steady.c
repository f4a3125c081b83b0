// steady [PAUSE_MS]: works on a device, a step every 5 (or PAUSE_MS) milliseconds, and checks each result, until standard
// input ends. Prints "ready" after the first step and "done after N steps" at the end; a step that fails ends it with its
// error.
#include <poll.h>
#include <unistd.h>

#include "cl_program.h"

int main(int argc, char** argv) {
  const int pause_ms = argc > 1 ? atoi(argv[1]) : 5;
  enum { kCount = 4096 };
  static unsigned values[kCount];
  const Cl cl = OpenDevice(0);
  cl_kernel kernel =
      MakeKernel(cl, "__kernel void advance(__global uint* v) { size_t i = get_global_id(0); v[i] = v[i] * 5 + (uint)i; }", "advance");
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof values, values);
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffer, &buffer));
  const size_t count = kCount;
  unsigned expected = 0;
  for (unsigned long step = 1;; ++step) {
    Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &count, NULL, 0, NULL, NULL));
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, 0, sizeof values, values, 0, NULL, NULL));
    expected = expected * 5 + (kCount - 1);
    if (values[kCount - 1] != expected) {
      printf("wrong result in step %lu: %u instead of %u\n", step, values[kCount - 1], expected);
      return 4;
    }
    if (step == 1) {
      puts("ready");
      fflush(stdout);
    }
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    char byte;
    if (poll(&input, 1, pause_ms) == 1 && read(STDIN_FILENO, &byte, 1) <= 0) {
      printf("done after %lu steps\n", step);
      return 0;
    }
  }
}
