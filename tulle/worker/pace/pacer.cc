#include "tulle/worker/pace/pacer.h"

#include <algorithm>
#include <utility>

#include "tulle/base/check.h"

namespace tulle::worker::pace {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(1);
// Where nothing can be overdrawn.
constexpr Duration kSlowTick = std::chrono::milliseconds(10);
constexpr Duration kQuiet = std::chrono::milliseconds(20);
// What is frozen stays so until it has saved so much of its share: to stop and to go on costs some time.
constexpr Duration kWorthGoingOn = std::chrono::milliseconds(4);
// A session that did nothing for so long is not one of those that share.
constexpr Duration kActive = std::chrono::milliseconds(100);
// As long as the vGPU owes no more than it has in this time.
constexpr Duration kMostOwed = Bucket::kSaving;
// How often it is asked how long the processor was waited for, which takes a file for each thread.
constexpr Duration kWaitsTick = std::chrono::milliseconds(40);

}  // namespace

Pacer::Pacer(wire::SharePage* page, double lanes, const Clock* clock)
    : page_(*page), lanes_(lanes), clock_(*clock), state_(Bucket(lanes, 0, clock->Now(), 0)) {
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
  const std::uint64_t used_ns = paced->DeviceTimeNs();
  state->entries.push_back({paced, used_ns, paced->WaitedNs(), Bucket(lanes_, 0, clock_.Now(), used_ns)});
  Hold(*state, state->holding);
  changed_.notify_all();
}

void Pacer::Remove(Paced* paced) {
  auto state = state_.lock();
  Look(*state, clock_.Now());
  const auto entry = std::ranges::find(state->entries, paced, &Entry::paced);
  TULLE_CHECK(entry != state->entries.end());
  if (entry->frozen) paced->Freeze(false);
  state->entries.erase(entry);
}

bool Pacer::MayBeginLimited(const Paced* whose, Duration* wait) {
  auto state = state_.lock();
  const Instant now = clock_.Now();
  const auto entry = std::ranges::find(state->entries, whose, &Entry::paced);
  if (entry != state->entries.end()) entry->active_at = now;
  Look(*state, now);
  if (state->bucket.has_some()) return true;
  *wait = std::min(state->bucket.UntilSaved(Duration(1)), kLongestWait);
  if (entry != state->entries.end()) {
    if (HasOwn(*state, *entry)) return true;
    if (state->active > 1) {
      const Duration may =
          std::max(entry->own.UntilSaved(Duration(1)), state->bucket.UntilSaved(Duration(1)) - kMostOwed);
      *wait = std::min(*wait, std::max(may, kTick));
    }
  }
  state->was_held = true;
  return false;
}

bool Pacer::HasOwn(const State& state, const Entry& entry) {
  const Duration ahead = entry.frozen ? kWorthGoingOn : Duration(1);
  return state.active > 1 && state.bucket.UntilSaved(ahead) <= kMostOwed &&
         entry.own.UntilSaved(ahead) == Duration::zero();
}

void Pacer::Look(State& state, Instant now) {
  std::uint64_t more_ns = 0;
  bool waits = false;
  std::size_t active = 0;
  for (Entry& entry : state.entries) {
    const bool it_waits = entry.paced->Waits();
    waits |= it_waits;
    const std::uint64_t used_ns = entry.paced->DeviceTimeNs();
    if (used_ns > entry.used_ns) {
      more_ns += used_ns - entry.used_ns;
      entry.used_ns = used_ns;
      entry.active_at = now;
    }
    if (entry.frozen) entry.active_at = now;  // it would do something
    entry.own.Update(now, entry.used_ns, it_waits);
    active += now - entry.active_at < kActive ? 1 : 0;
  }
  state.active = active;
  if (more_ns != 0) state.used_at = now;
  if (state.holding || state.was_held || waits)
    state.throttled_ns += static_cast<std::uint64_t>((now - state.looked_at).count());
  state.was_held = false;
  state.looked_at = now;
  state.used_ns += more_ns;
  state.bucket.Update(now, state.used_ns, waits);
  const double share = page_.share.load(std::memory_order_relaxed) / double{wire::kWholeShare};
  if (share != state.bucket.share()) state.bucket.SetShare(share);
  for (Entry& entry : state.entries) {
    const std::size_t others = active - (now - entry.active_at < kActive ? 1 : 0);
    const double part = share / static_cast<double>(others + 1);
    if (part != entry.own.share()) entry.own.SetShare(part);
    // What it used while nobody else wanted it is not held against it for long.
    entry.own.OweAtMost(share < 1 ? Bucket::kSaving : Duration::zero());
  }
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

void Pacer::Hold(State& state, bool holding) {
  state.holding = holding;
  for (Entry& entry : state.entries) {
    const bool frozen = holding && !HasOwn(state, entry);
    if (std::exchange(entry.frozen, frozen) != frozen) entry.paced->Freeze(frozen);
  }
}

void Pacer::Run() {
  auto state = state_.lock();
  while (!state->stopping) {
    if (state->entries.empty()) {
      state->holding = false;
      changed_.wait(state.native());
      continue;
    }
    const Instant now = clock_.Now();
    Look(*state, now);
    LookAtWaits(*state, now);
    const bool limited = state->bucket.share() < 1;
    Duration next = kTick;
    if (!limited) {
      Hold(*state, false);
      next = kSlowTick;
    } else if (state->holding || !state->bucket.has_some()) {
      const Duration left = state->bucket.UntilSaved(kWorthGoingOn);
      Hold(*state, left > Duration::zero());
      const bool some_go_on = state->active > 1 && state->bucket.UntilSaved(Duration(1)) <= kMostOwed;
      if (left > Duration::zero() && !some_go_on) next = std::min(left, kSlowTick);
    } else if (now - state->used_at > kQuiet) {
      next = kSlowTick;
    }
    changed_.wait_for(state.native(), next);
  }
}

}  // namespace tulle::worker::pace
