// floods: prints "ready", waits for a line on standard input, then enqueues 500 MiB of writes without waiting for any, and
// prints "done" when all have arrived and what was written last is there.
#include <string.h>

#include "cl_program.h"

int main(void) {
  enum { kPieceBytes = 256 << 10, kPieces = 64, kWrites = 2000 };
  const Cl cl = OpenDevice(0);
  unsigned char* host = malloc(kPieceBytes);
  memset(host, 7, kPieceBytes);
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE, (size_t)kPieces * kPieceBytes, NULL);
  Check("clEnqueueWriteBuffer", clEnqueueWriteBuffer(cl.queue, buffer, CL_TRUE, 0, kPieceBytes, host, 0, NULL, NULL));
  puts("ready");
  fflush(stdout);
  if (getchar() == EOF) return 1;
  unsigned char* pieces = malloc((size_t)kPieces * kPieceBytes);
  for (size_t i = 0; i < kPieces; ++i) memset(pieces + i * kPieceBytes, (int)i, kPieceBytes);
  for (size_t i = 0; i < kWrites; ++i) {
    const size_t at = i % kPieces * kPieceBytes;
    Check("clEnqueueWriteBuffer",
          clEnqueueWriteBuffer(cl.queue, buffer, CL_FALSE, at, kPieceBytes, pieces + at, 0, NULL, NULL));
  }
  Check("clFinish", clFinish(cl.queue));
  for (size_t i = 0; i < kPieces; ++i) {
    Check("clEnqueueReadBuffer",
          clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, i * kPieceBytes, kPieceBytes, host, 0, NULL, NULL));
    if (memcmp(host, pieces + i * kPieceBytes, kPieceBytes) != 0) {
      printf("piece %zu is not what was written\n", i);
      return 4;
    }
  }
  puts("done");
  return 0;
}
