// cuda_shares_memory: lends and has memory, by CUDA (shares_memory.h).
#include "cuda_program.h"
#include "shares_memory.h"
#include "tulle/shim/cuda/cuda_ext_tulle.h"

static const char kPtx[] =
    ".version 6.4\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry add(.param .u64 v, .param .u32 by) {\n"
    "  .reg .b32 %r<8>; .reg .b64 %rd<4>;\n"
    "  mov.u32 %r1, %ctaid.x; ld.param.u64 %rd1, [v]; ld.param.u32 %r2, [by];\n"
    "  mul.wide.u32 %rd2, %r1, 4; add.u64 %rd3, %rd1, %rd2;\n"
    "  ld.global.u32 %r3, [%rd3]; add.u32 %r3, %r3, %r2; st.global.u32 [%rd3], %r3;\n"
    "  ret;\n"
    "}\n";

static unsigned long long memory;
static unsigned long count;
static void* kernel;
static int (*alloc_exportable)(unsigned long long*, size_t);
static int (*mem_export)(unsigned long long, int, const char*, char*);
static int (*mem_import)(unsigned long long*, size_t*, const char*);
static int (*export_revoke)(const char*);

static int Create(unsigned long ints) {
  count = ints;
  return alloc_exportable(&memory, ints * sizeof(int));
}
static int Export(int writable, const char* tenant, char token[129]) {
  return mem_export(memory, writable, tenant, token);
}
static int Import(const char* token, unsigned long* ints) {
  size_t bytes = 0;
  const int error = mem_import(&memory, &bytes, token);
  if (error == 0) count = *ints = bytes / sizeof(int);
  return error;
}
static int Synchronize(void) { return ((int (*)(void))Function("cuCtxSynchronize"))(); }
static int Set(int value) {
  const int error =
      ((int (*)(unsigned long long, unsigned, size_t))Function("cuMemsetD32"))(memory, (unsigned)value, count);
  return error != 0 ? error : Synchronize();
}
static int Add(int value) {
  void* parameters[] = {&memory, &value};
  const int error = ((int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                              void**))Function("cuLaunchKernel"))(kernel, (unsigned)count, 1, 1, 1, 1, 1, 0, NULL,
                                                                  parameters, NULL);
  return error != 0 ? error : Synchronize();
}
static int Get(int* value, int* mixed) {
  int* values = malloc(count * sizeof *values);
  const int error = ((int (*)(void*, unsigned long long, size_t))Function("cuMemcpyDtoH"))(values, memory,
                                                                                           count * sizeof *values);
  if (error == 0) {
    *value = values[0];
    *mixed = IsMixed(values, count);
  }
  free(values);
  return error;
}
static int Revoke(const char* token) { return export_revoke(token); }
static int Release(void) { return ((int (*)(unsigned long long))Function("cuMemFree"))(memory); }

int main(void) {
  static const Memory functions = {Create, Export, Import, Set, Add, Get, Revoke, Release};
  LoadCuda();
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  alloc_exportable = (int (*)(unsigned long long*, size_t))dlsym(library, "tulleMemAllocExportable");
  mem_export = (int (*)(unsigned long long, int, const char*, char*))dlsym(library, "tulleMemExport");
  mem_import = (int (*)(unsigned long long*, size_t*, const char*))dlsym(library, "tulleMemImport");
  export_revoke = (int (*)(const char*))dlsym(library, "tulleExportRevoke");
  if (alloc_exportable == NULL || mem_export == NULL || mem_import == NULL || export_revoke == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int device = 0;
  void *context = NULL, *module = NULL;
  CALL(cuInit, (unsigned), (0));
  CALL(cuDeviceGet, (int*, int), (&device, 0));
  CALL(cuDevicePrimaryCtxRetain, (void**, int), (&context, device));
  CALL(cuCtxSetCurrent, (void*), (context));
  CALL(cuModuleLoadData, (void**, const void*), (&module, kPtx));
  CALL(cuModuleGetFunction, (void**, void*, const char*), (&kernel, module, "add"));
  return Serve(&functions);
}
