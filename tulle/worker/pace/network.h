// Holds what a vGPU's programs move over the network to so many bytes a second, both ways together: sessions
// read and write no more while it owes some. (A token bucket with debt: what has passed is known afterwards.)
// Thread-safe.
#pragma once

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/wire/share_page.h"
#include "tulle/worker/pace/bucket.h"

namespace tulle::worker::pace {

class Network {
 public:
  // Both must outlive it.
  Network(wire::SharePage* page, const Clock* clock);

  // So much more has passed.
  void Note(std::uint64_t bytes);
  // Whether more may pass now; false: ask again after `wait`, or before.
  bool MayPass(Duration* wait) {
    if (page_.network_bytes_per_s.load(std::memory_order_relaxed) == 0) return true;
    return MayPassLimited(wait);
  }

 private:
  struct State {
    explicit State(const Bucket& its) : bucket(its) {}
    Bucket bucket;
    std::uint64_t bytes = 0;
    Instant looked_at{};
    bool was_held = false;  // since the last look
    std::uint64_t throttled_ns = 0;
  };
  bool MayPassLimited(Duration* wait);
  void Look(State& state, Instant now);

  wire::SharePage& page_;
  const Clock& clock_;
  Guarded<State> state_;
};

}  // namespace tulle::worker::pace
