#include "tulle/shim/core/lease.h"

#include <algorithm>
#include <utility>

namespace tulle::shim {

MemoryLease::MemoryLease(std::uint64_t limit_bytes)
    : chunk_(std::clamp<std::uint64_t>(limit_bytes / 64, 1u << 20, 64u << 20)) {}

std::uint64_t MemoryLease::WantedAtFirst(std::uint64_t limit_bytes) {
  return std::min<std::uint64_t>(limit_bytes / 64, 1u << 20);
}

bool MemoryLease::Take(std::uint64_t size) {
  if (size > granted_ - used_) return false;
  used_ += size;
  return true;
}

std::uint64_t MemoryLease::WantedFor(std::uint64_t size, bool exact) const {
  const std::uint64_t missing = size - std::min(size, granted_ - used_);
  return exact || missing > UINT64_MAX - chunk_ ? missing : (missing + chunk_ - 1) / chunk_ * chunk_;
}

std::uint64_t MemoryLease::Trim() {
  const std::uint64_t unused = granted_ - used_;
  if (unused <= 2 * chunk_) return 0;
  granted_ -= unused - chunk_;
  return unused - chunk_;
}

std::uint64_t MemoryLease::TakeUnused() { return std::exchange(granted_, used_) - used_; }

}  // namespace tulle::shim
