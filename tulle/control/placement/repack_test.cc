#include "tulle/control/placement/repack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "tulle/base/random.h"
#include "tulle/control/placement/policy.h"

namespace tulle::control {
namespace {

// A placer, and what is on its GPUs.
struct Mesh {
  explicit Mesh(const std::vector<std::size_t>& gpus_of_nodes) {
    for (const std::size_t gpus : gpus_of_nodes) {
      placer.Add({.cpu = 1000, .host_memory = 1000, .gpus = std::vector<GpuRoom>(gpus)});
      slices.emplace_back(gpus);
    }
  }
  std::uint32_t Put(std::size_t node, std::uint32_t gpu, std::int32_t compute, std::int32_t least = -1) {
    const Demand demand{.compute = compute};
    placer.Take(demand, {.node = node, .gpus = {gpu}});
    slices[node][gpu].push_back({.id = next, .demand = demand, .least_compute = least < 0 ? compute : least});
    return next++;
  }
  Mesh Copy() const {
    Mesh copy({});
    for (std::size_t node = 0; node < placer.size(); ++node) copy.placer.Add(placer.node(node));
    copy.slices = slices;
    return copy;
  }
  Placer placer{MakeBestFit()};
  std::vector<NodeSlices> slices;
  std::uint32_t next = 0;
};

// (node, GPU, id, compute, least) of all slices.
auto Sorted(const std::vector<NodeSlices>& slices) {
  std::vector<std::tuple<std::size_t, std::size_t, std::uint32_t, std::int32_t, std::int32_t>> all;
  for (std::size_t node = 0; node < slices.size(); ++node) {
    for (std::size_t gpu = 0; gpu < slices[node].size(); ++gpu) {
      for (const PlacedSlice& slice : slices[node][gpu]) {
        all.emplace_back(node, gpu, slice.id, slice.demand.compute, slice.least_compute);
      }
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST(GiveAlike, IsEnoughAndNobodyGivesMoreThanItCan) {
  SeededRandom random(1);
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::int32_t> can(random.Below(6));
    std::int32_t all = 0;
    for (std::int32_t& one : can) all += one = static_cast<std::int32_t>(random.Below(100));
    const auto missing = static_cast<std::int32_t>(random.Below(300));
    const std::vector<std::int32_t> given = GiveAlike(missing, can);
    ASSERT_EQ(given.size(), can.size());
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < can.size(); ++i) {
      EXPECT_GE(given[i], 0);
      EXPECT_LE(given[i], can[i]);
      EXPECT_NEAR(given[i], std::min(missing, all) * can[i] / std::max(1.0, static_cast<double>(all)),
                  static_cast<double>(can.size()))
          << "rounding aside";
      sum += given[i];
    }
    EXPECT_EQ(sum, std::min(missing, all));
  }
}

TEST(PlanByShrinking, NeighboursGiveByWhatTheyCanSpare) {
  Mesh mesh({1, 1});
  const std::uint32_t large = mesh.Put(0, 0, 600, 400), small = mesh.Put(0, 0, 300, 200);
  mesh.Put(1, 0, 900);
  const Demand demand{.compute = 250};
  const auto plan = PlanByShrinking(mesh.placer, mesh.slices, demand, 200);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->node, 0u);
  ASSERT_EQ(plan->shrinks.size(), 2u);
  // 150 are missing, of 350 that the three can spare.
  EXPECT_EQ(plan->shrinks[0].id, large);
  EXPECT_EQ(plan->shrinks[0].compute, 600 - 86);
  EXPECT_EQ(plan->shrinks[1].id, small);
  EXPECT_EQ(plan->shrinks[1].compute, 300 - 43);
  EXPECT_EQ(plan->compute, 250 - 21);
  EXPECT_LE(plan->compute + plan->shrinks[0].compute + plan->shrinks[1].compute, kWholeGpu);

  EXPECT_FALSE(PlanByShrinking(mesh.placer, mesh.slices, {.compute = 500}, 450)) << "below somebody's least";
  EXPECT_EQ(PlanByShrinking(mesh.placer, mesh.slices, {.compute = 100}, 100)->shrinks.size(), 0u)
      << "it fits";
}

TEST(PlanByMoving, OneSliceGoesWhereThePolicyPutsIt) {
  Mesh mesh({2, 1});
  const std::uint32_t small = mesh.Put(0, 0, 300);
  mesh.Put(0, 1, 700);
  mesh.Put(1, 0, 600);
  const auto plan = PlanByMoving(mesh.placer, mesh.slices, {.compute = 1000});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->place, (PlacedDemand{.node = 0, .gpus = {0}}));
  ASSERT_EQ(plan->moves.size(), 1u);
  EXPECT_EQ(plan->moves[0].id, small);
  EXPECT_EQ(plan->moves[0].to_node, 1u);
  EXPECT_EQ(plan->moved_compute, 300);
  EXPECT_EQ(mesh.placer.node(0).gpus[0].compute, 700) << "nothing has been done";
  EXPECT_FALSE(PlanByMoving(mesh.placer, mesh.slices, {.gpus = 2, .compute = 1000}))
      << "the 700 fit nowhere else";
}

TEST(PlanByMoving, OneSliceGoesWhereOthersShrinkForIt) {
  Mesh mesh({1, 1});
  mesh.Put(0, 0, 500, 400);
  const std::uint32_t other = mesh.Put(1, 0, 700, 500);
  const auto plan = PlanByMoving(mesh.placer, mesh.slices, {.compute = 1000});
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->moves.size(), 1u);
  ASSERT_EQ(plan->moves[0].shrinks.size(), 1u);
  EXPECT_EQ(plan->moves[0].shrinks[0].id, other);
  EXPECT_EQ(plan->moves[0].compute + plan->moves[0].shrinks[0].compute, kWholeGpu);
  mesh.Put(1, 0, 300, 200);
  EXPECT_FALSE(PlanByMoving(mesh.placer, mesh.slices, {.compute = 1000})) << "too many for two";
}

// Over random meshes: a plan keeps what it promises, and the placer is left as it was.
TEST(Plans, HoldOnRandomMeshes) {
  SeededRandom random(3);
  int shrunk = 0, moved = 0;
  for (int round = 0; round < 500; ++round) {
    std::vector<std::size_t> sizes;
    for (std::uint64_t i = 0, n = 1 + random.Below(6); i < n; ++i) sizes.push_back(1 + random.Below(4));
    Mesh mesh(sizes);
    for (std::size_t node = 0; node < sizes.size(); ++node) {
      for (std::uint32_t gpu = 0; gpu < sizes[node]; ++gpu) {
        for (int i = 0; i < 4; ++i) {
          const auto compute = static_cast<std::int32_t>(50 + random.Below(600));
          if (compute > mesh.placer.node(node).gpus[gpu].compute) continue;
          mesh.Put(
              node, gpu, compute,
              static_cast<std::int32_t>(static_cast<std::uint64_t>(compute) * (50 + random.Below(51)) / 100));
        }
      }
    }
    std::vector<NodeRoom> before;
    for (std::size_t node = 0; node < sizes.size(); ++node) before.push_back(mesh.placer.node(node));
    const auto slices_before = Sorted(mesh.slices);
    const auto compute = static_cast<std::int32_t>(100 + random.Below(900));
    const auto least =
        static_cast<std::int32_t>(static_cast<std::uint64_t>(compute) * (50 + random.Below(51)) / 100);
    if (const auto plan = PlanByShrinking(mesh.placer, mesh.slices, {.compute = compute}, least)) {
      ++shrunk;
      std::int32_t sum = plan->compute;
      EXPECT_GE(plan->compute, least);
      EXPECT_LE(plan->compute, compute);
      for (const PlacedSlice& slice : mesh.slices[plan->node][plan->gpu]) {
        const auto it = std::find_if(plan->shrinks.begin(), plan->shrinks.end(),
                                     [&](const Shrink& s) { return s.id == slice.id; });
        if (it != plan->shrinks.end()) {
          EXPECT_GE(it->compute, slice.least_compute);
        }
        sum += it == plan->shrinks.end() ? slice.demand.compute : it->compute;
      }
      EXPECT_LE(sum, kWholeGpu);
    }
    const Demand demand{.gpus = static_cast<std::int32_t>(1 + random.Below(2)), .compute = compute};
    if (const auto plan = PlanByMoving(mesh.placer, mesh.slices, demand)) {
      ++moved;
      Mesh after = mesh.Copy();
      for (const Move& move : plan->moves) {
        ASSERT_NE(move.from_node, move.to_node);
        Carry(after.placer, after.slices, move);
      }
      after.placer.Take(demand, plan->place);
      for (std::size_t node = 0; node < sizes.size(); ++node) {
        for (std::uint32_t gpu = 0; gpu < sizes[node]; ++gpu) {
          EXPECT_GE(after.placer.node(node).gpus[gpu].compute, 0);
          for (const PlacedSlice& slice : after.slices[node][gpu]) {
            EXPECT_GE(slice.demand.compute, slice.least_compute);
          }
        }
      }
    }
    EXPECT_EQ(Sorted(mesh.slices), slices_before);
    for (std::size_t node = 0; node < sizes.size(); ++node) ASSERT_EQ(mesh.placer.node(node), before[node]);
  }
  EXPECT_GT(shrunk, 50);
  EXPECT_GT(moved, 50);
}

}  // namespace
}  // namespace tulle::control
