// cuda_scrub: as scrub, with CUDA: allocations, shared and local memory, variables of modules, pinned memory of the host.
#include <string.h>

#include "cuda_program.h"

enum { kBuffers = 12, kBytes = 3 << 20, kMarks = kBytes / 8 };
static const unsigned long long kMark = 0x5ec4e7f00dcafe42;

static const char kPtx[] =
    ".version 6.4\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .global .align 8 .b8 variable[8192];\n"
    ".visible .entry leave(.param .u64 mark) {\n"
    "  .reg .b32 %r<4>; .reg .b64 %rd<8>;\n"
    "  .shared .align 8 .b8 own[8192]; .local .align 8 .b8 mine[512];\n"
    "  ld.param.u64 %rd1, [mark]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 8;\n"
    "  mov.u64 %rd3, own; add.u64 %rd3, %rd3, %rd2; st.shared.u64 [%rd3], %rd1;\n"
    "  mov.u64 %rd4, mine; st.local.u64 [%rd4], %rd1; st.local.u64 [%rd4+504], %rd1;\n"
    "  mov.u64 %rd5, variable; add.u64 %rd5, %rd5, %rd2; st.global.u64 [%rd5], %rd1;\n"
    "  ret;\n"
    "}\n"
    ".visible .entry seek(.param .u64 mark, .param .u64 found) {\n"
    "  .reg .pred %p<4>; .reg .b32 %r<4>; .reg .b64 %rd<10>;\n"
    "  .shared .align 8 .b8 own[8192]; .local .align 8 .b8 mine[512];\n"
    "  ld.param.u64 %rd1, [mark]; ld.param.u64 %rd9, [found]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 8;\n"
    "  mov.u64 %rd3, own; add.u64 %rd3, %rd3, %rd2; ld.shared.u64 %rd6, [%rd3]; setp.eq.u64 %p1, %rd6, %rd1;\n"
    "  @%p1 red.global.add.u32 [%rd9], 1;\n"
    "  mov.u64 %rd4, mine; ld.local.u64 %rd7, [%rd4]; setp.eq.u64 %p2, %rd7, %rd1;\n"
    "  @%p2 red.global.add.u32 [%rd9+4], 1;\n"
    "  mov.u64 %rd5, variable; add.u64 %rd5, %rd5, %rd2; ld.global.u64 %rd8, [%rd5]; setp.eq.u64 %p3, %rd8, %rd1;\n"
    "  @%p3 red.global.add.u32 [%rd9+8], 1;\n"
    "  ret;\n"
    "}\n";

int main(int argc, char** argv) {
  const int leaves = argc == 2 && strcmp(argv[1], "leave") == 0;
  static unsigned long long marks[kMarks];
  LoadCuda();
  int device = 0;
  void *context = NULL, *module = NULL, *kernel = NULL, *pinned = NULL;
  unsigned long long memory[kBuffers], found_at = 0;
  CALL(cuInit, (unsigned), (0));
  CALL(cuDeviceGet, (int*, int), (&device, 0));
  CALL(cuDevicePrimaryCtxRetain, (void**, int), (&context, device));
  CALL(cuCtxSetCurrent, (void*), (context));
  CALL(cuModuleLoadData, (void**, const void*), (&module, kPtx));
  CALL(cuModuleGetFunction, (void**, void*, const char*), (&kernel, module, leaves ? "leave" : "seek"));
  for (int i = 0; i < kBuffers; ++i) CALL(cuMemAlloc, (unsigned long long*, size_t), (&memory[i], kBytes));
  CALL(cuMemHostAlloc, (void**, size_t, unsigned), (&pinned, kBytes, 0));
  unsigned found[3] = {0}, in_memory = 0, in_pinned = 0;
  if (leaves) {
    for (int i = 0; i < kMarks; ++i) marks[i] = kMark;
    memcpy(pinned, marks, kBytes);
    for (int i = 0; i < kBuffers; ++i)
      CALL(cuMemcpyHtoD, (unsigned long long, const void*, size_t), (memory[i], i % 2 == 0 ? pinned : (void*)marks, kBytes));
  } else {
    CALL(cuMemAlloc, (unsigned long long*, size_t), (&found_at, sizeof found));
    CALL(cuMemcpyHtoD, (unsigned long long, const void*, size_t), (found_at, found, sizeof found));
    for (int i = 0; i < kBuffers; ++i) {
      CALL(cuMemcpyDtoH, (void*, unsigned long long, size_t), (marks, memory[i], kBytes));
      for (int at = 0; at < kMarks; ++at) in_memory += marks[at] != 0;
    }
    memcpy(marks, pinned, kBytes);
    for (int at = 0; at < kMarks; ++at) in_pinned += marks[at] == kMark;
  }
  void* parameters[] = {(void*)&kMark, &found_at};
  CALL(cuLaunchKernel,
       (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**),
       (kernel, 8, 1, 1, 1024, 1, 1, 0, NULL, parameters, NULL));
  CALL(cuCtxSynchronize, (void), ());
  if (leaves) {
    puts("left");
    fflush(stdout);
    for (int i = 0; i < kBuffers; i += 2) CALL(cuMemFree, (unsigned long long), (memory[i]));
    return getchar() == EOF ? 0 : 1;
  }
  CALL(cuMemcpyDtoH, (void*, unsigned long long, size_t), (found, found_at, sizeof found));
  printf("shared %u local %u variable %u memory %u pinned %u\n", found[0], found[1], found[2], in_memory, in_pinned);
  return 0;
}
