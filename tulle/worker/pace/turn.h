// A vGPU's turns on a device that it has only while others do not: one whose time nobody can measure while
// several use it (a GPU between processes). The node gives turns, one vGPU at a time; a session begins work
// only in a turn, and the turn ends when that work has. What the vGPU has used is the time that it kept the
// device from others.
//
// Nothing that runs is interrupted: a turn is as long as kLength, or as the work that began in it. But who
// keeps others waiting for longer than the node allows is told to end. A program that waits for each of its
// kernels keeps the turn while it thinks, for kThinkTime.
//
// Thread-safe; a thread of its own listens to the node.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/unique_fd.h"
#include "tulle/wire/share_page.h"
#include "tulle/worker/pace/pacer.h"

namespace tulle::worker::pace {

class Turn final : public Paced {
 public:
  // While others wait.
  static constexpr Duration kLength = std::chrono::milliseconds(20);
  static constexpr Duration kThinkTime = std::chrono::milliseconds(1);
  // While none does: asking again costs more than this.
  static constexpr Duration kIdleTime = std::chrono::milliseconds(10);
  // How long a turn that should end goes on for work that may wait for its own program (see SetStuck).
  static constexpr Duration kPatience = std::chrono::milliseconds(500);

  // A session; used with its own Turn alone.
  class User {
   public:
    // `end`: what it has begun takes too long, and is to be ended; called once, on any thread, and must not
    // call Turn.
    explicit User(std::function<void(Duration longest)> end) : end_(std::move(end)) {}

   private:
    friend class Turn;
    std::function<void(Duration)> end_;
    bool busy = false;   // it has begun something that has not ended
    bool waits = false;  // for a turn
    bool thinks = true;  // more may come at any moment
    bool stuck = false;  // what it has begun may wait for the program
  };

  // `page` and `clock` must outlive it. `socket`: to the node, see wire::SharePage.
  Turn(wire::SharePage* page, UniqueFd socket, const Clock* clock);
  ~Turn() override;
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  void Enter(User* user);
  void Leave(User* user);  // whatever it began has ended

  // Whether `user` may begin something now; then it is busy. False: ask again when fd() is readable.
  bool MayBegin(User* user);
  // Whether what `user` has begun may go on: it has the turn still, be that ending.
  bool MayGoOn(User* user);
  // All that it began has ended.
  void SetIdle(User* user);
  // What it wants to begin is held up for another reason: nobody shall wait for it.
  void Rest(User* user);
  // What it has begun may wait for something that its program has still to do: others do not wait for that
  // for longer than kPatience.
  void SetStuck(User* user, bool stuck);
  int fd() const { return open_.get(); }  // of an eventfd, to be polled only

  // Paced: its use of the device, and whether it would use more.
  std::uint64_t DeviceTimeNs() const override;
  bool Waits() const override;

 private:
  struct State {
    std::vector<User*> users;
    bool has_turn = false;
    bool ending = false;  // nothing more begins in it
    Instant since{}, ending_since{};
    Instant used_at{};  // something was under way, last
    Instant counted_at{};
    Instant looks_at{};  // the thread, by itself
    std::uint64_t used_ns = 0;
    bool stopping = false;
  };
  bool others_wait() const { return page_.others_wait.load(std::memory_order_relaxed) != 0; }
  static bool IsBusy(const State& state);
  void Count(State& state, Instant now) const;
  // Begins or ends the turn, if it is time. How long until it may be time again.
  Duration Look(State& state, Instant now);
  // Those that have kept others waiting for too long; how long until that will be so.
  Duration EndOverdue(State& state, Instant now);
  void LookAndWake(State& state, Instant now);
  void TakeWishBack(State& state);
  void Close(State& state, Instant now);
  void End(State& state);
  void TellNode();
  void Run();

  wire::SharePage& page_;
  const Clock& clock_;
  const UniqueFd socket_;
  const UniqueFd open_;  // readable while sessions may begin something
  const UniqueFd wake_;  // of the thread
  mutable Guarded<State> state_;
  std::thread thread_;
};

}  // namespace tulle::worker::pace
