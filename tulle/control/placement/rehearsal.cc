#include "tulle/control/placement/rehearsal.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/placer.h"

namespace tulle::control {
namespace {

class Rehearsals {
 public:
  Rehearsals(std::span<const NodeRoom> nodes, std::span<const WeightedDemand> demands,
             const RehearsalOptions& options, const std::stop_token& stop, Random& random)
      : options_(options), stop_(stop), nodes_(nodes.begin(), nodes.end()) {
    Shuffle(&nodes_, random);
    if (nodes_.size() > options.most_nodes) nodes_.resize(options.most_nodes);
    std::int64_t memory = 0;
    std::int64_t gpus = 0;
    for (const NodeRoom& node : nodes_) {
      for (const GpuRoom& gpu : node.gpus) {
        capacity_ += FreeOf(gpu);
        kinds_ = std::max<std::size_t>(kinds_, gpu.kind + 1);
        memory += gpu.memory_capacity;
        ++gpus;
      }
    }
    GpuRoom average{.memory_capacity = static_cast<std::int32_t>(gpus > 0 ? memory / gpus : 0)};
    average.memory = average.memory_capacity;
    double weight = 0;
    for (const WeightedDemand& entry : demands) {
      if (!(entry.weight > 0)) continue;
      const std::int32_t slice = FreeOf(average) - FreeOf(After(average, entry.demand));
      arrivals_.push_back({&entry.demand, weight += entry.weight, double{1} * slice * entry.demand.gpus});
      asks_ |= arrivals_.back().asked > 0;
    }
  }

  // Whether there is anything to learn.
  bool possible() const { return asks_ && capacity_ > 0; }
  std::size_t kinds() const { return kinds_; }

  // One run: how much was filled, in thousandths of a GPU, on average over its last tenth. Adds what it saw
  // to `seen`, if given.
  double Run(std::unique_ptr<Policy> policy, std::uint64_t seed, LeftoverSeen* seen) const {
    SeededRandom random(seed);
    std::vector<NodeRoom> nodes = nodes_;
    Shuffle(&nodes, random);
    Placer placer(std::move(policy));
    for (NodeRoom& node : nodes) placer.Add(std::move(node));

    std::vector<std::vector<std::uint32_t>> visited(
        placer.size());  // the states of a node's GPUs, time after time
    std::vector<std::uint32_t> states;
    const auto visit = [&](std::size_t node) {
      LeftoverTable::StatesOf(placer.node(node), &states);
      visited[node].insert(visited[node].end(), states.begin(), states.end());
    };
    if (seen != nullptr) {
      for (std::size_t i = 0; i < placer.size(); ++i) visit(i);
    }
    double filled = 0;
    double filled_late = 0;
    int late = 0;
    double asked = 0;
    for (int i = 0; i < options_.most_arrivals && asked < capacity_ && !stop_.stop_requested(); ++i) {
      const Arrival& arrival = Draw(random);
      asked += arrival.asked;
      if (const std::optional<PlacedDemand> placed = placer.Choose(*arrival.demand)) {
        filled += FreeOf(placer.node(placed->node));
        placer.Take(*arrival.demand, *placed);
        filled -= FreeOf(placer.node(placed->node));
        if (seen != nullptr) visit(placed->node);
      }
      if (asked > 0.9 * capacity_) {
        filled_late += filled;
        ++late;
      }
    }
    if (seen != nullptr) {
      for (std::size_t i = 0; i < placer.size(); ++i) {
        const std::vector<GpuRoom>& gpus = placer.node(i).gpus;
        for (std::size_t k = 0; k < visited[i].size(); ++k) {
          seen->times[visited[i][k]] += 1;
          seen->left[visited[i][k]] += FreeOf(gpus[k % gpus.size()]);
        }
      }
    }
    return late > 0 ? filled_late / late : filled;
  }

 private:
  struct Arrival {
    const Demand* demand;
    double weights;  // its own and those before
    double asked;    // of a GPU as they are on average, in thousandths of it
  };

  const Arrival& Draw(Random& random) const {
    constexpr double kUnit = 1.0 / (std::uint64_t{1} << 53);
    const double at = static_cast<double>(random.Next() >> 11) * kUnit * arrivals_.back().weights;
    const auto it =
        std::upper_bound(arrivals_.begin(), arrivals_.end(), at,
                         [](double value, const Arrival& arrival) { return value < arrival.weights; });
    return it == arrivals_.end() ? arrivals_.back() : *it;
  }

  const RehearsalOptions& options_;
  const std::stop_token& stop_;
  std::vector<NodeRoom> nodes_;
  double capacity_ = 0;
  std::size_t kinds_ = 0;
  std::vector<Arrival> arrivals_;
  bool asks_ = false;
};

void Scale(std::vector<double>* values, double factor) {
  for (double& value : *values) value *= factor;
}

}  // namespace

Outlook Rehearse(std::span<const NodeRoom> nodes, std::span<const WeightedDemand> demands,
                 const RehearsalOptions& options, const std::stop_token& stop) {
  SeededRandom random(options.seed);
  const Rehearsals rehearsals(nodes, demands, options, stop, random);
  std::shared_ptr<const Outlook> best =
      std::make_shared<const Outlook>(Outlook{.workload = Workload(demands)});
  if (!rehearsals.possible()) return *best;

  std::vector<std::uint64_t> judging(static_cast<std::size_t>(options.runs));
  for (std::uint64_t& seed : judging) seed = random.Next();
  const auto judge = [&](const std::shared_ptr<const Outlook>& outlook) {
    double filled = 0;
    for (const std::uint64_t seed : judging) filled += rehearsals.Run(MakePredictive(outlook), seed, nullptr);
    return filled;
  };
  double most = judge(best);
  std::shared_ptr<const Outlook> latest = best;
  LeftoverSeen seen(rehearsals.kinds());
  for (int round = 0; round < options.rounds; ++round) {
    Scale(&seen.times, options.remember);
    Scale(&seen.left, options.remember);
    for (int run = 0; run < options.runs; ++run) rehearsals.Run(MakePredictive(latest), random.Next(), &seen);
    double most_of_round = 0;
    for (const bool by_kind : {false, true}) {
      if (by_kind && rehearsals.kinds() == 1) continue;
      auto next = std::make_shared<const Outlook>(Outlook{.workload = best->workload,
                                                          .leftover = LeftoverTable(seen, by_kind),
                                                          .gradient = options.gradient});
      if (const double filled = judge(next); filled > most_of_round) {
        most_of_round = filled;
        latest = std::move(next);
      }
    }
    if (stop.stop_requested()) break;  // the last runs were cut short
    if (most_of_round > most) {
      most = most_of_round;
      best = latest;
    }
  }
  return *best;
}

}  // namespace tulle::control
