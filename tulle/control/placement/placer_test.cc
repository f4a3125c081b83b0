#include "tulle/control/placement/placer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/test_rooms.h"

namespace tulle::control {
namespace {

TEST(Ranking, TheFirstOfTheHighest) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    Ranking ranking;
    std::vector<float> scores;
    for (int step = 0; step < 2'000; ++step) {
      if (random.Below(5) == 0 || scores.empty()) {
        scores.resize(scores.size() + 1 + random.Below(30), Choice::kNoRoom);
        ranking.Grow(scores.size());
      }
      const std::size_t node = random.Below(scores.size());
      scores[node] = random.Below(3) == 0 ? Choice::kNoRoom : static_cast<float>(random.Below(5));
      ranking.Set(node, scores[node]);
      const auto best = std::max_element(scores.begin(), scores.end());
      ASSERT_EQ(ranking.Best().score, *best);
      if (*best != Choice::kNoRoom) {
        ASSERT_EQ(ranking.Best().node, static_cast<std::size_t>(best - scores.begin()));
      }
    }
  }
}

// With few rankings, none, or plenty: the answer is that of looking at every node.
TEST(Placer, ChoosesAsIfItLookedAtEveryNode) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    SeededRandom random(seed);
    std::vector<Demand> demands;
    std::vector<WeightedDemand> weighted;
    for (int i = 0; i < 12; ++i) {
      demands.push_back(RandomDemand(random));
      weighted.push_back({demands.back(), 1});
    }
    const auto workload = std::make_shared<const Workload>(weighted);
    Placer placer(MakeFgd(workload), /*most_rankings=*/random.Below(15));
    const std::unique_ptr<Policy> policy = MakeFgd(workload);
    std::vector<std::pair<Demand, PlacedDemand>> taken;
    for (int step = 0; step < 400; ++step) {
      if (placer.size() < 3 || random.Below(8) == 0) placer.Add(RandomNode(random));
      if (random.Below(10) == 0) {
        const std::size_t node = random.Below(placer.size());
        std::erase_if(taken, [node](const auto& entry) { return entry.second.node == node; });
        placer.Set(node, random.Below(4) == 0 ? NodeRoom() : RandomNode(random));
      }
      if (!taken.empty() && random.Below(3) == 0) {
        const std::size_t i = random.Below(taken.size());
        placer.Give(taken[i].first, taken[i].second);
        taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(i));
      }
      const Demand& demand = demands[random.Below(demands.size())];
      std::optional<PlacedDemand> expected;
      float best = Choice::kNoRoom;
      for (std::size_t i = 0; i < placer.size(); ++i) {
        policy->Look(placer.node(i));
        const Choice choice = policy->Best(demand);
        ASSERT_EQ(choice.fits(), Fits(placer.node(i), demand));
        if (choice.score <= best) continue;
        best = choice.score;
        expected = {.node = i, .gpus = GpusOf(placer.node(i), demand, choice)};
      }
      ASSERT_EQ(placer.Choose(demand), expected);
      if (!expected) continue;
      ASSERT_EQ(static_cast<std::int32_t>(expected->gpus.size()), demand.gpus);
      placer.Take(demand, *expected);
      taken.emplace_back(demand, *expected);
    }
  }
}

std::size_t NodeOf(Placer& placer, const Demand& demand) { return placer.Choose(demand).value().node; }

TEST(Policies, EachHasItsOwnIdeaOfTheBestNode) {
  const NodeRoom idle{.cpu = 64'000, .gpus = {2, GpuRoom{}}};
  const NodeRoom half_used{.cpu = 32'000, .gpus = {{.compute = 500, .vgpus = 1}, {}}};
  const NodeRoom nearly_full{.cpu = 8'000,
                             .gpus = {{.compute = 300, .vgpus = 2}, {.compute = 0, .vgpus = 1}}};
  const auto filled = [&](std::unique_ptr<Policy> policy) {
    Placer placer(std::move(policy));
    for (const NodeRoom& node : {idle, half_used, nearly_full}) placer.Add(node);
    return placer;
  };
  const Demand quarter{.cpu = 1'000, .compute = 250};
  const Demand whole{.cpu = 1'000, .compute = 1'000};
  {
    Placer placer = filled(MakeBestFit());
    EXPECT_EQ(NodeOf(placer, quarter), 2u) << "least left";
    EXPECT_EQ(NodeOf(placer, whole), 1u);
  }
  {
    Placer placer = filled(MakeDotProduct());
    EXPECT_EQ(NodeOf(placer, {.cpu = 8'000, .compute = 1'000}), 1u) << "the smallest product";
  }
  {
    Placer placer = filled(MakeGpuPacking());
    EXPECT_EQ(NodeOf(placer, quarter), 2u) << "the tightest GPU in use";
    EXPECT_EQ(NodeOf(placer, whole), 1u) << "a node in use before an idle one";
  }
  {
    // Of what is asked for, halves and wholes, a quarter spoils the least on what fits neither.
    Placer placer = filled(MakeFgd(std::make_shared<const Workload>(
        std::vector<WeightedDemand>{{{.compute = 500}, 1}, {{.compute = 1'000}, 1}})));
    EXPECT_EQ(NodeOf(placer, quarter), 2u);
    EXPECT_EQ(NodeOf(placer, {.compute = 500}), 1u);
  }
  {
    SeededRandom random(1);
    Placer placer = filled(MakeRandom(random));
    std::vector<int> times(3);
    for (int i = 0; i < 300; ++i) ++times[NodeOf(placer, quarter)];
    for (const int count : times) EXPECT_GT(count, 60);
  }
}

}  // namespace
}  // namespace tulle::control
