// Time is an argument: production code takes a Clock, tests pass a FakeClock and move it by hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tulle {

using Duration = std::chrono::nanoseconds;

// A point on a monotonic clock, in nanoseconds from an arbitrary origin.
struct Instant {
  std::int64_t ns = 0;
  friend auto operator<=>(const Instant&, const Instant&) = default;
  friend Instant operator+(Instant a, Duration d) { return {a.ns + d.count()}; }
  friend Instant operator-(Instant a, Duration d) { return {a.ns - d.count()}; }
  friend Duration operator-(Instant a, Instant b) { return Duration(a.ns - b.ns); }
};

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back.
  virtual Instant Now() const = 0;
  // Wall-clock time in microseconds since 1970; may jump.
  virtual std::int64_t WallMicros() const = 0;
};

class SystemClock final : public Clock {
 public:
  Instant Now() const override {
    return {
        std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()).count()};
  }
  std::int64_t WallMicros() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};

// Stands still until it is told to move.
class FakeClock final : public Clock {
 public:
  Instant Now() const override { return {ns_.load()}; }
  std::int64_t WallMicros() const override { return ns_.load() / 1000; }
  void Advance(Duration d) { ns_ += d.count(); }

 private:
  std::atomic<std::int64_t> ns_{1'000'000'000};
};

}  // namespace tulle
