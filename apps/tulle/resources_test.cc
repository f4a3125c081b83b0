#include "apps/tulle/resources.h"

#include <gtest/gtest.h>

namespace tulle::cli {
namespace {

TEST(Resources, KindsHaveTwoForms) {
  EXPECT_EQ(*ParseKind("claim"), sdk::Kind::kClaim);
  EXPECT_EQ(*ParseKind("gpus"), sdk::Kind::kGpu);
  const auto wrong = ParseKind("pods");
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(
      wrong.error().message,
      "there is no kind pods; the kinds are nodes, gpus, vgpus, claims, sessions, instances and tenants");
}

sdk::Claim WaitingClaim() {
  sdk::Claim claim;
  claim.metadata = {.name = "train", .uid = "u1", .resource_version = 7, .create_time_us = 1'000'000};
  claim.spec.memory_bytes = 8ull << 30;
  claim.spec.compute_percent = 25;
  claim.spec.count = 2;
  claim.spec.performance_level = control::PerformanceLevel::kBestEffort;
  claim.status.conditions = {
      {.type = "Placed", .reason = "InsufficientMemory", .message = "no room for 8GiB"}};
  return claim;
}

TEST(Resources, AWaitingClaimSaysWhy) {
  EXPECT_EQ(TableOf<sdk::Claim>({WaitingClaim()}, 6'000'000),
            "NAME    PHASE     VGPUS   MEMORY   COMPUTE   LEVEL         HOLDERS   AGE   WHY\n"
            "train   pending   0/2     8GiB     25%       best-effort   0         5s    no room for 8GiB\n");
}

TEST(Resources, AnExplanationSaysHowItStandsAndWhatEachNodeHas) {
  sdk::ClaimExplanation waiting{.claim = WaitingClaim(),
                                .policy = "balanced-fit",
                                .waiting_position = 2,
                                .waiting_claims = 3,
                                .nodes = {{.node = "a", .message = "has 4GiB and 90% free on one GPU"}},
                                .more_nodes = 7};
  EXPECT_EQ(ExplanationOf(waiting),
            "Claim train is pending: no room for 8GiB\n"
            "It is number 2 of 3 waiting claims; those of the tenant with the least share are tried first, "
            "and a smaller one may pass it\n"
            "\nWhat the nodes have for one like it, by balanced-fit:\n"
            "NODE   SCORE   ROOM   GPU   WHY\n"
            "a      -       0      -     has 4GiB and 90% free on one GPU\n"
            "and 7 more nodes\n");
  sdk::ClaimExplanation bound{.claim = WaitingClaim(), .policy = "predictive"};
  bound.claim.status = {.phase = control::ClaimPhase::kBound,
                        .vgpus = {"train-0", "train-1"},
                        .branch = control::AllocationBranch::kCreateSlice,
                        .placed_by = "predictive"};
  bound.nodes = {{.node = "a", .room = 3, .gpu = "a-0", .score = 49, .message = "has room for 3"}};
  EXPECT_EQ(ExplanationOf(bound),
            "Claim train is bound\n"
            "Its vGPUs (train-0, train-1) are new slices of GPUs that had room (create-slice), chosen by "
            "predictive\n"
            "\nWhat the nodes have for one like it, by predictive:\n"
            "NODE   SCORE   ROOM   GPU   WHY\n"
            "a      49      3      a-0   has room for 3\n");
}

TEST(Resources, DetailsLeaveOutWhatIsEmpty) {
  const std::string text = Details(WaitingClaim(), 6'000'000);
  EXPECT_NE(text.find("Condition Placed:  no (InsufficientMemory): no room for 8GiB\n"), std::string::npos)
      << text;
  EXPECT_EQ(text.find("Vendors"), std::string::npos) << text;
}

TEST(Resources, AGpuShowsWhatIsFree) {
  sdk::Gpu gpu;
  gpu.metadata.name = "a-0";
  gpu.spec.node = "a";
  gpu.spec.description = {.type = "cpu",
                          .compute_units = 2,
                          .bandwidth_bytes_per_s = 10ull << 30,
                          .fp32_flops = 1'510'000'000'000,
                          .compute_sharing = control::ComputeSharing::kByTurns,
                          .isolations = {control::Isolation::kProcess, control::Isolation::kVm}};
  gpu.status = {.allocatable_memory_bytes = 4ull << 30,
                .allocatable_compute_percent = 50,
                .allocated_memory_bytes = 1ull << 30,
                .allocated_compute_percent = 25,
                .vgpus = 1,
                .schedulable = true};
  gpu.status.allocatable_network_bytes_per_s = 100ull << 20;
  gpu.status.allocated_network_bytes_per_s = 90ull << 20;
  EXPECT_EQ(TableOf<sdk::Gpu>({gpu}, 0),
            "NAME   NODE   MEMORY   MEMORY-FREE   COMPUTE   COMPUTE-FREE   NETWORK    NETWORK-FREE   VGPUS   "
            "UNITS   BANDWIDTH   FP32          SCHEDULABLE   TYPE\n"
            "a-0    a      4GiB     3GiB          50%       25%            100MiB/s   10MiB/s        1       "
            "2       10GiB/s     1.51 TFLOPS   yes           cpu\n");
  EXPECT_NE(TableOf<sdk::Gpu>({gpu}, 0, true).find("SCHEDULABLE   SHARED     ISOLATION    TYPE"),
            std::string::npos);
  EXPECT_NE(TableOf<sdk::Gpu>({gpu}, 0, true).find("yes           by-turns   process,vm   cpu"),
            std::string::npos);
}

TEST(Resources, AVGpuShowsWhatItUsesWhereThatIsAskedFor) {
  sdk::VGpu vgpu;
  vgpu.metadata.name = "c-0";
  vgpu.spec = {.claim = "c",
               .gpu = "a-0",
               .memory_bytes = 1ull << 30,
               .compute_percent = 30,
               .performance_level = control::PerformanceLevel::kGuaranteed,
               .wanted_compute_percent = 30,
               .network_bytes_per_s = 10ull << 20,
               .spill_bytes = 8ull << 30,
               .isolation = control::Isolation::kVm};
  vgpu.status.usage = {.memory_used_bytes = 100ull << 20,
                       .compute_used_percent = 29.6f,
                       .compute_share_percent = 30,
                       .compute_throttled_percent = 70.4f,
                       .network_used_bytes_per_s = 3ull << 20,
                       .spilled_bytes = 2ull << 30,
                       .spill_bytes_per_s = 1ull << 20,
                       .spill_wait_percent = 35};
  EXPECT_EQ(
      TableOf<sdk::VGpu>({vgpu}, 0),
      "NAME   PHASE      CLAIM   GPU   MEMORY   COMPUTE   NETWORK   LEVEL        SESSIONS   AGE   MESSAGE\n"
      "c-0    creating   c       a-0   1GiB     30%       10MiB/s   guaranteed   0          -     -\n");
  EXPECT_EQ(
      TableOf<sdk::VGpu>({vgpu}, 0, true),
      "NAME   PHASE      CLAIM   GPU   MEMORY   COMPUTE   NETWORK   LEVEL        MEMORY-USED   COMPUTE-USED  "
      " "
      "COMPUTE-NOW   COMPUTE-WAITS   NETWORK-USED   NETWORK-NOW   NETWORK-WAITS   ISOLATION   SPILL   "
      "SPILLED   "
      "SPILL-RATE  "
      " SPILL-WAITS   SESSIONS   AGE   MESSAGE\n"
      "c-0    creating   c       a-0   1GiB     30%       10MiB/s   guaranteed   100MiB        30%           "
      " "
      "30%           70%             3MiB/s         any           0%              vm          8GiB    2GiB   "
      "   1MiB/s   "
      "  "
      "  35%           0          -     -\n");
}

}  // namespace
}  // namespace tulle::cli
