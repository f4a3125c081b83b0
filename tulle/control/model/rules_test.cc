#include "tulle/control/model/rules.h"

#include <gtest/gtest.h>

namespace tulle::control {
namespace {

std::string Refusal(const ClaimSpec& spec) {
  const Status status = CheckClaimSpec(spec);
  return status.ok() ? "" : ToString(status.error());
}

TEST(ClaimSpec, RefusalsNameTheFieldTheValueAndTheLimit) {
  EXPECT_EQ(Refusal({}), "");
  EXPECT_EQ(Refusal({.memory_bytes = 1}),
            "invalid argument: spec.memory_bytes: 1B is less than the least, 1MiB");
  EXPECT_EQ(Refusal({.spill_bytes = std::uint64_t{1} << 30}), "");
  EXPECT_EQ(Refusal({.spill_bytes = 1}),
            "invalid argument: spec.spill_bytes: 1B is less than the least, 1MiB");
  EXPECT_EQ(Refusal({.api = DeviceApi::kCuda, .spill_bytes = std::uint64_t{1} << 30}),
            "invalid argument: spec.spill_bytes: is for OPENCL: memory of CUDA's programs is on their GPU at "
            "all times; leave it out");
  EXPECT_EQ(Refusal({.network_bytes_per_s = 1000}),
            "invalid argument: spec.network_bytes_per_s: 1000B/s is less than the least, 1MiB/s");
  EXPECT_EQ(Refusal({.network_bytes_per_s = std::uint64_t{1} << 41}),
            "invalid argument: spec.network_bytes_per_s: 2TiB/s is more than the most, 1TiB/s");
  EXPECT_EQ(Refusal({.performance_level = PerformanceLevel::kBestEffort, .network_bytes_per_s = 1u << 20}),
            "invalid argument: spec.network_bytes_per_s: is not for BEST_EFFORT vGPUs, which are promised "
            "nothing");
  EXPECT_EQ(Refusal({.compute_percent = 101}),
            "invalid argument: spec.compute_percent: 101 is more than one GPU's 100; ask for more vGPUs with "
            "spec.count");
  EXPECT_EQ(
      Refusal({.compute_percent = 50, .performance_level = PerformanceLevel::kDedicated}),
      "invalid argument: spec.compute_percent: 50 of a DEDICATED vGPU, which is always 100; leave it out");
  EXPECT_EQ(Refusal({.count = 65}),
            "invalid argument: spec.count: 65 is more than the most that one claim may ask for, 64");
  EXPECT_EQ(Refusal({.gpu_types = {"h100", ""}}),
            "invalid argument: spec.gpu_types[1]: must have 1 to 63 bytes");
  EXPECT_EQ(Refusal({.performance_level = static_cast<PerformanceLevel>(9)}),
            "invalid argument: spec.performance_level: 9 is not a level that this controller knows");
  EXPECT_EQ(Refusal({.node_selector = {{"zone", std::string(64, 'x')}}}),
            "invalid argument: spec.node_selector[\"zone\"]: keys have 1 to 63 bytes, values at most 63");
}

TEST(ClaimSpec, DefaultsAreEnoughToRun) {
  const ClaimSpec spec = WithDefaults(ClaimSpec{});
  EXPECT_EQ(spec.api, DeviceApi::kOpenCl);
  EXPECT_EQ(spec.memory_bytes, kDefaultMemoryBytes);
  EXPECT_EQ(spec.compute_percent, kDefaultComputePercent);
  EXPECT_EQ(spec.performance_level, PerformanceLevel::kBurst);
  EXPECT_EQ(spec.count, 1u);
  const ClaimSpec dedicated = WithDefaults(ClaimSpec{.performance_level = PerformanceLevel::kDedicated});
  EXPECT_EQ(dedicated.memory_bytes, 0u);
  EXPECT_EQ(dedicated.compute_percent, 100u);
  EXPECT_EQ(ReservedComputePercent(PerformanceLevel::kBestEffort, 100), 0u);
}

TEST(Names, FollowOneRule) {
  EXPECT_TRUE(CheckName("render-1", "metadata.name").ok());
  for (const char* bad : {"", "-a", "a-", "A", "a.b"}) EXPECT_FALSE(IsResourceName(bad)) << bad;
  EXPECT_EQ(CheckName("A", "metadata.name").error().message,
            "metadata.name: \"A\" is not a name: use 1 to 63 of a-z, 0-9 and '-', not '-' at either end");
}

TEST(States, EndsAreFinal) {
  EXPECT_TRUE(MayBecome(ClaimPhase::kPending, ClaimPhase::kBound));
  EXPECT_FALSE(MayBecome(ClaimPhase::kReleased, ClaimPhase::kBound));
  EXPECT_FALSE(MayBecome(ClaimPhase::kBound, ClaimPhase::kPending));
  EXPECT_FALSE(MayBecome(VGpuPhase::kDeleting, VGpuPhase::kReady));
  EXPECT_TRUE(MayBecome(NodeState::kLeft, NodeState::kReady));
  EXPECT_FALSE(MayBecome(NodeState::kLeft, NodeState::kNotReady));
}

TEST(Conditions, TheTimeMovesWithTheStatusOnly) {
  std::vector<Condition> conditions;
  EXPECT_TRUE(SetCondition(&conditions, "Placed", false, "NoNodes", "none", 10));
  EXPECT_FALSE(SetCondition(&conditions, "Placed", false, "NoNodes", "none", 20));
  EXPECT_TRUE(SetCondition(&conditions, "Placed", false, "InsufficientMemory", "full", 30));
  EXPECT_EQ(FindCondition(conditions, "Placed")->last_transition_us, 10);
  EXPECT_TRUE(SetCondition(&conditions, "Placed", true, "Placed", "", 40));
  EXPECT_EQ(FindCondition(conditions, "Placed")->last_transition_us, 40);
  EXPECT_EQ(FindCondition(conditions, "Ready"), nullptr);
}

TEST(Levels, ParseAsPeopleWriteThem) {
  PerformanceLevel level;
  ASSERT_TRUE(ParsePerformanceLevel("best-effort", &level));
  EXPECT_EQ(level, PerformanceLevel::kBestEffort);
  ASSERT_TRUE(ParsePerformanceLevel("DEDICATED", &level));
  EXPECT_FALSE(ParsePerformanceLevel("fast", &level));
}

TEST(FormatFlops, HasThreeDigits) {
  EXPECT_EQ(FormatFlops(0), "0 GFLOPS");
  EXPECT_EQ(FormatFlops(43'210'000'000), "43.2 GFLOPS");
  EXPECT_EQ(FormatFlops(1'500'000'000'000), "1.5 TFLOPS");
  EXPECT_EQ(FormatFlops(1'234'000'000'000'000), "1234 TFLOPS");
}

}  // namespace
}  // namespace tulle::control
