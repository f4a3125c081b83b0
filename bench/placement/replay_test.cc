// The policies do on the openb trace what their authors published of them, and ours does better.
#include "bench/placement/replay.h"
#include "bench/placement/mesh_replay.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/outlook.h"
#include "tulle/control/placement/rehearsal.h"

namespace tulle::bench {
namespace {

using namespace control;

// At 100 % and 130 % of demand.
struct Shares {
  double at_100 = 0;
  double at_130 = 0;
};

template <typename Make>
Shares MeanOf(const Openb& openb, Make make) {
  constexpr std::uint64_t kSeeds = 3;
  Shares mean;
  for (std::uint64_t seed = 42; seed < 42 + kSeeds; ++seed) {
    const Replayed replayed = Replay(openb, make(), seed);
    mean.at_100 += replayed.allocated.at(100) / kSeeds;
    mean.at_130 += replayed.allocated.at(130) / kSeeds;
  }
  return mean;
}

TEST(Openb, PoliciesDoAsPublishedAndOursBetter) {
  const Openb openb = LoadOpenb(TULLE_BENCH_DATA "/openb", "default");
  ASSERT_EQ(openb.nodes.size(), 1213u);
  ASSERT_EQ(openb.pods.size(), 8152u);
  ASSERT_EQ(openb.gpu_milli, 6'212'000);
  const std::vector<WeightedDemand> demands = WorkloadOf(openb);
  const auto workload = std::make_shared<const Workload>(demands);

  // What is published are means of ten seeds, of which these are not the same.
  const auto expect_near = [&](const char* name, const Shares& shares, double at_100, double at_130,
                               double within) {
    EXPECT_NEAR(shares.at_100, at_100, within) << name;
    EXPECT_NEAR(shares.at_130, at_130, within) << name;
  };
  SeededRandom random(1);
  expect_near("Random", MeanOf(openb, [&] { return MakeRandom(random); }), 86.30, 87.47, 0.6);
  expect_near("DotProd", MeanOf(openb, [] { return MakeDotProduct(); }), 90.62, 90.85, 0.35);
  expect_near("GpuPacking", MeanOf(openb, [] { return MakeGpuPacking(); }), 91.78, 92.00, 0.6);
  expect_near("BestFit", MeanOf(openb, [] { return MakeBestFit(); }), 92.86, 93.08, 0.25);
  const Shares fgd = MeanOf(openb, [&] { return MakeFgd(workload); });
  expect_near("FGD", fgd, 95.23, 95.39, 0.25);

  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, demands, {.rounds = 2, .runs = 2}));
  const Shares ours = MeanOf(openb, [&] { return MakePredictive(outlook); });
  EXPECT_GT(ours.at_100, fgd.at_100 + 0.5);
  EXPECT_GT(ours.at_130, fgd.at_130 + 0.5);
}

TEST(Openb, AMeshThatShrinksAndMovesFillsMore) {
  const Openb openb = WithProcessorsElsewhere(LoadOpenb(TULLE_BENCH_DATA "/openb", "default"));
  const std::vector<WeightedDemand> demands = WorkloadOf(openb);
  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, demands, {.rounds = 2, .runs = 2}));
  const auto replay = [&](const MeshAbilities& abilities) {
    return ReplayOnMesh(openb, MakePredictive(outlook), 42, abilities).replayed.allocated;
  };
  const auto still = replay({});
  const auto half = replay({.least_part = 0.5, .move = true});
  EXPECT_GT(half.at(100), still.at(100) + 0.5);
  EXPECT_GE(half.at(100), 96.5);
  EXPECT_GE(half.at(130), 98);
  EXPECT_LE(half.at(130), 100);
}

}  // namespace
}  // namespace tulle::bench
