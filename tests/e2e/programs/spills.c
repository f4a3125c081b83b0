// spills BUFFERS MIB PASSES: changes each of its buffers again and again, by what is in the next one, and checks
// in the end what has come of all of them. Prints "ready" when all were used once, goes on when it reads a line,
// and prints "right".
#include <string.h>

#include "cl_program.h"

static const char* const kSource =
    "kernel void mix_in(global uint* to, global const uint* from) {\n"
    "  const size_t i = get_global_id(0);\n"
    "  to[i] = to[i] * 3u + from[i] + (uint)i;\n"
    "}\n";

int main(int argc, char** argv) {
  const int buffers = argc > 1 ? atoi(argv[1]) : 8, passes = argc > 3 ? atoi(argv[3]) : 2;
  const size_t bytes = (size_t)(argc > 2 ? atoi(argv[2]) : 16) << 20, words = bytes / sizeof(cl_uint);
  const Cl cl = OpenDevice(0);
  cl_kernel mix_in = MakeKernel(cl, kSource, "mix_in");
  cl_mem* memory = calloc((size_t)buffers, sizeof *memory);
  cl_uint** expected = calloc((size_t)buffers, sizeof *expected);
  for (int i = 0; i < buffers; ++i) {
    memory[i] = MakeBuffer(cl, CL_MEM_READ_WRITE, bytes, NULL);
    expected[i] = malloc(bytes);
    for (size_t word = 0; word < words; ++word) expected[i][word] = (cl_uint)(word * 7 + (size_t)i);
    Check("clEnqueueWriteBuffer",
          clEnqueueWriteBuffer(cl.queue, memory[i], CL_TRUE, 0, bytes, expected[i], 0, NULL, NULL));
  }
  for (int pass = 0; pass < passes; ++pass) {
    for (int i = 0; i < buffers; ++i) {
      const int next = (i + 1) % buffers;
      Check("clSetKernelArg", clSetKernelArg(mix_in, 0, sizeof(cl_mem), &memory[i]));
      Check("clSetKernelArg", clSetKernelArg(mix_in, 1, sizeof(cl_mem), &memory[next]));
      Check("clEnqueueNDRangeKernel",
            clEnqueueNDRangeKernel(cl.queue, mix_in, 1, NULL, &words, NULL, 0, NULL, NULL));
      for (size_t word = 0; word < words; ++word)
        expected[i][word] = expected[i][word] * 3u + expected[next][word] + (cl_uint)word;
    }
    Check("clFinish", clFinish(cl.queue));
    if (pass != 0) continue;
    puts("ready");
    fflush(stdout);
    char line[8];
    if (fgets(line, sizeof line, stdin) == NULL) return 1;
  }
  cl_uint* back = malloc(bytes);
  for (int i = 0; i < buffers; ++i) {
    Check("clEnqueueReadBuffer",
          clEnqueueReadBuffer(cl.queue, memory[i], CL_TRUE, 0, bytes, back, 0, NULL, NULL));
    if (memcmp(back, expected[i], bytes) != 0) {
      printf("buffer %d is wrong\n", i);
      return 4;
    }
  }
  puts("right");
  return 0;
}
