// How much compute a vGPU with a range should have, by what its programs use of it: more at once where they
// are held up or nearly so, less only after they have needed less for a while. What it shrinks to leaves them
// room that they grow into before more is needed, so that a steady load never makes it go to and fro; what
// had to be given back soon is taken only after twice as long the next time.
//
// Pure: percent of a GPU in, percent of a GPU out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "tulle/base/clock.h"

namespace tulle::control {

class LoadSize {
 public:
  static constexpr float kPressed = 0.9f;        // of what it has
  static constexpr float kThrottledPercent = 5;  // of the time
  static constexpr float kRoom = 1.5f;           // what it has when it has shrunk, of what it uses
  static constexpr float kWorthIt = 0.75f;       // of what it has: less is not taken away, but for the last

  struct Load {
    float used_percent = 0;       // of the GPU, since the last time
    float throttled_percent = 0;  // of the time: its work waited for its share
  };
  struct Range {
    std::uint32_t least = 0, most = 0;
  };

  // What it should have now. `wanted`: what that was so far; `has`: what there was room for. `calm`: for how
  // long less must have been used before it has less.
  std::uint32_t Follow(const Load& load, Range range, std::uint32_t wanted, std::uint32_t has, Duration calm,
                       Instant now) {
    if (wanted < range.least || wanted > range.most) return std::clamp(wanted, range.least, range.most);
    if (load.used_percent >= kPressed * static_cast<float>(has) ||
        load.throttled_percent >= kThrottledPercent) {
      halves_ = 0;
      if (has < wanted || wanted == range.most) return wanted;  // there is no more
      // It was taken too early: the next time it is watched for longer.
      if (shrunk_at_.ns != 0)
        patience_ = now - shrunk_at_ < calm * patience_ ? std::min(2 * patience_, kMostPatience) : 1;
      shrunk_at_ = {};
      grown_at_ = now;
      decisive_ = load;
      return std::min(range.most, std::max(2 * wanted, WithRoom(load.used_percent)));
    }
    if (now - grown_at_ > 2 * kMostPatience * calm) patience_ = 1;
    if (halves_ == 0) {
      halves_ = 1;
      since_ = now;
      peak_ = 0;
    }
    peak_ = std::max(peak_, load.used_percent);
    if (now - since_ < calm * patience_ / 2) return wanted;
    const float peak = std::max(peak_, peak_before_);
    peak_before_ = std::exchange(peak_, 0.0f);
    since_ = now;
    if (++halves_ <= 2) return wanted;
    const std::uint32_t enough = std::max(range.least, WithRoom(peak));
    if (enough >= wanted) return wanted;
    if (enough > range.least && static_cast<float>(enough) > kWorthIt * static_cast<float>(wanted))
      return wanted;
    halves_ = 0;
    shrunk_at_ = now;
    decisive_ = {peak, 0};
    return enough;
  }
  // What made it change last: what was used then, or at most while it was calm.
  const Load& decisive() const { return decisive_; }

 private:
  static std::uint32_t WithRoom(float used_percent) {
    return static_cast<std::uint32_t>(std::ceil(std::clamp(used_percent, 0.0f, 100.0f) * kRoom));
  }

  static constexpr int kMostPatience = 16;

  int patience_ = 1;     // calms that are waited for
  Instant shrunk_at_{};  // and has not grown since
  Instant grown_at_{};
  int halves_ = 0;  // of the calm, begun since the last change
  Instant since_{};
  float peak_ = 0, peak_before_ = 0;  // of what was used, in this half and the one before
  Load decisive_;
};

}  // namespace tulle::control
