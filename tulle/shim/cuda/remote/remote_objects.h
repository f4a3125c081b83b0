// What a RemoteDevice keeps of a context and a module, and how it takes the worker's results. Private to it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tulle/shim/cuda/remote/behind_functions.h"
#include "tulle/shim/cuda/remote/remote_device.h"

namespace tulle::shim::cuda {

// When the session is lost there is no device any more.
inline constexpr tulle::cuda::CUresult kLost = tulle::cuda::CUDA_ERROR_DEVICE_UNAVAILABLE;

// Errors that a context never recovers from.
bool IsSticky(tulle::cuda::CUresult result);

inline std::uint64_t ToBits(wire::Handle handle) {
  return std::uint64_t{handle.generation} << 32 | handle.slot;
}
inline wire::Handle ToHandle(std::uint64_t bits) {
  return {static_cast<std::uint32_t>(bits), static_cast<std::uint32_t>(bits >> 32)};
}

// What streams of all contexts of a device have still to do with the host.
struct RemoteDevice::Pending {
  // What may read or write the host's memory when a stream gets there: downloads, and functions of the
  // program's.
  std::atomic<std::uint32_t> on_host{0};
  BehindFunctions functions;
  std::atomic<std::uint64_t> download_bytes{0};
};

struct RemoteDevice::RemoteContext {
  explicit RemoteContext(std::shared_ptr<Pending> all) : pending(std::move(all)) {}

  wire::Handle handle, legacy;
  std::atomic<CUresult> error{tulle::cuda::CUDA_SUCCESS};
  // Commands of its streams that were sent, and how many of them it is known to be done with.
  std::atomic<std::uint64_t> begun{0}, ended{0};
  const std::shared_ptr<Pending> pending;  // the device's
  std::mutex making_aside;
  wire::Handle aside;  // a stream for what is sent while another waits for it; guarded by making_aside
  std::mutex mutex;
  std::set<std::uint64_t> streams;  // their names, as bits; guarded by mutex
};

struct RemoteDevice::RemoteModule {
  ContextId context{};
  wire::Handle handle;
  std::vector<wire::Handle> functions;
};

}  // namespace tulle::shim::cuda
