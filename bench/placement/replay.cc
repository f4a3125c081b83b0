#include "bench/placement/replay.h"

#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/placer.h"

namespace tulle::bench {
namespace {

using control::Demand;

std::int64_t Asked(const Demand& demand) { return std::int64_t{demand.gpus} * demand.compute; }

}  // namespace

Replayed Replay(const Openb& openb, std::unique_ptr<control::Policy> policy, std::uint64_t seed) {
  control::Placer placer(std::move(policy));
  return Replay(
      openb, seed, [&](const control::NodeRoom& room) { placer.Add(room); },
      [&](const Demand& demand) -> std::int64_t {
        const auto placed = placer.Choose(demand);
        if (!placed) return 0;
        placer.Take(demand, *placed);
        return Asked(demand);
      });
}

Replayed Replay(const Openb& openb, std::uint64_t seed,
                const std::function<void(const control::NodeRoom&)>& add_node,
                const std::function<std::int64_t(const Demand&)>& on_arrival) {
  SeededRandom random(seed);
  std::vector<const OpenbNode*> nodes;
  for (const OpenbNode& node : openb.nodes) nodes.push_back(&node);
  Shuffle(&nodes, random);
  for (const OpenbNode* node : nodes) add_node(node->room);

  std::vector<const Demand*> arrivals;
  std::int64_t asked = 0;
  const auto arrive = [&](const OpenbPod& pod) {
    arrivals.push_back(&pod.demand);
    asked += Asked(pod.demand);
  };
  for (const OpenbPod& pod : openb.pods) arrive(pod);
  Shuffle(&arrivals, random);
  while (asked < openb.gpu_milli * 13 / 10) arrive(openb.pods[random.Below(openb.pods.size())]);

  struct Mean {
    double sum = 0;
    int count = 0;
  };
  std::map<int, Mean> levels;
  std::int64_t allocated = 0;
  asked = 0;
  const double all = static_cast<double>(openb.gpu_milli) / 100;
  const auto began = std::chrono::steady_clock::now();
  for (const Demand* demand : arrivals) {
    asked += Asked(*demand);
    allocated += on_arrival(*demand);
    Mean& level = levels[static_cast<int>(std::lround(static_cast<double>(asked) / all))];
    level.sum += static_cast<double>(allocated) / all;
    ++level.count;
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
  Replayed replayed{.decision_us = took.count() / static_cast<double>(arrivals.size())};
  for (const auto& [level, mean] : levels) replayed.allocated[level] = mean.sum / mean.count;
  return replayed;
}

std::vector<control::WeightedDemand> WorkloadOf(const Openb& openb) {
  std::vector<control::WeightedDemand> demands;
  for (const OpenbPod& pod : openb.pods) {
    demands.push_back({pod.demand, 1});
    demands.back().demand.host_memory = 0;
  }
  return demands;
}

}  // namespace tulle::bench
