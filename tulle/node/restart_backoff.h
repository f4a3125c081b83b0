// When a worker that ended by itself is started again: soon after the first time, later each time, at last
// not any more; a worker that ran well for a while starts over. A pure policy of one vGPU.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include "tulle/base/clock.h"

namespace tulle::node {

class RestartBackoff {
 public:
  static constexpr Duration kFirst = std::chrono::milliseconds(100);
  static constexpr Duration kLongest = std::chrono::seconds(10);
  static constexpr Duration kHealthy = std::chrono::seconds(60);
  static constexpr int kMaxInARow = 8;  // some 25 s of trying

  // The worker ended at `now`, having been ready since `ready_since` (nothing: it never was). How long to
  // wait before the next start; nothing: give up.
  std::optional<Duration> OnEnd(Instant now, std::optional<Instant> ready_since) {
    if (ready_since && now - *ready_since >= kHealthy) in_a_row_ = 0;
    if (in_a_row_ >= kMaxInARow) return std::nullopt;
    return std::min(kLongest, kFirst * (1 << in_a_row_++));
  }

 private:
  int in_a_row_ = 0;
};

}  // namespace tulle::node
