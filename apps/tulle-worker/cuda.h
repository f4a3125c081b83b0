// What executors of sessions of CUDA run on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/isolated/executor_main.h"

namespace tulle::app {

struct CudaSettings {
  std::string library = "libcuda.so.1";  // of GPUs, as dlopen finds it, or a path; "none": there is none
  std::string device;  // the PCI address of one of its GPUs; empty: the software device in this program
  std::uint64_t memory_bytes = 0;  // of the vGPU, as the next
  std::uint32_t compute_percent = 100;
};

// What it tells of this host's GPUs joins `devices`, and the software device stands in where there is a CPU.
// A library that is not there is no error; one that cannot be used is told in the log.
void ProbeCuda(const CudaSettings& settings, bool measure, std::vector<gpu::DeviceInfo>* devices);

// An executor on it; see RunExecutor. The software device says that it has as many multiprocessors as the
// share of the host's processors comes to, rounded up.
int RunCudaExecutor(const CudaSettings& settings, const gpu::isolated::Place& place);

}  // namespace tulle::app
