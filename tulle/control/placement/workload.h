// What the mesh expects to be asked for: kinds of demands and how often each comes. Placement keeps room
// useful for these (fragmentation.h). Immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tulle/control/placement/room.h"

namespace tulle::control {

struct WeightedDemand {
  Demand demand;
  double weight = 0;
};

// Columns, one entry for each demand, padded with demands of weight 0 to whole vectors.
class Workload {
 public:
  static constexpr std::size_t kLanes = 8;  // size() is a multiple: 32-bit integers in a vector, at most

  Workload() : Workload(std::span<const WeightedDemand>()) {}
  // Of `demands` (equal ones add up) the most frequent ones, until they are at least `coverage` of the
  // weight; as "typical pods" of Weng et al., Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
  // Fragmentation Gradient Descent, USENIX ATC 2023. Weights are made to add up to 1.
  explicit Workload(std::span<const WeightedDemand> demands, double coverage = 0.95);

  std::size_t size() const { return gpus.size(); }
  // -1 for each demand that a GPU of this kind will do for, else 0.
  const std::int32_t* Allowed(GpuKind kind) const {
    return kind < allowed_.size() ? allowed_[kind].data() : unknown_kind_.data();
  }

  std::vector<std::int32_t> cpu, host_memory, compute, memory, dedicated;
  std::vector<std::int32_t> gpus;  // more than any node has where the demand is for none
  std::vector<double> weight;

 private:
  std::vector<std::vector<std::int32_t>> allowed_;  // by kind
  std::vector<std::int32_t> unknown_kind_;
};

}  // namespace tulle::control
