#include <algorithm>
#include <cmath>
#include <utility>

#include "tulle/control/placement/best_gpu.h"
#include "tulle/control/placement/fragmentation.h"
#include "tulle/control/placement/policy.h"

namespace tulle::control {
namespace {

constexpr double kLargestCpu = 128'000;
constexpr double kLargestGpu = 8 * kWholeGpu;

std::int32_t FreeCompute(const NodeRoom& node) {
  std::int32_t sum = 0;
  for (const GpuRoom& gpu : node.gpus) sum += gpu.compute;
  return sum;
}

std::uint32_t TightestGpu(const NodeRoom& node, const Demand& demand) {
  std::uint32_t best = 0;
  std::int32_t least = std::numeric_limits<std::int32_t>::max();
  VisitDistinct(node, demand, [&](std::uint32_t i) {
    if (node.gpus[i].compute < least) {
      least = node.gpus[i].compute;
      best = i;
    }
  });
  return best;
}

class Fgd final : public Policy {
 public:
  explicit Fgd(std::shared_ptr<const Workload> workload)
      : workload_(std::move(workload)), fragmentation_(*workload_) {}
  const char* name() const override { return "fragmentation-gradient"; }
  void Look(const NodeRoom& node) override {
    node_ = &node;
    fragmentation_.Look(node);
  }
  Choice Best(const Demand& demand) const override {
    return BestGpu(*node_, demand, [&](const std::uint32_t* gpus, std::size_t count) {
      return InSteps(fragmentation_.now() - fragmentation_.After(demand, gpus, count));
    });
  }

 private:
  std::shared_ptr<const Workload> workload_;
  Fragmentation fragmentation_;
  const NodeRoom* node_ = nullptr;
};

// Policies that score a node as a whole and take the tightest of its GPUs.
template <typename Score>
class WholeNode final : public Policy {
 public:
  WholeNode(const char* name, Score score) : name_(name), score_(score) {}
  const char* name() const override { return name_; }
  void Look(const NodeRoom& node) override { node_ = &node; }
  Choice Best(const Demand& demand) const override {
    if (!Fits(*node_, demand)) return {};
    return {.score = static_cast<float>(score_(*node_, demand)), .gpu = TightestGpu(*node_, demand)};
  }

 private:
  const char* name_;
  Score score_;
  const NodeRoom* node_ = nullptr;
};

double DotProductScore(const NodeRoom& node, const Demand& demand) {
  const double product = (node.cpu / kLargestCpu * (demand.cpu / kLargestCpu) +
                          FreeCompute(node) / kLargestGpu * (demand.gpus * demand.compute / kLargestGpu)) /
                         2;
  return std::floor(100 * (1 - product));
}

double BestFitScore(const NodeRoom& node, const Demand& demand) {
  const double cpu = (node.cpu - demand.cpu) / kLargestCpu;
  const double gpu = (FreeCompute(node) - demand.gpus * demand.compute) / kLargestGpu;
  return std::floor(100 * (1 - 0.5 * cpu - 0.5 * gpu));
}

double GpuPackingScore(const NodeRoom& node, const Demand& demand) {
  if (demand.gpus == 0) return 0;
  const auto idle = static_cast<std::int32_t>(
      std::count_if(node.gpus.begin(), node.gpus.end(), [](const GpuRoom& gpu) { return gpu.vgpus == 0; }));
  if (idle == static_cast<std::int32_t>(node.gpus.size())) return std::max(33 - idle, 0);
  const std::int32_t tightest = node.gpus[TightestGpu(node, demand)].compute;
  if (demand.compute == kWholeGpu || tightest == kWholeGpu) return std::max(50 - idle, 33);
  return std::max(100 - tightest / 10, 50);
}

class BalancedFit final : public Policy {
 public:
  const char* name() const override { return "balanced-fit"; }
  void Look(const NodeRoom& node) override { node_ = &node; }
  Choice Best(const Demand& demand) const override {
    return BestGpu(*node_, demand, [&](const std::uint32_t* gpus, std::size_t count) {
      double left = 0;
      for (std::size_t i = 0; i < count; ++i) {
        const GpuRoom gpu = After(node_->gpus[gpus[i]], demand);
        const double compute = static_cast<double>(gpu.compute) / kWholeGpu;
        const double memory =
            gpu.memory_capacity > 0 ? static_cast<double>(gpu.memory) / gpu.memory_capacity : 0;
        left += memory + compute + std::abs(memory - compute);
      }
      return -left;
    });
  }

 private:
  const NodeRoom* node_ = nullptr;
};

class RandomNode final : public Policy {
 public:
  explicit RandomNode(Random& random) : random_(random) {}
  const char* name() const override { return "random"; }
  void Look(const NodeRoom& node) override { node_ = &node; }
  Choice Best(const Demand& demand) const override {
    if (!Fits(*node_, demand)) return {};
    Choice choice{.score = static_cast<float>(random_.Below(1 << 24))};
    std::uint64_t seen = 0;
    for (std::uint32_t i = 0; i < node_->gpus.size(); ++i) {
      if (Fits(node_->gpus[i], demand) && random_.Below(++seen) == 0) choice.gpu = i;
    }
    return choice;
  }
  bool scores_last() const override { return false; }

 private:
  Random& random_;
  const NodeRoom* node_ = nullptr;
};

}  // namespace

std::vector<std::uint32_t> GpusOf(const NodeRoom& node, const Demand& demand, const Choice& choice) {
  if (demand.gpus == 1) return {choice.gpu};
  std::vector<std::uint32_t> gpus;
  for (std::uint32_t i = 0; static_cast<std::int32_t>(gpus.size()) < demand.gpus && i < node.gpus.size();
       ++i) {
    if (Fits(node.gpus[i], demand)) gpus.push_back(i);
  }
  return gpus;
}

std::unique_ptr<Policy> MakeBalancedFit() { return std::make_unique<BalancedFit>(); }

std::unique_ptr<Policy> MakeFgd(std::shared_ptr<const Workload> workload) {
  return std::make_unique<Fgd>(std::move(workload));
}

std::unique_ptr<Policy> MakeDotProduct() {
  return std::make_unique<WholeNode<decltype("dot-product", &DotProductScore)>>("dot-product",
                                                                                &DotProductScore);
}

std::unique_ptr<Policy> MakeBestFit() {
  return std::make_unique<WholeNode<decltype("best-fit", &BestFitScore)>>("best-fit", &BestFitScore);
}

std::unique_ptr<Policy> MakeGpuPacking() {
  return std::make_unique<WholeNode<decltype("gpu-packing", &GpuPackingScore)>>("gpu-packing",
                                                                                &GpuPackingScore);
}

std::unique_ptr<Policy> MakeRandom(Random& random) { return std::make_unique<RandomNode>(random); }

}  // namespace tulle::control
