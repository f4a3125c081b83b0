// The scores of many nodes for one demand, the best of them always at hand: a tree of maxima with 16 children
// each, a cache line. A changed score goes up only as far as it changes a maximum. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tulle/control/placement/policy.h"

namespace tulle::control {

class Ranking {
 public:
  // To at least so many nodes; new ones have no room. O(nodes), seldom.
  void Grow(std::size_t nodes) {
    if (!levels_.empty() && nodes <= levels_[0].size()) return;
    std::vector<float> scores;
    if (!levels_.empty()) scores = std::move(levels_[0]);
    levels_.clear();
    scores.resize(Padded(std::max(nodes, 2 * scores.size())), Choice::kNoRoom);
    levels_.push_back(std::move(scores));
    while (levels_.back().size() > kFanOut) {
      const std::vector<float>& below = levels_.back();
      std::vector<float> level(Padded(below.size() / kFanOut), Choice::kNoRoom);
      for (std::size_t i = 0; i < below.size() / kFanOut; ++i) level[i] = Maximum(below, i);
      levels_.push_back(std::move(level));
    }
  }

  void Set(std::size_t node, float score) {
    std::size_t index = node;
    for (std::size_t level = 0; levels_[level][index] != score; ++level) {
      levels_[level][index] = score;
      if (level + 1 == levels_.size()) return;
      index /= kFanOut;
      score = Maximum(levels_[level], index);
    }
  }

  struct Top {
    std::size_t node = 0;
    float score = Choice::kNoRoom;
  };
  // The first of those with the highest score.
  Top Best() const {
    if (levels_.empty()) return {};
    std::size_t block = 0;
    float score = Choice::kNoRoom;
    for (std::size_t level = levels_.size(); level-- > 0;) {
      const auto begin = levels_[level].begin() + static_cast<std::ptrdiff_t>(block * kFanOut);
      const auto best = std::max_element(begin, begin + kFanOut);
      score = *best;
      block = static_cast<std::size_t>(best - levels_[level].begin());
    }
    return {.node = block, .score = score};
  }

 private:
  static constexpr std::size_t kFanOut = 16;

  static std::size_t Padded(std::size_t size) {
    return std::max<std::size_t>(1, (size + kFanOut - 1) / kFanOut) * kFanOut;
  }
  static float Maximum(const std::vector<float>& level, std::size_t block) {
    const auto begin = level.begin() + static_cast<std::ptrdiff_t>(block * kFanOut);
    return *std::max_element(begin, begin + kFanOut);
  }

  std::vector<std::vector<float>> levels_;  // [0]: the nodes' own
};

}  // namespace tulle::control
