#include "bench/placement/departures.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <numbers>
#include <queue>
#include <utility>
#include <vector>

#include "tulle/base/random.h"

namespace tulle::bench {
namespace {

using namespace control;

double Uniform(Random& random) { return static_cast<double>(random.Next() >> 11) * 0x1p-53; }  // in [0, 1)
double Exponential(Random& random, double mean) { return -mean * std::log1p(-Uniform(random)); }

double LifetimeOf(const OpenbPod& pod) {
  return std::max<double>(1, static_cast<double>(pod.deleted_s - pod.created_s));
}

class Run {
 public:
  Run(const Openb& openb, std::unique_ptr<Policy> policy, std::uint64_t seed, const MeshAbilities& abilities,
      const DeparturesOptions& options)
      : openb_(openb), options_(options), random_(seed), mesh_(std::move(policy), abilities) {
    std::vector<const OpenbNode*> nodes;
    for (const OpenbNode& node : openb.nodes) nodes.push_back(&node);
    Shuffle(&nodes, random_);
    for (const OpenbNode* node : nodes) mesh_.AddNode(node->room);
    double gpu_seconds = 0;  // that a pod asks for on average
    for (const OpenbPod& pod : openb.pods) {
      const double lifetime = LifetimeOf(pod);
      lifetimes_.push_back((lifetimes_.empty() ? 0 : lifetimes_.back()) + lifetime);
      gpu_seconds += pod.demand.gpus * pod.demand.compute * lifetime;
    }
    const auto pods = static_cast<double>(openb.pods.size());
    interval_s_ = gpu_seconds / pods / (options.load * static_cast<double>(openb.gpu_milli));
    start_with_ = lifetimes_.back() / pods / interval_s_;
  }

  Departures operator()() {
    // Near enough to Poisson's for as many as these (thousands): normal with that variance.
    const double spread =
        std::sqrt(-2 * std::log1p(-Uniform(random_))) * std::cos(2 * std::numbers::pi * Uniform(random_));
    const auto population = static_cast<std::size_t>(start_with_ + std::sqrt(start_with_) * spread);
    for (std::size_t i = 0; i < population; ++i) {
      const auto drawn =
          std::upper_bound(lifetimes_.begin(), lifetimes_.end(), Uniform(random_) * lifetimes_.back());
      const OpenbPod& pod = openb_.pods[static_cast<std::size_t>(drawn - lifetimes_.begin())];
      Arrive({.demand = &pod.demand, .lifetime_s = LifetimeOf(pod) * (1 - Uniform(random_))});
    }
    double next_arrival_s = Exponential(random_, interval_s_);
    for (std::size_t arrivals = 0; arrivals < options_.arrivals;) {
      if (!leaving_.empty() && leaving_.top().first <= next_arrival_s) {
        const auto [at_s, id] = leaving_.top();
        leaving_.pop();
        Advance(at_s);
        Leave(id);
        continue;
      }
      Advance(next_arrival_s);
      if (++arrivals == options_.warm_up) Begin();
      const OpenbPod& pod = openb_.pods[random_.Below(openb_.pods.size())];
      Arrive({.came_s = now_s_,
              .demand = &pod.demand,
              .lifetime_s = LifetimeOf(pod),
              .counts = arrivals > options_.warm_up && pod.demand.gpus > 0});
      next_arrival_s = now_s_ + Exponential(random_, interval_s_);
    }
    for (const auto& [demand, queue] : waiting_) {
      for (const Claim& claim : queue) Count(claim, now_s_ - claim.came_s);
    }
    const double span_s = now_s_ - begin_s_;
    return {.allocated = 100 * allocated_ / span_s / static_cast<double>(openb_.gpu_milli),
            .mean_wait_s = wait_s_ / static_cast<double>(counted_),
            .waited = static_cast<double>(waited_) / static_cast<double>(counted_),
            .mean_waiting = waiting_time_ / span_s,
            .moves_per_arrival = static_cast<double>(mesh_.moves() - moves_before_) /
                                 static_cast<double>(options_.arrivals - options_.warm_up)};
  }

 private:
  struct Claim {
    double came_s = 0;
    const Demand* demand = nullptr;
    double lifetime_s = 0;
    bool counts = false;
  };

  void Begin() {
    begin_s_ = now_s_;
    allocated_ = waiting_time_ = 0;
    moves_before_ = mesh_.moves();
  }

  void Advance(double to_s) {
    allocated_ += static_cast<double>(mesh_.allocated()) * (to_s - now_s_);
    waiting_time_ += static_cast<double>(number_waiting_) * (to_s - now_s_);
    now_s_ = to_s;
  }

  void Count(const Claim& claim, double wait_s) {
    if (!claim.counts) return;
    ++counted_;
    wait_s_ += wait_s;
    if (wait_s > 0) ++waited_;
  }

  void Start(const Claim& claim, std::uint32_t id) {
    Count(claim, now_s_ - claim.came_s);
    leaving_.emplace(now_s_ + claim.lifetime_s, id);
  }

  // One like others that wait has no room: they have none.
  void Arrive(const Claim& claim) {
    const auto others = waiting_.find(*claim.demand);
    if (others == waiting_.end() || others->second.empty()) {
      if (const auto id = mesh_.Arrive(*claim.demand)) return Start(claim, *id);
    }
    waiting_[*claim.demand].push_back(claim);
    ++number_waiting_;
  }

  // What waits has no room but where something has just left.
  void Leave(std::uint32_t gone) {
    const std::size_t node = mesh_.Leave(gone);
    std::vector<std::deque<Claim>*> queues;
    for (auto& [demand, queue] : waiting_) {
      if (!queue.empty()) queues.push_back(&queue);
    }
    const auto later = [](const auto* a, const auto* b) { return a->front().came_s > b->front().came_s; };
    std::make_heap(queues.begin(), queues.end(), later);
    while (!queues.empty()) {
      std::pop_heap(queues.begin(), queues.end(), later);
      std::deque<Claim>& queue = *queues.back();
      const Claim claim = queue.front();
      const auto id = mesh_.ArriveAt(node, *claim.demand);
      if (id) {
        queue.pop_front();
        --number_waiting_;
        Start(claim, *id);
      }
      if (id && !queue.empty()) {
        std::push_heap(queues.begin(), queues.end(), later);
      } else {
        queues.pop_back();
      }
    }
    mesh_.Grow(node);
  }

  const Openb& openb_;
  const DeparturesOptions options_;
  SeededRandom random_;
  Mesh mesh_;
  std::vector<double> lifetimes_;  // added up
  double interval_s_ = 0;          // between arrivals, on average
  double start_with_ = 0;          // pods, on average

  double now_s_ = 0, begin_s_ = 0;
  using Leaving = std::pair<double, std::uint32_t>;
  std::priority_queue<Leaving, std::vector<Leaving>, std::greater<>> leaving_;
  std::map<Demand, std::deque<Claim>> waiting_;
  std::size_t number_waiting_ = 0;

  double allocated_ = 0, waiting_time_ = 0, wait_s_ = 0;
  std::size_t counted_ = 0, waited_ = 0;
  std::uint64_t moves_before_ = 0;
};

}  // namespace

Departures ReplayDepartures(const Openb& openb, std::unique_ptr<Policy> policy, std::uint64_t seed,
                            const MeshAbilities& abilities, const DeparturesOptions& options) {
  return Run(openb, std::move(policy), seed, abilities, options)();
}

}  // namespace tulle::bench
