#include "tulle/worker/spill/room.h"

#include <sys/eventfd.h>

#include <algorithm>

#include "tulle/base/check.h"

namespace tulle::worker::spill {

Room::User::User() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { TULLE_CHECK(event_.valid()); }

void Room::User::Awake() {
  eventfd_t count = 0;
  (void)eventfd_read(event_.get(), &count);
}

void Room::Wake(const User& user) { (void)eventfd_write(user.event_.get(), 1); }

void Room::Enter(User* user) { state_.lock()->users.push_back(user); }

void Room::Leave(User* user) {
  auto state = state_.lock();
  const bool was_first = !state->line.empty() && state->line.front() == user;
  std::erase(state->users, user);
  state->line.remove(user);
  state->held_bytes -= user->held_bytes;
  if (was_first && !state->line.empty()) Wake(*state->line.front());
  Look(*state, nullptr);
}

bool Room::Join(User* user, bool urgent) {
  auto state = state_.lock();
  const bool is_in_line = std::ranges::find(state->line, user) != state->line.end();
  if (!is_in_line || user->urgent != urgent) {
    const User* const was_first = state->line.empty() ? nullptr : state->line.front();
    state->line.remove(user);
    user->urgent = urgent;
    const auto place = urgent ? std::ranges::find(state->line, false, &User::urgent) : state->line.end();
    state->line.insert(place, user);
    // What it has gathered it may have to give.
    if (was_first != nullptr && was_first != user && was_first != state->line.front()) Wake(*was_first);
  }
  return MayTake(*state, *user);
}

// Urgent ones wait for nobody in line: what they take without being the first can be taken from them again.
bool Room::MayTake(const State& state, const User& user) {
  return !state.line.empty() && (state.line.front() == &user || user.urgent);
}

void Room::LeaveLine(User* user) {
  auto state = state_.lock();
  const bool was_first = !state->line.empty() && state->line.front() == user;
  state->line.remove(user);
  user->lacks_bytes = 0;
  user->urgent = false;
  if (was_first && !state->line.empty()) Wake(*state->line.front());
  Look(*state, user);
}

bool Room::IsFirst(const User& user) {
  auto state = state_.lock();
  return !state->line.empty() && state->line.front() == &user;
}

bool Room::Take(User* user, std::uint64_t size_bytes, std::uint64_t wish_bytes) {
  auto state = state_.lock();
  if (!MayTake(*state, *user)) return false;
  const std::uint64_t limit_bytes = limit_bytes_;
  const bool fits = size_bytes <= limit_bytes && state->held_bytes <= limit_bytes - size_bytes;
  user->lacks_bytes = fits ? 0 : wish_bytes;
  if (fits) {
    user->held_bytes += size_bytes;
    state->held_bytes += size_bytes;
  }
  Look(*state, user);
  return fits;
}

void Room::Return(User* user, std::uint64_t size_bytes) {
  auto state = state_.lock();
  TULLE_CHECK(size_bytes <= user->held_bytes);
  user->held_bytes -= size_bytes;
  state->held_bytes -= size_bytes;
  Look(*state, user);
}

void Room::Publish(User* user, Instant oldest) {
  auto state = state_.lock();
  if (user->oldest == oldest) return;
  user->oldest = oldest;
  Look(*state, user);
}

bool Room::ShouldGive(const User& user) {
  if (!is_short()) return false;
  return state_.lock()->giver == &user;
}

void Room::SetLimit(std::uint64_t limit_bytes) {
  auto state = state_.lock();
  limit_bytes_ = limit_bytes;
  Look(*state, nullptr);
  // What waits may never fit now.
  for (const User* user : state->users) Wake(*user);
}

std::uint64_t Room::held_bytes() { return state_.lock()->held_bytes; }

void Room::Look(State& state, const User* by) {
  const std::uint64_t limit_bytes = limit_bytes_;
  const User* const first = state.line.empty() ? nullptr : state.line.front();
  const std::uint64_t lacks_bytes = first == nullptr ? 0 : first->lacks_bytes;
  const bool was_short = is_short_.load(std::memory_order_relaxed);
  const bool has_room = lacks_bytes <= limit_bytes && state.held_bytes <= limit_bytes - lacks_bytes;
  is_short_.store(!has_room, std::memory_order_relaxed);
  if (has_room) {
    state.giver = nullptr;
    if (was_short && first != nullptr && first != by) Wake(*first);
    return;
  }
  if (!was_short) {
    for (const User* user : state.users) {
      if (user != by) Wake(*user);
    }
  }
  const auto oldest = std::ranges::min_element(state.users, {}, &User::oldest);
  const User* const giver = oldest == state.users.end() || (*oldest)->oldest == kNothing ? nullptr : *oldest;
  if (giver != state.giver && giver != nullptr && giver != by) Wake(*giver);
  state.giver = giver;
}

}  // namespace tulle::worker::spill
