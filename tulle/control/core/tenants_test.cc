// Roles, quotas, fair shares and usage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tulle/control/core/test_core.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TenantsTest : public CoreTest {
 protected:
  Result<ReplyBody> Set(const std::string& name, TenantSpec spec) {
    return Call(UpdateTenant{.caller = "root", .name = name, .spec = std::move(spec)});
  }
  Result<ReplyBody> CreateFor(const std::string& tenant, const std::string& name, ClaimSpec spec) {
    return Call(CreateClaim{.tenant = tenant, .name = name, .spec = std::move(spec)});
  }
  Code CodeOf(const Result<ReplyBody>& reply) { return reply.ok() ? Code::kUnknown : reply.error().code; }
  Claim Of(const std::string& tenant, const std::string& name) {
    return core_->Get<Claim>(tenant, name).value_or(Claim{});
  }
  Tenant TenantNamed(const std::string& name) { return core_->Get<Tenant>("", name).value_or(Tenant{}); }
  Usage UsageOf(const std::string& name, WallMicros since_us = 0) {
    const auto usage = core_->UsageSince(name, since_us, now_);
    return usage.empty() ? Usage{} : usage.front().usage;
  }
};

TEST_F(TenantsTest, RolesSayWhoMayDoWhat) {
  Do(Registration());
  for (const auto& [name, role] : std::map<std::string, TenantRole>{
           {"bob", TenantRole::kMember}, {"olga", TenantRole::kOperator}, {"vera", TenantRole::kViewer}}) {
    ASSERT_TRUE(Set(name, {.role = role}).ok());
  }
  const auto cordon = [&](const std::string& caller) {
    return CodeOf(Call(CordonNode{.caller = caller, .name = "a"}));
  };
  const auto token = [&](const std::string& caller, JoinRole role) {
    return CodeOf(
        Call(CreateInvitation{.caller = caller,
                              .invitation = {.id = "i" + std::to_string(calls_), .role = role, .name = "x"},
                              .lifetime = 1h}));
  };
  constexpr Code kNo = Code::kPermissionDenied, kYes = Code::kUnknown;
  // Somebody, bob, olga, vera, root.
  const std::vector<std::string> callers = {"nobody", "bob", "olga", "vera", "root"};
  const auto all = [&](auto call) {
    std::vector<Code> codes;
    for (const std::string& caller : callers) codes.push_back(call(caller));
    return codes;
  };
  EXPECT_EQ(all(cordon), (std::vector<Code>{kNo, kNo, kYes, kNo, kYes}));
  EXPECT_EQ(all([&](const auto& caller) { return token(caller, JoinRole::kNode); }),
            (std::vector<Code>{kNo, kNo, kYes, kNo, kYes}));
  EXPECT_EQ(all([&](const auto& caller) { return token(caller, JoinRole::kUser); }),
            (std::vector<Code>{kNo, kNo, kNo, kNo, kYes}));
  EXPECT_EQ(
      all([&](const auto& caller) { return CodeOf(Call(UpdateTenant{.caller = caller, .name = "new"})); }),
      (std::vector<Code>{kNo, kNo, kNo, kNo, kYes}));
  EXPECT_EQ(all([&](const auto& caller) { return CodeOf(CreateFor(caller, "c", {})); }),
            (std::vector<Code>{kYes, kYes, kYes, kNo, kYes}));
  EXPECT_EQ(all([&](const auto& caller) {
              const Status status = core_->CheckRead(caller, "bob");
              return status.ok() ? kYes : status.error().code;
            }),
            (std::vector<Code>{kNo, kYes, kYes, kYes, kYes}));
  EXPECT_EQ(all([&](const auto& caller) {
              (void)CreateFor("bob", "c", {});  // if it is not there any more
              return CodeOf(Call(DeleteClaim{.caller = caller, .tenant = "bob", .name = "c"}));
            }),
            (std::vector<Code>{kNo, kYes, kYes, kNo, kYes}));
  EXPECT_THAT(Call(CordonNode{.caller = "bob", .name = "a"}).error().message,
              HasSubstr("tenant bob, MEMBER, may not do that: it is for operators"));
  Do(OpenHold{.hold = HoldId{1}, .tenant = "vera", .claim = "c"});
  EXPECT_EQ(ended_.at(HoldId{1}).error().code, kNo);
  EXPECT_EQ(CodeOf(Call(AttachClaim{.tenant = "vera", .name = "c"})), kNo);
  EXPECT_EQ(CodeOf(Call(DetachClaim{.tenant = "vera", .name = "c"})), kNo);
}

TEST_F(TenantsTest, TheControllersAdministratorStaysOne) {
  ASSERT_TRUE(CreateFor("root", "c", {}).ok());
  EXPECT_EQ(TenantNamed("root").spec.role, TenantRole::kAdmin);
  EXPECT_EQ(CodeOf(Set("root", {.role = TenantRole::kMember})), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Set("root", {.role = TenantRole::kAdmin, .suspended = true})), Code::kFailedPrecondition);
  EXPECT_TRUE(Set("root", {.role = TenantRole::kAdmin, .weight = 2}).ok());
}

TEST_F(TenantsTest, ASpecIsCheckedAndHasAVersion) {
  EXPECT_EQ(CodeOf(Set("Bob!", {})), Code::kInvalidArgument);
  EXPECT_EQ(Set("bob", {.weight = 1001}).error().message, "spec.weight: 1001 is more than 1000");
  EXPECT_EQ(Set("bob", {.role = static_cast<TenantRole>(9)}).error().message,
            "spec.role: 9 is not a role that this controller knows");
  ASSERT_TRUE(Set("bob", {}).ok());
  const Tenant bob = TenantNamed("bob");
  EXPECT_EQ(bob.spec.role, TenantRole::kMember);
  EXPECT_EQ(bob.spec.weight, 1u);
  UpdateTenant update{.caller = "root", .name = "bob", .resource_version = bob.metadata.resource_version};
  ASSERT_TRUE(Call(update).ok());
  EXPECT_EQ(CodeOf(Call(update)), Code::kAborted) << "it has changed since";
  EXPECT_EQ(CodeOf(Call(UpdateTenant{.caller = "root", .name = "gone", .resource_version = 5})),
            Code::kAborted);
}

TEST_F(TenantsTest, AQuotaIsNeverExceededAndItsClaimsWait) {
  Do(Registration(kLink, "a", 100 * kGiB));
  ASSERT_TRUE(Set("bob", {.quota = {.memory_bytes = 4 * kGiB, .compute_percent = 50, .vgpus = 3}}).ok());
  ASSERT_TRUE(CreateFor("bob", "first", {.memory_bytes = 3 * kGiB, .compute_percent = 10}).ok());
  Comply();
  EXPECT_EQ(Of("bob", "first").status.phase, ClaimPhase::kBound);

  ASSERT_TRUE(CreateFor("bob", "memory", {.memory_bytes = 2 * kGiB, .compute_percent = 1}).ok());
  const Claim waits = Of("bob", "memory");
  EXPECT_EQ(waits.status.branch, AllocationBranch::kWait);
  const Condition* placed = FindCondition(waits.status.conditions, "Placed");
  EXPECT_EQ(placed->reason, "QuotaExceeded");
  EXPECT_EQ(placed->message, "it asks for 2GiB of memory, you have 3GiB, and your quota is 4GiB");
  EXPECT_EQ(
      CreateFor("bob", "", {.memory_bytes = kGiB, .compute_percent = 41, .no_wait = true}).error().message,
      "it asks for 41% of a GPU, you have 10%, and your quota is 50%");
  EXPECT_EQ(
      CreateFor("bob", "", {.memory_bytes = kGiB / 4, .compute_percent = 1, .count = 3, .no_wait = true})
          .error()
          .message,
      "it asks for 3 vGPUs, you have 1, and your quota is 3");
  EXPECT_EQ(CreateFor("bob", "", {.memory_bytes = 5 * kGiB}).error().message,
            "it asks for 5GiB of memory, you have 0B, and your quota is 4GiB, whatever else you give back");
  EXPECT_EQ(
      CodeOf(CreateFor("bob", "", {.performance_level = PerformanceLevel::kBestEffort, .no_wait = true})),
      Code::kUnknown)
      << "which reserves no compute";

  const Tenant bob = TenantNamed("bob");
  EXPECT_EQ(bob.status.memory_bytes, 4 * kGiB);
  EXPECT_EQ(bob.status.claims, 3u);
  EXPECT_EQ(bob.status.waiting_claims, 1u);
  EXPECT_FLOAT_EQ(bob.status.dominant_share, 0.1F);

  // What is given back may be had again at once, before the node has confirmed its end.
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "first"}).ok());
  EXPECT_EQ(Of("bob", "memory").status.branch, AllocationBranch::kCreateSlice);
  // And so may what a larger quota allows.
  ASSERT_TRUE(CreateFor("bob", "more", {.memory_bytes = 3 * kGiB, .compute_percent = 1}).ok());
  EXPECT_EQ(Of("bob", "more").status.branch, AllocationBranch::kWait);
  ASSERT_TRUE(Set("bob", {}).ok());
  EXPECT_EQ(Of("bob", "more").status.branch, AllocationBranch::kCreateSlice);
}

TEST_F(TenantsTest, AWholeGpuCountsWithAllOfItsMemory) {
  Do(Registration(kLink, "a", 8 * kGiB));
  ASSERT_TRUE(Set("bob", {.quota = {.memory_bytes = 4 * kGiB}}).ok());
  for (const std::uint64_t asked : {std::uint64_t{0}, kGiB}) {
    EXPECT_EQ(
        CreateFor("bob", "",
                  {.memory_bytes = asked, .performance_level = PerformanceLevel::kDedicated, .no_wait = true})
            .error()
            .message,
        "it asks for 8GiB of memory, you have 0B, and your quota is 4GiB");
  }
}

TEST_F(TenantsTest, AQuotaOfClaims) {
  ASSERT_TRUE(Set("bob", {.quota = {.claims = 1}}).ok());
  ASSERT_TRUE(CreateFor("bob", "one", {}).ok());
  EXPECT_EQ(
      CreateFor("bob", "two", {}).error().message,
      "you have 1 claims that have not ended, at most 1 are allowed; release some with `tulle delete claim "
      "NAME`, or ask an administrator for a larger quota");
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "one"}).ok());
  EXPECT_TRUE(CreateFor("bob", "two", {}).ok()) << "one that has ended does not count";
}

TEST_F(TenantsTest, ASuspendedTenantLosesAllAndMayNothing) {
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "c", {}).ok());
  ASSERT_TRUE(CreateFor("bob", "waits", {.memory_bytes = 100 * kGiB}).ok());
  ASSERT_TRUE(Set("bob", {.suspended = true}).ok());
  EXPECT_EQ(Of("bob", "c").status.phase, ClaimPhase::kReleased);
  EXPECT_EQ(Of("bob", "waits").status.phase, ClaimPhase::kReleased);
  EXPECT_EQ(FindCondition(Of("bob", "c").status.conditions, "Ready")->reason, "Suspended");
  EXPECT_EQ(CreateFor("bob", "d", {}).error().message,
            "tenant bob is suspended; ask an administrator of the mesh");
  EXPECT_EQ(core_->CheckRead("bob", "bob").error().code, Code::kPermissionDenied);
  StartCore();
  EXPECT_EQ(CodeOf(CreateFor("bob", "d", {})), Code::kPermissionDenied) << "also after a restart";
  ASSERT_TRUE(Set("bob", {}).ok());
  EXPECT_TRUE(CreateFor("bob", "d", {}).ok());
}

TEST_F(TenantsTest, ATenantIsForgottenOnceItHasNothing) {
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "c", {}).ok());
  const auto creates = Commands<CreateVGpu>();
  Comply();
  const auto forget = [&] { return Call(DeleteTenant{.caller = "root", .name = "bob"}); };
  EXPECT_THAT(forget().error().message, HasSubstr("tenant bob has 1 claims that have not ended"));
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "c"}).ok());
  EXPECT_THAT(forget().error().message, HasSubstr("vGPUs that are not gone yet"));
  Do(ReportVGpu{kLink, {.uid = creates[0].uid, .state = ReportedState::kDeleted}});
  EXPECT_TRUE(forget().ok());
  EXPECT_EQ(CodeOf(forget()), Code::kNotFound);
  EXPECT_FALSE(core_->Get<Claim>("bob", "c"));
  for (const auto& [key, record] : store_) {
    EXPECT_TRUE(key.first == Kind::kNode || key.first == Kind::kGpu) << key.second;
  }
  StartCore();
}

TEST_F(TenantsTest, OfATenantsWaitingClaimsTheMostImportantIsFirst) {
  ASSERT_TRUE(CreateFor("bob", "old", {.memory_bytes = 8 * kGiB}).ok());
  now_.wall_us += 1;
  ASSERT_TRUE(CreateFor("bob", "urgent", {.memory_bytes = 8 * kGiB, .priority = 10}).ok());
  now_.wall_us += 1;
  ASSERT_TRUE(CreateFor("bob", "whenever", {.memory_bytes = 8 * kGiB, .priority = -10}).ok());
  const auto position = [&](const std::string& name) {
    return core_->Explain("bob", name, 1, now_)->waiting_position;
  };
  EXPECT_EQ(position("urgent"), 1u);
  EXPECT_EQ(position("old"), 2u);
  EXPECT_EQ(position("whenever"), 3u);
  Do(Registration());
  EXPECT_EQ(Of("bob", "urgent").status.branch, AllocationBranch::kCreateSlice);
  EXPECT_EQ(Of("bob", "old").status.branch, AllocationBranch::kWait);
  EXPECT_EQ(CreateFor("bob", "", {.priority = 1001}).error().message,
            "spec.priority: 1001 is not between -1000 and 1000");
}

TEST_F(TenantsTest, WhoHasLeastIsServedFirst) {
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "b1", {.memory_bytes = 6 * kGiB, .compute_percent = 1}).ok());
  for (int i = 0; i < 3; ++i) {
    now_.wall_us += 1;
    ASSERT_TRUE(
        CreateFor("bob", "waits" + std::to_string(i), {.memory_bytes = 3 * kGiB, .compute_percent = 1}).ok());
  }
  now_.wall_us += 1;
  ASSERT_TRUE(CreateFor("carol", "late", {.memory_bytes = 3 * kGiB, .compute_percent = 1}).ok());
  EXPECT_EQ(core_->Explain("carol", "late", 1, now_)->waiting_position, 1u);
  EXPECT_EQ(core_->Explain("bob", "waits2", 1, now_)->waiting_position, 4u);
  Do(Registration(LinkId{2}, "b", 4 * kGiB));
  EXPECT_EQ(Of("carol", "late").status.branch, AllocationBranch::kCreateSlice)
      << "although it is the youngest";
  EXPECT_EQ(Of("bob", "waits0").status.branch, AllocationBranch::kWait);
}

// Three tenants of weights 1, 2 and 3 always have claims waiting, which differ in what they ask most of; the
// shares that they get, over time, are in that ratio.
TEST_F(TenantsTest, SharesFollowWeights) {
  SeededRandom random(5);
  obey_ = true;
  for (std::uint64_t n = 0; n < 10; ++n) {
    Do(Registration(LinkId{100 + n}, "n" + std::to_string(n), 32 * kGiB));
  }
  const std::vector<std::pair<std::string, ClaimSpec>> tenants = {
      {"one", {.memory_bytes = 2 * kGiB, .compute_percent = 1}},  // memory, 1/16 of a GPU
      {"two", {.memory_bytes = kGiB / 2, .compute_percent = 5}},  // compute, 1/20
      {"three", {.memory_bytes = kGiB, .compute_percent = 4}}};   // compute, 1/25
  std::vector<std::pair<std::string, std::string>> running;
  std::map<std::string, double> share_seconds;
  std::map<std::string, int> claims;
  int samples = 0;
  const auto serve = [&] {
    for (std::size_t i = 0; i < tenants.size(); ++i) {
      while (TenantNamed(tenants[i].first).status.waiting_claims < 5) {
        const std::string name = "c" + std::to_string(++claims[tenants[i].first]);
        ASSERT_TRUE(CreateFor(tenants[i].first, name, tenants[i].second).ok());
        running.emplace_back(tenants[i].first, name);
      }
    }
  };
  for (std::uint32_t weight = 1; weight <= 3; ++weight) {
    ASSERT_TRUE(Set(tenants[weight - 1].first, {.weight = weight}).ok());
  }
  for (int step = 0; step < 4'000; ++step) {
    serve();
    // One that has a place ends, and its node confirms that.
    const std::size_t index = random.Below(running.size());
    const auto [tenant, name] = running[index];
    const Claim claim = Of(tenant, name);
    if (claim.status.vgpus.empty()) continue;
    running.erase(running.begin() + static_cast<std::ptrdiff_t>(index));
    ASSERT_TRUE(Call(DeleteClaim{.caller = tenant, .tenant = tenant, .name = name}).ok());
    if (step < 1'000) continue;  // until what came first has gone
    ++samples;
    for (const auto& [of, spec] : tenants) share_seconds[of] += TenantNamed(of).status.dominant_share;
  }
  // Compute runs out first: x + 2x + 3x of dominant shares take 0.16x + 2x + 3x of it.
  const double fair = 1 / (0.01 / (2.0 / 32) + 2 + 3);
  for (std::uint32_t weight = 1; weight <= 3; ++weight) {
    const double share = share_seconds[tenants[weight - 1].first] / samples;
    EXPECT_GE(share, 0.97 * fair * weight) << tenants[weight - 1].first;
    // What only the smallest claims can use of a GPU they get beside their share.
    EXPECT_LE(share, fair * weight + 0.03) << tenants[weight - 1].first;
  }
}

// A claim that has waited long gets the room that smaller ones would always take before it.
TEST_F(TenantsTest, ALargeClaimDoesNotStarve) {
  obey_ = true;
  Do(Registration(kLink, "a", 8 * kGiB));
  Do(Registration(LinkId{2}, "b", 8 * kGiB));
  const auto fill = [&](int n) {
    return std::get<Claim>(
        *CreateFor("bob", "small" + std::to_string(n), {.memory_bytes = 2 * kGiB, .compute_percent = 1}));
  };
  for (int i = 0; i < 8; ++i) fill(i);
  ASSERT_TRUE(CreateFor("bob", "large", {.memory_bytes = 8 * kGiB, .compute_percent = 1}).ok());
  // Every minute one small claim ends and another one comes.
  int next = 8;
  for (int i = 0; i < 40 && Of("bob", "large").status.vgpus.empty(); ++i) {
    fill(next++);
    Claim oldest;
    for (int n = 0; n < next; ++n) {
      oldest = Of("bob", "small" + std::to_string(n));
      if (!oldest.status.vgpus.empty()) break;
    }
    ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = oldest.metadata.name}).ok());
    AdvanceBeating(1min, {kLink, LinkId{2}});
    if (i == 3) {
      EXPECT_THAT(FindCondition(Of("bob", "large").status.conditions, "Placed")->message,
                  Not(HasSubstr("set aside")));
    }
  }
  EXPECT_FALSE(Of("bob", "large").status.vgpus.empty());
}

TEST_F(TenantsTest, WhatWasKeptForAClaimThatEndsIsForOthersAtOnce) {
  obey_ = true;
  Do(Registration(kLink, "a", 8 * kGiB));
  ASSERT_TRUE(CreateFor("bob", "small", {.memory_bytes = 2 * kGiB, .compute_percent = 1}).ok());
  ASSERT_TRUE(CreateFor("bob", "large", {.memory_bytes = 8 * kGiB, .compute_percent = 1}).ok());
  AdvanceBeating(options_.patience + 1s, {kLink});
  ASSERT_TRUE(CreateFor("bob", "waits", {.memory_bytes = 2 * kGiB, .compute_percent = 1}).ok());
  EXPECT_THAT(FindCondition(Of("bob", "waits").status.conditions, "Placed")->message,
              HasSubstr("1 GPU is set aside for claims whose turn it is"));
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "large"}).ok());
  EXPECT_EQ(Of("bob", "waits").status.phase, ClaimPhase::kBound);
}

TEST_F(TenantsTest, UsageIsCountedByTheHourAndSurvivesARestart) {
  now_.wall_us = 1'700'000'000'000'000 / 3'600'000'000 * 3'600'000'000;  // a full hour
  const WallMicros start = now_.wall_us;
  Do(Registration());
  EXPECT_EQ(UsageOf("bob"), Usage{});
  ASSERT_TRUE(CreateFor("bob", "c", {.memory_bytes = 2 * kGiB, .compute_percent = 50, .count = 2}).ok());
  Comply();
  AdvanceBeating(90min, {kLink});
  const auto expect = [&](const Usage& usage, double hours) {
    EXPECT_NEAR(usage.gpu_seconds, hours * 3600, 1e-3);
    EXPECT_NEAR(usage.memory_gib_seconds, hours * 4 * 3600, 1e-3);
    EXPECT_NEAR(usage.vgpu_seconds, hours * 2 * 3600, 1e-3);
  };
  expect(UsageOf("bob"), 1.5);
  expect(UsageOf("bob", start + 3'700'000'000), 0.5);  // the hour that this is in counts whole

  // The controller is killed, and comes again after ten minutes; the vGPUs were there all the time.
  MoveTo(now_.mono + 10min);
  StartCore();
  expect(UsageOf("bob"), 1.5 + 1.0 / 6);
  Do(Registration(LinkId{2}));
  Comply(LinkId{2});
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "c"}).ok());
  Advance(1h);
  expect(UsageOf("bob"), 1.5 + 1.0 / 6);
  StartCore();
  expect(UsageOf("bob"), 1.5 + 1.0 / 6);
  EXPECT_EQ(core_->UsageSince(std::nullopt, 0, now_).size(), 1u);
}

TEST_F(TenantsTest, UsageDoesNotFollowAClockThatJumps) {
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "c", {.memory_bytes = kGiB, .compute_percent = 100}).ok());
  Comply();
  AdvanceBeating(10min, {kLink});
  now_.wall_us += WallMicros{365} * 24 * 3600 * 1'000'000;
  AdvanceBeating(10min, {kLink});
  EXPECT_NEAR(UsageOf("bob").gpu_seconds, 1200, 1e-3);
  now_.wall_us -= WallMicros{2} * 365 * 24 * 3600 * 1'000'000;
  AdvanceBeating(10min, {kLink});
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "c"}).ok());
  EXPECT_NEAR(UsageOf("bob").gpu_seconds, 1800, 1e-3);
}

TEST_F(TenantsTest, OldUsageIsForgotten) {
  options_.usage_retention = 48h;
  StartCore();
  const auto hours = [&] {
    std::size_t count = 0;
    for (const auto& [key, record] : store_) count += key.first == Kind::kUsage;
    return count;
  };
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "c", {}).ok());
  Comply();
  for (int i = 0; i < 5; ++i) {
    AdvanceBeating(24h, {kLink});
    ASSERT_TRUE(CreateFor("bob", "d", {}).ok());
    ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "d"}).ok());
  }
  EXPECT_GE(hours(), 48u);
  EXPECT_LE(hours(), 50u);
}

TEST_F(TenantsTest, ATenantOfAnOlderStoreIsThereByItsClaims) {
  Do(Registration());
  ASSERT_TRUE(CreateFor("bob", "c", {}).ok());
  std::erase_if(store_, [](const auto& entry) {
    return entry.first.first == Kind::kTenant || entry.first.first == Kind::kUsage;
  });
  StartCore();
  EXPECT_EQ(TenantNamed("bob").status.vgpus, 1u);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "c"}).ok());
  StartCore();
  EXPECT_EQ(TenantNamed("bob").status.vgpus, 0u);
}

TEST_F(TenantsTest, ThereAreOnlySoManyTenants) {
  options_.max_tenants = 2;
  StartCore();
  ASSERT_TRUE(CreateFor("a", "c", {}).ok());
  ASSERT_TRUE(CreateFor("b", "c", {}).ok());
  EXPECT_EQ(
      CreateFor("c", "c", {}).error().message,
      "the mesh has 2 tenants, its limit; an administrator can forget some with `tulle delete tenant NAME`");
  EXPECT_EQ(CodeOf(Set("c", {})), Code::kResourceExhausted);
}

TEST_F(TenantsTest, SizesWhoseSumIsNoNumberAreRefused) {
  Do(Registration());
  ASSERT_TRUE(Set("bob", {.quota = {.memory_bytes = kGiB}}).ok());
  for (const Topology topology : {Topology::kUnspecified, Topology::kSameGpu}) {
    const auto reply = CreateFor(
        "bob", "",
        {.memory_bytes = std::uint64_t{1} << 63, .count = 2, .no_wait = true, .topology = topology});
    ASSERT_FALSE(reply.ok());
    EXPECT_EQ(reply.error().code, Code::kInvalidArgument);
    EXPECT_THAT(reply.error().message, HasSubstr("spec.memory_bytes: "));
  }
  EXPECT_FALSE(CreateFor("bob", "", {.memory_bytes = kMaxMemoryBytes, .count = 64, .no_wait = true}).ok());
}

}  // namespace
}  // namespace tulle::control
