// Hands out ranges of an address space that it never touches: best fit, freed in any order, neighbours
// merge. Used for the arena (pages) and for staging (small pieces). Not thread-safe; memory grows with the
// number of free ranges, at most one more than the ranges handed out.
#pragma once

#include <cstdint>
#include <map>
#include <memory_resource>
#include <optional>
#include <set>
#include <utility>

namespace tulle {

struct Range {
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  friend bool operator==(const Range&, const Range&) = default;
};

class RangeAllocator {
 public:
  // Both are rounded to `granule_bytes`, a power of two: the size down, requests up.
  RangeAllocator(std::uint64_t size_bytes, std::uint64_t granule_bytes);

  // The smallest free range that fits, its lowest part; nullopt when there is none. Of size 0: one granule.
  std::optional<Range> Allocate(std::uint64_t size_bytes);
  // Precondition: `range` came from Allocate and has not been freed.
  void Free(const Range& range);

  std::uint64_t free_bytes() const { return free_bytes_; }
  std::uint64_t largest_free_bytes() const;

 private:
  void Insert(std::uint64_t offset, std::uint64_t size);

  std::pmr::unsynchronized_pool_resource pool_;  // nodes are reused: no malloc in steady state
  std::pmr::map<std::uint64_t, std::uint64_t> free_by_offset_{&pool_};           // offset -> size
  std::pmr::set<std::pair<std::uint64_t, std::uint64_t>> free_by_size_{&pool_};  // {size, offset}
  const std::uint64_t granule_bytes_;
  std::uint64_t free_bytes_ = 0;
};

}  // namespace tulle
