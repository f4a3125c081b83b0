// The software device as CUDA's driver API sees one.
#pragma once

#include <memory>
#include <string>

#include "tulle/base/result.h"
#include "tulle/cuda/device.h"

namespace tulle::gpu::softcuda {

struct SoftDeviceOptions {
  std::uint64_t memory_bytes = 0;
  std::uint32_t threads = 1;  // of the host, that kernels run on
  // As the device says itself, and as many blocks of a cooperative launch as it takes; 0: as many as threads.
  std::uint32_t multiprocessors = 0;
  // Commands that a stream takes; who adds more waits until some are done, as with GPUs' drivers. 0: no end.
  std::uint32_t stream_places = 0;
};
// kResourceExhausted: so many addresses cannot be reserved. Its destructor waits for all that it still does.
Result<std::unique_ptr<tulle::cuda::Device>> MakeSoftDevice(const SoftDeviceOptions& options);

}  // namespace tulle::gpu::softcuda
