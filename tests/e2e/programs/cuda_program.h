// What the tests' programs of CUDA share: its driver API as programs have it that bring no toolkit, by name,
// at run time.
#pragma once

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*GetProcAddress)(const char*, void**, int, unsigned long long, int*);
static GetProcAddress get_proc_address;
static int (*get_error_name)(int, const char**);

static void* Function(const char* name) {
  void* function = NULL;
  int found = 0;
  if (get_proc_address(name, &function, 12000, 0, &found) != 0 || function == NULL) {
    fprintf(stderr, "%s: not there (%d)\n", name, found);
    exit(1);
  }
  return function;
}

static void Check(const char* call, int result) {
  if (result == 0) return;
  const char* name = "?";
  get_error_name(result, &name);
  fprintf(stderr, "%s: %s\n", call, name);
  exit(1);
}
static void LoadCuda(void) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  get_proc_address = (GetProcAddress)dlsym(library, "cuGetProcAddress_v2");
  get_error_name = (int (*)(int, const char**))dlsym(library, "cuGetErrorName");
}
// CALL(cuMemAlloc, (unsigned long long*, size_t), (&address, size))
#define CALL(name, types, arguments) Check(#name, ((int(*) types)Function(#name))arguments)
