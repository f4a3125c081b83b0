#include "tulle/node/loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "tulle/base/check.h"

namespace tulle::node {

Loop::Loop(const Clock& clock)
    : clock_(clock), epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  TULLE_CHECK(epoll_.valid() && wake_.valid());
  Watch(wake_.get(), EPOLLIN, [this](std::uint32_t) {
    std::uint64_t count;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
  });
}

void Loop::Watch(int fd, std::uint32_t events, std::function<void(std::uint32_t)> on_event) {
  const std::uint64_t id = ++last_id_;
  TULLE_CHECK(id_of_fd_.emplace(fd, id).second);
  watched_[id] = std::make_shared<Watched>(Watched{id, std::move(on_event)});
  epoll_event event{.events = events, .data = {.u64 = id}};
  TULLE_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
}

void Loop::Unwatch(int fd) {
  const auto it = id_of_fd_.find(fd);
  if (it == id_of_fd_.end()) return;
  watched_.erase(it->second);
  id_of_fd_.erase(it);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

Loop::TimerId Loop::After(Duration delay, std::function<void()> action) {
  const TimerId id = ++last_id_;
  const std::int64_t due = (clock_.Now() + std::max(delay, Duration(0))).ns;
  timers_.emplace(std::make_pair(due, id), std::move(action));
  due_of_timer_[id] = due;
  return id;
}

void Loop::Cancel(TimerId timer) {
  const auto it = due_of_timer_.find(timer);
  if (it == due_of_timer_.end()) return;
  timers_.erase({it->second, timer});
  due_of_timer_.erase(it);
}

bool Loop::Call(const std::function<void()>& action) {
  Pending pending{&action};
  std::unique_lock lock(mutex_);
  if (ended_) return false;
  calls_.push_back(&pending);
  Wake();
  called_.wait(lock, [&] { return pending.done || ended_; });
  return pending.done;
}

void Loop::Stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  Wake();
}

void Loop::Wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof one);
}

void Loop::RunCalls() {
  for (;;) {
    Pending* next = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (calls_.empty()) return;
      next = calls_.front();
      calls_.pop_front();
    }
    (*next->action)();
    {
      std::lock_guard lock(mutex_);
      next->done = true;
      called_.notify_all();
    }
  }
}

int Loop::RunTimers() {
  while (!timers_.empty()) {
    const auto first = timers_.begin();
    const std::int64_t left = first->first.first - clock_.Now().ns;
    if (left > 0) return static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 60'000));
    const auto action = std::move(first->second);
    due_of_timer_.erase(first->first.second);
    timers_.erase(first);
    action();
  }
  return -1;
}

void Loop::Run() {
  for (;;) {
    RunCalls();
    const int timeout_ms = RunTimers();
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
      if (!calls_.empty()) continue;
    }
    std::array<epoll_event, 64> events;
    const int count = epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
    TULLE_CHECK(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; ++i) {
      const auto it = watched_.find(events[static_cast<std::size_t>(i)].data.u64);
      if (it == watched_.end()) continue;
      const std::shared_ptr<Watched> kept = it->second;  // the callback may unwatch itself
      kept->on_event(events[static_cast<std::size_t>(i)].events);
    }
  }
  std::lock_guard lock(mutex_);
  ended_ = true;
  calls_.clear();
  called_.notify_all();
}

}  // namespace tulle::node
