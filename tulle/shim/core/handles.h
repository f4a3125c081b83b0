// The names {slot, generation} of this session's objects. Slots are given out in blocks, so that events can
// keep whole blocks to themselves; a slot is used again only with a higher generation.
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <vector>

#include "tulle/wire/handle.h"
#include "tulle/wire/limits.h"

namespace tulle::shim {

inline constexpr std::uint32_t kSlotsPerBlock = 256;
inline constexpr std::uint32_t kMaxBlocks = wire::kMaxObjects / kSlotsPerBlock;

// Thread-safe.
class HandleSpace {
 public:
  // The first slot of a fresh block, 0 when none is left. Block 0 holds slot 0, the null handle: it is never
  // given out.
  std::uint32_t NewBlock() {
    const std::uint32_t block = next_block_.fetch_add(1, std::memory_order_relaxed);
    return block < kMaxBlocks ? block * kSlotsPerBlock : 0;
  }

  // A name for an object other than an event; the null handle when there are too many.
  wire::Handle New();
  // The worker has been told that the object is gone.
  void Recycle(wire::Handle handle);

 private:
  std::atomic<std::uint32_t> next_block_{1};
  std::mutex mutex_;
  std::vector<wire::Handle> free_;  // with the generation to use next
};

}  // namespace tulle::shim
