// The software CUDA device, linked into this program: what executors of sessions of CUDA run on.
#pragma once

#include <cstdint>

namespace tulle::app {

struct SoftCudaSettings {
  std::uint64_t memory_bytes = 0;  // of the vGPU
  std::uint32_t threads = 1;       // of the host, for kernels
};

// An executor on it; see RunExecutor.
int RunSoftCudaExecutor(const SoftCudaSettings& settings);

}  // namespace tulle::app
