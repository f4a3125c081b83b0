#include "tulle/worker/pace/turn.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>

#include "tulle/base/check.h"

namespace tulle::worker::pace {

Turn::Turn(wire::SharePage* page, UniqueFd socket, const Clock* clock)
    : page_(*page),
      clock_(*clock),
      socket_(std::move(socket)),
      open_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  TULLE_CHECK(open_.valid() && wake_.valid());
  thread_ = std::thread([this] { Run(); });
}

Turn::~Turn() {
  {
    auto state = state_.lock();
    TULLE_CHECK(state->users.empty());
    state->stopping = true;
  }
  (void)eventfd_write(wake_.get(), 1);
  thread_.join();
}

void Turn::Enter(User* user) { state_.lock()->users.push_back(user); }

void Turn::Leave(User* user) {
  auto state = state_.lock();
  Count(*state, clock_.Now());
  std::erase(state->users, user);
  TakeWishBack(*state);
  LookAndWake(*state, clock_.Now());
}

bool Turn::MayBegin(User* user) {
  auto state = state_.lock();
  const Instant now = clock_.Now();
  if (!state->has_turn) LookAndWake(*state, now);
  user->thinks = true;
  user->waits = !state->has_turn || state->ending;
  if (!user->waits) {
    Count(*state, now);
    user->busy = true;
    state->used_at = now;
    return true;
  }
  if (page_.wants_turn.exchange(1) == 0) TellNode();
  return false;
}

bool Turn::MayGoOn(User* user) {
  auto state = state_.lock();
  return state->has_turn && user->busy;
}

void Turn::SetIdle(User* user) {
  auto state = state_.lock();
  if (!user->busy) return;
  const Instant now = clock_.Now();
  Count(*state, now);
  user->busy = false;
  state->used_at = now;
  LookAndWake(*state, now);
}

void Turn::Rest(User* user) {
  auto state = state_.lock();
  if (!user->thinks) return;
  user->thinks = user->waits = false;
  TakeWishBack(*state);
  Count(*state, clock_.Now());
  LookAndWake(*state, clock_.Now());
}

void Turn::SetStuck(User* user, bool stuck) {
  auto state = state_.lock();
  user->stuck = stuck;
}

std::uint64_t Turn::DeviceTimeNs() const {
  auto state = state_.lock();
  Count(*state, clock_.Now());
  return state->used_ns;
}

bool Turn::Waits() const {
  auto state = state_.lock();
  return std::ranges::any_of(state->users, &User::waits);
}

bool Turn::IsBusy(const State& state) { return std::ranges::any_of(state.users, &User::busy); }

void Turn::Count(State& state, Instant now) const {
  const Duration time = now - std::exchange(state.counted_at, now);
  if (!state.has_turn) return;
  if (IsBusy(state) || others_wait()) state.used_ns += static_cast<std::uint64_t>(time.count());
}

void Turn::Close(State& state, Instant now) {
  state.ending = true;
  state.ending_since = now;
  eventfd_t value = 0;
  (void)eventfd_read(open_.get(), &value);
}

void Turn::End(State& state) {
  if (!state.ending) Close(state, state.counted_at);
  state.has_turn = false;
  page_.wants_turn = std::ranges::any_of(state.users, &User::waits) ? 1 : 0;
  page_.turns_ended.store(page_.turns_given);
  TellNode();
}

Duration Turn::Look(State& state, Instant now) {
  if (!state.has_turn) {
    if (page_.turns_given == page_.turns_ended) return Duration::max();
    Count(state, now);
    state.has_turn = true;
    state.ending = false;
    state.since = state.used_at = now;
    (void)eventfd_write(open_.get(), 1);
  }
  const bool contended = others_wait();
  if (!contended) state.ending_since = now;
  if (!state.ending && contended && now - state.since >= kLength) Close(state, now);
  if (IsBusy(state)) {
    if (!state.ending) return contended ? kLength - (now - state.since) : Duration::max();
    const bool all_stuck =
        std::ranges::all_of(state.users, [](const User* user) { return !user->busy || user->stuck; });
    if (!all_stuck) return EndOverdue(state, now);
    const Duration left = kPatience - (now - state.ending_since);
    if (left > Duration::zero()) return left;
  } else if (!state.ending) {
    const bool rests = contended && std::ranges::none_of(state.users, &User::thinks);
    const Duration left =
        rests ? Duration::zero() : (contended ? kThinkTime : kIdleTime) - (now - state.used_at);
    if (left > Duration::zero()) return left;
  }
  Count(state, now);
  End(state);
  return Duration::max();
}

Duration Turn::EndOverdue(State& state, Instant now) {
  const Duration longest = std::chrono::milliseconds(page_.longest_turn_ms.load());
  if (longest == Duration::zero() || !others_wait()) return kPatience;
  const Duration left = longest - (now - state.ending_since);
  if (left > Duration::zero()) return left;
  for (User* user : state.users) {
    if (const auto end = user->busy && !user->stuck ? std::exchange(user->end_, nullptr) : nullptr)
      end(longest);
  }
  return kPatience;
}

void Turn::TakeWishBack(State& state) {
  if (std::ranges::any_of(state.users, &User::waits)) return;
  if (page_.wants_turn.exchange(0) != 0) TellNode();
}

void Turn::LookAndWake(State& state, Instant now) {
  const Duration left = Look(state, now);
  if (left < state.looks_at - now) (void)eventfd_write(wake_.get(), 1);
}

// What is lost for want of room says nothing that is not on its way.
void Turn::TellNode() {
  const char byte = 0;
  (void)send(socket_.get(), &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Turn::Run() {
  pollfd fds[] = {{socket_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  for (Duration left = Duration::max();;) {
    {
      auto state = state_.lock();
      if (state->stopping) return;
      const Instant now = clock_.Now();
      left = Look(*state, now);
      state->looks_at = left == Duration::max() ? Instant{Duration::max().count()} : now + left;
    }
    const std::int64_t left_ns = std::max<std::int64_t>(left.count(), 0);
    const timespec limit{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
    if (ppoll(fds, std::size(fds), left == Duration::max() ? nullptr : &limit, nullptr) <= 0) continue;
    eventfd_t value = 0;
    (void)eventfd_read(wake_.get(), &value);
    char bytes[64];
    if (fds[0].revents == 0) continue;
    if (recv(socket_.get(), bytes, sizeof bytes, MSG_DONTWAIT) == 0) fds[0].fd = -1;  // the node is gone
  }
}

}  // namespace tulle::worker::pace
