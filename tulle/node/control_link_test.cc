#include "tulle/node/control_link.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "tulle/base/paths.h"
#include "tulle/base/random.h"
#include "tulle/security/ca.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A controller that says what the test wants and remembers what it heard.
class FakeController final : public v1::NodeLink::Service {
 public:
  grpc::Status Link(grpc::ServerContext*,
                    grpc::ServerReaderWriter<v1::ControllerMessage, v1::NodeMessage>* stream) override {
    {
      std::lock_guard lock(mutex_);
      stream_ = stream;
    }
    v1::NodeMessage message;
    bool leaving = false;
    while (!leaving && stream->Read(&message)) {
      leaving = message.has_leaving();
      std::lock_guard lock(mutex_);
      heard_.push_back(message);
      if (message.has_register_()) {
        v1::ControllerMessage registered;
        registered.mutable_registered()->mutable_heartbeat_interval()->set_nanos(50'000'000);
        stream->Write(registered);
      }
      changed_.notify_all();
    }
    std::lock_guard lock(mutex_);
    stream_ = nullptr;
    return grpc::Status::OK;
  }

  // The first message since the last call for which `wanted` holds; nothing after ten seconds.
  std::optional<v1::NodeMessage> Hear(const std::function<bool(const v1::NodeMessage&)>& wanted) {
    std::unique_lock lock(mutex_);
    std::optional<v1::NodeMessage> found;
    changed_.wait_for(lock, seconds(10), [&] {
      while (!heard_.empty() && !found) {
        if (wanted(heard_.front())) found = heard_.front();
        heard_.pop_front();
      }
      return found.has_value();
    });
    return found;
  }
  void Say(const v1::ControllerMessage& message) {
    std::lock_guard lock(mutex_);
    ASSERT_NE(stream_, nullptr);
    stream_->Write(message);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  grpc::ServerReaderWriter<v1::ControllerMessage, v1::NodeMessage>* stream_ = nullptr;
  std::deque<v1::NodeMessage> heard_;
};

class ControlLinkTest : public testing::Test {
 protected:
  ControlLinkTest() {
    std::string name = testing::TempDir() + "link-XXXXXX";
    directory_ = mkdtemp(name.data());
    auto authority = security::CertificateAuthority::OpenOrCreate(directory_ + "/ca", clock_, random_);
    EXPECT_TRUE(authority.ok());
    const auto pem = authority->Issue({security::Role::kController, "c"});
    EXPECT_TRUE(pem.ok());
    pem_ = *pem;
    auto credentials =
        security::EnsureCredentials(*authority, directory_, {security::Role::kNode, "a"}, clock_, {});
    EXPECT_TRUE(credentials.ok());
    credentials_ = *credentials;
    StartController();
    supervisor_ = std::make_unique<Supervisor>(
        loop_,
        Supervisor::Options{.worker_binary = FindProgram("tulle_fake_worker"), .worker_arguments = {"ready"}},
        [this](const VGpuStatus& status) { link_->Report(status); });
    link_ = std::make_unique<ControlLink>(
        loop_, *supervisor_,
        ControlLink::Options{
            .credentials_path = directory_ + "/a.conf", .name = "a", .data_endpoint = "127.0.0.1:1"},
        ControlLink::Callbacks{.snapshot = [this] { return TakeSnapshot(); },
                               .on_registered = [this](bool registered) { registered_ = registered; }});
    thread_ = std::thread([this] {
      loop_.Run();
      supervisor_.reset();  // on the thread that the workers die with
    });
  }
  ~ControlLinkTest() override {
    link_->WaitLeft(Duration(0));
    loop_.Stop();
    thread_.join();
    link_.reset();
    StopController();
    std::filesystem::remove_all(directory_);
  }

  // On a port of its own, each time; the node reads where.
  void StartController() {
    grpc::SslServerCredentialsOptions tls(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    tls.pem_root_certs = pem_.ca;
    tls.pem_key_cert_pairs = {{pem_.key, pem_.certificate}};
    int port = 0;
    controller_ = std::make_unique<FakeController>();
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(tls), &port);
    builder.RegisterService(controller_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    credentials_.endpoint = "127.0.0.1:" + std::to_string(port);
    ASSERT_TRUE(security::SaveCredentials(credentials_, directory_ + "/a.conf").ok());
  }
  void StopController() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
    controller_.reset();
  }

  Snapshot TakeSnapshot() const {
    return {.name = "a",
            .version = "1",
            .gpus = {{.index = 4,
                      .device_index = 0,
                      .api = "OPENCL",
                      .name = "card",
                      .memory_bytes = 1000,
                      .allocatable_memory_bytes = 750,
                      .allocatable_compute_percent = 50}},
            .vgpus = supervisor_->List(),
            .load = {.cpus = 2}};
  }
  v1::ControllerMessage CreateMessage(const std::string& uid, std::uint32_t gpu = 4) {
    v1::ControllerMessage message;
    v1::CreateVGpu& create = *message.mutable_create_vgpu();
    create.set_uid(uid);
    create.set_gpu_index(gpu);
    create.set_memory_bytes(100);
    v1::GrantKey& grant = *create.add_grants();
    grant.set_id("g1");
    grant.set_key(std::string(wire::node::kKeyBytes, 'k'));
    return message;
  }
  static std::function<bool(const v1::NodeMessage&)> Report(v1::VGpuReport::State state) {
    return [state](const v1::NodeMessage& m) { return m.has_vgpu() && m.vgpu().state() == state; };
  }
  static bool IsRegister(const v1::NodeMessage& m) { return m.has_register_(); }

  const SystemClock clock_;
  SecureRandom random_;
  std::string directory_;
  security::PemBundle pem_;
  security::Credentials credentials_;
  std::unique_ptr<FakeController> controller_;
  std::unique_ptr<grpc::Server> server_;
  Loop loop_{clock_};
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<ControlLink> link_;
  std::atomic<bool> registered_{false};
  std::thread thread_;
};

TEST_F(ControlLinkTest, RegistersHeartbeatsAndCarriesOut) {
  const auto first = controller_->Hear(IsRegister);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->register_().name(), "a");
  EXPECT_EQ(first->register_().data_endpoint(), "127.0.0.1:1");
  ASSERT_EQ(first->register_().gpus_size(), 1);
  EXPECT_EQ(first->register_().gpus(0).index(), 4u);
  EXPECT_EQ(first->register_().gpus(0).allocatable_memory_bytes(), 750u);
  EXPECT_EQ(first->register_().gpus(0).allocatable_compute_percent(), 50u);
  EXPECT_TRUE(controller_->Hear([](const v1::NodeMessage& m) { return m.has_heartbeat(); }).has_value());

  controller_->Say(CreateMessage("v1"));
  const auto ready = controller_->Hear(Report(v1::VGpuReport::READY));
  ASSERT_TRUE(ready.has_value());
  EXPECT_EQ(ready->vgpu().grant_ids(0), "g1");
  v1::ControllerMessage remove;
  remove.mutable_delete_vgpu()->set_uid("v1");
  controller_->Say(remove);
  EXPECT_TRUE(controller_->Hear(Report(v1::VGpuReport::DELETED)).has_value());
}

TEST_F(ControlLinkTest, RefusesAGpuThatIsNotThere) {
  ASSERT_TRUE(controller_->Hear(IsRegister).has_value());
  controller_->Say(CreateMessage("v1", 9));
  const auto failed = controller_->Hear(Report(v1::VGpuReport::FAILED));
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->vgpu().message(), "this node has no GPU with index 9");
}

TEST_F(ControlLinkTest, AnotherControllerLearnsWhatRuns) {
  ASSERT_TRUE(controller_->Hear(IsRegister).has_value());
  controller_->Say(CreateMessage("v1"));
  ASSERT_TRUE(controller_->Hear(Report(v1::VGpuReport::READY)).has_value());
  StopController();
  StartController();
  const auto again = controller_->Hear(IsRegister);
  ASSERT_TRUE(again.has_value());
  ASSERT_EQ(again->register_().vgpus_size(), 1);
  EXPECT_EQ(again->register_().vgpus(0).state(), v1::VGpuReport::READY);
  EXPECT_EQ(again->register_().vgpus(0).grant_ids(0), "g1");
}

TEST_F(ControlLinkTest, TellsThatItLeavesAndWaitsUntilThatIsKnown) {
  ASSERT_TRUE(controller_->Hear(IsRegister).has_value());
  link_->Leave("going home");
  const auto leaving = controller_->Hear([](const v1::NodeMessage& m) { return m.has_leaving(); });
  ASSERT_TRUE(leaving.has_value());
  EXPECT_EQ(leaving->leaving().reason(), "going home");
  link_->WaitLeft(seconds(10));
}

}  // namespace
}  // namespace tulle::node
