// For tests: the whole serving stack on loopback under mutual TLS, and a node's side of the link.
#pragma once

#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tulle/control/api/channel.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/serve/controller.h"
#include "tulle/control/serve/enrollment.h"
#include "tulle/control/serve/grpc_server.h"
#include "tulle/control/serve/http_server.h"
#include "tulle/control/serve/mesh_service.h"
#include "tulle/control/store/sqlite/sqlite_store.h"
#include "tulle/sdk/client.h"
#include "tulle/security/ca.h"
#include "tulle/security/files.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::control {

using namespace std::chrono_literals;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
// Of a claim that nobody holds: more than it takes to hold it once it was made, also with ThreadSanitizer, of
// which the headers of protobuf must know nothing.
inline std::chrono::milliseconds HoldGrace() { return std::getenv("TSAN_OPTIONS") != nullptr ? 3s : 300ms; }
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
    options_.core.hold_grace = HoldGrace();
    options_.core.admins = {"alice"};
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
    service_ = std::make_unique<MeshService>(*controller_, builds_, *enrollment_, "test");
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

}  // namespace tulle::control
