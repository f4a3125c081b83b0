// Tenants, their usage and the audit log, as clients see them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tulle/control/serve/test_stack.h"
#include "tulle/v1/mesh.grpc.pb.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;

class TenantServiceTest : public ServeTest {
 protected:
  void Set(const std::string& name, TenantSpec spec) {
    const auto set = ClientOf("alice")->UpdateTenant({.metadata = {.name = name}, .spec = std::move(spec)});
    ASSERT_TRUE(set.ok()) << set.error().message;
  }
};

TEST_F(TenantServiceTest, WhoMaySeeWhat) {
  FakeNode node = NodeNamed();
  node.Connect();
  Set("vera", {.role = TenantRole::kViewer});
  for (const std::string name : {"bob", "carol"}) {
    ASSERT_TRUE(ClientOf(name)->CreateClaim({.name = "of-" + name}).ok());
    WaitClaim(*ClientOf(name), "of-" + name, ClaimPhase::kBound);
  }
  const auto names = [](const auto& list) {
    std::vector<std::string> names;
    if (!list.ok()) return std::vector<std::string>{CodeName(list.error().code)};
    for (const auto& resource : *list) names.push_back(resource.metadata.name);
    return names;
  };
  using Names = std::vector<std::string>;
  const auto bob = ClientOf("bob");
  EXPECT_EQ(names(bob->ListClaims()), Names{"of-bob"});
  EXPECT_EQ(names(bob->ListClaims({.tenant = "bob"})), Names{"of-bob"});
  EXPECT_EQ(names(bob->ListClaims({.tenant = "carol"})), Names{"permission denied"});
  EXPECT_EQ(names(bob->ListClaims({.tenant = "-"})), Names{"permission denied"});
  EXPECT_EQ(names(bob->ListTenants()), Names{"bob"});
  EXPECT_EQ(bob->GetTenant("carol").error().code, Code::kPermissionDenied);
  EXPECT_EQ(bob->GetClaim("of-carol", {.tenant = "carol"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(bob->ExplainClaim("of-carol", 0, {.tenant = "carol"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(bob->DeleteClaim("of-carol", {.tenant = "carol"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(bob->GetUsage(0, {.tenant = "-"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(bob->ListAudit(0, "", 0).error().code, Code::kPermissionDenied);
  const auto denied = bob->WatchChanges({sdk::Kind::kClaim}, 0, false, "-")->Next();
  EXPECT_EQ(denied.error().code, Code::kPermissionDenied);

  const auto vera = ClientOf("vera");
  EXPECT_EQ(names(vera->ListClaims({.tenant = "-"})), (Names{"of-bob", "of-carol"}));
  EXPECT_EQ(names(vera->ListVGpus({.tenant = "carol"})), Names{"of-carol-0"});
  EXPECT_EQ(names(vera->ListTenants()), (Names{"bob", "carol", "vera"}));
  EXPECT_EQ(vera->GetClaim("of-carol", {.tenant = "carol"})->metadata.tenant, "carol");
  EXPECT_EQ(vera->GetVGpu("of-carol-0", {.tenant = "carol"})->spec.claim, "of-carol");
  EXPECT_EQ(vera->DeleteClaim("of-carol", {.tenant = "carol"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(vera->CreateClaim({.name = "c"}).error().message.substr(0, 37),
            "tenant vera, VIEWER, may not use vGPU");
  std::set<std::string> watched;
  const auto watch = vera->WatchChanges({sdk::Kind::kClaim, sdk::Kind::kTenant}, 0, false, "-");
  for (;;) {
    const auto event = watch->Next();
    ASSERT_TRUE(event.ok()) << event.error().message;
    if (event->type == sdk::EventType::kSynced) break;
    if (const auto* claim = std::get_if<Claim>(&event->resource)) watched.insert(claim->metadata.name);
    if (const auto* tenant = std::get_if<Tenant>(&event->resource)) watched.insert(tenant->metadata.name);
  }
  EXPECT_EQ(watched, (std::set<std::string>{"of-bob", "of-carol", "bob", "carol", "vera"}));

  // Pages of all tenants' come in order, each claim once.
  const auto stub = v1::Mesh::NewStub(*OpenChannel(CredentialsOf(security::Role::kUser, "vera")));
  v1::ListClaimsRequest request;
  request.set_page_size(1);
  request.set_tenant("-");
  Names paged;
  do {
    grpc::ClientContext context;
    v1::ListClaimsResponse response;
    ASSERT_TRUE(stub->ListClaims(&context, request, &response).ok());
    for (const auto& claim : response.claims()) paged.push_back(claim.metadata().name());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && paged.size() < 10);
  EXPECT_EQ(paged, (Names{"of-bob", "of-carol"}));

  EXPECT_TRUE(ClientOf("alice")->DeleteClaim("of-carol", {.tenant = "carol"}).ok());
  const Claim ended = *ClientOf("carol")->GetClaim("of-carol");
  EXPECT_EQ(FindCondition(ended.status.conditions, "Ready")->message, "deleted by alice");
}

TEST_F(TenantServiceTest, QuotaAndUsageSurviveARestart) {
  FakeNode node = NodeNamed();
  node.Connect();
  Set("bob", {.quota = {.memory_bytes = 2 * kGiB, .claims = 5}, .weight = 7});
  ASSERT_TRUE(ClientOf("bob")->CreateClaim({.name = "c", .spec = {.memory_bytes = kGiB}}).ok());
  WaitClaim(*ClientOf("bob"), "c", ClaimPhase::kBound);
  EXPECT_EQ(ClientOf("bob")->GetTenant("bob")->status.memory_bytes, kGiB);
  StopStack();
  StartStack();
  const Tenant bob = *ClientOf("bob")->GetTenant("bob");
  EXPECT_EQ(bob.spec.quota.memory_bytes, 2 * kGiB);
  EXPECT_EQ(bob.spec.quota.claims, 5u);
  EXPECT_EQ(bob.spec.weight, 7u);
  EXPECT_EQ(bob.status.memory_bytes, kGiB);
  const auto usage = ClientOf("alice")->GetUsage(0, {.tenant = "-"});
  ASSERT_TRUE(usage.ok()) << usage.error().message;
  ASSERT_EQ(usage->size(), 1u);
  EXPECT_EQ(usage->at(0).tenant, "bob");
  EXPECT_GT(usage->at(0).usage.vgpu_seconds, 0);
  EXPECT_NEAR(usage->at(0).usage.gpu_seconds, usage->at(0).usage.vgpu_seconds / 4, 1e-6) << "25% of a GPU";
}

TEST_F(TenantServiceTest, EachCallThatChangesSomethingIsAudited) {
  ASSERT_TRUE(ClientOf("bob")->CreateClaim({.name = "c", .spec = {.memory_bytes = kGiB}}).ok());
  ASSERT_FALSE(ClientOf("bob")->CordonNode("a", true).ok());
  ASSERT_TRUE(ClientOf("bob")->GetClaim("c").ok());
  ASSERT_TRUE(ClientOf("alice")->CreateToken(JoinRole::kUser, "dora", std::chrono::hours(1)).ok());
  // A node's certificate does not open this service.
  const auto stub = v1::Mesh::NewStub(*OpenChannel(CredentialsOf(security::Role::kNode, "a")));
  grpc::ClientContext context;
  v1::Claim answer;
  EXPECT_FALSE(stub->CreateClaim(&context, v1::CreateClaimRequest(), &answer).ok());
  ASSERT_TRUE(ClientOf("bob")->DeleteClaim("c").ok());
  for (int i = 0; i < 2; ++i) {
    const auto entries = ClientOf("alice")->ListAudit(0, "", 0);
    ASSERT_TRUE(entries.ok()) << entries.error().message;
    std::vector<std::string> texts;
    for (const AuditEntry& entry : *entries) {
      texts.push_back(entry.caller + " " + entry.method + " " + entry.code);
      EXPECT_GT(entry.time_us, 0);
      EXPECT_NE(entry.address, "");
    }
    EXPECT_EQ(texts, (std::vector<std::string>{
                         "tulle://user/bob CreateClaim ok", "tulle://user/bob CordonNode permission denied",
                         "tulle://user/alice CreateToken ok", "tulle://node/a CreateClaim permission denied",
                         "tulle://user/bob DeleteClaim ok"}));
    if (entries->size() == 5) {
      EXPECT_THAT(entries->at(0).request, HasSubstr("\"memoryBytes\":\"1073741824\""));
      EXPECT_THAT(entries->at(1).message, HasSubstr("tenant bob, MEMBER"));
    }
    StopStack();
    StartStack();
  }
  const auto of_bob = ClientOf("alice")->ListAudit(0, "tulle://user/bob", 2);
  ASSERT_EQ(of_bob->size(), 2u);
  EXPECT_EQ(of_bob->at(1).method, "DeleteClaim");
  EXPECT_TRUE(ClientOf("alice")->ListAudit(clock_.WallMicros() + 3'600'000'000, "", 0)->empty());
}

TEST_F(TenantServiceTest, TheAuditLogIsBoundedInMemoryAndInTheStore) {
  StopStack();
  options_.audit_entries = 3;
  StartStack();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(ClientOf("bob")->CreateClaim({.name = "c" + std::to_string(i)}).ok());
  }
  EXPECT_EQ(ClientOf("alice")->ListAudit(0, "", 0)->size(), 3u);
  StopStack();
  StartStack();
  const auto entries = ClientOf("alice")->ListAudit(0, "", 0);
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_THAT(entries->at(0).request, HasSubstr("c2"));
  ASSERT_TRUE(ClientOf("bob")->CreateClaim({.name = "last"}).ok());
  EXPECT_THAT(ClientOf("alice")->ListAudit(0, "", 0)->at(2).request, HasSubstr("last"));
}

TEST_F(TenantServiceTest, EventsAreBoundedAndSeenByThoseWhoMay) {
  StopStack();
  options_.event_history = 4;
  StartStack();
  Set("vera", {.role = TenantRole::kViewer});
  for (const std::string name : {"bob", "carol"}) {
    ASSERT_TRUE(ClientOf(name)->CreateClaim({.name = "of-" + name}).ok());
  }
  const auto told = [&](const std::string& who, std::optional<sdk::Kind> kind,
                        const std::string& tenant = "") {
    std::vector<std::string> texts;
    const auto events = ClientOf(who)->ListEvents(kind, "", 0, {.tenant = tenant});
    if (!events.ok()) return std::vector<std::string>{CodeName(events.error().code)};
    for (const ResourceEvent& event : *events) texts.push_back(event.name + " " + event.reason);
    return texts;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(told("bob", std::nullopt), (Texts{"bob MEMBER", "of-bob NoNodes"}));
  EXPECT_EQ(told("bob", sdk::Kind::kClaim), Texts{"of-bob NoNodes"});
  EXPECT_EQ(told("bob", sdk::Kind::kClaim, "-"), Texts{"permission denied"});
  EXPECT_EQ(told("vera", sdk::Kind::kClaim, "-"), (Texts{"of-bob NoNodes", "of-carol NoNodes"}));
  EXPECT_EQ(told("vera", std::nullopt, "-"),
            (Texts{"bob MEMBER", "of-bob NoNodes", "carol MEMBER", "of-carol NoNodes"}))
      << "four are kept";
  // What is there already is no event for the next controller.
  StopStack();
  StartStack();
  EXPECT_EQ(told("vera", std::nullopt, "-"), Texts());
  ASSERT_TRUE(ClientOf("bob")->DeleteClaim("of-bob").ok());
  EXPECT_EQ(told("bob", std::nullopt), Texts{"of-bob RELEASED"});
}

}  // namespace
}  // namespace tulle::control
