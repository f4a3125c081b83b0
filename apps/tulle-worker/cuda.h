// The software CUDA device, linked into this program: what executors of sessions of CUDA run on.
#pragma once

#include <cstdint>

namespace tulle::app {

struct SoftCudaSettings {
  std::uint64_t memory_bytes = 0;  // of the vGPU, as the next
  std::uint32_t compute_percent = 100;
};

// An executor on it; see RunExecutor. Kernels run on as many threads as the share of the host's processors
// comes to, rounded up: that is how a vGPU is held to its share.
int RunSoftCudaExecutor(const SoftCudaSettings& settings);

}  // namespace tulle::app
