// The whole serving stack on loopback under mutual TLS: the client library on one side, a node's side of the
// link on the other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/control/serve/test_stack.h"
#include "tulle/control/store/faulty/faulty_store.h"
#include "tulle/control/store/memory/memory_store.h"
#include "tulle/security/files.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;

TEST_F(ServeTest, AClaimsLifeFromCreationToABrokenHold) {
  const auto client = ClientOf("alice");
  FakeNode node = NodeNamed();
  const auto created = client->CreateClaim(
      {.name = "c", .spec = {.memory_bytes = kGiB, .count = 2, .release_when_unheld = true}});
  ASSERT_TRUE(created.ok()) << created.error().message;
  EXPECT_THAT(FindCondition(created->status.conditions, "Placed")->message, HasSubstr("the mesh has no GPU"));

  auto hold = client->Hold("c", {.instance = "laptop", .program = "render"});
  node.Connect();
  const auto bound = hold->WaitBound(kSoon);
  ASSERT_TRUE(bound.ok()) << bound.error().message;
  EXPECT_EQ(bound->status.vgpus, (std::vector<std::string>{"c-0", "c-1"}));
  EXPECT_EQ(client->GetInstance("laptop")->status.claims, std::vector<std::string>{"c"});

  const auto attached = client->Attach("c");
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  ASSERT_EQ(attached->size(), 2u);
  for (const auto& vgpu : *attached) {
    EXPECT_EQ(vgpu.endpoints, (std::vector<std::string>{"local:here", "127.0.0.1:7777"}));
    EXPECT_EQ(vgpu.grant_key.size(), kGrantKeyBytes);
    EXPECT_EQ(vgpu.device.type, "pretend");
    EXPECT_EQ(node.grants(vgpu.vgpu_uid), std::vector<std::string>{vgpu.grant_id});
  }
  EXPECT_EQ(client->GetGpu("a-0")->status.allocated_memory_bytes, 2 * kGiB);
  EXPECT_EQ(client->GetGpu("a-0")->status.allocatable_compute_percent, 100u) << "unless the node says less";
  EXPECT_EQ(client->ListVGpus()->size(), 2u);

  ASSERT_TRUE(client->Detach("c").ok());
  const auto again = client->Attach("c");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_NE(again->at(0).grant_id, attached->at(0).grant_id);

  hold.reset();  // as when its process is killed
  const Claim released = WaitClaim(*client, "c", ClaimPhase::kReleased);
  EXPECT_EQ(FindCondition(released.status.conditions, "Ready")->reason, "Unheld");
  EXPECT_TRUE(node.WaitUntil([](const auto& running) { return running.empty(); }));
}

TEST_F(ServeTest, AClientFindsTheControllerThatListensAmongSeveral) {
  security::Credentials credentials = CredentialsOf(security::Role::kUser, "alice");
  // One that has no address, one where nobody listens, and the one.
  credentials.endpoint = "nosuch.invalid:7400,127.0.0.1:1," + credentials.endpoint;
  const auto client = *sdk::Client::Connect(credentials);
  const auto mesh = client->GetMesh();
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  EXPECT_EQ(mesh->caller, "tulle://user/alice");
}

TEST_F(ServeTest, KeysOfGrantsAreSealedInTheStore) {
  StopStack();
  options_.sealer =
      std::make_shared<security::Sealer>(*security::Sealer::OpenOrCreate(root_ + "/seal.key", random_));
  StartStack();
  FakeNode node = NodeNamed();
  node.Connect();
  ASSERT_TRUE(ClientOf("alice")->CreateClaim({.name = "c"}).ok());
  WaitClaim(*ClientOf("alice"), "c", ClaimPhase::kBound);
  const Secret key = ClientOf("alice")->Attach("c")->at(0).grant_key;
  node.Disconnect();
  StopStack();
  std::string stored;
  for (const std::string file : {"/mesh.db", "/mesh.db-wal"}) {
    if (!std::filesystem::exists(root_ + file)) continue;
    stored += *security::ReadFile(root_ + file, 64 << 20);
  }
  EXPECT_NE(stored.find("c-0"), std::string::npos) << "the vGPU is there";
  EXPECT_EQ(stored.find(AsText(key.Expose())), std::string::npos) << "its key is not";
  StartStack();
  FakeNode again = NodeNamed();
  again.Connect();
  WaitNode(*ClientOf("alice"), "a", NodeState::kReady);
  EXPECT_EQ(ClientOf("alice")->Attach("c")->at(0).grant_key, key);
  StopStack();
  options_.sealer =
      std::make_shared<security::Sealer>(*security::Sealer::OpenOrCreate(root_ + "/other.key", random_));
  store_ = *SqliteStore::Open(root_ + "/mesh.db");
  Controller other(options_, *store_, clock_, random_);
  const Status status = other.Start();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("with another seal.key"));
  store_.reset();
}

TEST(Controller, TakesTheStoreOfItsOwnMeshOnly) {
  MemoryStore store;
  SystemClock clock;
  SecureRandom random;
  const auto start = [&](const std::string& ca) {
    ControllerOptions options;
    options.ca_fingerprint = ca;
    Controller controller(options, store, clock, random);
    return controller.Start();
  };
  ASSERT_TRUE(start(std::string(64, 'a')).ok());
  ASSERT_TRUE(start(std::string(64, 'a')).ok());
  const Status other = start(std::string(64, 'b'));
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(other.error().message, HasSubstr("(aaaaaaaaaaaa..., this controller's is bbbbbbbbbbbb...)"));
}

TEST_F(ServeTest, BuildsGoOnlyToNodesThatServeTheirTenant) {
  FakeNode a = NodeNamed("a");
  FakeNode b = NodeNamed("b");
  a.Connect();
  b.Connect();
  // One vGPU of a tenant on a node; its uid.
  const auto vgpu_of = [&](const std::string& tenant, const std::string& node) {
    const auto client = ClientOf(tenant);
    WaitNode(*client, node, NodeState::kReady);
    EXPECT_TRUE(
        client->CreateClaim({.name = "on-" + node, .spec = {.node_selector = {{"tulle/node", node}}}}).ok());
    WaitClaim(*client, "on-" + node, ClaimPhase::kBound);
    return client->Attach("on-" + node)->at(0).vgpu_uid;
  };
  const std::string alices_on_a = vgpu_of("alice", "a");
  const std::string alices_on_b = vgpu_of("alice", "b");
  const std::string bobs_on_b = vgpu_of("bob", "b");

  const std::string key(32, 'k');
  const auto stub_of = [&](security::Role role, const std::string& name) {
    return v1::Builds::NewStub(*OpenChannel(CredentialsOf(role, name)));
  };
  const auto keep = [&](v1::Builds::Stub& stub, const std::string& vgpu, const std::string& content) {
    v1::KeepBuildRequest request;
    request.set_vgpu_uid(vgpu);
    request.set_key(key);
    request.set_content(content);
    grpc::ClientContext context;
    v1::KeepBuildResponse response;
    return stub.KeepBuild(&context, request, &response).error_code();
  };
  std::string found;
  const auto find = [&](v1::Builds::Stub& stub, const std::string& vgpu, const std::string& of) {
    v1::FindBuildRequest request;
    request.set_vgpu_uid(vgpu);
    request.set_key(of);
    grpc::ClientContext context;
    v1::FindBuildResponse response;
    const auto code = stub.FindBuild(&context, request, &response).error_code();
    found = response.content();
    return code;
  };
  using Code = grpc::StatusCode;
  const auto on_a = stub_of(security::Role::kNode, "a");
  const auto on_b = stub_of(security::Role::kNode, "b");
  EXPECT_EQ(find(*on_a, alices_on_a, key), Code::NOT_FOUND);
  EXPECT_EQ(keep(*on_a, alices_on_a, "a binary"), Code::OK);
  EXPECT_EQ(find(*on_b, alices_on_b, key), Code::OK);
  EXPECT_EQ(found, "a binary");

  EXPECT_EQ(find(*on_b, bobs_on_b, key), Code::NOT_FOUND) << "another tenant";
  EXPECT_EQ(find(*on_b, alices_on_a, key), Code::PERMISSION_DENIED) << "on another node";
  EXPECT_EQ(keep(*on_b, alices_on_a, "poison"), Code::PERMISSION_DENIED);
  EXPECT_EQ(find(*on_b, "no-such-vgpu", key), Code::PERMISSION_DENIED);
  EXPECT_EQ(find(*stub_of(security::Role::kUser, "alice"), alices_on_a, key), Code::PERMISSION_DENIED);
  EXPECT_EQ(find(*on_a, alices_on_a, "short"), Code::INVALID_ARGUMENT);
  EXPECT_EQ(keep(*on_a, alices_on_a, ""), Code::INVALID_ARGUMENT);
  EXPECT_EQ(keep(*on_b, alices_on_b, "poison"), Code::OK);
  EXPECT_EQ(find(*on_a, alices_on_a, key), Code::OK);
  EXPECT_EQ(found, "a binary") << "what is there stays";

  // With the vGPU the node's right to ask for its tenant goes.
  ASSERT_TRUE(ClientOf("alice")->DeleteClaim("on-b").ok());
  ASSERT_TRUE(b.WaitUntil([&](const auto& running) { return !running.contains(alices_on_b); }));
  const auto client = ClientOf("alice");
  WaitClaim(*client, "on-b", ClaimPhase::kReleased);
  EXPECT_EQ(find(*on_b, alices_on_b, key), Code::PERMISSION_DENIED);
}

TEST_F(ServeTest, ARestartOfTheControllerDisturbsNothing) {
  options_.core.hold_grace = 10s;
  StopStack();
  StartStack();
  const auto client = ClientOf("alice");
  FakeNode node = NodeNamed();
  node.Connect();
  const auto created = client->CreateClaim({.name = "c", .spec = {.release_when_unheld = true}});
  ASSERT_TRUE(created.ok()) << created.error().message;
  const auto hold = client->Hold("c");
  const auto bound = hold->WaitBound(kSoon);
  ASSERT_TRUE(bound.ok()) << bound.error().message;
  const auto before = client->Attach("c");
  const auto watch = client->WatchChanges({sdk::Kind::kClaim}, bound->metadata.resource_version);

  StopStack();
  EXPECT_EQ(node.WaitFinished().error_code(), grpc::StatusCode::UNAVAILABLE);
  Result<sdk::Event> event = watch->Next();
  while (event.ok()) event = watch->Next();
  EXPECT_EQ(event.error().code, Code::kUnavailable) << ToString(event.error());
  StartStack();
  node.Connect();
  const auto after = client->Attach("c");
  ASSERT_TRUE(after.ok()) << after.error().message;
  EXPECT_EQ(after->at(0).vgpu_uid, before->at(0).vgpu_uid);
  EXPECT_EQ(after->at(0).grant_id, before->at(0).grant_id);
  EXPECT_EQ(after->at(0).grant_key, before->at(0).grant_key);
  EXPECT_EQ(node.creates(), 1);
  // The library opens the hold anew by itself.
  const auto held = hold->WaitChange(bound->metadata.resource_version + 1, kSoon);
  ASSERT_TRUE(held.ok()) << held.error().message;
  EXPECT_EQ(held->status.phase, ClaimPhase::kBound);
  // What a watcher knew from before cannot be continued.
  EXPECT_EQ(client->WatchChanges({}, bound->metadata.resource_version)->Next().error().code,
            Code::kOutOfRange);
}

TEST_F(ServeTest, WatchesShowWhatIsThenWhatChangesOfOnesOwn) {
  const auto alice = ClientOf("alice");
  const auto bob = ClientOf("bob");
  ASSERT_TRUE(alice->CreateClaim({.name = "first"}).ok());
  const auto watch = alice->WatchChanges({sdk::Kind::kClaim});
  auto event = watch->Next();
  ASSERT_TRUE(event.ok()) << event.error().message;
  EXPECT_EQ(event->type, sdk::EventType::kAdded);
  EXPECT_EQ(std::get<Claim>(event->resource).metadata.name, "first");
  event = watch->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->type, sdk::EventType::kSynced);
  const std::uint64_t synced = event->resource_version;

  ASSERT_TRUE(bob->CreateClaim({.name = "secret"}).ok());
  ASSERT_TRUE(alice->CreateClaim({.name = "second"}).ok());
  event = watch->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(std::get<Claim>(event->resource).metadata.name, "second") << "bob's is not shown";

  const auto resumed = alice->WatchChanges({sdk::Kind::kClaim}, synced);
  event = resumed->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(std::get<Claim>(event->resource).metadata.name, "second");
  ASSERT_TRUE(alice->DeleteClaim("second").ok());
  event = resumed->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(std::get<Claim>(event->resource).status.phase, ClaimPhase::kReleased);
  ASSERT_TRUE(alice->DeleteClaim("second").ok());
  event = resumed->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->type, sdk::EventType::kDeleted);
  resumed->Cancel();
  EXPECT_EQ(resumed->Next().error().code, Code::kCancelled);
}

TEST_F(ServeTest, ClaimsThatHaveEndedAreShownOnRequest) {
  const auto client = ClientOf("alice");
  for (const char* name : {"ended", "live"}) ASSERT_TRUE(client->CreateClaim({.name = name}).ok());
  ASSERT_TRUE(client->DeleteClaim("ended").ok());
  EXPECT_EQ(client->ListClaims()->size(), 2u);
  const auto live = client->ListLiveClaims();
  ASSERT_EQ(live->size(), 1u);
  EXPECT_EQ(live->at(0).metadata.name, "live");

  const auto watch = client->WatchChanges({sdk::Kind::kClaim}, 0, true);
  auto event = watch->Next();
  ASSERT_TRUE(event.ok()) << event.error().message;
  EXPECT_EQ(std::get<Claim>(event->resource).metadata.name, "live");
  event = watch->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->type, sdk::EventType::kSynced);
  ASSERT_TRUE(client->DeleteClaim("live").ok());
  event = watch->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(std::get<Claim>(event->resource).status.phase, ClaimPhase::kReleased) << "its end is shown";
  ASSERT_TRUE(client->DeleteClaim("live").ok());  // its record
  ASSERT_TRUE(client->CreateClaim({.name = "next"}).ok());
  event = watch->Next();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(std::get<Claim>(event->resource).metadata.name, "next") << "that a record went is not";
}

TEST_F(ServeTest, TenantsAndRolesAreKeptApart) {
  const auto alice = ClientOf("alice");
  const auto bob = ClientOf("bob");
  ASSERT_TRUE(alice->CreateClaim({.name = "c"}).ok());
  EXPECT_EQ(bob->GetClaim("c").error().code, Code::kNotFound);
  EXPECT_EQ(bob->DeleteClaim("c").error().code, Code::kNotFound);
  EXPECT_EQ(bob->Attach("c").error().code, Code::kNotFound);
  EXPECT_TRUE(bob->ListClaims()->empty());
  EXPECT_EQ(bob->Hold("c")->WaitBound(kSoon).error().code, Code::kNotFound);
  EXPECT_EQ(alice->GetMesh()->caller, "tulle://user/alice");

  // A user is no node.
  FakeNode pretender(CredentialsOf(security::Role::kUser, "alice"));
  pretender.Connect();
  EXPECT_EQ(pretender.WaitFinished().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  // A node is no other node, and no user.
  FakeNode liar = NodeNamed("a");
  liar.Connect("b");
  const grpc::Status refused = liar.WaitFinished();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("tulle://node/a"));
  const auto node = *sdk::Client::Connect(CredentialsOf(security::Role::kNode, "a"));
  EXPECT_EQ(node->ListGpus().error().code, Code::kPermissionDenied);
  EXPECT_EQ(node->WatchChanges({})->Next().error().code, Code::kPermissionDenied);

  EXPECT_EQ(bob->CordonNode("a", true).error().code, Code::kPermissionDenied);
  EXPECT_EQ(alice->CordonNode("a", true).error().code, Code::kNotFound);

  // Another mesh's user does not get through the handshake, and neither does one without a certificate.
  auto other = security::CertificateAuthority::OpenOrCreate(root_ + "/other", clock_, random_);
  auto stranger =
      *security::EnsureCredentials(*other, root_ + "/stranger", {security::Role::kUser, "alice"}, clock_);
  stranger.endpoint = "127.0.0.1:" + std::to_string(port_);
  stranger.ca_file = CredentialsOf(security::Role::kUser, "alice").ca_file;
  EXPECT_EQ((*sdk::Client::Connect(stranger))->GetMesh({.timeout = 5s, .fail_fast = true}).error().code,
            Code::kUnavailable);
}

TEST_F(ServeTest, PlacementRehearsesWhatIsAskedFor) {
  const auto client = ClientOf("alice");
  FakeNode node = NodeNamed();
  node.Connect();
  WaitNode(*client, "a", NodeState::kReady);
  for (std::size_t i = 0; i < CoreOptions().rehearse_after_claims; ++i) {
    ASSERT_TRUE(client->CreateClaim({.spec = {.memory_bytes = kGiB, .compute_percent = 30}}).ok());
  }
  const auto rehearsals = [&] {
    std::promise<std::uint64_t> count;
    controller_->Read(
        [&](const Core* core) { count.set_value(core == nullptr ? 0 : core->Stats().rehearsals); });
    return count.get_future().get();
  };
  for (const auto until = std::chrono::steady_clock::now() + kSoon;
       rehearsals() == 0 && std::chrono::steady_clock::now() < until;) {
    std::this_thread::yield();
  }
  EXPECT_EQ(rehearsals(), 1u);
}

TEST_F(ServeTest, ANodeThatLeavesIsRecordedBeforeItsStreamEnds) {
  const auto client = ClientOf("alice");
  FakeNode node = NodeNamed();
  node.Connect();
  WaitNode(*client, "a", NodeState::kReady);
  EXPECT_TRUE(client->CordonNode("a", true)->spec.cordoned);
  EXPECT_FALSE(client->GetGpu("a-0")->status.schedulable);
  node.Leave();
  EXPECT_TRUE(node.WaitFinished().ok());
  EXPECT_EQ(client->GetNode("a")->status.state, NodeState::kLeft);
  EXPECT_TRUE(client->ListGpus()->empty());
  node.Connect();
  WaitNode(*client, "a", NodeState::kReady);
  node.Disconnect();
  WaitNode(*client, "a", NodeState::kNotReady);
}

TEST_F(ServeTest, ErrorsAndPagesReachTheClientWhole) {
  const auto client = ClientOf("alice");
  const auto refused = client->CreateClaim({.spec = {.compute_percent = 200}});
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_EQ(refused.error().message,
            "spec.compute_percent: 200 is more than one GPU's 100; ask for more vGPUs with spec.count");
  EXPECT_EQ(client->CreateClaim({.spec = {.no_wait = true}}).error().code, Code::kResourceExhausted);
  const auto first = client->CreateClaim({.request_id = "once"});
  EXPECT_EQ(client->CreateClaim({.request_id = "once"})->metadata.uid, first->metadata.uid);
  EXPECT_EQ(client->GetClaim(first->metadata.uid)->metadata.name, first->metadata.name);
  EXPECT_EQ(client->GetClaim("none").error().message, "there is no Claim \"none\"");
}

TEST_F(ServeTest, AClaimIsExplained) {
  const auto client = ClientOf("alice");
  ASSERT_TRUE(client->CreateClaim({.name = "c", .spec = {.memory_bytes = kGiB}}).ok());
  const auto waiting = client->ExplainClaim("c");
  ASSERT_TRUE(waiting.ok()) << waiting.error().message;
  EXPECT_EQ(waiting->waiting_position, 1u);
  EXPECT_TRUE(waiting->nodes.empty());
  FakeNode node = NodeNamed();
  node.Connect();
  WaitClaim(*client, "c", ClaimPhase::kBound);
  const auto bound = client->ExplainClaim("c", 5);
  ASSERT_TRUE(bound.ok()) << bound.error().message;
  EXPECT_EQ(bound->claim.status.branch, AllocationBranch::kCreateSlice);
  ASSERT_EQ(bound->nodes.size(), 1u);
  EXPECT_EQ(bound->nodes[0].gpu, "a-0");
  EXPECT_EQ(client->ExplainClaim("c", 1001).error().code, Code::kInvalidArgument);
  EXPECT_EQ(client->ExplainClaim("nobody").error().code, Code::kNotFound);
  EXPECT_EQ(ClientOf("bob")->ExplainClaim("c").error().code, Code::kNotFound);
}

TEST_F(ServeTest, AClientWithoutAControllerSaysSo) {
  const auto client = ClientOf("alice");
  StopStack();
  const auto refused = client->GetMesh({.timeout = 300ms});
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_THAT(refused.error().message, HasSubstr("cannot be reached; is it running?"));
  EXPECT_EQ(client->GetMesh({.fail_fast = true}).error().code, Code::kUnavailable);
}

// A disk that dies under the controller: nothing unsaved is acknowledged, everybody is told, and what was
// acknowledged is there for the next one.
TEST(Controller, StopsWhenItsStoreFails) {
  for (const auto fault : {FaultyStore::Fault::kBeforeCommit, FaultyStore::Fault::kAfterCommit}) {
    MemoryStore memory;
    FaultyStore faulty(memory);
    SystemClock clock;
    SecureRandom random;
    std::promise<Error> fatal;
    ControllerOptions options;
    options.on_fatal = [&fatal](const Error& error) { fatal.set_value(error); };
    const auto create = [](Controller& controller, const std::string& name) {
      const auto reply = std::make_shared<std::promise<bool>>();
      controller.Call(CreateClaim{.tenant = "t", .name = name},
                      [reply](const Result<ReplyBody>& body) { reply->set_value(body.ok()); });
      return reply->get_future().get();
    };
    {
      Controller controller(options, faulty, clock, random);
      ASSERT_TRUE(controller.Start().ok());
      EXPECT_TRUE(create(controller, "kept"));
      faulty.FailAfter(0, fault);
      EXPECT_FALSE(create(controller, "lost"));
      EXPECT_EQ(fatal.get_future().get().message, "a planned fault of the store");
      EXPECT_FALSE(create(controller, "late"));
    }
    Controller next({}, memory, clock, random);
    ASSERT_TRUE(next.Start().ok());
    std::promise<std::pair<bool, bool>> found;
    next.Read([&found](const Core* core) {
      found.set_value({core->Get<Claim>("t", "kept").has_value(), core->Get<Claim>("t", "late").has_value()});
    });
    EXPECT_EQ(found.get_future().get(), std::pair(true, false));
  }
}

TEST(EventLog, KeepsOnlySoMuch) {
  EventLog log(3, 10);
  for (std::uint64_t version = 11; version <= 15; ++version) {
    log.Append({{ChangeType::kModified, Claim{.metadata = {.resource_version = version}}}});
  }
  const auto any = [](const Change&) { return true; };
  std::uint64_t at = 11;
  EXPECT_EQ(log.Next(&at, any).error().code, Code::kOutOfRange);
  at = 12;
  for (std::uint64_t version = 13; version <= 15; ++version) {
    EXPECT_EQ(VersionOf((**log.Next(&at, any)).resource), version);
  }
  EXPECT_FALSE(log.Next(&at, any)->has_value());
  at = 16;
  EXPECT_EQ(log.Next(&at, any).error().code, Code::kOutOfRange) << "of another controller";
}

}  // namespace
}  // namespace tulle::control
