// The node's one thread for everything that is not an RPC: descriptors to watch, timers, and calls from other
// threads. Data port, supervisor and node state live on it and need no lock.
//
// Run() is called by one thread, the loop's; all other methods but Call and Stop belong to that thread (or to
// before Run). Callbacks may add and remove anything. Bounds: what is watched is bounded by its owners; a
// Call waits for its turn, so each other thread has at most one under way.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"

namespace tulle::node {

class Loop {
 public:
  using TimerId = std::uint64_t;

  explicit Loop(const Clock& clock);
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Calls `on_event(epoll events)` whenever one of `events` (EPOLLIN, ..., also EPOLLET) is there. The
  // descriptor stays the caller's, who calls Unwatch before closing it. One watch per descriptor.
  void Watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> on_event);
  void Unwatch(int fd);

  // Calls `action` once, not before `delay` has passed. Cancel of a timer that has fired does nothing.
  TimerId After(Duration delay, std::function<void()> action);
  void Cancel(TimerId timer);

  // Any thread but the loop's: runs `action` on the loop and returns when it has run. False: the loop has
  // ended, nothing was run.
  bool Call(const std::function<void()>& action);

  void Run();
  // Any thread, also from callbacks: Run returns after the callback under way.
  void Stop();

  const Clock& clock() const { return clock_; }

 private:
  struct Watched {
    std::uint64_t id = 0;
    std::function<void(std::uint32_t)> on_event;
  };
  struct Pending {
    const std::function<void()>* action;
    bool done = false;
  };

  void Wake();
  void RunCalls();
  int RunTimers();  // milliseconds until the next one, -1 when there is none

  const Clock& clock_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::uint64_t last_id_ = 0;
  std::unordered_map<int, std::uint64_t> id_of_fd_;
  // By id, not by descriptor: an event of a closed descriptor must not reach the one that has its number now.
  std::unordered_map<std::uint64_t, std::shared_ptr<Watched>> watched_;
  std::map<std::pair<std::int64_t, TimerId>, std::function<void()>> timers_;  // by due time in ns
  std::unordered_map<TimerId, std::int64_t> due_of_timer_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable called_;
  std::deque<Pending*> calls_;
  bool stopping_ = false;
  bool ended_ = false;
};

}  // namespace tulle::node
