#include "tulle/control/placement/workload.h"

#include <algorithm>
#include <limits>
#include <map>

namespace tulle::control {
Workload::Workload(std::span<const WeightedDemand> demands, double coverage) {
  std::map<Demand, double> sums;
  double total = 0;
  std::size_t kinds = 0;
  for (const WeightedDemand& entry : demands) {
    sums[entry.demand] += entry.weight;
    total += entry.weight;
    kinds = std::max(kinds, entry.demand.kinds.size());
  }
  std::vector<std::pair<const Demand*, double>> typical;
  for (const auto& [demand, sum] : sums) typical.emplace_back(&demand, sum);
  std::stable_sort(typical.begin(), typical.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  double covered = 0;
  std::size_t count = 0;
  while (count < typical.size() && covered < coverage * total) covered += typical[count++].second;
  typical.resize(count);

  static constexpr Demand kNothing{.gpus = 0};
  while (typical.size() % kLanes != 0) typical.emplace_back(&kNothing, 0);
  allowed_.resize(kinds);
  for (const auto& [demand, sum] : typical) {
    cpu.push_back(demand->cpu);
    host_memory.push_back(demand->host_memory);
    compute.push_back(demand->compute);
    memory.push_back(demand->memory);
    dedicated.push_back(demand->dedicated ? -1 : 0);
    gpus.push_back(demand->gpus > 0 ? demand->gpus : std::numeric_limits<std::int32_t>::max());
    weight.push_back(covered > 0 ? sum / covered : 0);
    for (GpuKind kind = 0; kind < kinds; ++kind) allowed_[kind].push_back(demand->Allows(kind) ? -1 : 0);
    unknown_kind_.push_back(demand->Allows(static_cast<GpuKind>(kinds)) ? -1 : 0);
  }
}

}  // namespace tulle::control
