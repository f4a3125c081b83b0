// For tests of what lives on a loop: actions and the conditions to wait for after each, in one run of the
// loop.
#pragma once

#include <chrono>
#include <functional>
#include <utility>
#include <vector>

#include "tulle/node/loop.h"

namespace tulle::node {

class Steps {
 public:
  explicit Steps(Loop& loop) : loop_(loop) {}
  // After the steps before: runs `action`, then waits for `condition`.
  Steps& Then(std::function<void()> action, std::function<bool()> condition) {
    steps_.push_back({std::move(action), std::move(condition)});
    return *this;
  }
  // The number of steps that were completed before one took longer than `timeout`.
  std::size_t Run(Duration timeout = std::chrono::seconds(10)) {
    timeout_ = timeout;
    Begin();
    loop_.Run();
    return done_;
  }
  std::size_t size() const { return steps_.size(); }

 private:
  struct Step {
    std::function<void()> action;
    std::function<bool()> condition;
  };
  void Begin() {
    if (done_ == steps_.size()) return loop_.Stop();
    deadline_ = loop_.clock().Now() + timeout_;
    steps_[done_].action();
    Check();
  }
  void Check() {
    if (steps_[done_].condition()) {
      ++done_;
      return Begin();
    }
    if (loop_.clock().Now() > deadline_) return loop_.Stop();
    loop_.After(std::chrono::milliseconds(1), [this] { Check(); });
  }

  Loop& loop_;
  std::vector<Step> steps_;
  std::size_t done_ = 0;
  Duration timeout_{};
  Instant deadline_;
};

}  // namespace tulle::node
