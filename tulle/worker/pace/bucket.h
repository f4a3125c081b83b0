// How much of a device's time a slice has left: it saves up its share, and pays for what it has used. What it
// has used is known only afterwards, so that it may owe some, which it makes up for before it goes on: over
// time it gets its share, whatever the length of its kernels. (A token bucket with debt.)
#pragma once

#include <algorithm>
#include <cstdint>

#include "tulle/base/clock.h"

namespace tulle::worker::pace {

// Whoever is held up looks again, and learns of another share, after at most so long.
inline constexpr Duration kLongestWait = std::chrono::milliseconds(20);

class Bucket {
 public:
  // What a slice that has been idle may use at once when it goes on: so much of its share.
  static constexpr Duration kSaving = std::chrono::milliseconds(50);

  // `lanes`: how much of its time the device can give in a time: the number of processors of a CPU, 1 of a
  // GPU. `share`: 0 to 1. `used_ns`: that has been used so far, as everywhere here.
  Bucket(double lanes, double share, Instant now, std::uint64_t used_ns)
      : lanes_(lanes), share_(share), now_(now), used_ns_(used_ns) {}

  // From the last Update on. What is owed stays, and what is saved, but that it is less of a smaller share.
  void SetShare(double share) {
    if (share < share_ && saved_ns_ > 0) saved_ns_ *= share / share_;
    share_ = share;
  }
  // `waits`: others did not let it in since the last time; then it may save all that it earned, and keeps
  // that until it has been idle for kSaving.
  void Update(Instant now, std::uint64_t used_ns, bool waits = false) {
    const auto earned_ns = static_cast<double>((now - now_).count()) * lanes_ * share_;
    if (waits || used_ns != used_ns_) active_at_ = now;
    const bool is_idle = now - active_at_ > kSaving;
    const double most_ns = waits     ? kMostWaitedNs
                           : is_idle ? MostSavedNs()
                                     : std::max(saved_ns_, MostSavedNs());
    saved_ns_ += earned_ns - static_cast<double>(used_ns - used_ns_);
    saved_ns_ = std::min(saved_ns_, most_ns);
    now_ = now;
    used_ns_ = used_ns;
  }

  // Of what it owes more than it earns in `time` is forgotten.
  void OweAtMost(Duration time) {
    saved_ns_ = std::max(saved_ns_, -static_cast<double>(time.count()) * lanes_ * share_);
  }

  double share() const { return share_; }
  // May use more now.
  bool has_some() const { return saved_ns_ > 0; }
  // Until it will have saved what it earns in `ahead`; zero: it has.
  Duration UntilSaved(Duration ahead) const {
    const double rate = lanes_ * share_;
    const double missing_ns = static_cast<double>(ahead.count()) * rate - saved_ns_;
    if (missing_ns <= 0) return Duration::zero();
    constexpr double kLong = 1e9;  // of no share at all
    return Duration(static_cast<std::int64_t>(rate * kLong > missing_ns ? missing_ns / rate + 1 : kLong));
  }

 private:
  static constexpr double kMostWaitedNs = 60e9;
  double MostSavedNs() const { return static_cast<double>(kSaving.count()) * lanes_ * share_; }

  double lanes_;
  double share_;
  Instant now_;
  std::uint64_t used_ns_;
  Instant active_at_{};  // it used something, or waited
  double saved_ns_ = 0;
};

}  // namespace tulle::worker::pace
