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

TEST_F(ResizeTest, OtherMemory) {
  const auto resize = [&](std::uint64_t bytes) {
    const auto reply =
        Call(ResizeClaim{.caller = "alice", .tenant = "alice", .name = "c", .memory_bytes = bytes});
    return reply.ok() ? std::string() : reply.error().message;
  };
  const auto allocated = [&] { return core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes / kGiB; };
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
  EXPECT_EQ(allocated(), 2u);
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
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);
}

TEST_F(ResizeTest, WhoWaitsGetsWhatIsGivenBack) {
  Create("waits", {.compute_percent = 80});
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kPending);
  ASSERT_TRUE(Resize(20).ok());
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);
}

}  // namespace
}  // namespace tulle::control
