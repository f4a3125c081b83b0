// moves: writes and reads a buffer, over and over, until standard input ends, and checks what comes back. Prints "ready" after the
// first time, and "done after N".
#include <poll.h>
#include <string.h>

#include "cl_program.h"

int main(void) {
  enum { kBytes = 1 << 20 };
  static unsigned char there[kBytes], back[kBytes];
  const Cl cl = OpenDevice(0);
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE, kBytes, NULL);
  for (unsigned done = 1;; ++done) {
    unsigned random = done;
    for (int i = 0; i < kBytes; ++i) there[i] = (unsigned char)((random = random * 1664525 + 1013904223) >> 24);
    Check("clEnqueueWriteBuffer", clEnqueueWriteBuffer(cl.queue, buffer, CL_FALSE, 0, kBytes, there, 0, NULL, NULL));
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, 0, kBytes, back, 0, NULL, NULL));
    if (memcmp(there, back, kBytes) != 0) {
      printf("wrong after %u\n", done);
      return 4;
    }
    if (done == 1) {
      puts("ready");
      fflush(stdout);
    }
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, 0) == 0) continue;
    printf("done after %u\n", done);
    return 0;
  }
}
