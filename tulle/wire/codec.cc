#include "tulle/wire/codec.h"

namespace tulle::wire {

std::string_view WireResultName(WireResult result) {
  switch (result) {
    case WireResult::kOk: return "ok";
    case WireResult::kTruncated: return "truncated";
    case WireResult::kTrailing: return "trailing bytes";
    case WireResult::kLimit: return "over a limit";
    case WireResult::kBadEnum: return "unknown enumerator or flag";
    case WireResult::kBadPayload: return "payload does not match";
    case WireResult::kUnknownOpcode: return "unknown opcode";
    case WireResult::kNotNegotiated: return "capability not negotiated";
    case WireResult::kWrongDirection: return "wrong direction";
    case WireResult::kBadSequence: return "bad sequence number";
    case WireResult::kBadHandle: return "bad handle";
    case WireResult::kWrongKind: return "wrong object kind";
    case WireResult::kStale: return "stale handle";
  }
  return "unknown";
}

void Arena::Reset() {
  used_ = 0;
  overflow_.clear();
}

void* Arena::AllocateBytes(std::size_t size, std::size_t alignment) {
  const std::size_t start = (used_ + alignment - 1) & ~(alignment - 1);
  if (start <= kInlineBytes && size <= kInlineBytes - start) {
    used_ = start + size;
    return inline_ + start;
  }
  // operator new[] aligns for every type that a message may hold.
  overflow_.push_back(std::make_unique_for_overwrite<std::byte[]>(size));
  return overflow_.back().get();
}

}  // namespace tulle::wire
