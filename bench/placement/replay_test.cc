// The policies do on the openb trace what their authors published of them, and ours does better.
#include "bench/placement/replay.h"
#include "bench/placement/departures.h"
#include "bench/placement/mesh.h"

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

TEST(Openb, WithDeparturesOursWaitsLessAndAMeshLeastOfAll) {
  const Openb openb = LoadOpenb(TULLE_BENCH_DATA "/openb", "default");
  const std::vector<WeightedDemand> demands = WorkloadOf(openb);
  const auto workload = std::make_shared<const Workload>(demands);
  std::vector<NodeRoom> rooms;
  for (const OpenbNode& node : openb.nodes) rooms.push_back(node.room);
  const auto outlook = std::make_shared<const Outlook>(Rehearse(rooms, demands, {.rounds = 2, .runs = 2}));
  const DeparturesOptions options{.load = 1, .arrivals = 20'000, .warm_up = 5'000};
  Departures fgd, ours, mesh;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const auto add = [](Departures* sum, const Departures& one) {
      sum->allocated += one.allocated / 3;
      sum->mean_wait_s += one.mean_wait_s / 3;
    };
    add(&fgd, ReplayDepartures(openb, MakeFgd(workload), seed, {}, options));
    add(&ours, ReplayDepartures(openb, MakePredictive(outlook), seed, {}, options));
    add(&mesh,
        ReplayDepartures(openb, MakePredictive(outlook), seed, {.least_part = 0.5, .move = true}, options));
  }
  EXPECT_LT(ours.mean_wait_s, 0.7 * fgd.mean_wait_s);
  EXPECT_LT(mesh.mean_wait_s, 0.5 * ours.mean_wait_s);
  EXPECT_GT(mesh.allocated, fgd.allocated);
  EXPECT_LE(mesh.allocated, 100);
}

TEST(Mesh, HasNothingLeftOfWhatLeaves) {
  Mesh mesh(MakeBestFit(), {.least_part = 0.5, .move = true});
  for (int i = 0; i < 2; ++i) mesh.AddNode({.cpu = 1000, .gpus = {{.kind = 0}, {.kind = 0}}});
  std::vector<std::uint32_t> ids;
  for (const std::int32_t compute : {1000, 600, 300, 500, 900, 400, 250, 700}) {
    if (const auto id = mesh.Arrive({.compute = compute})) ids.push_back(*id);
  }
  EXPECT_EQ(ids.size(), 8u);  // 4.65 GPUs' worth on 4
  EXPECT_GT(mesh.shrinks(), 0u);
  EXPECT_LE(mesh.allocated(), 4000);
  for (const std::uint32_t id : ids) {
    mesh.Grow(mesh.Leave(id));
    EXPECT_GE(mesh.allocated(), 0);
  }
  EXPECT_EQ(mesh.allocated(), 0);
}

}  // namespace
}  // namespace tulle::bench
