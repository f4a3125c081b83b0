#include "apps/tulle/tenants.h"

#include <gtest/gtest.h>

#include "apps/tulle/resources.h"

namespace tulle::cli {
namespace {

TEST(Tenants, AChangeKeepsWhatItDoesNotName) {
  control::TenantSpec spec{.role = control::TenantRole::kMember,
                           .quota = {.memory_bytes = 1 << 30, .compute_percent = 100, .vgpus = 4},
                           .weight = 2};
  ASSERT_TRUE(Apply({.memory = "none", .compute = "250%", .claims = "7"}, &spec).ok());
  EXPECT_EQ(spec, (control::TenantSpec{.role = control::TenantRole::kMember,
                                       .quota = {.compute_percent = 250, .vgpus = 4, .claims = 7},
                                       .weight = 2}));
  ASSERT_TRUE(Apply({.role = "Viewer", .memory = "0", .weight = "5", .suspend = true}, &spec).ok());
  EXPECT_EQ(spec.role, control::TenantRole::kViewer);
  EXPECT_EQ(spec.quota.memory_bytes, 0u);
  EXPECT_EQ(spec.weight, 5u);
  EXPECT_TRUE(spec.suspended);
  ASSERT_TRUE(Apply({.resume = true}, &spec).ok());
  EXPECT_FALSE(spec.suspended);
}

TEST(Tenants, BadValuesAreNamed) {
  const auto message = [](const TenantChange& change) {
    control::TenantSpec spec;
    const Status status = Apply(change, &spec);
    return status.ok() ? "" : status.error().message;
  };
  EXPECT_EQ(message({.role = "king"}), "--role king: not a role; write admin, operator, member or viewer");
  EXPECT_EQ(message({.memory = "much"}),
            "--memory much: not a size; write a number and a unit, such as 512MiB or 1.5GiB");
  EXPECT_EQ(message({.vgpus = "-1"}), "--vgpus -1: not a number from 0 to 4294967295, or none");
  EXPECT_EQ(message({.claims = "5%"}), "--claims 5%: not a number from 0 to 4294967295, or none");
  EXPECT_EQ(message({.weight = "0"}), "--weight 0: not a number from 1 to 1000");
}

TEST(Tenants, Tables) {
  const sdk::Tenant tenant{.metadata = {.name = "bob", .create_time_us = 1'000'000},
                           .spec = {.role = control::TenantRole::kMember,
                                    .quota = {.memory_bytes = std::uint64_t{10} << 30, .vgpus = 3},
                                    .weight = 2},
                           .status = {.memory_bytes = std::uint64_t{4} << 30,
                                      .compute_percent = 150,
                                      .vgpus = 2,
                                      .claims = 2,
                                      .waiting_claims = 1,
                                      .dominant_share = 0.25F}};
  EXPECT_EQ(TableOf(std::vector{tenant}, 61'000'000),
            "NAME   ROLE     CLAIMS   WAITING   VGPUS    MEMORY          COMPUTE   SHARE   WEIGHT   AGE\n"
            "bob    member   2        1         2 of 3   4GiB of 10GiB   150%      25%     2        60s\n");
  EXPECT_EQ(UsageTable(
                {{.tenant = "bob",
                  .usage = {.gpu_seconds = 1800, .memory_gib_seconds = 3600.0 * 123.45, .vgpu_seconds = 0}}}),
            "TENANT   GPU-HOURS   MEMORY-GIB-HOURS   VGPU-HOURS\n"
            "bob      0.500       123.5              0.000\n");
  EXPECT_EQ(
      AuditTable({{.time_us = 1'700'000'000'000'000,
                   .caller = "tulle://user/bob",
                   .address = "10.0.0.1:5",
                   .method = "CordonNode",
                   .request = "{\"name\":\"a\"}",
                   .code = "permission_denied",
                   .message = "no"}}),
      "TIME                   CALLER             ADDRESS      METHOD       OUTCOME                 REQUEST\n"
      "2023-11-14T22:13:20Z   tulle://user/bob   10.0.0.1:5   CordonNode   permission_denied: no   "
      "{\"name\":\"a\"}\n");
}

}  // namespace
}  // namespace tulle::cli
