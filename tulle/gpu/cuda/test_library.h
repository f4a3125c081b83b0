// For tests only: the software device's library.
#pragma once

#include <stdlib.h>

#include <string>

#include "tulle/gpu/cuda/library.h"

namespace tulle::gpu::cuda {

// As NVIDIA's would be loaded, with two devices. It reads its settings once in a process.
inline Library LoadedLibrary(const std::string& path) {
  setenv("TULLE_SOFTCUDA_DEVICES", "2", 1);
  setenv("TULLE_SOFTCUDA_MEMORY", "64MiB", 1);
  setenv("TULLE_SOFTCUDA_THREADS", "2", 1);
  return *OpenLibrary(path);
}

}  // namespace tulle::gpu::cuda
