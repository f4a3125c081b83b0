// cuda_burns: as burns, with CUDA.
#include <poll.h>

#include "cuda_program.h"

static const char kPtx[] =
    ".version 6.4\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry burn(.param .u64 v) {\n"
    "  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %rd<4>;\n"
    "  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3;\n"
    "  ld.param.u64 %rd1, [v]; mul.wide.u32 %rd2, %r4, 4; add.u64 %rd3, %rd1, %rd2; mov.u32 %r5, 0;\n"
    "AGAIN: add.u32 %r5, %r5, 1; setp.lt.u32 %p, %r5, 20000; @%p bra AGAIN;\n"
    "  ld.global.u32 %r6, [%rd3]; add.u32 %r6, %r6, 1; st.global.u32 [%rd3], %r6;\n"
    "  ret;\n"
    "}\n";

int main(void) {
  enum { kCount = 2048, kAtOnce = 8 };
  static unsigned values[kCount];
  LoadCuda();
  int device = 0;
  void *context = NULL, *module = NULL, *kernel = NULL;
  unsigned long long memory = 0;
  CALL(cuInit, (unsigned), (0));
  CALL(cuDeviceGet, (int*, int), (&device, 0));
  CALL(cuDevicePrimaryCtxRetain, (void**, int), (&context, device));
  CALL(cuCtxSetCurrent, (void*), (context));
  CALL(cuModuleLoadData, (void**, const void*), (&module, kPtx));
  CALL(cuModuleGetFunction, (void**, void*, const char*), (&kernel, module, "burn"));
  CALL(cuMemAlloc, (unsigned long long*, size_t), (&memory, sizeof values));
  CALL(cuMemcpyHtoD, (unsigned long long, const void*, size_t), (memory, values, sizeof values));
  void* parameters[] = {&memory};
  for (unsigned done = kAtOnce;; done += kAtOnce) {
    for (int i = 0; i < kAtOnce; ++i)
      CALL(cuLaunchKernel,
           (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**),
           (kernel, kCount / 128, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    CALL(cuMemcpyDtoH, (void*, unsigned long long, size_t), (values, memory, sizeof values));
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
