// Memory for payloads on their way between worker and executor, both of which have it mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/result.h"
#include "tulle/base/shared_memory.h"

namespace tulle::gpu::isolated {

class Staging;

// A piece of staging with one owner; given back when destroyed. Empty when default-constructed. Must not
// outlive the ExecutorProcess it came from; used on its thread.
class StagingBlock {
 public:
  StagingBlock() = default;
  StagingBlock(StagingBlock&& other) noexcept { *this = std::move(other); }
  StagingBlock& operator=(StagingBlock&& other) noexcept;
  ~StagingBlock() { Release(); }

  bool empty() const { return staging_ == nullptr; }
  std::uint64_t size_bytes() const { return size_bytes_; }  // as asked for, or as Shrink left it
  std::uint64_t offset_bytes() const { return range_.offset_bytes; }
  // The executor may write to them at any time.
  MutableByteView bytes() const;
  // Precondition: size_bytes <= this->size_bytes().
  void Shrink(std::uint64_t size_bytes);
  void Release();

 private:
  friend class Staging;
  StagingBlock(Staging* staging, const Range& range, std::uint64_t size_bytes)
      : staging_(staging), range_(range), size_bytes_(size_bytes) {}
  Staging* staging_ = nullptr;
  Range range_;
  std::uint64_t size_bytes_ = 0;
};

class Staging {
 public:
  static Result<Staging> Create(std::uint64_t size_bytes);
  std::optional<StagingBlock> Allocate(std::uint64_t size_bytes);
  int fd() const { return memory_.fd(); }
  std::uint64_t size_bytes() const { return memory_.size_bytes(); }
  std::uint64_t free_bytes() const { return ranges_->free_bytes(); }

 private:
  friend class StagingBlock;
  Staging(SharedMemory memory, std::unique_ptr<RangeAllocator> ranges);
  SharedMemory memory_;
  std::unique_ptr<RangeAllocator> ranges_;
};

}  // namespace tulle::gpu::isolated
