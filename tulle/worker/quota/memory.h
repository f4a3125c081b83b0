// How much of the vGPU's memory is spoken for, to the byte: one MemoryQuota per vGPU, one Lease per session.
//
// A session's share of the quota covers two things: its lease (what its client may create without asking)
// and what the device really holds for it, whichever is larger. They differ while a destroyed object is
// still used by a running command: the client has its room back at once, the memory comes back later.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"

namespace tulle::worker::quota {

// Thread-safe. Must outlive its leases.
class MemoryQuota {
 public:
  explicit MemoryQuota(std::uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // All of `size_bytes` or nothing.
  bool TryTake(std::uint64_t size_bytes);
  void Return(std::uint64_t size_bytes);
  // Waits until something was returned since `seen`, what returns() said, or for `limit`.
  std::uint64_t returns();
  void AwaitReturn(std::uint64_t seen, Duration limit);

  // From now on. What is used beyond it stays, but there is nothing more.
  void SetLimit(std::uint64_t limit_bytes);
  std::uint64_t limit_bytes() const { return limit_bytes_.load(); }
  std::uint64_t used_bytes();
  std::uint64_t available_bytes() {
    const std::uint64_t limit_bytes = limit_bytes_, used = used_bytes();
    return limit_bytes - std::min(limit_bytes, used);
  }

 private:
  struct State {
    std::uint64_t used_bytes = 0;
    std::uint64_t returns = 0;
  };
  std::atomic<std::uint64_t> limit_bytes_;
  Guarded<State> state_;
  std::condition_variable returned_;
};

// One session's part. Owned by the session's thread; gives everything back when it goes.
class Lease {
 public:
  explicit Lease(MemoryQuota* quota) : quota_(quota) {}
  ~Lease() { Close(); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  // The client may create this much more without asking; false: the vGPU has not got it.
  bool Acquire(std::uint64_t size_bytes);
  // Gives back a part that no object uses; false: objects use it.
  bool Release(std::uint64_t size_bytes);

  enum class Take {
    kTaken,
    kBeyondLease,  // more than is left of the lease
    kNotYet,       // it fits, but memory of destroyed objects is still in use; ask again after a Reclaim
    kNoMemory,     // the lease could not grow by what is missing
  };
  // Memory for a new object. `grow`: extend the lease by what is missing.
  Take TakeForObject(std::uint64_t size_bytes, bool grow);

  // The client destroyed an object: its lease has room again.
  void Destroyed(std::uint64_t size_bytes);
  // The device has let go of a destroyed object's memory.
  void Reclaim(std::uint64_t size_bytes);

  // There is nothing left that it could be for.
  void Close();

  std::uint64_t held_bytes() const { return held_bytes_; }  // of the quota
  std::uint64_t lease_bytes() const { return lease_bytes_; }
  std::uint64_t live_bytes() const { return live_bytes_; }
  std::uint64_t dying_bytes() const { return dying_bytes_; }

 private:
  // Makes what is taken from the quota equal to what is needed; false: it has no more, nothing changed.
  bool Hold(std::uint64_t lease_bytes, std::uint64_t device_bytes);
  // Whether the lease could be so much larger, were it alone.
  bool CouldGrow(std::uint64_t more_bytes) const {
    const std::uint64_t limit_bytes = quota_->limit_bytes();
    return more_bytes <= limit_bytes && lease_bytes_ <= limit_bytes - more_bytes;
  }

  MemoryQuota* const quota_;
  std::uint64_t lease_bytes_ = 0;
  std::uint64_t live_bytes_ = 0;   // of objects that the client has; at most lease_bytes_
  std::uint64_t dying_bytes_ = 0;  // destroyed, still held by the device
  std::uint64_t held_bytes_ = 0;   // taken from the quota: max(lease, live + dying)
};

}  // namespace tulle::worker::quota
