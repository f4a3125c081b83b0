#include "tulle/worker/pace/network.h"

#include <algorithm>

namespace tulle::worker::pace {
namespace {

// Sessions that are held up look again after so long at least, in which the network takes some of its
// packets.
constexpr Duration kShortestWait = std::chrono::microseconds(200);

constexpr double kNanosecond = 1e-9;  // in seconds

}  // namespace

// The bucket counts bytes: its share is what it earns in a nanosecond.
Network::Network(wire::SharePage* page, const Clock* clock)
    : page_(*page), clock_(*clock), state_(Bucket(1, 0, clock->Now(), 0)) {
  state_.lock()->looked_at = clock_.Now();
}

void Network::Note(std::uint64_t bytes) {
  if (bytes == 0) return;
  auto state = state_.lock();
  state->bytes += bytes;
  Look(*state, clock_.Now());
}

bool Network::MayPassLimited(Duration* wait) {
  auto state = state_.lock();
  Look(*state, clock_.Now());
  if (state->bucket.has_some()) return true;
  state->was_held = true;
  *wait = std::clamp(state->bucket.UntilSaved(Duration(1)), kShortestWait, kLongestWait);
  return false;
}

void Network::Look(State& state, Instant now) {
  const std::uint64_t rate = page_.network_bytes_per_s.load(std::memory_order_relaxed);
  if (state.was_held) state.throttled_ns += static_cast<std::uint64_t>((now - state.looked_at).count());
  state.was_held = false;
  state.looked_at = now;
  // Without a limit nothing is owed, or saved, when one comes.
  if (rate != 0) state.bucket.Update(now, state.bytes);
  if (rate == 0) state.bucket = Bucket(1, 0, now, state.bytes);
  const double share = static_cast<double>(rate) * kNanosecond;
  if (share != state.bucket.share()) state.bucket.SetShare(share);
  page_.network_bytes.store(state.bytes, std::memory_order_relaxed);
  page_.network_throttled_ns.store(state.throttled_ns, std::memory_order_relaxed);
}

}  // namespace tulle::worker::pace
