// The whole serving stack on loopback under mutual TLS: the client library on one side, a node's side of the
// link on the other, JSON over HTTPS beside them.
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/control/api/channel.h"
#include "tulle/control/api/renewal.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/serve/grpc_server.h"
#include "tulle/control/serve/http_server.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/control/store/faulty/faulty_store.h"
#include "tulle/control/store/memory/memory_store.h"
#include "tulle/control/store/sqlite/sqlite_store.h"
#include "tulle/sdk/client.h"
#include "tulle/sdk/enroll.h"
#include "tulle/security/ca.h"
#include "tulle/security/files.h"
#include "tulle/security/join_token.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::control {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr auto kSoon = 20s;  // for what takes milliseconds; only a broken test waits so long

// A node daemon's side of the link: one GPU, does at once what it is told.
class FakeNode {
 public:
  explicit FakeNode(const security::Credentials& credentials, std::string name = "a")
      : name_(std::move(name)), channel_(*OpenChannel(credentials)), stub_(channel_) {}
  ~FakeNode() { Disconnect(); }

  void Connect(const std::string& as = "") {
    Disconnect();
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_wait_for_ready(true);
    stream_ = stub_.Link(context_.get());
    v1::NodeMessage message;
    v1::Register& registration = *message.mutable_register_();
    registration.set_name(as.empty() ? name_ : as);
    registration.set_data_endpoint("127.0.0.1:7777");
    registration.set_local_endpoint("local:here");
    v1::InventoryGpu& gpu = *registration.add_gpus();
    gpu.mutable_description()->set_type("pretend");
    gpu.mutable_description()->add_apis(v1::OPENCL);
    gpu.mutable_description()->set_memory_bytes(8 * kGiB);
    gpu.set_allocatable_memory_bytes(8 * kGiB);
    {
      const std::lock_guard lock(mutex_);
      finished_ = false;
      for (const auto& [uid, grants] : running_) *registration.add_vgpus() = ReportOf(uid);
    }
    stream_->Write(message);
    reader_ = std::thread([this] { Read(); });
  }

  void Disconnect() {
    if (!reader_.joinable()) return;
    context_->TryCancel();
    reader_.join();
  }

  void Leave() {
    v1::NodeMessage message;
    message.mutable_leaving()->set_reason("test");
    Write(message);
  }

  // The end of the stream, once it has come.
  grpc::Status WaitFinished() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kSoon, [this] { return finished_; }));
    return status_;
  }
  template <typename F>
  bool WaitUntil(F condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kSoon, [&] { return condition(running_); });
  }
  std::vector<std::string> grants(const std::string& uid) {
    const std::lock_guard lock(mutex_);
    return {running_[uid].begin(), running_[uid].end()};
  }
  int creates() {
    const std::lock_guard lock(mutex_);
    return creates_;
  }

 private:
  v1::VGpuReport ReportOf(const std::string& uid) {
    v1::VGpuReport report;
    report.set_uid(uid);
    const auto it = running_.find(uid);
    report.set_state(it == running_.end() ? v1::VGpuReport::DELETED : v1::VGpuReport::READY);
    if (it != running_.end()) report.mutable_grant_ids()->Assign(it->second.begin(), it->second.end());
    return report;
  }
  void Write(const v1::NodeMessage& message) {
    const std::lock_guard lock(write_mutex_);
    stream_->Write(message);
  }
  void Read() {
    v1::ControllerMessage command;
    while (stream_->Read(&command)) {
      v1::NodeMessage answer;
      {
        const std::lock_guard lock(mutex_);
        std::string uid;
        if (command.has_create_vgpu()) {
          uid = command.create_vgpu().uid();
          ++creates_;
          running_[uid].clear();
          for (const v1::GrantKey& grant : command.create_vgpu().grants()) running_[uid].insert(grant.id());
        } else if (command.has_delete_vgpu()) {
          uid = command.delete_vgpu().uid();
          running_.erase(uid);
        } else if (command.has_add_grant()) {
          uid = command.add_grant().vgpu_uid();
          running_[uid].insert(command.add_grant().grant().id());
        } else if (command.has_revoke_grant()) {
          uid = command.revoke_grant().vgpu_uid();
          running_[uid].erase(command.revoke_grant().grant_id());
        }
        if (!uid.empty()) *answer.mutable_vgpu() = ReportOf(uid);
        changed_.notify_all();
      }
      if (answer.has_vgpu()) Write(answer);
    }
    const grpc::Status status = stream_->Finish();
    const std::lock_guard lock(mutex_);
    status_ = status;
    finished_ = true;
    changed_.notify_all();
  }

  const std::string name_;
  std::shared_ptr<grpc::Channel> channel_;
  v1::NodeLink::Stub stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::NodeMessage, v1::ControllerMessage>> stream_;
  std::thread reader_;
  std::mutex write_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::set<std::string>> running_;
  int creates_ = 0;
  bool finished_ = false;
  grpc::Status status_;
};

class ServeTest : public ::testing::Test {
 protected:
  ServeTest() {
    char pattern[] = "/tmp/tulle-serve-XXXXXX";
    root_ = mkdtemp(pattern);
    authority_ = std::make_unique<security::CertificateAuthority>(
        *security::CertificateAuthority::OpenOrCreate(root_ + "/ca", clock_, random_));
    options_.core.hold_grace = 300ms;
    options_.core.heartbeat_timeout = std::chrono::minutes(10);
  }
  ~ServeTest() override {
    StopStack();
    std::filesystem::remove_all(root_);
  }
  void SetUp() override { StartStack(); }

  void StartStack() {
    store_ = *SqliteStore::Open(root_ + "/mesh.db");
    controller_ = std::make_unique<Controller>(options_, *store_, clock_, random_);
    ASSERT_TRUE(controller_->Start().ok());
    enrollment_ = std::make_unique<Enrollment>(*controller_, *authority_, random_, std::chrono::hours(24));
    service_ = std::make_unique<MeshService>(*controller_, builds_, *enrollment_,
                                             std::set<std::string>{"alice"}, "test");
    const auto pem = authority_->Issue({security::Role::kController, "test"}, {.hosts = {"127.0.0.1"}});
    auto grpc_server = GrpcServer::Start("127.0.0.1:" + std::to_string(port_), *pem, *service_, builds_);
    ASSERT_TRUE(grpc_server.ok()) << grpc_server.error().message;
    grpc_server_ = *std::move(grpc_server);
    port_ = grpc_server_->port();
    auto http_server = HttpServer::Start("127.0.0.1:0", *pem, *service_);
    ASSERT_TRUE(http_server.ok()) << http_server.error().message;
    http_server_ = *std::move(http_server);
  }
  void StopStack() {
    http_server_.reset();
    if (controller_ != nullptr) controller_->Stop();
    grpc_server_.reset();
    service_.reset();
    enrollment_.reset();
    controller_.reset();
    store_.reset();
  }

  security::Credentials CredentialsOf(security::Role role, const std::string& name) {
    auto credentials = security::EnsureCredentials(*authority_, root_ + "/credentials", {role, name}, clock_);
    EXPECT_TRUE(credentials.ok());
    credentials->endpoint = "127.0.0.1:" + std::to_string(port_);
    return *credentials;
  }
  std::unique_ptr<sdk::Client> ClientOf(const std::string& user) {
    return *sdk::Client::Connect(CredentialsOf(security::Role::kUser, user));
  }
  FakeNode NodeNamed(const std::string& name = "a") {
    return FakeNode(CredentialsOf(security::Role::kNode, name), name);
  }

  // Waits by watching, never by sleeping.
  void WaitNode(sdk::Client& client, const std::string& name, NodeState state) {
    const auto watch = client.WatchChanges({sdk::Kind::kNode});
    for (;;) {
      const Result<sdk::Event> event = watch->Next();
      ASSERT_TRUE(event.ok()) << event.error().message;
      const auto* node = std::get_if<Node>(&event->resource);
      if (node != nullptr && node->metadata.name == name && node->status.state == state) return;
    }
  }
  Claim WaitClaim(sdk::Client& client, const std::string& name, ClaimPhase phase) {
    const auto watch = client.WatchChanges({sdk::Kind::kClaim});
    for (;;) {
      const Result<sdk::Event> event = watch->Next();
      EXPECT_TRUE(event.ok()) << event.error().message;
      if (!event.ok()) return {};
      const auto* claim = std::get_if<Claim>(&event->resource);
      if (claim != nullptr && claim->metadata.name == name && claim->status.phase == phase) return *claim;
    }
  }

  std::string root_;
  SystemClock clock_;
  SecureRandom random_;
  std::unique_ptr<security::CertificateAuthority> authority_;
  ControllerOptions options_;
  std::unique_ptr<Store> store_;
  BuildStore builds_{1 << 20};
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<Enrollment> enrollment_;
  std::unique_ptr<MeshService> service_;
  std::unique_ptr<GrpcServer> grpc_server_;
  std::unique_ptr<HttpServer> http_server_;
  int port_ = 0;
};

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

TEST_F(ServeTest, WhoBearsATokenGetsACertificateOnce) {
  const std::string endpoint = "127.0.0.1:" + std::to_string(port_);
  const auto alice = ClientOf("alice");
  const auto token_for = [&](JoinRole role, const std::string& name) {
    const auto token = alice->CreateToken(role, name, 60s);
    EXPECT_TRUE(token.ok()) << token.error().message;
    return token->text;
  };
  EXPECT_EQ(ClientOf("bob")->CreateToken(JoinRole::kUser, "bob", 60s).error().code, Code::kPermissionDenied);
  EXPECT_EQ(alice->CreateToken(JoinRole::kUser, "", 60s).error().code, Code::kInvalidArgument);
  EXPECT_EQ(alice->CreateToken(JoinRole::kUser, "carol", 0s).error().code, Code::kInvalidArgument);

  // As a user, who then is one.
  const std::string token = token_for(JoinRole::kUser, "carol");
  sdk::EnrollOptions options{.endpoint = endpoint, .token = token, .state_dir = root_ + "/carol"};
  const auto carol = sdk::Enroll(options);
  ASSERT_TRUE(carol.ok()) << carol.error().message;
  EXPECT_EQ(carol->identity, "tulle://user/carol");
  const auto client = sdk::Client::Connect(*security::LoadCredentials(carol->config_path));
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kAlreadyExists) << "her configuration is kept";
  options.replace = true;
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kUnauthenticated) << "once";
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");

  // As a node, which then is one.
  sdk::EnrollOptions as_node{.endpoint = endpoint,
                             .token = token_for(JoinRole::kNode, ""),
                             .role = security::Role::kNode,
                             .name = "gpu-1",
                             .state_dir = root_ + "/gpu-1"};
  const auto enrolled = sdk::Enroll(as_node);
  ASSERT_TRUE(enrolled.ok()) << enrolled.error().message;
  EXPECT_EQ(enrolled->config_path, root_ + "/gpu-1/node-gpu-1.conf");
  FakeNode node(*security::LoadCredentials(enrolled->config_path), "gpu-1");
  node.Connect();
  WaitNode(*alice, "gpu-1", NodeState::kReady);
  // Nobody becomes a node that is there already.
  as_node.token = token_for(JoinRole::kNode, "");
  as_node.state_dir = root_ + "/thief";
  EXPECT_EQ(sdk::Enroll(as_node).error().code, Code::kAlreadyExists);
  as_node.role = security::Role::kUser;
  EXPECT_EQ(sdk::Enroll(as_node).error().code, Code::kPermissionDenied);
  as_node.role = security::Role::kNode;
  as_node.name = "gpu-2";
  EXPECT_TRUE(sdk::Enroll(as_node).ok()) << "refusals leave a token good";

  // Another mesh's token is not sent there: its CA is not the one that is shown.
  const auto other = *security::CertificateAuthority::OpenOrCreate(root_ + "/other-ca", clock_, random_);
  options.token = security::JoinToken::Make(other.certificate_pem(), random_).Text();
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kPermissionDenied);
  options.endpoint = "127.0.0.1:1";
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kUnavailable);
  options.token = "rubbish";
  EXPECT_EQ(sdk::Enroll(options).error().code, Code::kInvalidArgument);
}

TEST_F(ServeTest, CertificatesAreRenewedInTime) {
  const auto token = ClientOf("alice")->CreateToken(JoinRole::kUser, "carol", 60s);
  const auto carol = sdk::Enroll({.endpoint = "127.0.0.1:" + std::to_string(port_),
                                  .token = token->text,
                                  .state_dir = root_ + "/carol"});
  ASSERT_TRUE(carol.ok()) << carol.error().message;
  const security::Credentials first = *security::LoadCredentials(carol->config_path);
  const std::string first_certificate = security::LoadPemBundle(first)->certificate;
  // It is for 24 hours, and dated an hour back.
  FakeClock later;
  later.Advance(std::chrono::microseconds(clock_.WallMicros() - later.WallMicros()));
  later.Advance(std::chrono::minutes(15 * 60 + 30));
  EXPECT_FALSE(*RenewIfDue(carol->config_path, later));
  EXPECT_EQ(security::LoadCredentials(carol->config_path)->certificate_file, first.certificate_file);
  later.Advance(std::chrono::minutes(20));
  const auto renewed = RenewIfDue(carol->config_path, later);
  ASSERT_TRUE(renewed.ok()) << renewed.error().message;
  EXPECT_TRUE(*renewed);
  const security::Credentials second = *security::LoadCredentials(carol->config_path);
  EXPECT_NE(security::LoadPemBundle(second)->certificate, first_certificate);
  EXPECT_NE(second.key_file, first.key_file);
  EXPECT_EQ(second.endpoint, first.endpoint);
  EXPECT_FALSE(std::filesystem::exists(first.certificate_file));
  EXPECT_FALSE(std::filesystem::exists(first.key_file));
  const auto client = sdk::Client::Connect(second);
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->GetMesh()->caller, "tulle://user/carol");
  // While the controller is away nothing is lost.
  StopStack();
  const auto away = RenewIfDue(carol->config_path, later);
  EXPECT_FALSE(away.ok());
  EXPECT_EQ(security::LoadCredentials(carol->config_path)->certificate_file, second.certificate_file);
}

// Every method of every service but one, called by nobody.
TEST_F(ServeTest, NoCallWithoutIdentity) {
  const auto channel =
      OpenChannel("127.0.0.1:" + std::to_string(port_), {.ca = authority_->certificate_pem()});
  grpc::GenericStub stub(channel);
  int methods = 0;
  for (const auto* file : {v1::Claim::descriptor()->file(), v1::NodeMessage::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto* method = file->service(s)->method(m);
        const std::string path = "/" + file->service(s)->full_name() + "/" + method->name();
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + kSoon);
        grpc::CompletionQueue queue;
        const auto call = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(), &queue);
        call->StartCall();
        grpc::ByteBuffer answer;
        grpc::Status status;
        call->Finish(&answer, &status, nullptr);
        void* tag = nullptr;
        bool ok = false;
        ASSERT_TRUE(queue.Next(&tag, &ok));
        const bool for_anybody = path == "/tulle.v1.Enrollment/Enroll";
        EXPECT_EQ(status.error_code(),
                  for_anybody ? grpc::StatusCode::INVALID_ARGUMENT : grpc::StatusCode::UNAUTHENTICATED)
            << path << ": " << status.error_message();
        ++methods;
      }
    }
  }
  EXPECT_GE(methods, 23);
}

TEST_F(ServeTest, TheSameMethodsAreThereAsJson) {
  const security::Credentials user = CredentialsOf(security::Role::kUser, "alice");
  httplib::SSLClient http("127.0.0.1", http_server_->port(), user.certificate_file, user.key_file);
  http.set_ca_cert_path(user.ca_file.c_str());
  http.enable_server_certificate_verification(true);
  const auto post = [&http](const std::string& method, const std::string& body,
                            const char* type = "application/json") {
    const auto response = http.Post("/tulle.v1.Mesh/" + method, body, type);
    if (!response) return std::pair(0, httplib::to_string(response.error()));
    return std::pair(response->status, response->body);
  };
  const auto created =
      post("CreateClaim", R"({"claim": {"metadata": {"name": "c"}, "spec": {"memoryBytes": "1073741824"}}})");
  EXPECT_EQ(created.first, 200) << created.second;
  EXPECT_THAT(created.second, HasSubstr(R"("name":"c")"));
  EXPECT_THAT(post("ListClaims", "{}").second, HasSubstr(R"("phase":"PENDING")"));
  EXPECT_EQ(post("CreateClaim", R"({"claim": {"metadata": {"name": "over"}}})").first, 200);
  EXPECT_EQ(post("DeleteClaim", R"({"name": "over"})").first, 200);
  EXPECT_THAT(post("ListClaims", "{}").second, HasSubstr(R"("phase":"RELEASED")"));
  EXPECT_THAT(post("ListClaims", R"({"liveOnly": true})").second,
              ::testing::Not(HasSubstr(R"("phase":"RELEASED")")));
  EXPECT_EQ(post("DeleteClaim", R"({"name": "over"})").first, 200);
  EXPECT_EQ(
      post("CreateClaim", R"({"claim": {"spec": {"count": 65}}})"),
      std::pair(
          400,
          std::string(
              R"({"code":"invalid_argument","message":"spec.count: 65 is more than the most that one claim may ask for, 64"})")));
  EXPECT_EQ(post("GetClaim", R"({"name": "\"<x>\""})").first, 404);
  EXPECT_EQ(post("CreateClaim", R"({"claim": {"spec": {"memory_bites": 1}}})").first, 400)
      << "a misspelt field";
  EXPECT_EQ(post("CreateClaim", "not json").first, 400);
  EXPECT_EQ(post("Nothing", "{}").first, 501);
  EXPECT_EQ(post("Watch", "{}").first, 501);
  EXPECT_EQ(post("ListClaims", "{}", "text/plain").first, 415);
  EXPECT_EQ(http.Get("/healthz")->body, "ok\n");
  const std::string metrics = http.Get("/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("tulle_claims{state=\"PENDING\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("tulle_api_calls_total{method=\"CreateClaim\",code=\"ok\"} 2\n"));

  httplib::SSLClient nobody("127.0.0.1", http_server_->port());
  nobody.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_FALSE(nobody.Get("/healthz")) << "nothing without a client certificate";
  const security::Credentials node = CredentialsOf(security::Role::kNode, "a");
  httplib::SSLClient wrong_role("127.0.0.1", http_server_->port(), node.certificate_file, node.key_file);
  wrong_role.set_ca_cert_path(user.ca_file.c_str());
  EXPECT_EQ(wrong_role.Post("/tulle.v1.Mesh/ListClaims", "{}", "application/json")->status, 403);
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
