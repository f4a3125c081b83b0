// At most one line an interval for something that a stranger can cause as often as it likes. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>

#include "tulle/base/clock.h"

namespace tulle::node {

class LogLimiter {
 public:
  LogLimiter(const Clock& clock, Duration interval) : clock_(clock), interval_(interval) {}

  // Whether to write a line now; the value is how many were left out since the last one.
  std::optional<std::uint64_t> Allow() {
    const Instant now = clock_.Now();
    if (last_ && now - *last_ < interval_) {
      ++left_out_;
      return std::nullopt;
    }
    last_ = now;
    const std::uint64_t left_out = left_out_;
    left_out_ = 0;
    return left_out;
  }

 private:
  const Clock& clock_;
  const Duration interval_;
  std::optional<Instant> last_;
  std::uint64_t left_out_ = 0;
};

}  // namespace tulle::node
