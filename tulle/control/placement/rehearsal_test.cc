#include "tulle/control/placement/rehearsal.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/placer.h"
#include "tulle/control/placement/test_rooms.h"

namespace tulle::control {
namespace {

TEST(LeftoverTable, IsTheMeanOfWhatWasLeft) {
  LeftoverSeen seen(2);
  const NodeRoom half{.cpu = 4'000, .gpus = {{.kind = 1, .compute = 500, .vgpus = 1}}};
  std::vector<std::uint32_t> states;
  LeftoverTable::StatesOf(half, &states);
  ASSERT_EQ(states.size(), 1u);
  seen.times[states[0]] = 1e6;
  seen.left[states[0]] = 120e6;
  const LeftoverTable table(seen, /*by_kind=*/false);
  EXPECT_NEAR(table.Of(half), 120, 0.1);
  // Another kind, or another host, is the nearest to go by; what was never seen is lost.
  NodeRoom other = half;
  other.gpus[0].kind = 0;
  EXPECT_NEAR(table.Of(other), 120, 0.1);
  other.cpu = 0;
  EXPECT_NEAR(table.Of(other), 120, 0.1);
  other.gpus[0].compute = 510;
  EXPECT_NEAR(table.Of(other), 510, 0.1);
  EXPECT_EQ(table.Of({}), 0);

  // Told apart by kind, each has its own.
  NodeRoom first = half;
  first.gpus[0].kind = 0;
  LeftoverTable::StatesOf(first, &states);
  seen.times[states[0]] = 1e6;
  seen.left[states[0]] = 0;
  EXPECT_NEAR(LeftoverTable(seen, true).Of(half), 120, 0.1);
  EXPECT_NEAR(LeftoverTable(seen, true).Of(first), 0, 0.1);
  EXPECT_NEAR(LeftoverTable(seen, false).Of(first), 60, 0.1);
  first.gpus[0].kind = 7;  // of which nothing is known
  EXPECT_NEAR(LeftoverTable(seen, true).Of(first), 60, 0.1);
}

TEST(LeftoverTable, AfterIsOfWhatThenIs) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    LeftoverSeen seen(3);
    for (int i = 0; i < 100'000; ++i) {
      const std::size_t state = random.Below(seen.times.size());
      seen.times[state] += 50;
      seen.left[state] += 50 * static_cast<double>(random.Below(1000));
    }
    const LeftoverTable table(seen, random.Below(2) == 0);
    for (int i = 0; i < 20; ++i) {
      NodeRoom node = RandomNode(random);
      const Demand demand = RandomDemand(random);
      if (!Fits(node, demand)) continue;
      const std::vector<std::uint32_t> gpus = RandomGpusFor(node, demand, random);
      const double after = table.After(node, demand, gpus.data(), gpus.size());
      Take(&node, demand, gpus);
      EXPECT_DOUBLE_EQ(after, table.Of(node));
    }
    if (seed == 3) break;  // each has a table of a million states
  }
}

// What a policy fills of a mesh that is asked for as much as it has.
double Filled(const std::vector<NodeRoom>& nodes, const std::vector<WeightedDemand>& demands,
              const std::shared_ptr<const Outlook>& outlook, std::uint64_t seed) {
  SeededRandom random(seed);
  Placer placer(MakePredictive(outlook));
  double capacity = 0;
  for (const NodeRoom& node : nodes) {
    capacity += FreeOf(node);
    placer.Add(node);
  }
  double filled = 0;
  for (double asked = 0; asked < capacity;) {
    const Demand& demand = demands[random.Below(demands.size())].demand;
    asked += demand.gpus * demand.compute;
    if (const auto placed = placer.Choose(demand)) {
      placer.Take(demand, *placed);
      filled += demand.gpus * demand.compute;
    }
  }
  return filled / capacity;
}

// Of 0.6, 0.4 and 0.3: two 0.3 beside a 0.4 fill a GPU, and so does a 0.4 beside a 0.6; 0.6 and 0.3 do not.
TEST(Rehearse, LearnsWhichRemaindersAreFilled) {
  const std::vector<NodeRoom> nodes(100, NodeRoom{.cpu = 64'000, .gpus = {4, GpuRoom{}}});
  const std::vector<WeightedDemand> demands = {
      {{.compute = 600}, 1}, {{.compute = 400}, 1}, {{.compute = 300}, 1}};
  const auto plain = std::make_shared<const Outlook>(Outlook{.workload = Workload(demands)});
  const auto learnt = std::make_shared<const Outlook>(Rehearse(nodes, demands));
  EXPECT_TRUE(learnt->leftover.has_value());
  double by_plain = 0;
  double by_learnt = 0;
  for (std::uint64_t seed = 100; seed < 110; ++seed) {
    by_plain += Filled(nodes, demands, plain, seed) / 10;
    by_learnt += Filled(nodes, demands, learnt, seed) / 10;
  }
  EXPECT_GE(by_learnt, by_plain);
  EXPECT_GT(by_learnt, 0.95);
}

TEST(Rehearse, TheSameArgumentsGiveTheSameOutlook) {
  SeededRandom random(5);
  std::vector<NodeRoom> nodes;
  std::vector<WeightedDemand> demands;
  for (int i = 0; i < 40; ++i)
    nodes.push_back({.cpu = 32'000, .host_memory = 1 << 20, .gpus = {4, GpuRoom{}}});
  for (int i = 0; i < 8; ++i) demands.push_back({RandomDemand(random), 1});
  const Outlook one = Rehearse(nodes, demands, {.rounds = 2});
  const Outlook same = Rehearse(nodes, demands, {.rounds = 2});
  ASSERT_EQ(one.leftover.has_value(), same.leftover.has_value());
  for (int i = 0; i < 200; ++i) {
    const NodeRoom node = RandomNode(random);
    if (one.leftover) {
      EXPECT_EQ(one.leftover->Of(node), same.leftover->Of(node));
    }
  }
}

TEST(Rehearse, WithNothingToLearnFromItIsPlain) {
  const std::vector<NodeRoom> nodes(3, NodeRoom{.cpu = 1'000, .gpus = {2, GpuRoom{}}});
  EXPECT_FALSE(Rehearse({}, std::vector<WeightedDemand>{{{.compute = 500}, 1}}).leftover.has_value());
  EXPECT_FALSE(Rehearse(nodes, {}).leftover.has_value());
  EXPECT_FALSE(Rehearse(nodes, std::vector<WeightedDemand>{{{.gpus = 0}, 1}}).leftover.has_value());
  EXPECT_FALSE(Rehearse(nodes, std::vector<WeightedDemand>{{{.compute = 500}, 0}}).leftover.has_value());
}

}  // namespace
}  // namespace tulle::control
