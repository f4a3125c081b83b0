#include "tulle/base/range_allocator.h"

#include <algorithm>
#include <iterator>

#include "tulle/base/check.h"

namespace tulle {

RangeAllocator::RangeAllocator(std::uint64_t size_bytes, std::uint64_t granule_bytes)
    : granule_bytes_(granule_bytes), free_bytes_(size_bytes & ~(granule_bytes - 1)) {
  TULLE_CHECK(granule_bytes != 0 && (granule_bytes & (granule_bytes - 1)) == 0);
  if (free_bytes_ != 0) Insert(0, free_bytes_);
}

void RangeAllocator::Insert(std::uint64_t offset, std::uint64_t size) {
  free_by_offset_.emplace(offset, size);
  free_by_size_.emplace(size, offset);
}

std::optional<Range> RangeAllocator::Allocate(std::uint64_t size_bytes) {
  if (size_bytes > free_bytes_) return std::nullopt;  // also keeps the rounding below from overflowing
  const std::uint64_t size =
      (std::max<std::uint64_t>(size_bytes, 1) + granule_bytes_ - 1) & ~(granule_bytes_ - 1);
  const auto best = free_by_size_.lower_bound({size, 0});
  if (best == free_by_size_.end()) return std::nullopt;
  const auto [free_size, offset] = *best;
  free_by_size_.erase(best);
  free_by_offset_.erase(offset);
  if (free_size > size) Insert(offset + size, free_size - size);
  free_bytes_ -= size;
  return Range{offset, size};
}

void RangeAllocator::Free(const Range& range) {
  std::uint64_t offset = range.offset_bytes;
  std::uint64_t size = range.size_bytes;
  auto next = free_by_offset_.lower_bound(offset);
  TULLE_CHECK(next == free_by_offset_.end() || offset + size <= next->first);
  if (next != free_by_offset_.end() && next->first == offset + size) {
    size += next->second;
    free_by_size_.erase({next->second, next->first});
    next = free_by_offset_.erase(next);
  }
  if (next != free_by_offset_.begin()) {
    const auto previous = std::prev(next);
    TULLE_CHECK(previous->first + previous->second <= offset);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      size += previous->second;
      free_by_size_.erase({previous->second, previous->first});
      free_by_offset_.erase(previous);
    }
  }
  Insert(offset, size);
  free_bytes_ += range.size_bytes;
}

std::uint64_t RangeAllocator::largest_free_bytes() const {
  return free_by_size_.empty() ? 0 : free_by_size_.rbegin()->first;
}

}  // namespace tulle
