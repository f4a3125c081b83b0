// What the policies that weigh each GPU share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tulle/control/placement/policy.h"

namespace tulle::control {

// A gain of so many thousandths of a GPU as a score: a hundred steps of a sigmoid, each of at most 40.
// Smaller differences are ties, which go to the first node, so that nodes fill up one after the other and
// late ones stay whole.
inline double InSteps(double gain) { return std::floor(100 / (1 + std::exp(-gain / kWholeGpu))); }

// Calls `visit(index)` for the first GPU of each state that the demand fits on.
template <typename F>
void VisitDistinct(const NodeRoom& node, const Demand& demand, F visit) {
  const std::vector<GpuRoom>& gpus = node.gpus;
  for (std::uint32_t i = 0; i < gpus.size(); ++i) {
    if (!Fits(gpus[i], demand)) continue;
    const auto here = gpus.begin() + i;
    if (std::find(gpus.begin(), here, *here) == here) visit(i);
  }
}

// The choice with the highest `score(gpus, count)`: of a demand for one GPU over all that it fits on, the
// first of equal ones; of another as GpusOf has it.
template <typename F>
Choice BestGpu(const NodeRoom& node, const Demand& demand, F score) {
  Choice best;
  if (!Fits(node, demand)) return best;
  if (demand.gpus != 1) {
    const std::vector<std::uint32_t> gpus = GpusOf(node, demand, best);
    best.score = static_cast<float>(score(gpus.data(), gpus.size()));
    return best;
  }
  VisitDistinct(node, demand, [&](std::uint32_t i) {
    if (const auto here = static_cast<float>(score(&i, std::size_t{1})); here > best.score) {
      best = {.score = here, .gpu = i};
    }
  });
  return best;
}

}  // namespace tulle::control
