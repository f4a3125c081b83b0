// Where allocations lie in the range of addresses that a vGPU's memory has: pure arithmetic; the caller
// locks.
//
// Memory comes from the vGPU in blocks of whole granules. What is smaller than a granule shares a block with
// others of its kind, so that the vGPU hears of few of them; everything else has a block of its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "tulle/base/range_allocator.h"

namespace tulle::shim::cuda {

class AddressMap {
 public:
  static constexpr std::uint64_t kAlignment = 512;  // of allocations: CUDA wants 256 or more

  // `granule_bytes` is a power of two, of which the other two are multiples.
  AddressMap(std::uint64_t address, std::uint64_t bytes, std::uint64_t granule_bytes)
      : address_(address), granule_bytes_(granule_bytes), blocks_free_(bytes, granule_bytes) {}

  struct Block {
    std::uint64_t address = 0, bytes = 0;  // 0 bytes: none
  };
  struct Allocation {
    std::uint64_t address = 0;
    Block fresh;  // in which it lies, and which is to be had from the vGPU first
  };
  // Nothing: there are no such addresses left. Precondition: bytes != 0.
  std::optional<Allocation> Allocate(std::uint64_t bytes);
  // The block that is empty now, if it is: the vGPU has it back. Precondition: Allocate gave the address.
  Block Free(std::uint64_t address);

 private:
  struct Parts {
    explicit Parts(std::uint64_t bytes) : room(bytes, kAlignment) {}
    RangeAllocator room;
    std::unordered_map<std::uint64_t, Range> used;  // by offset
  };
  struct Used {
    Range range;
    std::unique_ptr<Parts> parts;  // null: one allocation
  };

  const std::uint64_t address_, granule_bytes_;
  RangeAllocator blocks_free_;
  std::map<std::uint64_t, Used> blocks_;                         // by offset
  std::set<std::pair<std::uint64_t, std::uint64_t>> with_room_;  // blocks of parts: largest room, offset
};

}  // namespace tulle::shim::cuda
