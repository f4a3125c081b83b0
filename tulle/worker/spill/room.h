// The device's memory that a vGPU has, where its programs may allocate more than that: who holds how much of
// it now, who waits for some, and who is to give some up: the session whose unused memory has not been used
// for longest.
//
// One session at a time takes memory, in the order in which they began to wait, so that two which need much
// cannot each hold half of it and wait for the other. What it waits for is given by those that use it least,
// or comes back when commands under way have ended. Sessions whose commands under way may wait for what their
// program does next go before others, which may be waiting for just these.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/unique_fd.h"

namespace tulle::worker::spill {

// Thread-safe.
class Room {
 public:
  // A session. What is said of it here is said by its own thread only.
  class User {
   public:
    User();
    // Readable when it should look again: it may take some, should give some up, or the room has become
    // short.
    int fd() const { return event_.get(); }
    void Awake();  // after poll()

   private:
    friend class Room;
    UniqueFd event_;
    bool urgent = false;  // while it is in line
    std::uint64_t held_bytes = 0;
    std::uint64_t lacks_bytes = 0;  // that it was last refused; it is in line then
    Instant oldest = kNothing;      // use of what it could give up
  };
  static constexpr Instant kNothing{INT64_MAX};

  // In bytes.
  explicit Room(std::uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  void Enter(User* user);
  void Leave(User* user);  // with all that it holds

  // Joins the line, unless it is in it; whether it may take something. `urgent`: what it has in use may stay
  // so until it has got what it waits for.
  bool Join(User* user, bool urgent);
  void LeaveLine(User* user);
  bool IsFirst(const User& user);
  // All of it or nothing; only for who may. Where there is not enough, others are to make
  // `wish_bytes`, which is at least as much.
  bool Take(User* user, std::uint64_t size_bytes, std::uint64_t wish_bytes);
  void Return(User* user, std::uint64_t size_bytes);

  // When what it could give up was last used, at its oldest; kNothing: all is in use.
  void Publish(User* user, Instant oldest);
  // Whether it is the one to give something up now.
  bool ShouldGive(const User& user);
  // Somebody waits, or there is more in use than there may be: users are to say what they could give up.
  bool is_short() const { return is_short_.load(std::memory_order_relaxed); }

  // What is held beyond it is to be given up.
  void SetLimit(std::uint64_t limit_bytes);
  std::uint64_t limit_bytes() const { return limit_bytes_.load(std::memory_order_relaxed); }
  std::uint64_t held_bytes();

 private:
  struct State {
    std::vector<User*> users;
    std::list<User*> line;
    std::uint64_t held_bytes = 0;
    const User* giver = nullptr;
  };
  static void Wake(const User& user);
  static bool MayTake(const State& state, const User& user);
  // Something has changed, by `by` or by nobody of them: finds out who is to give, and wakes who must know.
  void Look(State& state, const User* by);

  std::atomic<std::uint64_t> limit_bytes_;
  std::atomic<bool> is_short_{false};
  Guarded<State> state_;
};

}  // namespace tulle::worker::spill
