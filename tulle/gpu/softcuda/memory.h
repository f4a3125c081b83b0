// The device's memory: one range of addresses, of which pages are there once they are allocated. Kernels use
// it by plain addresses, which are the host's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/base/result.h"

namespace tulle::gpu::softcuda {

// Allocate and Free are thread-safe. Whether an address is good may be asked for at any time, by any thread;
// who frees what a kernel uses gets the kernel an illegal address, or what comes there next. All addresses of
// the range can be read and written at any time, so that who was told that one is good may use it, whoever
// frees it meanwhile.
class DeviceMemory {
 public:
  static constexpr std::uint64_t kPage = 4096;

  // A device with `bytes` of memory (rounded up to pages), for which twice as many addresses are reserved, so
  // that holes between allocations do not fail the next; memory itself is taken as it is used.
  // `address`: where; 0: anywhere. kAlreadyExists: those addresses are not free.
  static Result<std::unique_ptr<DeviceMemory>> Reserve(std::uint64_t bytes, std::uint64_t address = 0);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Zeroed, unless it was written to after it had been freed; aligned to 256 bytes, as CUDA has it.
  // kResourceExhausted when there is no such room.
  Result<std::uint64_t> Allocate(std::uint64_t bytes);
  // kNotFound: no allocation begins there.
  Status Free(std::uint64_t address);
  // The allocation that the address is in: its beginning and size; false: none.
  bool Find(std::uint64_t address, std::uint64_t* begin, std::uint64_t* bytes) const;

  std::uint64_t total_bytes() const { return bytes_ / kAddressFactor; }
  std::uint64_t free_bytes() const;

  // Whether these bytes lie in pages of allocations.
  bool Holds(std::uint64_t address, std::uint64_t bytes) const {
    const std::uint64_t at = address - base_;
    if (at >= bytes_ || bytes > bytes_ - at) return false;
    const std::uint64_t last = (at + bytes - 1) / kPage;
    for (std::uint64_t page = at / kPage; page <= last; ++page) {
      if (pages_[page] == 0) return false;
    }
    return true;
  }

  static constexpr std::uint64_t kAddressFactor = 2;

 private:
  DeviceMemory(std::uint64_t base, std::uint64_t bytes)
      : base_(base), bytes_(bytes), pages_(new std::uint8_t[bytes / kPage]()), free_({{0, bytes}}) {}

  const std::uint64_t base_;
  const std::uint64_t bytes_;                    // addresses
  const std::unique_ptr<std::uint8_t[]> pages_;  // 1: allocated
  mutable std::mutex mutex_;
  std::uint64_t used_bytes_ = 0;                 // pages of allocations
  std::map<std::uint64_t, std::uint64_t> free_;  // offsets and sizes of what is not allocated
  struct Allocation {
    std::uint64_t asked = 0, pages_bytes = 0;
  };
  std::map<std::uint64_t, Allocation> used_;  // by offset
};

}  // namespace tulle::gpu::softcuda
