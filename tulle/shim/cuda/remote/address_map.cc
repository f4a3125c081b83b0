#include "tulle/shim/cuda/remote/address_map.h"

#include "tulle/base/check.h"

namespace tulle::shim::cuda {

std::optional<AddressMap::Allocation> AddressMap::Allocate(std::uint64_t bytes) {
  if (bytes >= granule_bytes_) {
    const auto range = blocks_free_.Allocate(bytes);
    if (!range.has_value()) return std::nullopt;
    blocks_.emplace(range->offset_bytes, Used{*range, nullptr});
    const std::uint64_t address = address_ + range->offset_bytes;
    return Allocation{address, {address, range->size_bytes}};
  }
  Block fresh;
  auto roomy = with_room_.lower_bound({bytes, 0});
  if (roomy == with_room_.end()) {
    const auto range = blocks_free_.Allocate(granule_bytes_);
    if (!range.has_value()) return std::nullopt;
    blocks_.emplace(range->offset_bytes, Used{*range, std::make_unique<Parts>(range->size_bytes)});
    fresh = {address_ + range->offset_bytes, range->size_bytes};
    roomy = with_room_.emplace(range->size_bytes, range->offset_bytes).first;
  }
  const std::uint64_t block = roomy->second;
  Parts& parts = *blocks_.at(block).parts;
  with_room_.erase(roomy);
  const auto part = parts.room.Allocate(bytes);
  TULLE_CHECK(part.has_value());
  parts.used.emplace(part->offset_bytes, *part);
  with_room_.emplace(parts.room.largest_free_bytes(), block);
  return Allocation{address_ + block + part->offset_bytes, fresh};
}

AddressMap::Block AddressMap::Free(std::uint64_t address) {
  const std::uint64_t offset = address - address_;
  auto block = blocks_.upper_bound(offset);
  TULLE_CHECK(block != blocks_.begin());
  --block;
  if (Parts* const parts = block->second.parts.get(); parts != nullptr) {
    const auto part = parts->used.find(offset - block->first);
    TULLE_CHECK(part != parts->used.end());
    with_room_.erase({parts->room.largest_free_bytes(), block->first});
    parts->room.Free(part->second);
    parts->used.erase(part);
    if (!parts->used.empty()) {
      with_room_.emplace(parts->room.largest_free_bytes(), block->first);
      return {};
    }
  }
  const Range range = block->second.range;
  blocks_.erase(block);
  blocks_free_.Free(range);
  return {address_ + range.offset_bytes, range.size_bytes};
}

}  // namespace tulle::shim::cuda
