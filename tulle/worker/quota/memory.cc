#include "tulle/worker/quota/memory.h"

#include <algorithm>

#include "tulle/base/check.h"

namespace tulle::worker::quota {

bool MemoryQuota::TryTake(std::uint64_t size_bytes) {
  auto state = state_.lock();
  const std::uint64_t limit_bytes = limit_bytes_;
  if (size_bytes > limit_bytes || state->used_bytes > limit_bytes - size_bytes) return false;
  state->used_bytes += size_bytes;
  return true;
}

void MemoryQuota::SetLimit(std::uint64_t limit_bytes) {
  {
    auto state = state_.lock();
    limit_bytes_ = limit_bytes;
    ++state->returns;  // there may be more
  }
  returned_.notify_all();
}

void MemoryQuota::Return(std::uint64_t size_bytes) {
  {
    auto state = state_.lock();
    TULLE_CHECK(size_bytes <= state->used_bytes);
    state->used_bytes -= size_bytes;
    ++state->returns;
  }
  returned_.notify_all();
}

std::uint64_t MemoryQuota::returns() { return state_.lock()->returns; }

void MemoryQuota::AwaitReturn(std::uint64_t seen, Duration limit) {
  auto state = state_.lock();
  returned_.wait_for(state.native(), limit, [&] { return state->returns != seen; });
}

std::uint64_t MemoryQuota::used_bytes() { return state_.lock()->used_bytes; }

bool Lease::Hold(std::uint64_t lease_bytes, std::uint64_t device_bytes) {
  const std::uint64_t needed_bytes = std::max(lease_bytes, device_bytes);
  if (needed_bytes > held_bytes_) {
    if (!quota_->TryTake(needed_bytes - held_bytes_)) return false;
  } else {
    quota_->Return(held_bytes_ - needed_bytes);
  }
  held_bytes_ = needed_bytes;
  return true;
}

bool Lease::Acquire(std::uint64_t size_bytes) {
  if (!CouldGrow(size_bytes)) return false;
  if (!Hold(lease_bytes_ + size_bytes, live_bytes_ + dying_bytes_)) return false;
  lease_bytes_ += size_bytes;
  return true;
}

bool Lease::Release(std::uint64_t size_bytes) {
  if (size_bytes > lease_bytes_ - live_bytes_) return false;
  lease_bytes_ -= size_bytes;
  TULLE_CHECK(Hold(lease_bytes_, live_bytes_ + dying_bytes_));
  return true;
}

Lease::Take Lease::TakeForObject(std::uint64_t size_bytes, bool grow) {
  std::uint64_t lease_bytes = lease_bytes_;
  if (size_bytes > lease_bytes_ - live_bytes_) {
    if (!grow) return Take::kBeyondLease;
    const std::uint64_t missing_bytes = size_bytes - (lease_bytes_ - live_bytes_);
    if (!CouldGrow(missing_bytes)) return Take::kNoMemory;
    lease_bytes += missing_bytes;
  }
  if (!Hold(lease_bytes, live_bytes_ + dying_bytes_ + size_bytes)) {
    // Without the dying objects it might fit. If another session has taken their room when they are gone,
    // the next attempt says kNoMemory.
    return dying_bytes_ != 0 ? Take::kNotYet : Take::kNoMemory;
  }
  lease_bytes_ = lease_bytes;
  live_bytes_ += size_bytes;
  return Take::kTaken;
}

void Lease::Destroyed(std::uint64_t size_bytes) {
  TULLE_CHECK(size_bytes <= live_bytes_);
  live_bytes_ -= size_bytes;
  dying_bytes_ += size_bytes;
}

void Lease::Reclaim(std::uint64_t size_bytes) {
  TULLE_CHECK(size_bytes <= dying_bytes_);
  dying_bytes_ -= size_bytes;
  TULLE_CHECK(Hold(lease_bytes_, live_bytes_ + dying_bytes_));
}

void Lease::Close() {
  quota_->Return(held_bytes_);
  lease_bytes_ = live_bytes_ = dying_bytes_ = held_bytes_ = 0;
}

}  // namespace tulle::worker::quota
