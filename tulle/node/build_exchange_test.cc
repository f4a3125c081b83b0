#include "tulle/node/build_exchange.h"

#include <fcntl.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

#include "tulle/base/random.h"
#include "tulle/security/ca.h"
#include "tulle/v1/node_link.grpc.pb.h"

namespace tulle::node {
namespace {

class FakeController final : public v1::Builds::Service {
 public:
  grpc::Status FindBuild(grpc::ServerContext*, const v1::FindBuildRequest* request,
                         v1::FindBuildResponse* response) override {
    const std::lock_guard lock(mutex_);
    ++asked;
    const auto found = kept_.find(request->vgpu_uid() + request->key());
    if (found == kept_.end()) return {grpc::StatusCode::NOT_FOUND, "none"};
    response->set_content(found->second);
    return grpc::Status::OK;
  }
  grpc::Status KeepBuild(grpc::ServerContext*, const v1::KeepBuildRequest* request,
                         v1::KeepBuildResponse*) override {
    const std::lock_guard lock(mutex_);
    kept_[request->vgpu_uid() + request->key()] = request->content();
    return grpc::Status::OK;
  }
  int asked = 0;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> kept_;
};

class BuildExchangeTest : public testing::Test {
 protected:
  BuildExchangeTest() {
    signal(SIGPIPE, SIG_IGN);
    std::string name = testing::TempDir() + "builds-XXXXXX";
    directory_ = mkdtemp(name.data());
    auto authority = security::CertificateAuthority::OpenOrCreate(directory_ + "/ca", clock_, random_);
    const auto pem = authority->Issue({security::Role::kController, "c"});
    auto credentials =
        security::EnsureCredentials(*authority, directory_, {security::Role::kNode, "a"}, clock_, {});
    grpc::SslServerCredentialsOptions tls(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    tls.pem_root_certs = pem->ca;
    tls.pem_key_cert_pairs = {{pem->key, pem->certificate}};
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(tls), &port);
    builder.RegisterService(&controller_);
    builder.SetMaxReceiveMessageSize(4 << 20);
    server_ = builder.BuildAndStart();
    credentials->endpoint = "127.0.0.1:" + std::to_string(port);
    EXPECT_TRUE(security::SaveCredentials(*credentials, conf()).ok());
  }
  ~BuildExchangeTest() override {
    server_->Shutdown(std::chrono::system_clock::now());
    std::filesystem::remove_all(directory_);
  }
  std::string conf() const { return directory_ + "/a.conf"; }

  static std::string Find(BuildExchange& exchange, const std::string& vgpu) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]);
    exchange.Find(vgpu, AsBytes(kKey), UniqueFd(ends[1]));
    std::string content;
    char buffer[4096];
    for (ssize_t got; (got = read(read_end.get(), buffer, sizeof buffer)) > 0;)
      content.append(buffer, static_cast<std::size_t>(got));
    return content;
  }
  static void Keep(BuildExchange& exchange, const std::string& vgpu, const std::string& content) {
    UniqueFd file(memfd_create("content", MFD_CLOEXEC));
    EXPECT_EQ(write(file.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
    exchange.Keep(vgpu, AsBytes(kKey), std::move(file));
  }

  static constexpr std::string_view kKey = "0123456789abcdef0123456789abcdef";
  SystemClock clock_;
  SecureRandom random_;
  std::string directory_;
  FakeController controller_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(BuildExchangeTest, FindsWhatWasKept) {
  BuildExchange exchange(conf(), clock_);
  EXPECT_EQ(Find(exchange, "v1"), "");
  // As large as they get: many times what a pipe holds.
  const std::string content(wire::node::kMaxKeptBuildBytes, 'x');
  Keep(exchange, "v1", content);
  while (exchange.counters().kept == 0) std::this_thread::yield();
  EXPECT_TRUE(Find(exchange, "v1") == content);
  EXPECT_EQ(Find(exchange, "v2"), "");
  EXPECT_EQ(exchange.counters().not_found, 2u);
}

TEST_F(BuildExchangeTest, WhatIsNoContentIsNotKept) {
  BuildExchange exchange(conf(), clock_);
  Keep(exchange, "v1", "");
  Keep(exchange, "v1", std::string(wire::node::kMaxKeptBuildBytes + 1, 'x'));
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd write_end(ends[1]);  // reading it would take for ever
  exchange.Keep("v1", AsBytes(kKey), UniqueFd(ends[0]));
  while (exchange.counters().not_kept < 3) std::this_thread::yield();
  EXPECT_EQ(Find(exchange, "v1"), "");
}

TEST_F(BuildExchangeTest, AControllerThatIsAwayIsLeftAloneForAWhile) {
  FakeClock clock;
  BuildExchange exchange(conf(), clock);
  EXPECT_EQ(Find(exchange, "v1"), "");
  EXPECT_EQ(controller_.asked, 1);
  // Without credentials there is no call, and with them none until later.
  std::filesystem::rename(conf(), directory_ + "/away.conf");
  BuildExchange without(conf(), clock);
  EXPECT_EQ(Find(without, "v1"), "");
  std::filesystem::rename(directory_ + "/away.conf", conf());
  EXPECT_EQ(Find(without, "v1"), "");
  EXPECT_EQ(controller_.asked, 1);
  clock.Advance(std::chrono::seconds(6));
  EXPECT_EQ(Find(without, "v1"), "");
  EXPECT_EQ(controller_.asked, 2);
}

TEST_F(BuildExchangeTest, AWorkerThatDoesNotTakeItsAnswerHoldsUpNobody) {
  BuildExchange exchange(conf(), clock_);
  Keep(exchange, "v1", std::string(1 << 20, 'x'));
  while (exchange.counters().kept == 0) std::this_thread::yield();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  exchange.Find("v1", AsBytes(kKey), UniqueFd(ends[1]));
  pollfd filled{read_end.get(), POLLIN, 0};
  ASSERT_EQ(poll(&filled, 1, 20'000), 1);
  read_end.reset();  // it has died meanwhile
  EXPECT_EQ(Find(exchange, "v1").size(), std::size_t{1} << 20);
}

}  // namespace
}  // namespace tulle::node
