// Should a thread that waits for an answer look for it again and again, or sleep? Spinning saves the wake-up
// (about half of a short round trip), and costs a core that the other end may need. Decided from what the
// waits before took. Belongs to the reader of a session; no lock, no system call.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tulle/base/clock.h"

namespace tulle::session {

class SpinPolicy {
 public:
  // Starts a wait; true: spin first.
  bool Begin(Instant now) {
    started_ = last_ = now;
    budget_ = {};
    if (resting_ > 0) {
      --resting_;
    } else if (typical_ <= kWorthwhile) {
      budget_ = std::min(2 * typical_ + kGrace, kLongest);
    }
    return budget_.count() > 0;
  }

  // Nothing had arrived at `now`; true: look again.
  bool Continue(Instant now) {
    // Between two looks the thread yields. A long gap means that others use the core: get out of the way,
    // for longer each time.
    const bool busy = now - last_ > kDescheduled;
    last_ = now;
    if (busy) {
      rest_ = std::min(2 * rest_ + 1, kLongestRest);
      resting_ = rest_;
      return false;
    }
    return now - started_ < budget_;
  }

  void End(Instant now) {
    if (budget_.count() > 0 && resting_ == 0) rest_ /= 2;
    // Moving average over about 8 waits; one very long wait counts as a few long ones.
    const Duration took = std::min<Duration>(now - started_, 4 * kWorthwhile);
    typical_ += (took - typical_) / 8;
  }

 private:
  static constexpr Duration kWorthwhile = std::chrono::microseconds(100);
  static constexpr Duration kLongest = std::chrono::microseconds(100);
  static constexpr Duration kGrace = std::chrono::microseconds(10);
  static constexpr Duration kDescheduled = std::chrono::microseconds(50);
  static constexpr int kLongestRest = 127;

  Duration typical_ = std::chrono::microseconds(20);  // of a wait, with its wake-up when it slept
  Duration budget_{};
  Instant started_;
  Instant last_;
  int rest_ = 0;     // waits to sit out when the machine is found busy
  int resting_ = 0;  // of them, still to come
};

}  // namespace tulle::session
