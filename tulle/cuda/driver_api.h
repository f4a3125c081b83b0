// CUDA's driver API as C functions: whoever includes this links to a library that has them, or looks them up
// in one.
#pragma once

#include "tulle/cuda/types.h"

extern "C" {
using namespace tulle::cuda;  // NOLINT: the API's names are global
#define TULLE_CUDA_FUNCTION(name, suffix, since, parameters) \
  __attribute__((visibility("default"))) CUresult name##suffix parameters;
#define TULLE_CUDA_STREAM_FUNCTION(name, suffix, since, twin, parameters, arguments) \
  __attribute__((visibility("default"))) CUresult name##suffix parameters;           \
  __attribute__((visibility("default"))) CUresult name##suffix##twin parameters;
#include "tulle/cuda/functions.inc"
#undef TULLE_CUDA_FUNCTION
#undef TULLE_CUDA_STREAM_FUNCTION
}
