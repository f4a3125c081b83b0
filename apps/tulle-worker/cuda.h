// What executors of sessions of CUDA run on.
#pragma once

#include <cstdint>
#include <string>

namespace tulle::app {

struct CudaSettings {
  std::string library;             // of CUDA's driver API, a path; empty: the software device in this program
  std::uint64_t memory_bytes = 0;  // of the vGPU, as the next
  std::uint32_t compute_percent = 100;
};

// An executor on it; see RunExecutor. The software device runs kernels on as many threads as the share of the
// host's processors comes to, rounded up: that is how a vGPU is held to its share.
int RunCudaExecutor(const CudaSettings& settings);

}  // namespace tulle::app
