#include <gmock/gmock.h>

#include "tulle/control/core/test_core.h"

namespace tulle::control {
namespace {

class ResizeTest : public CoreTest {
 protected:
  void SetUp() override {
    obey_ = true;
    Do(Registration());
    Create("c", {.compute_percent = 30});
  }
  Status Resize(std::uint32_t percent, std::uint32_t least = 0, const std::string& name = "c",
                const std::string& caller = "alice") {
    auto reply = Call(ResizeClaim{.caller = caller,
                                  .tenant = "alice",
                                  .name = name,
                                  .compute_percent = percent,
                                  .min_compute_percent = least});
    return reply.ok() ? OkStatus() : Status(reply.error());
  }
  std::string Refused(std::uint32_t percent, std::uint32_t least = 0, const std::string& name = "c") {
    const Claim before = Get(name);
    const Status status = Resize(percent, least, name);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(Get(name).spec, before.spec) << "nothing has changed";
    return status.ok() ? "" : status.error().message;
  }
  std::uint32_t Share(const std::string& vgpu) {
    return core_->Get<VGpu>("alice", vgpu)->spec.compute_percent;
  }
  std::uint32_t Allocated() { return core_->Get<Gpu>("", "a-0")->status.allocated_compute_percent; }
};

TEST_F(ResizeTest, ItsNodeIsToldAndItIsCounted) {
  ASSERT_TRUE(Resize(80).ok());
  ASSERT_EQ(Commands<ResizeVGpu>().size(), 1u);
  EXPECT_EQ(Commands<ResizeVGpu>()[0].compute_percent, 80u);
  EXPECT_EQ(Share("c-0"), 80u);
  EXPECT_EQ(Get("c").spec.compute_percent, 80u);
  EXPECT_EQ(Allocated(), 80u);
  EXPECT_EQ(core_->Get<Tenant>("", "alice")->status.compute_percent, 80u);
  ASSERT_TRUE(Resize(10).ok());
  EXPECT_EQ(Allocated(), 10u);
  StartCore();  // and kept
  EXPECT_EQ(Share("c-0"), 10u);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.wanted_compute_percent, 10u);
}

TEST_F(ResizeTest, MoreThanThereIsRoomForIsRefused) {
  Create("other", {.compute_percent = 50});
  EXPECT_THAT(Refused(60),
              ::testing::MatchesRegex(
                  "claim c would need 30% more of GPU .*, which has 20% left; ask for less, or make "
                  "another claim"));
  EXPECT_TRUE(Resize(50).ok());
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {.quota = {.compute_percent = 110}}})
          .ok());
  ASSERT_TRUE(Resize(50, 0, "other").ok());
  ASSERT_TRUE(Resize(20).ok());
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {.quota = {.compute_percent = 75}}}).ok());
  EXPECT_EQ(Refused(40), "it would be 20% of a GPU more, you have 70%, and your quota is 75%");
  EXPECT_TRUE(Resize(25).ok());
}

TEST_F(ResizeTest, NeighboursWithARangeMakeRoom) {
  Create("one", {.compute_percent = 30, .min_compute_percent = 10});
  Create("two", {.compute_percent = 40, .min_compute_percent = 30});
  EXPECT_EQ(Allocated(), 100u);
  EXPECT_THAT(Refused(61),
              ::testing::MatchesRegex(
                  "claim c would need 31% more of GPU .*, which has 0% left and 30% that others could "
                  "give up; ask for less, or make another claim"));
  ASSERT_TRUE(Resize(45).ok());
  EXPECT_EQ(Share("c-0"), 45u);
  EXPECT_EQ(Share("one-0"), 20u) << "alike, by what they can";
  EXPECT_EQ(Share("two-0"), 35u);
  EXPECT_EQ(Allocated(), 100u);
  // Less first, so that the node never has promised more than there is.
  std::vector<std::uint32_t> told;
  for (const ResizeVGpu& command : Commands<ResizeVGpu>()) told.push_back(command.compute_percent);
  EXPECT_EQ(told.back(), 45u);
  ASSERT_TRUE(Resize(30).ok());
  EXPECT_EQ(Share("one-0") + Share("two-0"), 70u) << "they have it again";
}

TEST_F(ResizeTest, ARangeTakesWhatThereIs) {
  Create("other", {.compute_percent = 50});
  ASSERT_TRUE(Resize(90, 10).ok());
  EXPECT_EQ(Share("c-0"), 50u) << "as much as there is room for";
  ASSERT_TRUE(Resize(40, 40, "other").ok());
  EXPECT_EQ(Share("c-0"), 60u);
  // What is left goes to who wants more, as soon as there is some.
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "other"}).ok());
  EXPECT_EQ(Share("c-0"), 90u);
  ASSERT_TRUE(Resize(20, 10).ok());
  EXPECT_EQ(Share("c-0"), 20u);
  EXPECT_EQ(Refused(20, 30), "spec.min_compute_percent: 30 is more than spec.compute_percent, 20");
}

TEST_F(ResizeTest, OnlyWhatHasAShareHasAnother) {
  EXPECT_EQ(Refused(0), "compute_percent: must be 1 to 100");
  EXPECT_EQ(Refused(101),
            "spec.compute_percent: 101 is more than one GPU's 100; ask for more vGPUs with spec.count");
  Create("best", {.performance_level = PerformanceLevel::kBestEffort});
  EXPECT_EQ(Refused(10, 0, "best"),
            "claim best is BEST_EFFORT: only BURST and GUARANTEED vGPUs have a share of compute");
  Create("waits", {.compute_percent = 100});
  EXPECT_EQ(Refused(10, 0, "waits"), "claim waits is PENDING, not BOUND");
  EXPECT_EQ(Resize(10, 0, "none").error().code, Code::kNotFound);
  EXPECT_EQ(Resize(10, 0, "c", "bob").error().code, Code::kPermissionDenied);
  EXPECT_TRUE(Resize(10, 0, "c", "root").ok());
}

TEST_F(ResizeTest, AnotherShareOfTheNetwork) {
  constexpr std::uint64_t kMiB = 1u << 20;
  RegisterNode node = Registration();
  node.gpus[0].allocatable_network_bytes_per_s = 100 * kMiB;
  const auto report = [&](const std::string& name, std::uint32_t percent, std::uint64_t mib) {
    node.vgpus.push_back({.uid = core_->Get<VGpu>("alice", name)->metadata.uid,
                          .state = ReportedState::kReady,
                          .compute_percent = percent,
                          .network_bytes_per_s = mib * kMiB});
  };
  report("c-0", 30, 0);
  Do(node);
  const auto resize = [&](std::uint64_t mib) {
    const auto reply = Call(
        ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .network_bytes_per_s = mib * kMiB});
    return reply.ok() ? std::string() : reply.error().message;
  };
  const auto allocated = [&] {
    return core_->Get<Gpu>("", "a-0")->status.allocated_network_bytes_per_s / kMiB;
  };
  // What the node was told last, in MiB/s by vGPU's name.
  const auto told = [&] {
    std::map<std::string, std::uint64_t> all;
    for (const ResizeVGpu& command : Commands<ResizeVGpu>()) {
      for (const char* name : {"c-0", "other-0"}) {
        const auto vgpu = core_->Get<VGpu>("alice", name);
        if (vgpu && vgpu->metadata.uid == command.uid) all[name] = command.network_bytes_per_s / kMiB;
      }
    }
    return all;
  };
  using Told = std::map<std::string, std::uint64_t>;
  EXPECT_EQ(resize(60), "");
  EXPECT_EQ(told(), (Told{{"c-0", 60}}));
  EXPECT_EQ(Get("c").spec.network_bytes_per_s, 60 * kMiB);
  EXPECT_EQ(Get("c").spec.compute_percent, 30u) << "as it was";
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.network_bytes_per_s, 60 * kMiB);
  EXPECT_EQ(allocated(), 60u);
  ASSERT_TRUE(Resize(40).ok());
  EXPECT_EQ(told(), (Told{{"c-0", 60}})) << "it keeps that";
  EXPECT_EQ(resize(101),
            "claim c would need 41MiB/s more of the network of GPU a-0, which has 40MiB/s left to "
            "promise; ask for less, or make another claim");
  EXPECT_EQ(resize(10), "");
  EXPECT_EQ(allocated(), 10u);
  // Another claim has what is left.
  Create("other", {.compute_percent = 20, .network_bytes_per_s = 90 * kMiB});
  EXPECT_EQ(Get("other").status.phase, ClaimPhase::kBound);
  Create("more", {.compute_percent = 20, .network_bytes_per_s = 1 * kMiB});
  EXPECT_EQ(Get("more").status.phase, ClaimPhase::kPending);
  // A node that comes back is told what it has missed.
  node.link = LinkId{77};
  node.vgpus.clear();
  report("c-0", 40, 60);
  report("other-0", 20, 90);
  Do(node);
  EXPECT_EQ(told(), (Told{{"c-0", 10}}));
}

// Also when what it has now is within the new range, so that only its least changes.
TEST_F(ResizeTest, NeighboursTakeNothingBelowTheNewLeast) {
  Create("ranges", {.compute_percent = 50, .min_compute_percent = 10});
  Create("rest", {.compute_percent = 20});  // nothing is left
  const auto compute = [&] { return core_->Get<VGpu>("alice", "ranges-0")->spec.compute_percent; };
  ASSERT_EQ(compute(), 50u);
  ASSERT_TRUE(Call(ResizeClaim{.caller = "alice",
                               .tenant = "alice",
                               .name = "ranges",
                               .compute_percent = 60,
                               .min_compute_percent = 45})
                  .ok());
  Create("more", {.compute_percent = 10});
  EXPECT_EQ(compute(), 50u);
  EXPECT_EQ(Get("more").status.phase, ClaimPhase::kPending);
}

// What a vGPU that has less than before still holds is told by its node, and known to nobody else after a
// restart.
TEST_F(ResizeTest, MoreMemoryWaitsForTheNode) {
  const auto resize = [&](std::uint64_t bytes) {
    const auto reply =
        Call(ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .memory_bytes = bytes});
    return reply.ok() ? std::string() : reply.error().message;
  };
  StartCore();
  EXPECT_EQ(resize(2 * kGiB),
            "claim c cannot have more memory while node a is out of touch; try again when it is ready");
  EXPECT_EQ(Get("c").spec.memory_bytes, kGiB);
  Do(Registration(LinkId{7}));
  EXPECT_EQ(resize(2 * kGiB), "");
  EXPECT_EQ(Get("c").spec.memory_bytes, 2 * kGiB);
}

TEST_F(ResizeTest, MemoryIsHeldUntilTheNodeHasDoneWhatItWasTold) {
  const auto resize = [&](std::uint64_t bytes) {
    return Call(ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .memory_bytes = bytes}).ok();
  };
  const auto allocated = [&] { return core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes / kGiB; };
  const auto beat = [&](Duration time, std::uint64_t done) {
    NodeHeartbeat heartbeat{.link = kLink, .done = done};
    heartbeat.vgpus[core_->Get<VGpu>("alice", "c-0")->metadata.uid].memory_used_bytes = kGiB;
    for (const Instant end = now_.mono + time; now_.mono < end; Advance(std::chrono::seconds(1)))
      Do(heartbeat);
  };
  const Duration timeout = CoreOptions().heartbeat_timeout;
  ASSERT_TRUE(resize(5 * kGiB));
  ASSERT_TRUE(resize(2 * kGiB));
  // Registered, made, resized twice: the last is the fourth.
  beat(5 * timeout, 3);
  EXPECT_EQ(allocated(), 5u);
  beat(timeout / 2, 4);
  EXPECT_EQ(allocated(), 5u);
  beat(timeout, 4);
  EXPECT_EQ(allocated(), 2u);
  // On another link it begins to count anew.
  ASSERT_TRUE(resize(1 * kGiB));
  Do(Registration(LinkId{7}));
  AdvanceBeating(2 * timeout, {LinkId{7}});
  NodeHeartbeat heartbeat{.link = LinkId{7}, .done = 1};
  heartbeat.vgpus[core_->Get<VGpu>("alice", "c-0")->metadata.uid].memory_used_bytes = kGiB;
  Do(heartbeat);
  EXPECT_EQ(allocated(), 1u);
}

TEST_F(ResizeTest, OtherMemory) {
  const auto resize = [&](std::uint64_t bytes) {
    const auto reply =
        Call(ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .memory_bytes = bytes});
    return reply.ok() ? std::string() : reply.error().message;
  };
  const auto allocated = [&] { return core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes / kGiB; };
  const auto tell = [&](std::uint64_t used_bytes) {
    AdvanceBeating(CoreOptions().heartbeat_timeout, {kLink});
    NodeHeartbeat told{.link = kLink};
    told.vgpus[core_->Get<VGpu>("alice", "c-0")->metadata.uid].memory_used_bytes = used_bytes;
    Do(told);
  };
  EXPECT_EQ(allocated(), 1u);
  EXPECT_EQ(resize(5 * kGiB), "");
  ASSERT_EQ(Commands<ResizeVGpu>().size(), 1u);
  EXPECT_EQ(Commands<ResizeVGpu>()[0].memory_bytes, 5 * kGiB);
  EXPECT_EQ(Get("c").spec.memory_bytes, 5 * kGiB);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.memory_bytes, 5 * kGiB);
  EXPECT_EQ(allocated(), 5u);
  EXPECT_EQ(
      resize(9 * kGiB),
      "claim c would need 4GiB more of the memory of GPU a-0, which has 3GiB left; ask for less, or make "
      "another claim");
  // Not less than programs use, as the node told last.
  NodeHeartbeat heartbeat{.link = kLink};
  heartbeat.vgpus[core_->Get<VGpu>("alice", "c-0")->metadata.uid].memory_used_bytes = 2 * kGiB;
  Do(heartbeat);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->status.usage.memory_used_bytes, 2 * kGiB);
  EXPECT_EQ(resize(1 * kGiB),
            "claim c cannot have 1GiB each: programs use 2GiB of vGPU c-0; end some of them, or "
            "ask for more");
  EXPECT_EQ(resize(2 * kGiB), "");
  EXPECT_EQ(Get("c").spec.memory_bytes, 2 * kGiB);
  EXPECT_EQ(resize(1), "spec.memory_bytes: 1B is less than the least, 1MiB");
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {.quota = {.memory_bytes = 3 * kGiB}}})
          .ok());
  EXPECT_EQ(resize(4 * kGiB), "it would be 2GiB more, you have 2GiB, and your quota is 3GiB");
  EXPECT_EQ(resize(3 * kGiB), "");
  // Who waits has what is given back.
  ASSERT_TRUE(Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {}}).ok());
  Create("waits", {.memory_bytes = 6 * kGiB, .compute_percent = 10});
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kPending);
  EXPECT_EQ(resize(2 * kGiB), "");
  tell(2 * kGiB);
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);
}

// Until the node has told that programs have not taken it meanwhile, it is nobody else's.
TEST_F(ResizeTest, MemoryThatProgramsMayHaveTakenIsNotGivenAway) {
  const auto resize = [&](std::uint64_t bytes) {
    ASSERT_TRUE(
        Call(ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .memory_bytes = bytes}).ok());
  };
  const auto tell = [&](std::uint64_t used_bytes) {
    NodeHeartbeat heartbeat{.link = kLink};
    heartbeat.vgpus[core_->Get<VGpu>("alice", "c-0")->metadata.uid].memory_used_bytes = used_bytes;
    Do(heartbeat);
  };
  const auto allocated = [&] { return core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes / kGiB; };
  resize(6 * kGiB);
  tell(1 * kGiB);
  resize(2 * kGiB);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.memory_bytes, 2 * kGiB);
  EXPECT_EQ(allocated(), 6u);
  Create("waits", {.memory_bytes = 5 * kGiB, .compute_percent = 10});
  tell(1 * kGiB);  // as it was before the node heard of it, perhaps
  EXPECT_EQ(allocated(), 6u);
  AdvanceBeating(CoreOptions().heartbeat_timeout - std::chrono::seconds(1), {kLink});
  tell(5 * kGiB);
  EXPECT_EQ(allocated(), 6u);
  AdvanceBeating(std::chrono::seconds(1), {kLink});
  tell(5 * kGiB);  // programs were faster
  EXPECT_EQ(allocated(), 5u);
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kPending);
  // It may have again what it holds.
  resize(5 * kGiB);
  tell(1 * kGiB);
  resize(2 * kGiB);
  AdvanceBeating(CoreOptions().heartbeat_timeout, {kLink});
  tell(4 * kGiB);
  EXPECT_EQ(allocated(), 4u);
  tell(2 * kGiB);
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);
  EXPECT_EQ(allocated(), 7u);
}

TEST_F(ResizeTest, ANodeThatComesBackTellsWhatIsStillUsed) {
  NodeHeartbeat heartbeat{.link = kLink};
  RegisterNode node = Registration(LinkId{77});
  const VGpu vgpu = *core_->Get<VGpu>("alice", "c-0");
  node.vgpus.push_back({.uid = vgpu.metadata.uid,
                        .state = ReportedState::kReady,
                        .compute_percent = vgpu.spec.compute_percent,
                        .memory_bytes = 3 * kGiB});
  Do(node);
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes, 3 * kGiB);
  AdvanceBeating(CoreOptions().heartbeat_timeout, {LinkId{77}});
  heartbeat.link = LinkId{77};
  heartbeat.vgpus[vgpu.metadata.uid] = {};
  Do(heartbeat);
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes, 1 * kGiB);
}

// Nodes tell what vGPUs use every two seconds.
class LoadTest : public ResizeTest {
 protected:
  void Tell(float used, float throttled = 0) {
    NodeHeartbeat heartbeat{.link = kLink};
    heartbeat.vgpus[core_->Get<VGpu>("alice", "elastic-0")->metadata.uid] = {
        .compute_used_percent = used, .compute_throttled_percent = throttled};
    Advance(CoreOptions().heartbeat_interval);
    Do(heartbeat);
    for (const ResizeVGpu& command : Commands<ResizeVGpu>()) told_[command.uid] = command.compute_percent;
  }
  std::map<std::string, std::uint32_t> told_;  // what the node was told last

  void TellFor(Duration time, float used) {
    for (Duration told{}; told < time; told += CoreOptions().heartbeat_interval) Tell(used);
  }
  VGpu Elastic() { return *core_->Get<VGpu>("alice", "elastic-0"); }
};

TEST_F(LoadTest, ARangeFollowsTheLoad) {
  Create("elastic", {.compute_percent = 60, .min_compute_percent = 10});
  EXPECT_EQ(Share("elastic-0"), 60u);
  TellFor(std::chrono::seconds(64), 4);
  EXPECT_EQ(Share("elastic-0"), 10u);
  EXPECT_EQ(Elastic().spec.wanted_compute_percent, 10u);
  EXPECT_EQ(Elastic().status.message,
            "wants 10% of compute instead of 60%: its programs used at most 4% of the GPU in the last 60 s");
  EXPECT_EQ(told_[Elastic().metadata.uid], 10u);
  EXPECT_EQ(Allocated(), 40u);
  Tell(10, 80);
  EXPECT_EQ(Elastic().status.message,
            "wants 20% of compute instead of 10%: its programs use 10% of the GPU and wait for their share "
            "in 80% of the time");
  Tell(20, 60);
  Tell(40, 20);
  EXPECT_EQ(Share("elastic-0"), 60u) << "no more than was asked for";
  StartCore();  // kept, and the load is watched anew
  EXPECT_EQ(Share("elastic-0"), 60u);
}

TEST_F(LoadTest, ThrashingIsNoticedAndSaid) {
  Create("spills", {.spill_bytes = 1u << 30});
  const auto tell_for = [&](std::chrono::seconds time, float waits) {
    for (Duration told{}; told < time; told += CoreOptions().heartbeat_interval) {
      NodeHeartbeat heartbeat{.link = kLink};
      heartbeat.vgpus[core_->Get<VGpu>("alice", "spills-0")->metadata.uid] = {.spill_wait_percent = waits};
      Advance(CoreOptions().heartbeat_interval);
      Do(heartbeat);
    }
    return core_->Get<VGpu>("alice", "spills-0")->status.message;
  };
  EXPECT_EQ(tell_for(std::chrono::seconds(30), 40), "");
  EXPECT_EQ(tell_for(std::chrono::seconds(4), 90), "");
  EXPECT_EQ(tell_for(std::chrono::seconds(4), 40), "");
  EXPECT_EQ(tell_for(std::chrono::seconds(14), 90),
            "thrashes: its programs use more memory at a time than the 1GiB that it has, and wait for it in "
            "90% of the time; give it more (tulle resize), or use less at a time");
  StartCore();  // kept, and known for what it is
  Do(Registration());
  EXPECT_EQ(tell_for(std::chrono::seconds(30), 30).substr(0, 8), "thrashes");
  EXPECT_EQ(tell_for(std::chrono::seconds(14), 5),
            "does not thrash any more: its programs wait for memory in 5% of the time");
}

TEST_F(LoadTest, WhatIsNotNeededIsThereForOthers) {
  Create("elastic", {.compute_percent = 70, .min_compute_percent = 10});
  EXPECT_EQ(Share("elastic-0"), 70u);
  ASSERT_TRUE(Resize(90, 20).ok()) << "elastic, too";
  EXPECT_EQ(Share("c-0"), 30u);
  TellFor(std::chrono::seconds(64), 4);
  EXPECT_EQ(Share("elastic-0"), 10u);
  EXPECT_EQ(Share("c-0"), 90u);
  // Its load comes back where there is no room: it keeps its least, and has more when the other gives it up.
  TellFor(std::chrono::seconds(10), 10);
  EXPECT_EQ(Share("elastic-0"), 10u);
  EXPECT_EQ(Elastic().spec.wanted_compute_percent, 20u);
  ASSERT_TRUE(Resize(40, 20).ok());
  EXPECT_EQ(Share("elastic-0"), 20u);
  Tell(20);
  EXPECT_EQ(Share("elastic-0"), 40u);
}

TEST_F(LoadTest, AnotherRangeByHandBeginsAnew) {
  Create("elastic", {.compute_percent = 60, .min_compute_percent = 10});
  TellFor(std::chrono::seconds(64), 4);
  ASSERT_EQ(Share("elastic-0"), 10u);
  ASSERT_TRUE(Resize(50, 20, "elastic").ok());
  EXPECT_EQ(Share("elastic-0"), 50u);
  EXPECT_EQ(Elastic().status.message, "");
  TellFor(std::chrono::seconds(40), 4);
  EXPECT_EQ(Share("elastic-0"), 50u);
  TellFor(std::chrono::seconds(30), 4);
  EXPECT_EQ(Share("elastic-0"), 20u);
}

TEST_F(ResizeTest, WhoWaitsGetsWhatIsGivenBack) {
  Create("waits", {.compute_percent = 80});
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kPending);
  ASSERT_TRUE(Resize(20).ok());
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);
}

}  // namespace
}  // namespace tulle::control
