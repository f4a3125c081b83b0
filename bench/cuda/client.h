// What the benchmarks' CUDA programs share. They are ordinary ones of the driver API: the same binary runs
// natively and on a vGPU.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "tulle/cuda/driver_api.h"

inline void Must(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = "?";
  (void)cuGetErrorName(result, &name);
  std::fprintf(stderr, "%s: %s\n", call, name);
  std::exit(1);
}
#define MUST(call) Must(call, #call)
