#include "tulle/control/core/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tulle/control/core/test_core.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;

TEST_F(CoreTest, AClaimGoesFromPendingToBoundToReleased) {
  Do(Registration());
  const Claim created = Create("c", {.memory_bytes = kGiB});
  EXPECT_EQ(created.status.phase, ClaimPhase::kPending);
  EXPECT_EQ(created.status.vgpus, std::vector<std::string>{"c-0"});
  const auto creates = Commands<CreateVGpu>();
  ASSERT_EQ(creates.size(), 1u);
  EXPECT_EQ(creates[0].memory_bytes, kGiB);
  EXPECT_EQ(creates[0].tenant, "alice");

  Comply();
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound);
  const auto attached = Call(AttachClaim{.tenant = "alice", .name = "c"});
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  const auto& vgpus = std::get<std::vector<AttachedVGpu>>(*attached);
  ASSERT_EQ(vgpus.size(), 1u);
  EXPECT_EQ(vgpus[0].vgpu_uid, creates[0].uid);
  EXPECT_EQ(vgpus[0].endpoints, (std::vector<std::string>{"local:a", "a:7"}));
  EXPECT_EQ(vgpus[0].grant_id, creates[0].grants[0].id);
  EXPECT_EQ(vgpus[0].grant_key, creates[0].grants[0].key);

  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "c"}).ok());
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kReleased);
  ASSERT_EQ(Commands<DeleteVGpu>().size(), 1u);
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes, kGiB)
      << "free only once the node has confirmed";
  Do(ReportVGpu{kLink, {.uid = creates[0].uid, .state = ReportedState::kDeleted}});
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocated_memory_bytes, 0u);
  EXPECT_FALSE(core_->Get<VGpu>("alice", "c-0"));
  Advance(options_.claim_retention);
  EXPECT_FALSE(core_->Get<Claim>("alice", "c"));
  EXPECT_EQ(Kept(), 2u) << "the node and its GPU";
}

TEST_F(CoreTest, AWaitingClaimSaysWhyAndGetsWhatBecomesFree) {
  Do(Registration());
  Create("first", {.memory_bytes = 5 * kGiB});
  Comply();
  Create("second", {.memory_bytes = 4 * kGiB});
  EXPECT_THAT(FindCondition(Get("second").status.conditions, "Placed")->message,
              HasSubstr("asked for 4GiB and 25% of compute; the largest free slice is 3GiB on node a"));
  EXPECT_THAT(Call(AttachClaim{.tenant = "alice", .name = "second"}).error().message,
              HasSubstr("claim second is PENDING, not BOUND: asked for 4GiB"));
  const auto refused = Call(
      CreateClaim{.tenant = "alice", .name = "third", .spec = {.memory_bytes = 4 * kGiB, .no_wait = true}});
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_FALSE(core_->Get<Claim>("alice", "third"));

  const std::string uid = core_->Get<VGpu>("alice", "first-0")->metadata.uid;
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "first"}).ok());
  EXPECT_EQ(Get("second").status.vgpus.size(), 0u);
  Do(ReportVGpu{kLink, {.uid = uid, .state = ReportedState::kDeleted}});
  Comply();
  EXPECT_EQ(Get("second").status.phase, ClaimPhase::kBound);
}

TEST_F(CoreTest, AnUnheldClaimIsReleasedAfterTheGrace) {
  Do(Registration());
  Create("c", {.release_when_unheld = true});
  Comply();
  Advance(options_.hold_grace - 1s);
  Do(OpenHold{.hold = HoldId{1},
              .tenant = "alice",
              .claim = "c",
              .instance = "laptop",
              .program = "render",
              .address = "10.0.0.1"});
  EXPECT_EQ(held_.at(HoldId{1}).status.holders, 1u);
  EXPECT_EQ(core_->Get<Instance>("alice", "laptop")->status.claims, std::vector<std::string>{"c"});
  AdvanceBeating(options_.hold_grace * 2, {kLink});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound);
  Do(CloseHold{HoldId{1}});
  Advance(options_.hold_grace - 1s);
  Do(OpenHold{.hold = HoldId{2}, .tenant = "alice", .claim = "c"});
  Advance(options_.hold_grace * 2);
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound) << "taken up again within the grace";
  Do(CloseHold{HoldId{2}});
  Advance(options_.hold_grace);
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kReleased);
  EXPECT_EQ(FindCondition(Get("c").status.conditions, "Ready")->reason, "Unheld");
  Advance(options_.instance_retention);
  EXPECT_FALSE(core_->Get<Instance>("alice", "laptop"));
}

TEST_F(CoreTest, AHoldEndsWithItsClaim) {
  Do(Registration());
  Create("c");
  Do(OpenHold{.hold = HoldId{1}, .tenant = "alice", .claim = "c"});
  Do(OpenHold{.hold = HoldId{2}, .tenant = "bob", .claim = "c"});
  EXPECT_EQ(ended_.at(HoldId{2}).error().code, Code::kNotFound) << "another tenant's";
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "c"}).ok());
  EXPECT_TRUE(ended_.at(HoldId{1}).ok());
  EXPECT_EQ(held_.at(HoldId{1}).status.phase, ClaimPhase::kReleased);
}

TEST_F(CoreTest, ARestartInterruptsNothingAndReleasesNothing) {
  Do(Registration());
  Create("c", {.release_when_unheld = true});
  const CreateVGpu create = Commands<CreateVGpu>().at(0);
  Comply();
  Do(OpenHold{.hold = HoldId{1}, .tenant = "alice", .claim = "c"});
  AdvanceBeating(100s, {kLink});
  const std::uint64_t version = core_->resource_version();

  StartCore();
  EXPECT_GT(core_->resource_version(), version);
  EXPECT_EQ(core_->Get<Node>("", "a")->status.state, NodeState::kNotReady);
  Advance(options_.hold_grace - 1s);
  RegisterNode registration = Registration(LinkId{2});
  registration.vgpus = {ReadyReport(create)};
  registration.vgpus[0].sessions = 3;
  Do(registration);
  EXPECT_EQ(Commands<CreateVGpu>().size() + Commands<DeleteVGpu>().size() + Commands<AddGrant>().size(), 0u);
  Do(OpenHold{.hold = HoldId{2}, .tenant = "alice", .claim = "c"});
  AdvanceBeating(options_.hold_grace * 3, {LinkId{2}});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->status.sessions, 3u);
  const auto attached = Call(AttachClaim{.tenant = "alice", .name = "c"});
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  EXPECT_EQ(std::get<std::vector<AttachedVGpu>>(*attached)[0].grant_id, create.grants[0].id)
      << "the grant of before";
}

TEST_F(CoreTest, ARegisteringNodeGetsTheDifference) {
  Do(Registration());
  for (const char* name : {"kept", "missing", "released"}) {
    Create(name);
    Comply();
  }
  const auto uid = [this](const char* name) { return core_->Get<VGpu>("alice", name)->metadata.uid; };
  const std::string kept = uid("kept-0"), missing = uid("missing-0"), released = uid("released-0");
  Do(LinkClosed{kLink});
  EXPECT_EQ(core_->Get<Node>("", "a")->status.state, NodeState::kNotReady);
  EXPECT_FALSE(core_->Get<Gpu>("", "a-0")->status.schedulable);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "released"}).ok());
  ASSERT_TRUE(Call(DetachClaim{.tenant = "alice", .name = "kept"}).ok());

  RegisterNode registration = Registration(LinkId{2});
  registration.vgpus = {{.uid = kept, .state = ReportedState::kReady, .grant_ids = {"old"}},
                        {.uid = released, .state = ReportedState::kReady},
                        {.uid = "orphan", .state = ReportedState::kReady}};
  Do(registration);
  ASSERT_EQ(Commands<CreateVGpu>().size(), 1u);
  EXPECT_EQ(Commands<CreateVGpu>()[0].uid, missing);
  std::vector<std::string> deleted;
  for (const DeleteVGpu& command : Commands<DeleteVGpu>()) deleted.push_back(command.uid);
  EXPECT_THAT(deleted, ::testing::UnorderedElementsAre(released, "orphan"));
  ASSERT_EQ(Commands<RevokeGrant>().size(), 1u);
  EXPECT_EQ(Commands<RevokeGrant>()[0].grant_id, "old");
  EXPECT_EQ(Get("missing").status.phase, ClaimPhase::kBound) << "a restarted node makes it anew";
  EXPECT_FALSE(FindCondition(Get("missing").status.conditions, "Ready")->status);
  Comply(LinkId{2});
  EXPECT_TRUE(FindCondition(Get("missing").status.conditions, "Ready")->status);
}

TEST_F(CoreTest, ASilentOrLostNode) {
  Do(Registration());
  Create("c");
  Comply();
  Advance(options_.heartbeat_timeout);
  EXPECT_EQ(closed_.at(kLink).error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(core_->Get<Node>("", "a")->status.state, NodeState::kNotReady);
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound);
  Advance(options_.node_lost_after);
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kFailed);
  EXPECT_THAT(FindCondition(Get("c").status.conditions, "Ready")->message,
              HasSubstr("NodeLost: node a has been out of touch for 300 s"));
  Advance(options_.node_forget_after);
  EXPECT_FALSE(core_->Get<Node>("", "a"));
  EXPECT_EQ(Kept(), 0u);
}

TEST_F(CoreTest, ANodeThatLeavesTakesItsVGpusWithIt) {
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  Create("bound", {.node_selector = {{"tulle/node", "a"}}});
  Comply();
  Create("starting", {.memory_bytes = 6 * kGiB, .count = 2});
  Do(NodeLeaving{kLink, "SIGTERM"});
  EXPECT_TRUE(closed_.at(kLink).ok());
  EXPECT_EQ(core_->Get<Node>("", "a")->status.state, NodeState::kLeft);
  EXPECT_FALSE(core_->Get<Gpu>("", "a-0"));
  EXPECT_EQ(Get("bound").status.phase, ClaimPhase::kFailed);
  EXPECT_EQ(Get("starting").status.phase, ClaimPhase::kPending);
  EXPECT_TRUE(Get("starting").status.vgpus.empty()) << "all or none";
}

TEST_F(CoreTest, AFailedStartIsTriedElsewhereAndGivenUpInTheEnd) {
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  Create("c");
  std::vector<std::string> tried;
  while (tried.size() < 100 && Get("c").status.phase == ClaimPhase::kPending) {
    if (!Get("c").status.vgpus.empty()) {
      const VGpu vgpu = *core_->Get<VGpu>("alice", Get("c").status.vgpus[0]);
      tried.push_back(vgpu.status.node);
      const LinkId link = vgpu.status.node == "a" ? kLink : LinkId{2};
      Do(ReportVGpu{link,
                    {.uid = vgpu.metadata.uid, .state = ReportedState::kFailed, .message = "no device"}});
      Do(ReportVGpu{link, {.uid = vgpu.metadata.uid, .state = ReportedState::kDeleted}});
    }
    AdvanceBeating(1s, {kLink, LinkId{2}});
  }
  ASSERT_EQ(tried.size(), options_.start_attempts);
  EXPECT_NE(tried[0], tried[1]);
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kFailed);
  EXPECT_THAT(FindCondition(Get("c").status.conditions, "Ready")->message,
              HasSubstr("no device (try 5, no more are made)"));
}

TEST_F(CoreTest, AVGpuThatFailsEndsItsClaim) {
  Do(Registration());
  Create("c", {.count = 2});
  Comply();
  const std::string uid = core_->Get<VGpu>("alice", "c-1")->metadata.uid;
  Do(ReportVGpu{kLink, {.uid = uid, .state = ReportedState::kFailed, .message = "worker died 5 times"}});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kFailed);
  EXPECT_EQ(FindCondition(Get("c").status.conditions, "Ready")->message,
            "vGPU c-1 on node a: worker died 5 times");
  EXPECT_EQ(Commands<DeleteVGpu>().size(), 2u);
}

TEST_F(CoreTest, AttachWaitsForTheNodeToKnowTheGrant) {
  Do(Registration());
  Create("c");
  Comply();
  const std::string uid = core_->Get<VGpu>("alice", "c-0")->metadata.uid;
  ASSERT_TRUE(Call(DetachClaim{.tenant = "alice", .name = "c"}).ok());
  ASSERT_EQ(Commands<RevokeGrant>().size(), 1u);
  EXPECT_EQ(Call(AttachClaim{.tenant = "alice", .name = "c"}).error().message, "no reply");
  const auto added = Commands<AddGrant>();
  ASSERT_EQ(added.size(), 1u);
  Do(ReportVGpu{kLink, {.uid = uid, .state = ReportedState::kReady, .grant_ids = {added[0].grant.id}}});
  ASSERT_TRUE(replies_.contains(CallId{calls_}));
  ASSERT_TRUE(replies_.at(CallId{calls_}).ok());

  ASSERT_TRUE(Call(DetachClaim{.tenant = "alice", .name = "c"}).ok());
  EXPECT_EQ(Call(AttachClaim{.tenant = "alice", .name = "c"}).error().message, "no reply");
  Advance(options_.attach_wait);
  EXPECT_EQ(replies_.at(CallId{calls_}).error().message,
            "claim c: vGPU c-0 on node a has not confirmed its grant; try again");
}

TEST_F(CoreTest, RequestIdsMakeCreationIdempotent) {
  const CreateClaim create{.tenant = "alice", .spec = {.count = 2}, .request_id = "r1"};
  const auto first = Call(create), again = Call(create);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(std::get<Claim>(*first).metadata.uid, std::get<Claim>(*again).metadata.uid);
  StartCore();
  EXPECT_EQ(std::get<Claim>(*Call(create)).metadata.uid, std::get<Claim>(*first).metadata.uid)
      << "also after a restart";
  CreateClaim other = create;
  other.spec.count = 3;
  EXPECT_EQ(Call(other).error().code, Code::kInvalidArgument);
  other.tenant = "bob";
  EXPECT_TRUE(Call(other).ok());
}

TEST_F(CoreTest, OnlyLiveClaimsCountAgainstTheTenantsLimit) {
  options_.max_claims_per_tenant = 3;
  StartCore();
  for (const char* name : {"a", "b", "c"}) Create(name);
  const auto refused = Call(CreateClaim{.tenant = "alice", .name = "d"});
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(
      refused.error().message,
      "you have 3 claims that have not ended, at most 3 are allowed; release some with `tulle delete claim "
      "NAME`, or raise the controller's --max-claims-per-tenant");
  EXPECT_TRUE(Call(CreateClaim{.tenant = "bob", .name = "d"}).ok()) << "another tenant's claims do not count";
  StartCore();
  EXPECT_FALSE(Call(CreateClaim{.tenant = "alice", .name = "d"}).ok()) << "also after a restart";

  for (const char* name : {"b", "a"}) {
    ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = name}).ok());
    Advance(1s);
  }
  const auto no_room = Call(CreateClaim{.tenant = "alice", .name = "d", .spec = {.no_wait = true}});
  EXPECT_EQ(no_room.error().code, Code::kResourceExhausted);
  EXPECT_EQ(Get("b").status.phase, ClaimPhase::kReleased) << "a claim that is not made needs no room";
  Create("d");
  EXPECT_FALSE(core_->Get<Claim>("alice", "b")) << "what ended first makes room";
  EXPECT_EQ(Get("a").status.phase, ClaimPhase::kReleased);
  Create("a");  // in place of the one that has ended
  EXPECT_FALSE(Call(CreateClaim{.tenant = "alice", .name = "e"}).ok());
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kPending);
  EXPECT_EQ(Kept(), 4u) << "three of alice, one of bob";

  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "c"}).ok());
  Advance(options_.claim_retention);
  Create("e");
  EXPECT_FALSE(Call(CreateClaim{.tenant = "alice", .name = "f"}).ok()) << "counted down once, not twice";
}

TEST_F(CoreTest, EndedClaimsOfAllTenantsMakeRoomInAFullMesh) {
  options_.max_claims = 3;
  StartCore();
  Create("a");
  for (const char* name : {"b", "c"})
    ASSERT_TRUE(Call(CreateClaim{.tenant = "bob", .name = name, .request_id = name}).ok());
  EXPECT_THAT(Call(CreateClaim{.tenant = "carol"}).error().message,
              HasSubstr("the mesh has 3 claims that have not ended, at most 3 are allowed"));
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "b"}).ok());
  EXPECT_TRUE(Call(CreateClaim{.tenant = "carol"}).ok());
  EXPECT_FALSE(core_->Get<Claim>("bob", "b"));
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "a"}).ok());
  EXPECT_TRUE(Call(CreateClaim{.tenant = "bob", .name = "b2", .request_id = "b"}).ok())
      << "a request id goes with its claim";
}

TEST_F(CoreTest, NamesAreUniqueAmongTheLiving) {
  Do(Registration());
  const Claim first = Create("c");
  EXPECT_EQ(Call(CreateClaim{.tenant = "alice", .name = "c"}).error().code, Code::kAlreadyExists);
  EXPECT_TRUE(Call(CreateClaim{.tenant = "bob", .name = "c"}).ok()) << "tenants do not see each other";
  EXPECT_EQ(Call(DeleteClaim{.caller = "carol", .tenant = "carol", .name = "c"}).error().code,
            Code::kNotFound);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "c"}).ok());
  const Claim second = Create("c");
  EXPECT_NE(first.metadata.uid, second.metadata.uid);
  EXPECT_EQ(second.status.vgpus, std::vector<std::string>{"c-0-2"}) << "the first c-0 is still going";
  EXPECT_EQ(core_->Get<Claim>("alice", second.metadata.uid)->metadata.name, "c") << "uids find too";
  EXPECT_FALSE(core_->Get<Claim>("bob", second.metadata.uid));
}

TEST_F(CoreTest, SessionsAreThoseThatNodesReport) {
  Do(Registration());
  Create("c", {.count = 2});
  const std::string uid = core_->Get<VGpu>("alice", "c-0")->metadata.uid;
  const std::string other = core_->Get<VGpu>("alice", "c-1")->metadata.uid;
  const std::string one(32, '1'), two = "11111111" + std::string(24, '2');
  const auto report = [&](const std::string& vgpu, std::vector<SessionReport> attached,
                          ReportedState state = ReportedState::kReady) {
    Do(ReportVGpu{kLink, {.uid = vgpu, .state = state, .attached = std::move(attached)}});
  };
  const auto names = [&] {
    std::vector<std::string> names;
    for (const Session& session : core_->List<Session>("alice", "", 100).resources)
      names.push_back(session.metadata.name);
    return names;
  };
  using Names = std::vector<std::string>;
  report(uid, {{one, "render", 7, "tls"}});
  const auto session = core_->Get<Session>("alice", "11111111");
  ASSERT_TRUE(session);
  EXPECT_EQ(session->metadata.uid, one);
  EXPECT_EQ(session->spec.vgpu, "c-0");
  EXPECT_EQ(session->spec.claim, "c");
  EXPECT_EQ(session->status.node, "a");
  EXPECT_EQ(session->status.program, "render");
  EXPECT_EQ(session->status.process_id, 7u);
  // Names are unique; what is no id, or another vGPU's, is passed over.
  report(uid, {{one, "render", 7, "tls"}, {two, std::string(1000, 'x'), 8, "tls"}, {"x", "", 0, ""}});
  EXPECT_EQ(names(), (Names{"11111111", two}));
  EXPECT_EQ(core_->Get<Session>("alice", two)->status.program.size(), kMaxProgramBytes);
  report(other, {{one, "thief", 9, "tls"}});
  EXPECT_EQ(core_->Get<Session>("alice", one)->status.program, "render");
  report(uid, {{two, "y", 8, "tls"}});
  EXPECT_EQ(names(), (Names{two}));
  for (const auto& [key, record] : store_) EXPECT_NE(key.first, Kind::kSession) << "not kept";
  // A worker that is started again has none.
  report(uid, {}, ReportedState::kCreating);
  EXPECT_EQ(names(), Names());
  report(uid, {{two, "y", 8, "tls"}});
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "c"}).ok());
  EXPECT_EQ(names(), Names());
}

TEST_F(CoreTest, ElasticVGpusMakeRoomAndGrowAgain) {
  obey_ = true;
  Do(Registration());
  const auto share = [&](const std::string& vgpu) {
    const auto found = core_->Get<VGpu>("alice", vgpu);
    return found ? found->spec.compute_percent : 0;
  };
  const auto resized = [&] {
    std::map<std::string, std::uint32_t> last;
    for (const ResizeVGpu& command : Commands<ResizeVGpu>()) last[command.uid] = command.compute_percent;
    return last;
  };
  for (const auto& [spec, why] : std::initializer_list<std::pair<ClaimSpec, const char*>>{
           {{.compute_percent = 40, .min_compute_percent = 50},
            "spec.min_compute_percent: 50 is more than spec.compute_percent, 40"},
           {{.min_compute_percent = 26},
            "spec.min_compute_percent: 26 is more than spec.compute_percent, 25"},
           {{.performance_level = PerformanceLevel::kBestEffort, .min_compute_percent = 10},
            "spec.min_compute_percent: is for BURST and GUARANTEED vGPUs, not for BEST_EFFORT"}}) {
    EXPECT_EQ(Call(CreateClaim{.tenant = "alice", .name = "x", .spec = spec}).error().message, why);
  }

  const std::string uid = Create("elastic", {.compute_percent = 100, .min_compute_percent = 20}).metadata.uid;
  EXPECT_EQ(share("elastic-0"), 100u);
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocated_compute_percent, 100u);
  const std::string vgpu = core_->Get<VGpu>("alice", "elastic-0")->metadata.uid;

  // One that is not elastic finds room where this one has more than its least.
  Create("rigid", {.compute_percent = 50});
  EXPECT_EQ(Get("rigid").status.phase, ClaimPhase::kBound);
  EXPECT_EQ(Get("rigid").status.branch, AllocationBranch::kShrinkNeighbours);
  EXPECT_EQ(share("elastic-0"), 50u);
  EXPECT_EQ(core_->Get<VGpu>("alice", "elastic-0")->spec.wanted_compute_percent, 100u);
  EXPECT_EQ(core_->Get<Tenant>("", "alice")->status.compute_percent, 100u);
  // Another elastic one and it give alike: 50 are missing, of 30 and 40 that they can.
  Create("second", {.compute_percent = 50, .min_compute_percent = 10});
  EXPECT_EQ(Get("second").status.branch, AllocationBranch::kShrinkNeighbours);
  EXPECT_EQ(share("elastic-0") + share("second-0"), 50u);
  EXPECT_GE(share("elastic-0"), 27u);
  // Nobody goes below its least.
  EXPECT_EQ(
      Call(CreateClaim{.tenant = "alice", .name = "large", .spec = {.compute_percent = 21, .no_wait = true}})
          .error()
          .code,
      Code::kResourceExhausted);
  Create("small", {.compute_percent = 20});
  EXPECT_EQ(share("elastic-0"), 20u);
  EXPECT_EQ(share("second-0"), 10u);
  EXPECT_EQ(Get("small").status.phase, ClaimPhase::kBound);

  // It is kept, and a node that did not hear of it is told.
  StartCore();
  EXPECT_EQ(share("elastic-0"), 20u);
  RegisterNode again = Registration(LinkId{2});
  for (const char* name : {"elastic-0", "second-0", "rigid-0", "small-0"}) {
    const VGpu known = *core_->Get<VGpu>("alice", name);
    again.vgpus.push_back({.uid = known.metadata.uid,
                           .state = ReportedState::kReady,
                           .compute_percent = known.metadata.uid == vgpu ? 100 : known.spec.compute_percent});
  }
  Do(again);
  EXPECT_EQ(resized(), (std::map<std::string, std::uint32_t>{{vgpu, 20}}));

  // What is given back goes to those that want more: alike, and no more than they want.
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "rigid"}).ok());
  EXPECT_EQ(share("elastic-0") + share("second-0"), 80u);
  EXPECT_EQ(share("second-0"), 27u);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "small"}).ok());
  EXPECT_EQ(share("elastic-0") + share("second-0"), 100u);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "second"}).ok());
  EXPECT_EQ(share("elastic-0"), 100u);
  // A quota stops that, until it is raised.
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {.quota = {.compute_percent = 90}}}).ok());
  EXPECT_EQ(share("elastic-0"), 100u) << "nothing is taken";
  Do(CreateClaim{.tenant = "bob", .name = "b", .spec = {.compute_percent = 40}});
  EXPECT_EQ(share("elastic-0"), 60u);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "bob", .tenant = "bob", .name = "b"}).ok());
  EXPECT_EQ(share("elastic-0"), 90u);
  ASSERT_TRUE(Call(UpdateTenant{.caller = "root", .name = "alice"}).ok());
  EXPECT_EQ(share("elastic-0"), 100u);
  EXPECT_EQ(Get("elastic").metadata.uid, uid);
}

TEST_F(CoreTest, AShareInComputeUnitsCountsForTheQuotaAsWhatItComesTo) {
  obey_ = true;
  RegisterNode node = Registration();
  node.gpus[0].description.compute_units = 20;
  Do(node);
  const auto refused = [&](const ClaimSpec& spec) {
    return Call(CreateClaim{.tenant = "alice", .name = "x", .spec = spec}).error().message;
  };
  EXPECT_EQ(refused({.compute_percent = 10, .compute_units = 4}),
            "spec.compute_units: is in place of spec.compute_percent and spec.min_compute_percent; leave "
            "these out");
  EXPECT_EQ(
      refused({.min_compute_percent = 10, .fp32_flops = 4}),
      "spec.fp32_flops: is in place of spec.compute_percent and spec.min_compute_percent; leave these out");
  EXPECT_EQ(refused({.performance_level = PerformanceLevel::kBestEffort, .memory_bandwidth = 4}),
            "spec.memory_bandwidth_bytes_per_s: is not for BEST_EFFORT vGPUs, which reserve no compute");
  Create("c", {.compute_units = 5});
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.compute_percent, 25u);
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->spec.wanted_compute_percent, 25u);
  EXPECT_EQ(core_->Get<Tenant>("", "alice")->status.compute_percent, 25u);
  EXPECT_EQ(Get("c").spec.compute_percent, 0u);
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "alice", .spec = {.quota = {.compute_percent = 60}}}).ok());
  Create("more", {.compute_units = 8});
  EXPECT_THAT(FindCondition(Get("more").status.conditions, "Placed")->message,
              ::testing::HasSubstr("it asks for 40% of a GPU, you have 25%, and your quota is 60%"));
  EXPECT_EQ(core_->Explain("alice", "more", 1, now_)->nodes.at(0).room, 1u);
  StartCore();
  EXPECT_EQ(core_->Get<Tenant>("", "alice")->status.compute_percent, 25u);
}

TEST_F(CoreTest, AnElasticClaimTakesLessWhereThereIsNotMore) {
  obey_ = true;
  Do(Registration());
  Create("rigid", {.compute_percent = 70});
  Create("elastic", {.compute_percent = 100, .min_compute_percent = 20});
  EXPECT_EQ(Get("elastic").status.branch, AllocationBranch::kCreateSlice) << "nobody had to give anything";
  EXPECT_EQ(core_->Get<VGpu>("alice", "elastic-0")->spec.compute_percent, 30u);
  EXPECT_EQ(Call(CreateClaim{.tenant = "alice",
                             .spec = {.compute_percent = 100, .no_wait = true, .min_compute_percent = 40}})
                .error()
                .code,
            Code::kResourceExhausted);
  // As much as the quota has left, too.
  ASSERT_TRUE(
      Call(UpdateTenant{.caller = "root", .name = "bob", .spec = {.quota = {.compute_percent = 15}}}).ok());
  ASSERT_TRUE(
      Call(CreateClaim{
               .tenant = "bob", .name = "b", .spec = {.compute_percent = 100, .min_compute_percent = 5}})
          .ok());
  EXPECT_EQ(core_->Get<VGpu>("bob", "b-0")->spec.compute_percent, 8u) << "10 are missing of 10 and 10";
  EXPECT_EQ(core_->Get<VGpu>("alice", "elastic-0")->spec.compute_percent, 22u);
}

TEST_F(CoreTest, ADrainedNodeKeepsWhatItHasUntilItsTimeIsOver) {
  obey_ = true;
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  const auto node = [&] { return *core_->Get<Node>("", "a"); };
  const auto draining = [&](const std::string& claim) {
    return FindCondition(core_->Get<Claim>("alice", claim)->status.conditions, "Draining");
  };
  Create("stays", {.node_selector = {{"tulle/node", "a"}}});
  Create("goes", {.node_selector = {{"tulle/node", "a"}}});
  Create("other", {.node_selector = {{"tulle/node", "b"}}});
  const auto drain = [&](const std::string& caller, Duration grace) {
    return Call(DrainNode{.caller = caller, .name = "a", .grace = grace});
  };
  EXPECT_EQ(drain("alice", 60s).error().code, Code::kPermissionDenied);
  EXPECT_EQ(drain("root", -1s).error().message, "grace: -1 s is not from 0 to 30 days");
  EXPECT_EQ(drain("root", 31 * 24h).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(drain("root", 60s).ok());
  EXPECT_STREQ(SchedulingOf(node()), "draining");
  EXPECT_EQ(node().spec.drain_time_us, now_.wall_us + 60'000'000);
  {
    const Claim stays = Get("stays");
    const Condition* told = FindCondition(stays.status.conditions, "Draining");
    ASSERT_NE(told, nullptr);
    EXPECT_TRUE(told->status);
    EXPECT_EQ(told->message,
              "node a is drained: what it has of the claim ends at " + FormatUtc(now_.wall_us + 60'000'000));
    EXPECT_EQ(draining("other"), nullptr);
  }
  Create("late", {.node_selector = {{"tulle/node", "a"}}});
  EXPECT_EQ(Get("late").status.phase, ClaimPhase::kPending) << "nothing new";
  AdvanceBeating(59s, {kLink, LinkId{2}});
  EXPECT_EQ(Get("stays").status.phase, ClaimPhase::kBound);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "goes"}).ok());

  // Its time is that of the wall, also for the next controller.
  StartCore();
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  AdvanceBeating(500ms, {kLink, LinkId{2}});
  EXPECT_EQ(Get("stays").status.phase, ClaimPhase::kBound);
  AdvanceBeating(1s, {kLink, LinkId{2}});
  EXPECT_EQ(Get("stays").status.phase, ClaimPhase::kFailed);
  EXPECT_THAT(FindCondition(Get("stays").status.conditions, "Ready")->message,
              ::testing::HasSubstr("NodeDrained: node a has been drained"));
  EXPECT_EQ(Get("other").status.phase, ClaimPhase::kBound);
  EXPECT_STREQ(SchedulingOf(node()), "drained");
  ASSERT_TRUE(Call(CordonNode{.caller = "root", .name = "a", .cordoned = true}).ok());
  EXPECT_STREQ(SchedulingOf(node()), "drained") << "as it is";
  ASSERT_TRUE(Call(CordonNode{.caller = "root", .name = "a", .cordoned = false}).ok());
  EXPECT_STREQ(SchedulingOf(node()), "");
  EXPECT_EQ(Get("late").status.phase, ClaimPhase::kBound);

  // Who is called back in time loses nothing.
  ASSERT_TRUE(drain("root", 60s).ok());
  ASSERT_TRUE(Call(CordonNode{.caller = "root", .name = "a", .cordoned = false}).ok());
  EXPECT_FALSE(FindCondition(Get("late").status.conditions, "Draining")->status);
  AdvanceBeating(120s, {kLink, LinkId{2}});
  EXPECT_EQ(Get("late").status.phase, ClaimPhase::kBound);
  // What ran out while no controller ran ends soon after one does.
  ASSERT_TRUE(drain("root", 60s).ok());
  MoveTo(now_.mono + 300s);
  StartCore();
  EXPECT_EQ(Get("late").status.phase, ClaimPhase::kBound);
  Advance(1ms);
  EXPECT_EQ(Get("late").status.phase, ClaimPhase::kFailed);
  // And at once means at once.
  Create("last", {.node_selector = {{"tulle/node", "b"}}});
  Do(Registration(LinkId{3}, "b"));
  ASSERT_TRUE(Call(DrainNode{.caller = "root", .name = "b"}).ok());
  EXPECT_EQ(Get("last").status.phase, ClaimPhase::kFailed);
}

TEST_F(CoreTest, CordonedNodesTakeNothingNew) {
  Do(Registration());
  ASSERT_TRUE(Call(CordonNode{.caller = "root", .name = "a", .cordoned = true}).ok());
  Create("c");
  EXPECT_EQ(FindCondition(Get("c").status.conditions, "Placed")->reason, "NoReadyNode");
  StartCore();
  Do(Registration(LinkId{2}));
  EXPECT_TRUE(core_->Get<Node>("", "a")->spec.cordoned) << "also after a restart";
  EXPECT_TRUE(Get("c").status.vgpus.empty());
  ASSERT_TRUE(Call(CordonNode{.caller = "root", .name = "a", .cordoned = false}).ok());
  EXPECT_EQ(Get("c").status.vgpus.size(), 1u);
}

TEST_F(CoreTest, ListsAreInPagesAndVersionsGrow) {
  for (const char* name : {"b", "a", "d", "c"}) Create(name);
  ASSERT_TRUE(Call(CreateClaim{.tenant = "bob", .name = "aa"}).ok());
  const Page<Claim> first = core_->List<Claim>("alice", "", 3);
  ASSERT_EQ(first.resources.size(), 3u);
  EXPECT_EQ(first.resources[2].metadata.name, "c");
  EXPECT_TRUE(first.more);
  const Page<Claim> last = core_->List<Claim>("alice", "c", 3);
  ASSERT_EQ(last.resources.size(), 1u);
  EXPECT_FALSE(last.more);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "b"}).ok());
  const Page<Claim> live = core_->List<Claim>("alice", "", 2, true);
  ASSERT_EQ(live.resources.size(), 2u);
  EXPECT_EQ(live.resources[1].metadata.name, "c") << "an ended one takes no place in a page";
  EXPECT_TRUE(live.more);
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "d"}).ok());
  EXPECT_FALSE(core_->List<Claim>("alice", "", 2, true).more) << "only an ended one would come";
  const std::uint64_t before = core_->resource_version();
  Create("e");
  ASSERT_EQ(changes_.size(), 2u) << "the claim, and what its tenant has";
  EXPECT_EQ(changes_[1].type, ChangeType::kAdded);
  EXPECT_GT(std::get<Claim>(changes_[1].resource).metadata.resource_version, before);
}

TEST_F(CoreTest, NodesThatShareADevicePromiseItOnce) {
  for (const LinkId link : {kLink, LinkId{2}}) {
    RegisterNode half = Registration(link, link == kLink ? "a" : "b");
    half.gpus[0].allocatable_compute_percent = 50;
    Do(half);
  }
  EXPECT_EQ(core_->Get<Gpu>("", "a-0")->status.allocatable_compute_percent, 50u);
  const auto bound = [&](const ClaimSpec& spec) { return !Create("", spec).status.vgpus.empty(); };
  EXPECT_FALSE(bound({.compute_percent = 60}));
  EXPECT_FALSE(bound({.performance_level = PerformanceLevel::kDedicated})) << "neither is a whole device";
  EXPECT_TRUE(bound({.compute_percent = 50, .count = 2}));
  EXPECT_FALSE(bound({.compute_percent = 1}));
}

TEST_F(CoreTest, HostileRegistrationsAreRefused) {
  RegisterNode bad = Registration();
  bad.gpus.push_back(bad.gpus[0]);
  Do(bad);
  EXPECT_EQ(closed_.at(kLink).error().message, "gpus[0].index: twice");
  bad = Registration(LinkId{2});
  bad.gpus[0].allocatable_memory_bytes = 9 * kGiB;
  Do(bad);
  EXPECT_EQ(closed_.at(LinkId{2}).error().message,
            "gpus[0].allocatable_memory_bytes: 9GiB is more than it has, 8GiB");
  bad = Registration(LinkId{3});
  bad.gpus[0].allocatable_compute_percent = 101;
  Do(bad);
  EXPECT_EQ(closed_.at(LinkId{3}).error().message,
            "gpus[0].allocatable_compute_percent: 101 is more than 100");
  EXPECT_FALSE(core_->Get<Node>("", "a"));
  Do(ReportVGpu{LinkId{2}, {.uid = "x"}});  // of a link that is not registered: nothing happens
  EXPECT_TRUE(commands_.empty());
}

TEST_F(CoreTest, WhatANodeShallNotHaveGoesBeforeAnythingComes) {
  Do(Registration());
  Create("goes", {.memory_bytes = 5 * kGiB});
  const std::string going = core_->Get<VGpu>("alice", "goes-0")->metadata.uid;
  Do(ReportVGpu{kLink, {.uid = going, .state = ReportedState::kReady}});
  Create("comes", {.memory_bytes = 2 * kGiB});
  const std::string coming = core_->Get<VGpu>("alice", "comes-0")->metadata.uid;
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "goes"}).ok());
  // The link breaks before the node has heard of either, and there is one that nobody knows.
  Do(LinkClosed{kLink});
  RegisterNode again = Registration(LinkId{2});
  for (const std::string& uid : {going, std::string("unknown")})
    again.vgpus.push_back({.uid = uid, .state = ReportedState::kReady});
  Do(again);
  std::vector<std::string> order;
  for (const NodeCommand& command : commands_) {
    if (const auto* create = std::get_if<CreateVGpu>(&command)) order.push_back("create " + create->uid);
    if (const auto* remove = std::get_if<DeleteVGpu>(&command)) order.push_back("delete " + remove->uid);
  }
  ASSERT_EQ(order.size(), 3u);
  EXPECT_EQ(order.back(), "create " + coming);
}

TEST_F(CoreTest, AVGpuOfAnotherNodeIsNotTakenOver) {
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  Create("c", {.node_selector = {{"tulle/node", "a"}}});
  const std::string uid = core_->Get<VGpu>("alice", "c-0")->metadata.uid;
  Do(ReportVGpu{LinkId{2}, {.uid = uid, .state = ReportedState::kReady}});
  EXPECT_EQ(core_->Get<VGpu>("alice", "c-0")->status.phase, VGpuPhase::kCreating);
  EXPECT_EQ(Commands<DeleteVGpu>().size(), 1u) << "node b shall not run it";
}

TEST_F(CoreTest, AStoreThatContradictsItselfIsRefused) {
  Do(Registration());
  Create("c", {.count = 2});
  for (const Kind lost : {Kind::kVGpu, Kind::kGpu, Kind::kClaim}) {
    std::vector<Record> records;
    bool dropped = false;
    for (const auto& [key, record] : store_) {
      if (key.first == lost && !std::exchange(dropped, true)) continue;
      records.push_back(record);
    }
    Core core(options_, random_, 1);
    EXPECT_EQ(core.Load(std::move(records), now_).error().code, Code::kDataLoss);
  }
}

TEST_F(CoreTest, ApiTokensLastUntilTheyExpireOrAreDeleted) {
  options_.max_api_tokens_per_tenant = 2;
  StartCore();
  const auto make = [&](const std::string& id, const std::string& tenant, Duration lifetime = 60s,
                        const std::string& description = "") {
    return Call(CreateApiToken{
        .token = {.id = id, .tenant = tenant, .description = description, .secret_digest = "digest-" + id},
        .lifetime = lifetime});
  };
  const auto remove = [&](const std::string& caller, const std::string& tenant, const std::string& id) {
    return Call(DeleteApiToken{.caller = caller, .tenant = tenant, .id = id});
  };
  const auto ids = [&](const std::string& tenant) {
    std::vector<std::string> ids;
    for (const ApiToken& token : core_->ApiTokensOf(tenant, now_)) ids.push_back(token.id);
    return ids;
  };
  using Ids = std::vector<std::string>;
  EXPECT_EQ(make("x", "alice", 0s).error().message, "lifetime: 0 s is not above 0 and at most 366 days");
  EXPECT_EQ(make("x", "alice", 367 * 24h).error().code, Code::kInvalidArgument);
  EXPECT_EQ(make("x", "alice", 60s, std::string(257, 'x')).error().message,
            "description: 257 bytes, at most 256");
  ASSERT_TRUE(make("b", "alice", 60s).ok());
  Advance(1s);
  ASSERT_TRUE(make("a", "alice", 3600s, "nightly").ok());
  ASSERT_TRUE(make("c", "bob").ok());
  EXPECT_EQ(make("d", "alice").error().code, Code::kResourceExhausted);
  EXPECT_EQ(ids("alice"), (Ids{"b", "a"})) << "by time of creation";
  StartCore();  // they survive the controller
  EXPECT_EQ(core_->ApiTokensOf("alice", now_).at(1).description, "nightly");
  Advance(60s);
  EXPECT_EQ(ids("alice"), Ids{"a"}) << "the other one has expired";
  ASSERT_TRUE(make("d", "alice").ok()) << "and makes room";
  EXPECT_FALSE(store_.contains({Kind::kApiToken, "b"}));

  EXPECT_EQ(remove("bob", "alice", "a").error().code, Code::kPermissionDenied);
  EXPECT_EQ(remove("alice", "alice", "c").error().code, Code::kNotFound) << "bob's";
  // What is held by it ends with it, and nothing else.
  Do(Registration());
  Create("c");
  Do(OpenHold{.hold = HoldId{1}, .tenant = "alice", .claim = "c", .api_token = "a"});
  Do(OpenHold{.hold = HoldId{2}, .tenant = "alice", .claim = "c"});
  ASSERT_TRUE(remove("root", "alice", "a").ok());
  EXPECT_EQ(ended_.at(HoldId{1}).error().code, Code::kUnauthenticated);
  EXPECT_FALSE(ended_.contains(HoldId{2}));
  EXPECT_EQ(Get("c").status.holders, 1u);
  EXPECT_EQ(ids("alice"), Ids{"d"});

  // Whoever is shut out has none any more.
  ASSERT_TRUE(Call(RevokeCertificates{.caller = "root", .role = JoinRole::kUser, .name = "alice"}).ok());
  EXPECT_EQ(ids("alice"), Ids{});
  EXPECT_EQ(ended_.at(HoldId{2}).error().code, Code::kUnauthenticated);
  ASSERT_TRUE(make("e", "bob", 3600s).ok());
  ASSERT_TRUE(Call(DeleteTenant{.caller = "root", .name = "bob"}).ok());
  EXPECT_EQ(ids("bob"), Ids{});
  for (const auto& [key, record] : store_) EXPECT_NE(key.first, Kind::kApiToken) << key.second;
}

TEST_F(CoreTest, InvitationsAreForOneUseByWhomTheyAreFor) {
  Do(Registration());
  const auto invite = [&](const std::string& id, JoinRole role, const std::string& name,
                          Duration lifetime = 60s) {
    return Call(CreateInvitation{
        .caller = "root",
        .invitation = {.id = id, .role = role, .name = name, .secret_digest = "digest-" + id},
        .lifetime = lifetime});
  };
  const auto redeem = [&](const std::string& id, const std::string& name, JoinRole role = JoinRole::kNode,
                          bool name_is_default = false,
                          const std::string& digest = "") -> Result<Invitation> {
    auto reply = Call(RedeemInvitation{.id = id,
                                       .secret_digest = digest.empty() ? "digest-" + id : digest,
                                       .name = name,
                                       .name_is_default = name_is_default,
                                       .role = role});
    if (!reply.ok()) return reply.error();
    return std::get<Invitation>(*reply);
  };
  ASSERT_TRUE(invite("1", JoinRole::kNode, "gpu-1").ok());
  // What does not fit leaves it good.
  EXPECT_EQ(redeem("2", "gpu-1").error().code, Code::kUnauthenticated);
  EXPECT_EQ(redeem("1", "gpu-1", JoinRole::kNode, false, "digest-2").error().code, Code::kUnauthenticated);
  EXPECT_EQ(redeem("1", "gpu-1", JoinRole::kNode, false, "digest-1 ").error().code, Code::kUnauthenticated);
  EXPECT_EQ(redeem("1", "gpu-1", JoinRole::kUser).error().code, Code::kPermissionDenied);
  EXPECT_EQ(redeem("1", "gpu-2").error().code, Code::kPermissionDenied);
  StartCore();  // it survives the controller
  const auto node = redeem("1", "my-host", JoinRole::kNode, /*name_is_default=*/true);
  ASSERT_TRUE(node.ok()) << node.error().message;
  EXPECT_EQ(node->name, "gpu-1");
  EXPECT_EQ(redeem("1", "gpu-1").error().code, Code::kUnauthenticated) << "twice";
  StartCore();
  EXPECT_EQ(redeem("1", "gpu-1").error().code, Code::kUnauthenticated)
      << "twice, the controller having started anew";

  // A node that may choose takes nobody else's name, unless the token is for that name.
  ASSERT_TRUE(invite("3", JoinRole::kNode, "").ok());
  EXPECT_EQ(redeem("3", "a").error().code, Code::kAlreadyExists);
  EXPECT_EQ(redeem("3", "Not A Name").error().code, Code::kInvalidArgument);
  EXPECT_EQ(redeem("3", "").error().code, Code::kInvalidArgument);
  EXPECT_EQ(redeem("3", "b")->name, "b");
  // From then on it is there, before it has come, and nobody else is given its name.
  EXPECT_EQ(core_->Get<Node>("", "b")->status.state, NodeState::kNotReady);
  ASSERT_TRUE(invite("3b", JoinRole::kNode, "").ok());
  EXPECT_EQ(redeem("3b", "b").error().code, Code::kAlreadyExists);
  StartCore();
  EXPECT_EQ(redeem("3b", "b").error().code, Code::kAlreadyExists);
  EXPECT_EQ(redeem("3b", "gpu-1").error().code, Code::kAlreadyExists);
  EXPECT_EQ(redeem("3b", "b-2")->name, "b-2");
  Do(Registration(LinkId{2}, "b"));
  EXPECT_EQ(core_->Get<Node>("", "b")->status.state, NodeState::kReady);
  ASSERT_TRUE(invite("4", JoinRole::kNode, "a").ok());
  EXPECT_EQ(redeem("4", "")->name, "a");
  ASSERT_TRUE(invite("5", JoinRole::kUser, "bob").ok());
  EXPECT_EQ(redeem("5", "", JoinRole::kUser)->name, "bob");

  EXPECT_EQ(invite("6", JoinRole::kUser, "").error().code, Code::kInvalidArgument) << "a user has a name";
  EXPECT_EQ(invite("6", JoinRole::kUnspecified, "x").error().code, Code::kInvalidArgument);
  EXPECT_EQ(invite("6", JoinRole::kNode, "-", 60s).error().code, Code::kInvalidArgument);
  EXPECT_EQ(invite("6", JoinRole::kNode, "c", 0s).error().code, Code::kInvalidArgument);
  EXPECT_EQ(invite("6", JoinRole::kNode, "c", std::chrono::hours(24 * 30 + 1)).error().code,
            Code::kInvalidArgument);
  // They expire, and make room.
  options_.max_invitations = 2;
  StartCore();
  ASSERT_TRUE(invite("7", JoinRole::kNode, "c", 60s).ok());
  ASSERT_TRUE(invite("8", JoinRole::kNode, "c", 120s).ok());
  EXPECT_EQ(invite("9", JoinRole::kNode, "c").error().code, Code::kResourceExhausted);
  MoveTo(now_.mono + 60s);
  EXPECT_EQ(redeem("7", "c").error().code, Code::kUnauthenticated);
  EXPECT_EQ(redeem("8", "c")->name, "c");
  ASSERT_TRUE(invite("9", JoinRole::kNode, "c").ok());
  std::size_t kept = 0;
  for (const auto& [key, record] : store_) kept += key.first == Kind::kInvitation;
  EXPECT_EQ(kept, 1u);
}

TEST_F(CoreTest, ExplainsWhereAClaimIsAndWhatItWaitsFor) {
  Create("first", {.memory_bytes = 6 * kGiB});
  EXPECT_EQ(Get("first").status.branch, AllocationBranch::kWait);
  Do(Registration());
  Do(Registration(LinkId{2}, "b", 4 * kGiB));
  EXPECT_EQ(Get("first").status.branch, AllocationBranch::kCreateSlice);
  EXPECT_EQ(Get("first").status.placed_by, "balanced-fit");
  Create("second", {.memory_bytes = 5 * kGiB});
  AdvanceBeating(1s, {kLink, LinkId{2}});
  Create("third", {.memory_bytes = 7 * kGiB});
  EXPECT_FALSE(core_->Explain("alice", "nobody", 10, now_).has_value());
  EXPECT_FALSE(core_->Explain("bob", "first", 10, now_).has_value());

  const ClaimExplanation third = *core_->Explain("alice", "third", 10, now_);
  EXPECT_EQ(third.claim, Get("third"));
  EXPECT_EQ(third.waiting_position, 2u);
  EXPECT_EQ(third.waiting_claims, 2u);
  EXPECT_EQ(third.policy, "balanced-fit");
  EXPECT_EQ(third.nodes,
            (std::vector<NodeVerdict>{{.node = "a", .message = "has 2GiB and 75% free on one GPU"},
                                      {.node = "b", .message = "has 4GiB and 100% free on one GPU"}}));
  // Another like the first: nowhere. Others: the best place first, and only so many.
  EXPECT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "second"}).ok());
  EXPECT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "third"}).ok());
  Create("small", {.memory_bytes = kGiB, .compute_percent = 50});
  const ClaimExplanation small = *core_->Explain("alice", "small", 1, now_);
  EXPECT_EQ(small.waiting_position, 0u);
  ASSERT_EQ(small.nodes.size(), 1u);
  EXPECT_EQ(small.more_nodes, 1u);
  EXPECT_EQ(small.nodes[0].node, "b") << "on a there is not enough compute";
  EXPECT_EQ(small.nodes[0].gpu, "b-0");
  EXPECT_EQ(small.nodes[0].room, 2u);
  EXPECT_EQ(small.nodes[0].message, "has room for 2");
}

TEST_F(CoreTest, PlacementLearnsFromWhatIsAskedFor) {
  options_.rehearse_after_claims = 3;
  options_.rehearsal_interval = 60s;
  options_.remembered_claims = 4;
  StartCore();
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  const ClaimSpec half{.memory_bytes = kGiB, .compute_percent = 50};
  Create("one", half);
  Create("two", {.memory_bytes = kGiB, .compute_percent = 25, .count = 2});
  EXPECT_TRUE(rehearsals_.empty());
  Create("three", half);
  ASSERT_EQ(rehearsals_.size(), 1u);
  // The mesh as it is when empty, and each claim with as many vGPUs as it asks for.
  const StartRehearsal rehearsal = rehearsals_.front();  // more come
  ASSERT_EQ(rehearsal.nodes.size(), 2u);
  for (const NodeRoom& node : rehearsal.nodes) {
    ASSERT_EQ(node.gpus.size(), 1u);
    EXPECT_EQ(FreeOf(node.gpus.front()), kWholeGpu);
    EXPECT_EQ(node.gpus.front().vgpus, 0);
  }
  ASSERT_EQ(rehearsal.demands.size(), 3u);
  EXPECT_EQ(rehearsal.demands[1].weight, 2);
  EXPECT_EQ(rehearsal.demands[2].demand, rehearsal.demands[0].demand);
  EXPECT_EQ(rehearsal.demands[2].demand.compute, kWholeGpu / 2);

  // One at a time, and not too often.
  const auto claims = [&](const std::string& name, int count) {
    for (int i = 0; i < count; ++i) {
      Create(name + std::to_string(i), half);
      EXPECT_TRUE(
          Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = name + std::to_string(i)}).ok());
    }
  };
  AdvanceBeating(120s, {kLink, LinkId{2}});
  claims("while-it-runs", 5);
  EXPECT_EQ(rehearsals_.size(), 1u);
  EXPECT_EQ(core_->Stats().rehearsals, 0u);
  Do(Rehearsed{std::make_shared<const Outlook>(Outlook{.workload = Workload(rehearsal.demands)})});
  EXPECT_EQ(core_->Stats().rehearsals, 1u);
  claims("again", 1);
  ASSERT_EQ(rehearsals_.size(), 2u);
  EXPECT_EQ(rehearsals_[1].demands.size(), 4u) << "of the latest";
  Do(Rehearsed{std::make_shared<const Outlook>(Outlook{.workload = Workload(rehearsal.demands)})});
  claims("too-soon", 5);
  EXPECT_EQ(rehearsals_.size(), 2u);
  // A new core has what the store remembers, but starts with what comes.
  AdvanceBeating(60s, {kLink, LinkId{2}});
  StartCore();
  EXPECT_EQ(rehearsals_.size(), 2u);
  Create("first", half);
  EXPECT_EQ(rehearsals_.size(), 3u);
}

TEST_F(CoreTest, ARehearsalDecidesWherePlacementGoes) {
  Do(Registration());
  Do(Registration(LinkId{2}, "b"));
  const ClaimSpec half{.memory_bytes = kGiB, .compute_percent = 50};
  const ClaimSpec quarter{.memory_bytes = kGiB, .compute_percent = 25};
  const auto node_of = [&](const std::string& claim) {
    return core_->Get<VGpu>("alice", Get(claim).status.vgpus.at(0))->status.node;
  };
  Create("first", half);
  const std::string used = node_of("first");
  Create("fits-best", quarter);
  EXPECT_EQ(node_of("fits-best"), used);
  EXPECT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "fits-best"}).ok());
  for (const DeleteVGpu& command : Commands<DeleteVGpu>()) {
    Do(ReportVGpu{used == "a" ? kLink : LinkId{2}, {.uid = command.uid, .state = ReportedState::kDeleted}});
  }
  // Who expects halves does not break the one that is left.
  const std::vector<WeightedDemand> halves = {{{.compute = kWholeGpu / 2}, 1}};
  Do(Rehearsed{std::make_shared<const Outlook>(Outlook{.workload = Workload(halves)})});
  Create("spoils-nothing", quarter);
  EXPECT_NE(node_of("spoils-nothing"), used);
}

TEST_F(CoreTest, AClaimIsTakenBackAfterItsDuration) {
  Do(Registration());
  Create("c", {.duration_us = 3'600'000'000});
  Comply();
  AdvanceBeating(50min, {kLink});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound);
  StartCore();
  Do(Registration(LinkId{2}));
  Comply(LinkId{2});
  AdvanceBeating(9min, {LinkId{2}});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kBound) << "counted on after a restart";
  AdvanceBeating(2min, {LinkId{2}});
  EXPECT_EQ(Get("c").status.phase, ClaimPhase::kReleased);
  EXPECT_EQ(FindCondition(Get("c").status.conditions, "Ready")->message, "its duration, 3600 s, is over");
  // One that ran out while there was no controller ends as any other, in the store too.
  Create("d", {.duration_us = 60'000'000});
  Comply(LinkId{2});
  ASSERT_EQ(Get("d").status.phase, ClaimPhase::kBound);
  MoveTo(now_.mono + 1h);
  StartCore();
  EXPECT_EQ(Get("d").status.phase, ClaimPhase::kBound);
  Advance(1s);
  EXPECT_EQ(Get("d").status.phase, ClaimPhase::kReleased);
  StartCore();
  EXPECT_EQ(Get("d").status.phase, ClaimPhase::kReleased);
  EXPECT_EQ(Call(CreateClaim{.tenant = "alice", .spec = {.duration_us = -1}}).error().message,
            "spec.duration: must be from 0 to 365 days");
}

TEST_F(CoreTest, AWaitingClaimIsToldHowLong) {
  obey_ = true;
  Do(Registration());
  const auto wait = [&](const std::string& name) {
    return core_->Explain("alice", name, 1, now_)->expected_wait_us;
  };
  Create("large", {.memory_bytes = 8 * kGiB});
  EXPECT_EQ(wait("large"), std::nullopt) << "it does not wait";
  Create("waits", {.memory_bytes = 8 * kGiB});
  EXPECT_EQ(wait("waits"), std::nullopt) << "nothing is known to go by";
  now_.wall_us += 1;
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "large"}).ok());
  EXPECT_EQ(Get("waits").status.phase, ClaimPhase::kBound);

  // By a duration.
  Create("timed", {.memory_bytes = 8 * kGiB, .duration_us = 600'000'000});
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "waits"}).ok());
  Create("after", {.memory_bytes = 4 * kGiB});
  Create("never", {.memory_bytes = 9 * kGiB});
  AdvanceBeating(1min, {kLink});
  ASSERT_TRUE(wait("after").has_value());
  EXPECT_LE(*wait("after"), 540'000'000);
  EXPECT_EQ(wait("never"), std::nullopt);
  AdvanceBeating(10min, {kLink});
  EXPECT_EQ(Get("after").status.phase, ClaimPhase::kBound);

  // By how long others have lasted: 40 of them 100 s.
  for (int i = 0; i < 40; ++i) {
    Create("short", {.memory_bytes = kGiB, .compute_percent = 1});
    AdvanceBeating(100s, {kLink});
    ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "short"}).ok());
  }
  ASSERT_TRUE(Call(DeleteClaim{.caller = "alice", .tenant = "alice", .name = "after"}).ok());
  Create("first", {.memory_bytes = 8 * kGiB});
  now_.wall_us += 1;
  Create("second", {.memory_bytes = 8 * kGiB});
  now_.wall_us += 1;
  Create("third", {.memory_bytes = 8 * kGiB});
  EXPECT_GT(*wait("second"), 64'000'000);
  EXPECT_LT(*wait("second"), 128'000'000);
  EXPECT_EQ(wait("third"), std::nullopt) << "who has not begun is not known to end";
}

TEST_F(CoreTest, ATaintedNodeTakesNothingNewThatDoesNotTolerateIt) {
  Do(Registration());
  Create("before");
  Comply();
  const auto taint = [&](const std::string& caller, Labels taints) {
    return Call(TaintNode{.caller = caller, .name = "a", .taints = std::move(taints)});
  };
  EXPECT_EQ(taint("alice", {{"k", "v"}}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(taint("root", {{"", "v"}}).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(taint("root", {{"k", "v"}}).ok());
  EXPECT_EQ(Get("before").status.phase, ClaimPhase::kBound);
  EXPECT_THAT(FindCondition(Create("after").status.conditions, "Placed")->message,
              HasSubstr("is tainted k=v"));
  EXPECT_FALSE(Create("tolerates", {.tolerations = {{"k", "v"}}}).status.vgpus.empty());
  StartCore();
  Do(Registration(LinkId{2}));
  Comply(LinkId{2});
  EXPECT_TRUE(Get("after").status.vgpus.empty()) << "also after a restart";
  ASSERT_TRUE(taint("root", {}).ok());
  EXPECT_FALSE(Get("after").status.vgpus.empty());
}

TEST_F(CoreTest, AGpuOnWhichNothingStartsIsCordoned) {
  options_.start_attempts = 10;
  StartCore();
  Do(Registration());
  const auto gpu = [&] { return *core_->Get<Gpu>("", "a-0"); };
  const auto fail = [&] {
    const auto creates = Commands<CreateVGpu>();
    ASSERT_EQ(creates.size(), 1u);
    Do(ReportVGpu{kLink, {.uid = creates[0].uid, .state = ReportedState::kFailed, .message = "no driver"}});
    Do(ReportVGpu{kLink, {.uid = creates[0].uid, .state = ReportedState::kDeleted}});
  };
  // Two failures, and a start: all is well.
  for (int i = 0; i < 2; ++i) {
    Create("c" + std::to_string(i), {.no_wait = true});
    fail();
  }
  Create("good", {.memory_bytes = kGiB, .compute_percent = 1});
  Comply();
  EXPECT_FALSE(gpu().spec.cordoned);
  for (int i = 2; i < 5; ++i) {
    EXPECT_FALSE(gpu().spec.cordoned) << i;
    Create("c" + std::to_string(i), {.no_wait = true});
    fail();
  }
  EXPECT_TRUE(gpu().spec.cordoned);
  EXPECT_FALSE(gpu().status.schedulable);
  EXPECT_EQ(gpu().status.message,
            "3 vGPUs in a row did not start on it, the last one: no driver; `tulle uncordon a-0` once that "
            "is mended");
  EXPECT_EQ(Get("good").status.phase, ClaimPhase::kBound) << "what runs stays";
  EXPECT_TRUE(Create("waits").status.vgpus.empty());
  StartCore();
  Do(Registration(LinkId{2}));
  Comply(LinkId{2});
  EXPECT_TRUE(gpu().spec.cordoned) << "also after a restart";
  EXPECT_TRUE(Get("waits").status.vgpus.empty());
  EXPECT_EQ(Call(CordonGpu{.caller = "alice", .name = "a-0"}).error().code, Code::kPermissionDenied);
  EXPECT_EQ(Call(CordonGpu{.caller = "root", .name = "a-9"}).error().code, Code::kNotFound);
  ASSERT_TRUE(Call(CordonGpu{.caller = "root", .name = "a-0"}).ok());
  EXPECT_FALSE(gpu().spec.cordoned);
  EXPECT_EQ(gpu().status.message, "");
  EXPECT_FALSE(Get("waits").status.vgpus.empty());
}

}  // namespace
}  // namespace tulle::control
