// Claims that ask for virtual machines.
#include <gtest/gtest.h>

#include <string>

#include "tulle/control/core/test_core.h"

namespace tulle::control {
namespace {

class IsolationTest : public CoreTest {
 protected:
  RegisterNode WithMachines(LinkId link, const std::string& name) {
    RegisterNode node = Registration(link, name);
    for (InventoryGpu& gpu : node.gpus) gpu.description.isolations = {Isolation::kProcess, Isolation::kVm};
    return node;
  }
  std::string WhyOf(const std::string& claim) {
    const Claim found = Get(claim);
    const Condition* placed = FindCondition(found.status.conditions, "Placed");
    return placed == nullptr ? "" : placed->message;
  }
  static constexpr LinkId kOther{2};
};

TEST_F(IsolationTest, AClaimWaitsForAGpuThatOffersIt) {
  Do(Registration());
  EXPECT_EQ(Create("any").spec.isolation, Isolation::kProcess);
  EXPECT_EQ(Commands<CreateVGpu>().at(0).isolation, Isolation::kProcess);
  Create("vm", {.isolation = Isolation::kVm});
  EXPECT_TRUE(Commands<CreateVGpu>().empty());
  EXPECT_NE(
      WhyOf("vm").find("in a virtual machine; no GPU of the mesh matches (node a offers no virtual machines"),
      std::string::npos)
      << WhyOf("vm");
  Do(WithMachines(kOther, "b"));
  ASSERT_EQ(Commands<CreateVGpu>().size(), 1u);
  EXPECT_EQ(Commands<CreateVGpu>()[0].isolation, Isolation::kVm);
  Comply(kOther);
  EXPECT_EQ(Get("vm").status.phase, ClaimPhase::kBound);
}

TEST_F(IsolationTest, ANodeThatOffersItNoMoreIsNotToldToMakeItAnew) {
  Do(WithMachines(kLink, "a"));
  Create("vm", {.isolation = Isolation::kVm});
  Comply();
  ASSERT_EQ(Get("vm").status.phase, ClaimPhase::kBound);
  Do(LinkClosed{kLink});
  Do(Registration(kOther));  // the node has restarted, with another program
  EXPECT_TRUE(Commands<CreateVGpu>().empty());
  const std::optional<VGpu> left = core_->Get<VGpu>("alice", "vm-0");
  EXPECT_TRUE(!left.has_value() || left->status.phase == VGpuPhase::kDeleting)
      << static_cast<int>(left->status.phase);
  EXPECT_NE(Get("vm").status.phase, ClaimPhase::kBound);
}

TEST_F(IsolationTest, ARestartedNodeThatOffersItMakesItAnew) {
  Do(WithMachines(kLink, "a"));
  Create("vm", {.isolation = Isolation::kVm});
  Comply();
  Do(LinkClosed{kLink});
  Do(WithMachines(kOther, "a"));
  ASSERT_EQ(Commands<CreateVGpu>().size(), 1u);
  EXPECT_EQ(Commands<CreateVGpu>()[0].isolation, Isolation::kVm);
}

TEST_F(IsolationTest, WhatNobodyKnowsIsRefused) {
  Do(WithMachines(kLink, "a"));
  const auto refused =
      Call(CreateClaim{.tenant = "alice", .name = "odd", .spec = {.isolation = static_cast<Isolation>(7)}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message, "spec.isolation: 7 is not an isolation that this controller knows");
}

}  // namespace
}  // namespace tulle::control
