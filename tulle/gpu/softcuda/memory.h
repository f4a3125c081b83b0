// The device's memory, and what is at which address. Kernels use it by plain addresses, which are the host's
// own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle::gpu::softcuda {

enum class MemoryNumber : std::uint64_t {};

// Memory is had in two ways: allocated, at addresses that it chooses, or apart from its addresses, which
// CUDA's virtual memory management is about. All count against the device's memory; it is taken from the host
// as it is used.
//
// Thread-safe. Whether an address is good may be asked for at any time, by any thread; who takes away what a
// kernel uses gets the kernel an illegal address, or what comes there next. Until they are given back, all
// addresses that were reserved can be read at any time, and written where there is nothing that can only be
// read, so that who was told that one is good may use it, whatever is taken away meanwhile.
class DeviceMemory {
 public:
  static constexpr std::uint64_t kPage = 4096;
  static constexpr std::uint64_t kGranule = 2u << 20;  // of memory apart from its addresses

  // A device with `bytes` of memory (rounded up to pages). kResourceExhausted: the process has no such
  // addresses.
  static Result<std::unique_ptr<DeviceMemory>> Reserve(std::uint64_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Zeroed, unless it was written to after it had been freed; aligned to 256 bytes, as CUDA has it.
  // kResourceExhausted when there is no such room.
  Result<std::uint64_t> Allocate(std::uint64_t bytes);
  // kNotFound: no allocation begins there.
  Status Free(std::uint64_t address);

  // --- addresses and memory apart from each other, in multiples of kGranule (else kInvalidArgument)

  // At `wanted` where those are free, else elsewhere. kResourceExhausted: there are no more.
  Result<std::uint64_t> ReserveAddresses(std::uint64_t bytes, std::uint64_t wanted);
  // What ReserveAddresses gave, as a whole (else kNotFound), with nothing mapped there (kFailedPrecondition)
  // and no kernel under way that may use it.
  Status FreeAddresses(std::uint64_t address, std::uint64_t bytes);
  // Zeroed. kResourceExhausted: the device has no more.
  Result<MemoryNumber> CreateMemory(std::uint64_t bytes, bool shareable = false);
  // The bytes of a file, whole granules of them, which others may have, too: of Export, or of where this
  // process has it from. It counts against nothing here. What is open for reading only can only be read.
  Result<MemoryNumber> Import(UniqueFd file);
  // What was created shareable (else kFailedPrecondition), as such a file.
  Result<UniqueFd> Export(MemoryNumber number);
  // It goes once it is mapped nowhere. kNotFound: there is none of this number; likewise in Map.
  Status ReleaseMemory(MemoryNumber number);
  // All of it. kFailedPrecondition: these addresses are not reserved, or something is mapped there.
  // kUnimplemented: it is mapped elsewhere.
  Status Map(std::uint64_t address, std::uint64_t bytes, MemoryNumber number);
  // What Map mapped, one or several next to each other; kNotFound: it is none.
  Status Unmap(std::uint64_t address, std::uint64_t bytes);
  // Of what is mapped (else kNotFound), which nobody may use before. kPermissionDenied: it can only be read.
  enum class Access : std::uint8_t { kNone, kRead, kReadWrite };
  Status SetAccess(std::uint64_t address, std::uint64_t bytes, Access access);

  // --- what is where

  // The allocation, or mapped memory, that the address is in: its beginning and size; false: none.
  bool Find(std::uint64_t address, std::uint64_t* begin, std::uint64_t* bytes) const;
  // Whether all of these bytes are in an allocation, or in mapped memory that may be used so.
  bool Contains(std::uint64_t address, std::uint64_t bytes, Access access = Access::kRead) const;
  // Whether these bytes, at least one, lie in pages of such.
  bool Holds(std::uint64_t address, std::uint64_t bytes) const {
    return HasPages<Access::kRead>(address, bytes);
  }
  bool HoldsToWrite(std::uint64_t address, std::uint64_t bytes) const {
    return HasPages<Access::kReadWrite>(address, bytes);
  }

  // --- what was written

  struct Written {
    std::uint64_t address = 0, bytes = 0;  // whole pages
    friend bool operator==(const Written&, const Written&) = default;
  };
  // That these bytes, of which Holds is true, have been written: to be said after it was done, so that who
  // takes the note and then looks sees them, or is told again.
  void NoteWritten(std::uint64_t address, std::uint64_t bytes) {
    for (std::uint64_t page = address / kPage; page <= (address + bytes - 1) / kPage; ++page) {
      std::uint8_t* const leaf = leaves_[page / kLeafPages].load(std::memory_order_relaxed);
      const std::atomic_ref<std::uint8_t> written(leaf[kLeafPages + page % kLeafPages]);
      if (written.load(std::memory_order_relaxed) == 0) written.store(1, std::memory_order_release);
    }
  }
  // What was written since it was last asked for, by address, those next to each other as one. Of memory that
  // is new since then the rest reads as zeros.
  std::vector<Written> TakeWritten();

  std::uint64_t total_bytes() const { return total_bytes_; }
  std::uint64_t free_bytes() const;

 private:
  // As many addresses for allocations as the device has memory, so that holes do not fail the next.
  static constexpr std::uint64_t kAddressFactor = 2;
  static constexpr int kAddressBits = 47;  // of a process
  static constexpr std::uint64_t kLeafPages = 1 << 18;

  struct CFree {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Allocation {
    std::uint64_t asked = 0, pages_bytes = 0;
  };
  struct Memory {
    std::uint64_t bytes = 0;
    std::uint64_t mapped_at = 0;  // 0: nowhere
    bool released = false;
    std::unique_ptr<std::byte[], CFree> kept;  // what is in it while it is mapped nowhere; null: zeros
    UniqueFd file;                             // where it is instead, of what others may have
    bool writable = true;
    bool counted = true;
  };
  struct Mapping {
    std::uint64_t bytes = 0;
    MemoryNumber number{};
    Access access = Access::kNone;
  };

  DeviceMemory(std::uint64_t base, std::uint64_t total_bytes);
  template <Access kLeast>
  bool HasPages(std::uint64_t address, std::uint64_t bytes) const {
    const std::uint64_t last = address + bytes - 1;
    if (last < address || last >> kAddressBits != 0) return false;
    for (std::uint64_t page = address / kPage; page <= last / kPage; ++page) {
      const std::uint8_t* const leaf = leaves_[page / kLeafPages].load(std::memory_order_acquire);
      if (leaf == nullptr || leaf[page % kLeafPages] < static_cast<std::uint8_t>(kLeast)) return false;
    }
    return true;
  }
  bool MarkPages(std::uint64_t address, std::uint64_t bytes, Access access);
  MemoryNumber InsertLocked(Memory memory);
  void EraseLocked(std::map<MemoryNumber, Memory>::iterator memory);
  bool TakeLocked(std::uint64_t bytes);
  // The mappings that these addresses are, one after the other; kNotFound: they are not.
  Status ForEachMappingLocked(std::uint64_t address, std::uint64_t bytes,
                              const std::function<void(std::uint64_t at, Mapping&)>& f);

  const std::uint64_t base_;  // of allocations
  const std::uint64_t total_bytes_;
  // By address: the Access of each page; and behind all those of a leaf, 1 where it was written. Leaves
  // come as they are needed, and stay.
  std::unique_ptr<std::atomic<std::uint8_t*>[], CFree> leaves_;
  mutable std::mutex mutex_;  // guards all that follows
  std::uint64_t used_bytes_ = 0;
  std::map<std::uint64_t, std::uint64_t> free_;      // offsets and sizes of what is not allocated
  std::map<std::uint64_t, Allocation> allocations_;  // by address
  std::map<std::uint64_t, std::uint64_t> reserved_;  // addresses and their sizes
  std::uint64_t last_number_ = 0;
  std::map<MemoryNumber, Memory> memory_;
  std::map<std::uint64_t, Mapping> mappings_;  // by address
};

}  // namespace tulle::gpu::softcuda
