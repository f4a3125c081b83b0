#include "tulle/worker/pace/pacer.h"

#include <algorithm>

#include "tulle/base/check.h"

namespace tulle::worker::pace {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(1);
// Where nothing can be overdrawn.
constexpr Duration kSlowTick = std::chrono::milliseconds(10);
constexpr Duration kQuiet = std::chrono::milliseconds(20);
// What is frozen stays so until it has saved so much of its share: to stop and to go on costs some time.
constexpr Duration kWorthGoingOn = std::chrono::milliseconds(4);
// How often it is asked how long the processor was waited for, which takes a file for each thread.
constexpr Duration kWaitsTick = std::chrono::milliseconds(40);

}  // namespace

Pacer::Pacer(wire::SharePage* page, double lanes, const Clock* clock)
    : page_(*page), clock_(*clock), state_(Bucket(lanes, 0, clock->Now(), 0)) {
  state_.lock()->looked_at = clock_.Now();
  thread_ = std::thread([this] { Run(); });
}

Pacer::~Pacer() {
  {
    auto state = state_.lock();
    TULLE_CHECK(state->entries.empty());
    state->stopping = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Pacer::Add(Paced* paced) {
  auto state = state_.lock();
  state->entries.push_back({paced, paced->DeviceTimeNs(), paced->WaitedNs()});
  if (state->frozen) paced->Freeze(true);
  changed_.notify_all();
}

void Pacer::Remove(Paced* paced) {
  auto state = state_.lock();
  Look(*state, clock_.Now());
  std::erase_if(state->entries, [&](const Entry& entry) { return entry.paced == paced; });
  if (state->frozen) paced->Freeze(false);
}

bool Pacer::MayBeginLimited(Duration* wait) {
  auto state = state_.lock();
  Look(*state, clock_.Now());
  if (state->bucket.has_some()) return true;
  state->was_held = true;
  *wait = std::min(state->bucket.UntilSaved(Duration(1)), kLongestWait);
  return false;
}

void Pacer::Look(State& state, Instant now) {
  std::uint64_t more_ns = 0;
  bool waits = false;
  for (Entry& entry : state.entries) {
    waits |= entry.paced->Waits();
    const std::uint64_t used_ns = entry.paced->DeviceTimeNs();
    if (used_ns <= entry.used_ns) continue;
    more_ns += used_ns - entry.used_ns;
    entry.used_ns = used_ns;
  }
  if (more_ns != 0) state.used_at = now;
  if (state.frozen || state.was_held || waits)
    state.throttled_ns += static_cast<std::uint64_t>((now - state.looked_at).count());
  state.was_held = false;
  state.looked_at = now;
  state.used_ns += more_ns;
  state.bucket.Update(now, state.used_ns, waits);
  const double share = page_.share.load(std::memory_order_relaxed) / double{wire::kWholeShare};
  if (share != state.bucket.share()) state.bucket.SetShare(share);
  page_.used_ns.store(state.used_ns, std::memory_order_relaxed);
  page_.throttled_ns.store(state.throttled_ns, std::memory_order_relaxed);
}

void Pacer::LookAtWaits(State& state, Instant now) {
  if (now - state.looked_at_waits_at < kWaitsTick || now - state.used_at > kQuiet) return;
  state.looked_at_waits_at = now;
  for (Entry& entry : state.entries) {
    const std::uint64_t waited_ns = entry.paced->WaitedNs();
    if (waited_ns > entry.waited_ns) page_.waited_ns.fetch_add(waited_ns - entry.waited_ns);
    entry.waited_ns = waited_ns;
  }
}

void Pacer::Freeze(State& state, bool frozen) {
  if (state.frozen == frozen) return;
  state.frozen = frozen;
  for (const Entry& entry : state.entries) entry.paced->Freeze(frozen);
}

void Pacer::Run() {
  auto state = state_.lock();
  while (!state->stopping) {
    if (state->entries.empty()) {
      state->frozen = false;
      changed_.wait(state.native());
      continue;
    }
    const Instant now = clock_.Now();
    Look(*state, now);
    LookAtWaits(*state, now);
    const bool limited = state->bucket.share() < 1;
    Duration next = kTick;
    if (!limited) {
      Freeze(*state, false);
      next = kSlowTick;
    } else if (state->frozen) {
      const Duration left = state->bucket.UntilSaved(kWorthGoingOn);
      if (left == Duration::zero()) Freeze(*state, false);
      if (left > Duration::zero()) next = std::min(left, kSlowTick);
    } else if (!state->bucket.has_some()) {
      Freeze(*state, true);
      next = std::min(state->bucket.UntilSaved(kWorthGoingOn), kSlowTick);
    } else if (now - state->used_at > kQuiet) {
      next = kSlowTick;
    }
    changed_.wait_for(state.native(), next);
  }
}

}  // namespace tulle::worker::pace
