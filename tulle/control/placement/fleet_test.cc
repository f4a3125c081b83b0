#include "tulle/control/placement/fleet.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>

#include "tulle/base/random.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// GPUs named node-index.
class Mesh {
 public:
  Gpu& Add(const std::string& node, std::uint64_t memory, std::uint64_t used_memory = 0,
           std::uint32_t used_compute = 0, std::uint32_t vgpus = 0) {
    const auto index = static_cast<std::uint32_t>(gpus_.size());
    Gpu& gpu = gpus_.emplace_back();
    gpu.metadata.name = gpu.metadata.uid = node + "-" + std::to_string(index);
    gpu.spec = {.node = node,
                .index = index,
                .description = {.type = "Tesla T4", .vendor = "NVIDIA", .apis = {DeviceApi::kOpenCl}}};
    gpu.status = {.allocatable_memory_bytes = memory,
                  .allocatable_compute_percent = 100,
                  .allocated_memory_bytes = used_memory,
                  .allocated_compute_percent = used_compute,
                  .vgpus = vgpus};
    labels_[node].emplace(kNodeLabel, node);
    return gpu;
  }
  void Close(const std::string& node, const std::string& why) { closed_[node] = why; }
  Labels& labels(const std::string& node) { return labels_[node]; }

  Placement Try(const ClaimSpec& spec, const std::set<std::string>& avoid = {}) const {
    Fleet fleet(MakeBalancedFit());
    for (const auto& [node, labels] : labels_) fleet.SetNode(node, labels, "");
    for (const Gpu& gpu : gpus_) fleet.SetGpu(gpu);
    for (const auto& [node, why] : closed_) fleet.SetNode(node, labels_.at(node), why);
    Placement placement = fleet.Place(WithDefaults(spec), avoid);
    // Nothing has been taken; nor has anything that the first try did been left behind.
    EXPECT_EQ(fleet.TryPlace(WithDefaults(spec), avoid), fleet.TryPlace(WithDefaults(spec), avoid));
    return placement;
  }
  std::vector<std::string> Names(const ClaimSpec& spec, const std::set<std::string>& avoid = {}) const {
    const Placement placement = Try(spec, avoid);
    std::vector<std::string> names;
    if (const auto* placed = std::get_if<Placed>(&placement)) {
      for (const Slot& slot : placed->slots) names.push_back(slot.gpu_uid);
    }
    return names;
  }
  std::string Why(const ClaimSpec& spec) const {
    const Placement placement = Try(spec);
    const auto* no_fit = std::get_if<NoFit>(&placement);
    return no_fit == nullptr ? "" : no_fit->reason + ": " + no_fit->message;
  }

 private:
  std::deque<Gpu> gpus_;
  std::map<std::string, Labels> labels_;
  std::map<std::string, std::string> closed_;
};

using Names = std::vector<std::string>;

TEST(Fleet, BestFitKeepsTheEmptyGpuWhole) {
  Mesh mesh;
  mesh.Add("a", 16 * kGiB);
  mesh.Add("b", 16 * kGiB, 8 * kGiB, 50, 1);
  EXPECT_EQ(mesh.Names({.memory_bytes = 4 * kGiB, .compute_percent = 25}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.memory_bytes = 9 * kGiB, .compute_percent = 25}), Names{"a-0"});
}

TEST(Fleet, ARemainderOfOneResourceWithoutTheOtherIsWorse) {
  Mesh mesh;
  mesh.Add("a", 16 * kGiB, 8 * kGiB, 75, 1);   // 4GiB and 25 % leave 4GiB that no compute can use
  mesh.Add("b", 16 * kGiB, 10 * kGiB, 65, 1);  // as much left in sum, but both
  EXPECT_EQ(mesh.Names({.memory_bytes = 4 * kGiB, .compute_percent = 25}), Names{"b-1"});
}

TEST(Fleet, SpreadsTheVGpusOfAClaimAndStacksOnlyWhenItMust) {
  Mesh mesh;
  for (const char* node : {"a", "b", "c"}) mesh.Add(node, 16 * kGiB);
  EXPECT_EQ(mesh.Names({.memory_bytes = kGiB, .count = 3}), (Names{"a-0", "b-1", "c-2"}));
  EXPECT_EQ(mesh.Names({.memory_bytes = kGiB, .count = 4}), (Names{"a-0", "b-1", "c-2", "a-0"}));
}

TEST(Fleet, PromisesOfTheNetworkNoMoreThanThereIs) {
  constexpr std::uint64_t kMiB = 1u << 20;
  Mesh mesh;
  mesh.Add("a", 16 * kGiB);  // it does not say what its network moves
  Gpu& some = mesh.Add("b", 16 * kGiB);
  some.status.allocatable_network_bytes_per_s = 100 * kMiB;
  some.status.allocated_network_bytes_per_s = 30 * kMiB;
  EXPECT_EQ(mesh.Names({.network_bytes_per_s = 70 * kMiB}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.count = 2, .network_bytes_per_s = 35 * kMiB}), (Names{"b-1", "b-1"}));
  EXPECT_EQ(mesh.Names({.count = 2, .topology = Topology::kSameGpu, .network_bytes_per_s = 35 * kMiB}),
            (Names{"b-1", "b-1"}));
  EXPECT_EQ(mesh.Names({.count = 2, .topology = Topology::kSameGpu, .network_bytes_per_s = 36 * kMiB}),
            Names{});
  EXPECT_EQ(mesh.Names({.count = 2, .network_bytes_per_s = 36 * kMiB}), Names{});
  EXPECT_EQ(
      mesh.Why({.network_bytes_per_s = 71 * kMiB}),
      "InsufficientNetwork: asked for 1GiB and 25% of compute and 71MiB/s of the network; the most that a "
      "GPU's node can promise of its network is 70MiB/s (node a has 16GiB and 100% free on one GPU and 0B/s "
      "of the network to promise; node b has 16GiB and 100% free on one GPU and 70MiB/s of the network to "
      "promise); see `tulle get gpus`; nodes say what theirs moves with --network-bandwidth");
}

TEST(Fleet, LetsNoMoreSpillThanIsKept) {
  Mesh mesh;
  mesh.Add("a", 16 * kGiB);  // keeps nothing
  Gpu& some = mesh.Add("b", 16 * kGiB);
  some.status.allocatable_spill_bytes = 10 * kGiB;
  some.status.allocated_spill_bytes = 3 * kGiB;
  EXPECT_EQ(mesh.Names({.spill_bytes = 7 * kGiB}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.count = 2, .spill_bytes = 3 * kGiB}), (Names{"b-1", "b-1"}));
  EXPECT_EQ(mesh.Names({.count = 2, .spill_bytes = 4 * kGiB}), Names{});
  EXPECT_EQ(mesh.Names({.count = 2, .topology = Topology::kSameGpu, .spill_bytes = 4 * kGiB}), Names{});
  EXPECT_EQ(
      mesh.Why({.spill_bytes = 8 * kGiB}),
      "InsufficientSpill: asked for 1GiB and 25% of compute and 8GiB to spill; the most that is left for "
      "vGPUs of one GPU to spill is 7GiB (node a has 16GiB and 100% free on one GPU and 0B to spill; "
      "node b has 16GiB and 100% free on one GPU and 7GiB to spill); see `tulle get gpus`; nodes allow "
      "it with --spill-memory and --spill-disk");
}

TEST(Fleet, AllOrNone) {
  Mesh mesh;
  mesh.Add("a", 4 * kGiB);
  mesh.Add("b", 4 * kGiB, 2 * kGiB, 50, 1);
  EXPECT_EQ(mesh.Why({.memory_bytes = 3 * kGiB, .compute_percent = 50, .count = 2}),
            "InsufficientGpus: asked for 2 vGPUs of 3GiB and 50% of compute; only 1 of them fits now (node a "
            "has room for 1; "
            "node b has 2GiB and 50% free on one GPU); see `tulle get gpus`");
}

TEST(Fleet, DedicatedTakesAWholeGpuAndAllItsMemory) {
  Mesh mesh;
  mesh.Add("a", 4 * kGiB, kGiB, 0, 1);  // a best-effort neighbour
  mesh.Add("b", 8 * kGiB);
  const Placement placement = mesh.Try({.performance_level = PerformanceLevel::kDedicated});
  EXPECT_EQ(std::get<Placed>(placement).slots,
            (std::vector<Slot>{{.gpu_uid = "b-1", .memory_bytes = 8 * kGiB, .compute_percent = 100}}));
  EXPECT_EQ(mesh.Why({.performance_level = PerformanceLevel::kDedicated, .count = 2}),
            "InsufficientGpus: asked for 2 vGPUs of a whole GPU; only 1 of them fits now (node a has 3GiB "
            "and 100% free on one "
            "GPU, no GPU without vGPUs; node b has room for 1); see `tulle get gpus`");
}

TEST(Fleet, APartOfADeviceIsNoWholeOne) {
  Mesh mesh;
  for (const char* node : {"a", "b"}) mesh.Add(node, 4 * kGiB).status.allocatable_compute_percent = 20;
  EXPECT_EQ(mesh.Names({.compute_percent = 20, .count = 2}), (Names{"a-0", "b-1"}));
  EXPECT_EQ(
      mesh.Why({.memory_bytes = kGiB}),
      "InsufficientCompute: asked for 1GiB and 25% of compute; no GPU offers more than 20% of its compute "
      "(node a has 4GiB and 20% free on one GPU; node b has 4GiB and 20% free on one GPU); see `tulle get "
      "gpus`");
  EXPECT_NE(mesh.Why({.performance_level = PerformanceLevel::kDedicated}).find("no GPU offers more than 20%"),
            std::string::npos);
}

TEST(Fleet, BestEffortReservesNoCompute) {
  Mesh mesh;
  mesh.Add("a", 4 * kGiB, kGiB, 100, 1);
  EXPECT_EQ(mesh.Names({.memory_bytes = kGiB, .performance_level = PerformanceLevel::kBestEffort}),
            Names{"a-0"});
  EXPECT_EQ(mesh.Why({.memory_bytes = kGiB}),
            "InsufficientCompute: asked for 1GiB and 25% of compute; the largest free share is 0% (node a "
            "has 3GiB and 0% free "
            "on one GPU); see `tulle get gpus`");
}

TEST(Fleet, SaysWhatWasAskedWhatThereIsAndWhatToDo) {
  Mesh empty;
  EXPECT_EQ(
      empty.Why({}),
      "NoNodes: asked for 1GiB and 25% of compute; the mesh has no GPU: start a node with `tulle up`, see "
      "`tulle get nodes`");
  Mesh mesh;
  mesh.Add("a", 8 * kGiB, 4 * kGiB + kGiB / 2, 10, 1);
  EXPECT_EQ(mesh.Why({.memory_bytes = 8 * kGiB}),
            "InsufficientMemory: asked for 8GiB and 25% of compute; the largest free slice is 3.5GiB on node "
            "a (node a has "
            "3.5GiB and 90% free on one GPU); see `tulle get gpus`");
  EXPECT_EQ(mesh.Why({.memory_bytes = 9 * kGiB}),
            "InsufficientMemory: asked for 9GiB and 25% of compute; the largest GPU has 8GiB on node a (node "
            "a has 3.5GiB and "
            "90% free on one GPU); see `tulle get gpus`");
  EXPECT_EQ(mesh.Why({.gpu_types = {"H100", "h200"}}),
            "NoMatchingGpu: asked for 1GiB and 25% of compute; no GPU of the mesh matches (node a has "
            "\"Tesla T4\", not H100 "
            "or h200); see `tulle get gpus`");
  EXPECT_EQ(mesh.Why({.api = DeviceApi::kCuda}),
            "NoMatchingGpu: asked for 1GiB and 25% of compute; no GPU of the mesh matches (node a has no "
            "CUDA); see `tulle get "
            "gpus`");
  mesh.Close("a", "cordoned");
  EXPECT_EQ(mesh.Why({}),
            "NoReadyNode: asked for 1GiB and 25% of compute; no node with a matching GPU is ready (node a is "
            "cordoned); see `tulle get gpus`");
}

TEST(Fleet, WhyNoGpuOfSeveralKindsMatches) {
  Mesh mesh;
  for (int i = 0; i < 2; ++i) mesh.Add("a", 8 * kGiB);
  Gpu& other = mesh.Add("a", 8 * kGiB);
  other.spec.description.type = "NVIDIA H200";
  other.spec.description.apis = {DeviceApi::kCuda};
  EXPECT_EQ(mesh.Why({.gpu_types = {"h200"}, .api = DeviceApi::kOpenCl}),
            "NoMatchingGpu: asked for 1GiB and 25% of compute; no GPU of the mesh matches (node a has "
            "\"Tesla T4\", not h200, has no OPENCL); see `tulle get gpus`");
}

TEST(Fleet, SelectsByTypeVendorAndLabels) {
  Mesh mesh;
  mesh.Add("a", 8 * kGiB).spec.description.type = "NVIDIA H100 80GB HBM3";
  mesh.Add("b", 8 * kGiB);
  mesh.labels("b")["zone"] = "x";
  EXPECT_EQ(mesh.Names({.gpu_types = {"h100"}}), Names{"a-0"});
  EXPECT_EQ(mesh.Names({.gpu_types = {"A100", "T4"}}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.vendors = {"amd"}}), Names{});
  EXPECT_EQ(mesh.Names({.node_selector = {{"zone", "x"}}}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.node_selector = {{std::string(kNodeLabel), "a"}}}), Names{"a-0"});
}

TEST(Fleet, AvoidedGpusAreTheLastResort) {
  Mesh mesh;
  mesh.Add("a", 8 * kGiB);
  mesh.Add("b", 80 * kGiB);
  EXPECT_EQ(mesh.Names({}, {"a-0"}), Names{"b-1"});
  EXPECT_EQ(mesh.Names({.count = 2}, {"a-0", "b-1"}), (Names{"a-0", "b-1"}));
}

// Random meshes and claims: what is placed fits, and what is refused fits nowhere.
TEST(Fleet, NeverOvercommitsAndNeverRefusesWhatFits) {
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    SeededRandom random(seed);
    Mesh mesh;
    std::vector<const Gpu*> gpus;
    for (std::uint64_t i = 0, n = random.Below(6); i < n; ++i) {
      const std::uint64_t memory = (1 + random.Below(16)) * kGiB;
      const auto vgpus = static_cast<std::uint32_t>(random.Below(3));
      gpus.push_back(&mesh.Add(std::string(1, static_cast<char>('a' + i / 2)), memory,
                               vgpus == 0 ? 0 : random.Below(memory), vgpus == 0 ? 0 : random.Below(101),
                               vgpus));
    }
    const auto level = static_cast<PerformanceLevel>(1 + random.Below(4));
    const bool dedicated = level == PerformanceLevel::kDedicated;
    const ClaimSpec spec =
        WithDefaults({.memory_bytes = (1 + random.Below(12)) * kGiB,
                      .compute_percent = dedicated ? 100 : static_cast<std::uint32_t>(1 + random.Below(100)),
                      .performance_level = level,
                      .count = static_cast<std::uint32_t>(1 + random.Below(6))});
    const std::uint32_t compute = ReservedComputePercent(level, spec.compute_percent);
    std::uint64_t capacity = 0;
    for (const Gpu* gpu : gpus) {
      const std::uint64_t by_memory =
          (gpu->status.allocatable_memory_bytes - gpu->status.allocated_memory_bytes) / spec.memory_bytes;
      const std::uint64_t by_compute =
          compute == 0 ? spec.count : (100 - gpu->status.allocated_compute_percent) / compute;
      const std::uint64_t here = std::min(by_memory, by_compute);
      capacity += dedicated ? (gpu->status.vgpus == 0 && here > 0) : here;
    }
    const Placement placement = mesh.Try(spec);
    const auto* placed = std::get_if<Placed>(&placement);
    ASSERT_EQ(placed != nullptr, capacity >= spec.count) << "seed " << seed;
    if (placed == nullptr) continue;
    const std::vector<Slot>& slots = placed->slots;
    ASSERT_EQ(slots.size(), spec.count);
    std::vector<std::uint64_t> memory(gpus.size()), share(gpus.size());
    std::set<std::size_t> distinct;
    for (const Slot& slot : slots) {
      const auto gpu = static_cast<std::size_t>(
          std::find_if(gpus.begin(), gpus.end(),
                       [&](const Gpu* other) { return other->metadata.uid == slot.gpu_uid; }) -
          gpus.begin());
      memory.at(gpu) += slot.memory_bytes;
      share[gpu] += compute;
      distinct.insert(gpu);
    }
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      EXPECT_LE(gpus[i]->status.allocated_memory_bytes + memory[i], gpus[i]->status.allocatable_memory_bytes)
          << "seed " << seed;
      EXPECT_LE(gpus[i]->status.allocated_compute_percent + share[i], 100u) << "seed " << seed;
    }
    if (dedicated) {
      EXPECT_EQ(distinct.size(), slots.size()) << "seed " << seed;
    }
  }
}

TEST(Fleet, WhatIsSetAsideIsKeptUntilItIsGivenBack) {
  Fleet fleet(MakeBalancedFit());
  std::deque<Gpu> gpus;
  fleet.SetNode("a", {}, "");
  for (std::uint32_t i = 0; i < 3; ++i) {
    Gpu& gpu = gpus.emplace_back();
    gpu.metadata.uid = std::to_string(i);
    gpu.spec = {.node = "a", .index = i, .description = {.type = "t", .apis = {DeviceApi::kOpenCl}}};
    gpu.status = {.allocatable_memory_bytes = 8 * kGiB,
                  .allocatable_compute_percent = 100,
                  .allocated_memory_bytes = (2 + i) * kGiB,
                  .vgpus = 1};
    fleet.SetGpu(gpu);
  }
  const ClaimSpec large = WithDefaults(ClaimSpec{.memory_bytes = 8 * kGiB, .count = 2});
  const ClaimSpec small = WithDefaults(ClaimSpec{.memory_bytes = kGiB});
  EXPECT_TRUE(fleet.SetAside(WithDefaults(ClaimSpec{.memory_bytes = 9 * kGiB})).empty()) << "fits nowhere";
  EXPECT_TRUE(fleet.SetAside(WithDefaults(ClaimSpec{.count = 4})).empty()) << "there are three";
  const std::vector<std::string> kept = fleet.SetAside(large);
  EXPECT_EQ(kept, (std::vector<std::string>{"0", "1"})) << "where least is missing";
  EXPECT_EQ(fleet.TryPlace(small).slots.at(0).gpu_uid, "2");
  EXPECT_TRUE(fleet.SetAside(large).empty()) << "only one GPU is left";
  EXPECT_TRUE(fleet
                  .TryPlace(WithDefaults(
                      ClaimSpec{.memory_bytes = kGiB, .performance_level = PerformanceLevel::kDedicated}))
                  .slots.empty());
  const Placement placement = fleet.Place(WithDefaults(ClaimSpec{.memory_bytes = 5 * kGiB}));
  ASSERT_TRUE(std::holds_alternative<NoFit>(placement));
  EXPECT_NE(std::get<NoFit>(placement).message.find("; 2 GPUs are set aside for claims whose turn it is"),
            std::string::npos)
      << std::get<NoFit>(placement).message;
  // What becomes free there is kept, too.
  gpus[0].status.allocated_memory_bytes = 0;
  fleet.SetGpu(gpus[0]);
  EXPECT_TRUE(fleet.TryPlace(WithDefaults(ClaimSpec{.memory_bytes = 7 * kGiB})).slots.empty());
  fleet.RemoveGpu(gpus[1]);
  fleet.Open(kept);
  EXPECT_EQ(fleet.TryPlace(WithDefaults(ClaimSpec{.memory_bytes = 7 * kGiB})).slots.at(0).gpu_uid, "0");
}

// Two nodes of two GPUs with 8 GiB each, one of which has 6 GiB taken.
class TopologyTest : public ::testing::Test {
 protected:
  TopologyTest() {
    for (const std::string node : {"a", "b"}) {
      fleet_.SetNode(node, {{std::string(kNodeLabel), node}}, "");
      for (std::uint32_t i = 0; i < 2; ++i) {
        Gpu& gpu = gpus_.emplace_back();
        gpu.metadata.uid = node + std::to_string(i);
        gpu.spec = {.node = node, .index = i, .description = {.type = "t", .apis = {DeviceApi::kOpenCl}}};
        gpu.status = {.allocatable_memory_bytes = 8 * kGiB, .allocatable_compute_percent = 100};
        if (gpu.metadata.uid == "a0") gpu.status.allocated_memory_bytes = 6 * kGiB, gpu.status.vgpus = 1;
        fleet_.SetGpu(gpu);
      }
    }
  }
  std::vector<std::string> Place(ClaimSpec spec) {
    std::vector<std::string> uids;
    for (const Slot& slot : fleet_.TryPlace(WithDefaults(std::move(spec))).slots)
      uids.push_back(slot.gpu_uid);
    std::sort(uids.begin(), uids.end());
    return uids;
  }

  using Uids = std::vector<std::string>;
  Fleet fleet_{MakeBalancedFit()};
  std::deque<Gpu> gpus_;
};

TEST_F(TopologyTest, TheSameGpu) {
  const Uids placed = Place({.memory_bytes = 4 * kGiB, .count = 2, .topology = Topology::kSameGpu});
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_EQ(placed[0], placed[1]);
  EXPECT_NE(placed[0], "a0");
  EXPECT_EQ(Place({.memory_bytes = 4 * kGiB, .count = 3, .topology = Topology::kSameGpu}), Uids());
  EXPECT_EQ(Place({.memory_bytes = kGiB, .compute_percent = 60, .count = 2, .topology = Topology::kSameGpu}),
            Uids());
  EXPECT_EQ(fleet_
                .SetAside(WithDefaults(
                    ClaimSpec{.memory_bytes = 4 * kGiB, .count = 2, .topology = Topology::kSameGpu}))
                .size(),
            1u);
}

TEST_F(TopologyTest, TheSameNode) {
  EXPECT_EQ(Place({.memory_bytes = 8 * kGiB, .count = 2, .topology = Topology::kSameNode}),
            (Uids{"b0", "b1"}));
  EXPECT_EQ(Place({.memory_bytes = 8 * kGiB, .count = 3}), (Uids{"a1", "b0", "b1"}));
  EXPECT_EQ(Place({.memory_bytes = 8 * kGiB, .count = 3, .topology = Topology::kSameNode}), Uids());
  EXPECT_EQ(Place({
                      .memory_bytes = 2 * kGiB,
                      .count = 5,
                      .topology = Topology::kSameNode,
                  })
                .size(),
            5u)
      << "some on one GPU";
  EXPECT_EQ(Place({.memory_bytes = 8 * kGiB,
                   .count = 2,
                   .node_selector = {{std::string(kNodeLabel), "a"}},
                   .topology = Topology::kSameNode}),
            Uids());
  EXPECT_EQ(fleet_.SetAside(WithDefaults(
                ClaimSpec{.memory_bytes = 8 * kGiB, .count = 2, .topology = Topology::kSameNode})),
            (Uids{"b0", "b1"}));
}

TEST_F(TopologyTest, NodesOfTheirOwn) {
  const Uids placed = Place({.memory_bytes = kGiB, .count = 2, .topology = Topology::kDistinctNodes});
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_NE(placed[0][0], placed[1][0]);
  EXPECT_EQ(Place({.memory_bytes = kGiB, .count = 3, .topology = Topology::kDistinctNodes}), Uids());
  const Uids kept = fleet_.SetAside(
      WithDefaults(ClaimSpec{.memory_bytes = kGiB, .count = 2, .topology = Topology::kDistinctNodes}));
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_NE(kept[0][0], kept[1][0]);
}

TEST_F(TopologyTest, TaintedNodesTakeThoseWhoTolerateThem) {
  const Labels label = {{std::string(kNodeLabel), "b"}};
  fleet_.SetNode("b", label, "", {{"reserved", "lab"}});
  EXPECT_EQ(Place({.memory_bytes = kGiB, .count = 3}).size(), 3u);
  for (const std::string& uid : Place({.memory_bytes = kGiB, .count = 3})) EXPECT_EQ(uid[0], 'a');
  const ClaimSpec on_b{.memory_bytes = 8 * kGiB, .count = 2};
  const auto tolerating = [&](Labels tolerations) {
    ClaimSpec spec = on_b;
    spec.tolerations = std::move(tolerations);
    return Place(spec).size();
  };
  EXPECT_EQ(tolerating({}), 0u);
  EXPECT_EQ(tolerating({{"reserved", "office"}}), 0u);
  EXPECT_EQ(tolerating({{"reserved", "lab"}}), 2u);
  EXPECT_EQ(tolerating({{"reserved", "*"}, {"other", "x"}}), 2u);
  const Placement placement = fleet_.Place(WithDefaults(on_b));
  EXPECT_NE(std::get<NoFit>(placement).message.find("node b is tainted reserved=lab"), std::string::npos)
      << std::get<NoFit>(placement).message;
  fleet_.SetNode("b", label, "", {});
  EXPECT_EQ(tolerating({}), 2u);
}

// The same GPUs; on a0 and b0 an elastic vGPU has all of it, but needs only 30 or 40 %.
class ElasticTest : public TopologyTest {
 protected:
  ElasticTest() {
    for (Gpu& gpu : gpus_) {
      const bool first = gpu.spec.index == 0;
      gpu.status.allocated_memory_bytes = kGiB;
      gpu.status.allocated_compute_percent = first ? 100 : 80;
      gpu.status.vgpus = 1;
      std::vector<ElasticVGpu> elastic;
      if (first) {
        elastic.push_back({.uid = "v" + gpu.spec.node,
                           .compute_percent = 100,
                           .least_percent = gpu.spec.node == "a" ? 30u : 40u});
      }
      fleet_.SetGpu(gpu, elastic);
    }
  }
  Placed Place(ClaimSpec spec, const std::set<std::string>& avoid = {}) {
    spec = WithDefaults(spec);
    const Placed placed = fleet_.TryPlace(spec, avoid);
    EXPECT_EQ(fleet_.TryPlace(spec, avoid), placed) << "nothing is left behind";
    return placed;
  }
  using Slots = std::vector<Slot>;
  using Shrunk = std::vector<Resized>;
};

TEST_F(ElasticTest, WhatIsFreeComesFirst) {
  EXPECT_EQ(Place({.compute_percent = 20}).shrunk, Shrunk());
  const Placed less = Place({.compute_percent = 50, .min_compute_percent = 10});
  EXPECT_EQ(less.slots, (Slots{{.gpu_uid = "a1", .memory_bytes = kGiB, .compute_percent = 20}}));
  EXPECT_EQ(less.shrunk, Shrunk());
  const Placed two =
      Place({.compute_percent = 50, .count = 2, .topology = Topology::kSameGpu, .min_compute_percent = 9});
  EXPECT_EQ(two.slots, Slots(2, {.gpu_uid = "a1", .memory_bytes = kGiB, .compute_percent = 10}));
}

TEST_F(ElasticTest, OthersGiveWhatIsMissing) {
  const Placed placed = Place({.compute_percent = 60});
  EXPECT_EQ(placed.slots, (Slots{{.gpu_uid = "a0", .memory_bytes = kGiB, .compute_percent = 60}}));
  EXPECT_EQ(placed.shrunk, (Shrunk{{"va", 40}}));
  EXPECT_EQ(Place({.compute_percent = 60, .node_selector = {{std::string(kNodeLabel), "b"}}}).shrunk,
            (Shrunk{{"vb", 40}}));
  EXPECT_EQ(Place({.compute_percent = 60}, {"a0"}).shrunk, (Shrunk{{"vb", 40}}));
  EXPECT_EQ(Place({.compute_percent = 70}).shrunk, (Shrunk{{"va", 30}}));
  EXPECT_TRUE(Place({.compute_percent = 71}).slots.empty()) << "nobody has less than its least";
  EXPECT_TRUE(Place({.memory_bytes = 8 * kGiB, .compute_percent = 60}).slots.empty()) << "memory stays";
  EXPECT_TRUE(Place({.performance_level = PerformanceLevel::kDedicated}).slots.empty());
  // 60 are missing of 70 and of 40 that the newcomer can do without: 38 and 22, rounded for it.
  const Placed both = Place({.compute_percent = 60, .min_compute_percent = 25});
  ASSERT_EQ(both.slots.size(), 1u);
  ASSERT_EQ(both.shrunk.size(), 1u);
  EXPECT_LE(both.slots[0].compute_percent + both.shrunk[0].compute_percent, 100u);
  EXPECT_GE(both.slots[0].compute_percent + both.shrunk[0].compute_percent, 99u);
}

TEST_F(ElasticTest, AllOrNoneAndWhereTheyAreToBe) {
  const Placed two = Place({.compute_percent = 60, .count = 2});
  EXPECT_EQ(two.slots.size(), 2u);
  EXPECT_EQ(two.shrunk, (Shrunk{{"va", 40}, {"vb", 40}}));
  EXPECT_TRUE(Place({.compute_percent = 60, .count = 3}).slots.empty());
  EXPECT_EQ(Place({.compute_percent = 60, .count = 2, .topology = Topology::kDistinctNodes}).shrunk,
            two.shrunk);
  EXPECT_TRUE(Place({.compute_percent = 60, .count = 2, .topology = Topology::kSameNode}).slots.empty());
  const Placed one = Place({.compute_percent = 35, .count = 2, .topology = Topology::kSameGpu});
  EXPECT_EQ(one.slots, Slots(2, {.gpu_uid = "a0", .memory_bytes = kGiB, .compute_percent = 35}));
  EXPECT_EQ(one.shrunk, (Shrunk{{"va", 30}}));
  fleet_.SetGpu(gpus_[1], {{.uid = "va1", .compute_percent = 80, .least_percent = 10}});
  EXPECT_EQ(Place({.compute_percent = 60, .count = 2, .topology = Topology::kSameNode}).shrunk,
            (Shrunk{{"va1", 40}, {"va", 40}}));
}

TEST_F(ElasticTest, WhatHasGoneGivesNothing) {
  fleet_.SetGpu(gpus_[0]);
  EXPECT_EQ(Place({.compute_percent = 60}).shrunk, (Shrunk{{"vb", 40}}));
  fleet_.RemoveGpu(gpus_[2]);
  EXPECT_TRUE(Place({.compute_percent = 60}).slots.empty());
  fleet_.SetGpu(gpus_[0], {{.uid = "va", .compute_percent = 100, .least_percent = 30}});
  fleet_.SetNode("a", {{std::string(kNodeLabel), "a"}}, "cordoned");
  EXPECT_TRUE(Place({.compute_percent = 60}).slots.empty());
}

// A small GPU of 10 units, 100 GB/s and 5 TFLOPS, and a large one of 40, 1000 and 60.
TEST(Fleet, WhatAGpuMustGiveDependsOnTheGpu) {
  Fleet fleet(MakeBalancedFit());
  std::deque<Gpu> gpus;
  for (const std::string node : {"small", "large"}) {
    fleet.SetNode(node, {}, "");
    Gpu& gpu = gpus.emplace_back();
    const bool large = node == "large";
    gpu.metadata.uid = node;
    gpu.spec = {.node = node,
                .description = {.type = node,
                                .apis = {DeviceApi::kOpenCl},
                                .compute_units = large ? 40u : 10u,
                                .bandwidth_bytes_per_s = large ? 1'004'000'000'000u : 100'500'000'000u,
                                .fp32_flops = large ? 60'300'000'000'000u : 5'020'000'000'000u}};
    gpu.status = {
        .allocatable_memory_bytes = 8 * kGiB, .allocatable_compute_percent = 100, .schedulable = true};
    fleet.SetGpu(gpu);
  }
  const auto place = [&](const ClaimSpec& spec) -> std::string {
    const Placement placement = fleet.Place(WithDefaults(spec));
    if (const auto* no_fit = std::get_if<NoFit>(&placement)) return no_fit->message;
    const Slot& slot = std::get<Placed>(placement).slots.at(0);
    return slot.gpu_uid + " " + std::to_string(slot.compute_percent);
  };
  EXPECT_EQ(place({.compute_units = 8}), "large 20") << "the least part of a GPU";
  EXPECT_EQ(place({.gpu_types = {"small"}, .compute_units = 8}), "small 80");
  EXPECT_EQ(place({.compute_units = 11}), "large 28") << "rounded up";
  EXPECT_EQ(place({.memory_bandwidth = 50'000'000'000}), "large 5");
  EXPECT_EQ(place({.compute_units = 4, .memory_bandwidth = 500'000'000'000}), "large 50")
      << "whichever is more";
  EXPECT_EQ(place({.fp32_flops = 3'000'000'000'000}), "large 5");
  EXPECT_EQ(place({.gpu_types = {"small"}, .fp32_flops = 3'000'000'000'000}), "small 60");
  EXPECT_EQ(place({.compute_units = 4, .fp32_flops = 15'000'000'000'000}), "large 25");
  EXPECT_EQ(place({.performance_level = PerformanceLevel::kDedicated, .compute_units = 11}), "large 100");
  EXPECT_EQ(
      place({.compute_units = 41}),
      "asked for 1GiB and 41 compute units; no GPU of the mesh matches (node small has 10 compute units; "
      "node large has 40 compute units); see `tulle get gpus`");
  EXPECT_EQ(
      place({.fp32_flops = 61'000'000'000'000, .memory_bandwidth = 1 << 30}),
      "asked for 1GiB and 61 TFLOPS and 1GiB/s of memory bandwidth; no GPU of the mesh matches (node small "
      "has 5 TFLOPS and 93.1GiB/s of memory bandwidth; node large has 60 TFLOPS and 931.3GiB/s of memory "
      "bandwidth); see `tulle get gpus`");
  // Where the one that gives least has no room the other one does.
  gpus[1].status.allocated_compute_percent = 90;
  fleet.SetGpu(gpus[1]);
  EXPECT_EQ(place({.compute_units = 8}), "small 80");
  gpus[0].status.allocated_compute_percent = 30;
  fleet.SetGpu(gpus[0]);
  EXPECT_EQ(place({.compute_units = 8}),
            "asked for 1GiB and 8 compute units; the largest free share is 70% (node small has 8GiB and 70% "
            "free on "
            "one GPU; node large has 8GiB and 10% free on one GPU); see `tulle get gpus`");
  std::uint32_t more = 0;
  const std::vector<NodeVerdict> verdicts =
      fleet.Judge(WithDefaults(ClaimSpec{.compute_units = 4}), 10, &more);
  ASSERT_EQ(verdicts.size(), 2u);
  EXPECT_EQ(verdicts[0].room + verdicts[1].room, 2u) << "4 of 10 units fit once, of 40 (10 %) once";
  EXPECT_EQ(fleet.SetAside(WithDefaults(ClaimSpec{.compute_units = 8})), (std::vector<std::string>{"large"}));
}

}  // namespace
}  // namespace tulle::control
