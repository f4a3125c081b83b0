// Against the definition, term by term, on random nodes and workloads.
#include "tulle/control/placement/fragmentation.h"

#include <gtest/gtest.h>

#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/test_rooms.h"

namespace tulle::control {
namespace {

double Defined(const NodeRoom& node, const std::vector<WeightedDemand>& demands) {
  double fragment = 0;
  double weights = 0;
  for (const WeightedDemand& entry : demands) {
    double free = 0;
    double on_others = 0;
    int fits = 0;
    for (const GpuRoom& gpu : node.gpus) {
      free += FreeOf(gpu);
      if (Fits(gpu, entry.demand)) {
        ++fits;
      } else {
        on_others += FreeOf(gpu);
      }
    }
    const bool placeable = entry.demand.gpus > 0 && HostFits(node, entry.demand) && fits >= entry.demand.gpus;
    fragment += entry.weight * (placeable ? on_others : free);
    weights += entry.weight;
  }
  return fragment / weights;
}

TEST(Fragmentation, IsAsDefined) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    std::vector<WeightedDemand> demands;
    for (std::uint64_t i = 0, n = 1 + random.Below(30); i < n; ++i) {
      demands.push_back({RandomDemand(random), 1.0 + static_cast<double>(random.Below(9))});
    }
    const Workload workload(demands, 1.0);
    Fragmentation fragmentation(workload);
    for (int i = 0; i < 20; ++i) {
      NodeRoom node = RandomNode(random);
      fragmentation.Look(node);
      EXPECT_NEAR(fragmentation.now(), Defined(node, demands), 1e-6);
      const Demand demand = RandomDemand(random);
      if (!Fits(node, demand)) continue;
      const std::vector<std::uint32_t> gpus = RandomGpusFor(node, demand, random);
      const double after = fragmentation.After(demand, gpus.data(), gpus.size());
      NodeRoom taken = node;
      Take(&taken, demand, gpus);
      EXPECT_NEAR(after, Defined(taken, demands), 1e-6);
      Give(&taken, demand, gpus);
      EXPECT_EQ(taken, node);
    }
  }
}

// The example of section 3 of the paper, in its spirit: a node of two GPUs with 0.5 free on each.
TEST(Fragmentation, HalvesAreNoUseToWholes) {
  const NodeRoom node{.cpu = 8000, .gpus = {{.compute = 500, .vgpus = 1}, {.compute = 500, .vgpus = 1}}};
  const auto of = [&](std::vector<WeightedDemand> demands) {
    const Workload workload(demands);
    Fragmentation fragmentation(workload);
    fragmentation.Look(node);
    return fragmentation.now();
  };
  EXPECT_EQ(of({{{.compute = 500}, 1}}), 0);
  EXPECT_EQ(of({{{.compute = 1000}, 1}}), 1000);
  EXPECT_EQ(of({{{.compute = 500}, 1}, {{.compute = 1000}, 1}}), 500);
  EXPECT_EQ(of({{{.cpu = 9000, .compute = 500}, 1}}), 1000) << "the host has not the processors";
  EXPECT_EQ(of({{{.compute = 500, .kinds = {0, 1}}, 1}}), 1000) << "another kind";
  EXPECT_EQ(of({{{.compute = 100, .dedicated = true}, 1}}), 1000) << "they have vGPUs";
  EXPECT_EQ(of({{{.gpus = 0}, 1}}), 1000) << "what asks for no GPU leaves it idle";
  EXPECT_EQ(of({}), 0);
}

TEST(Workload, KeepsTheMostFrequentThatCoverEnough) {
  std::vector<WeightedDemand> demands;
  for (std::int32_t i = 1; i <= 10; ++i) {
    demands.push_back({{.compute = 100 * i}, i <= 2 ? 5.0 : 1.0});  // 5 of 18 each, and 8 of 1
    demands.push_back({{.compute = 100 * i}, i <= 2 ? 4.0 : 0.0});  // the same ones again: 9 of 26
  }
  const Workload workload(demands, 0.7);  // 18 of 26 are not 70 %: one more
  double sum = 0;
  int used = 0;
  for (std::size_t i = 0; i < workload.size(); ++i) {
    sum += workload.weight[i];
    used += workload.weight[i] > 0;
  }
  EXPECT_EQ(used, 3);
  EXPECT_NEAR(sum, 1, 1e-12);
  EXPECT_NEAR(workload.weight[0], 9.0 / 19, 1e-12);
  EXPECT_EQ(workload.size() % 8, 0u);
}

}  // namespace
}  // namespace tulle::control
