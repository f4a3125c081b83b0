// cuda_vector_add [COUNT [DEVICE [wait]]]: c = a + b on a CUDA device, twice: by this process and by a child of it; prints a checksum of
// all bytes of c and a few elements. "wait": does it itself, once, says "ready", and again after a line of input. Knows CUDA's driver API as programs do that bring no toolkit: by name, at run time.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_program.h"

static const char kPtx[] =
    ".version 6.4\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n) {\n"
    "  .reg .pred %p; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %rd<8>;\n"
    "  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3;\n"
    "  ld.param.u32 %r5, [n]; setp.ge.u32 %p, %r4, %r5; @%p bra DONE;\n"
    "  ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c]; mul.wide.u32 %rd4, %r4, 4;\n"
    "  add.u64 %rd5, %rd1, %rd4; add.u64 %rd6, %rd2, %rd4; add.u64 %rd7, %rd3, %rd4;\n"
    "  ld.global.f32 %f1, [%rd5]; ld.global.f32 %f2, [%rd6]; add.f32 %f3, %f1, %f2; st.global.f32 [%rd7], %f3;\n"
    "DONE: ret;\n"
    "}\n";

static void Add(size_t count, int ordinal) {
  const size_t size = count * sizeof(float);
  float* a = malloc(size);
  float* b = malloc(size);
  for (size_t i = 0; i < count; ++i) {
    a[i] = (float)i * 0.25f;
    b[i] = (float)(count - i);
  }
  CALL(cuInit, (unsigned), (0));
  int devices = 0, device = 0;
  CALL(cuDeviceGetCount, (int*), (&devices));
  CALL(cuDeviceGet, (int*, int), (&device, ordinal));
  char name[100] = "";
  CALL(cuDeviceGetName, (char*, int, int), (name, sizeof name, device));
  int multiprocessors = 0;
  CALL(cuDeviceGetAttribute, (int*, int, int), (&multiprocessors, 16, device));
  void *context = NULL, *module = NULL, *function = NULL;
  CALL(cuDevicePrimaryCtxRetain, (void**, int), (&context, device));
  CALL(cuCtxSetCurrent, (void*), (context));
  CALL(cuModuleLoadData, (void**, const void*), (&module, kPtx));
  CALL(cuModuleGetFunction, (void**, void*, const char*), (&function, module, "add"));
  unsigned long long in_a = 0, in_b = 0, out = 0;
  CALL(cuMemAlloc, (unsigned long long*, size_t), (&in_a, size));
  CALL(cuMemAlloc, (unsigned long long*, size_t), (&in_b, size));
  CALL(cuMemAlloc, (unsigned long long*, size_t), (&out, size));
  CALL(cuMemcpyHtoD, (unsigned long long, const void*, size_t), (in_a, a, size));
  CALL(cuMemcpyHtoD, (unsigned long long, const void*, size_t), (in_b, b, size));
  unsigned n = (unsigned)count;
  void* parameters[] = {&in_a, &in_b, &out, &n};
  CALL(cuLaunchKernel,
       (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**),
       (function, (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
  CALL(cuMemcpyDtoH, (void*, unsigned long long, size_t), (a, out, size));
  CALL(cuDevicePrimaryCtxRelease, (int), (device));
  unsigned long checksum = 14695981039346656037ul;  // FNV-1a
  for (size_t i = 0; i < size; ++i) checksum = (checksum ^ ((unsigned char*)a)[i]) * 1099511628211ul;
  printf("%d devices, %s, %d multiprocessors, %zu elements, checksum %016lx, first %g, last %g\n", devices, name,
         multiprocessors, count, checksum, (double)a[0], (double)a[count - 1]);
  fflush(stdout);
}

int main(int argc, char** argv) {
  const size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1 << 20;
  const int ordinal = argc > 2 ? atoi(argv[2]) : 0;
  LoadCuda();
  if (argc > 3) {
    Add(count, ordinal);
    puts("ready");
    fflush(stdout);
    getchar();
    Add(count, ordinal);
    return 0;
  }
  const pid_t child = fork();
  if (child == 0) {
    Add(count, ordinal);
    exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) return 1;
  Add(count, ordinal);
  return 0;
}
