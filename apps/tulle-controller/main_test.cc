// The program as its supervisor sees it: ready line, credentials, signals, kill -9.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "tulle/base/subprocess.h"
#include "tulle/base/unique_fd.h"
#include "tulle/sdk/client.h"

namespace tulle {
namespace {

using namespace std::chrono_literals;

class ControllerProgramTest : public ::testing::Test {
 protected:
  ControllerProgramTest() {
    char pattern[] = "/tmp/tulle-controller-XXXXXX";
    state_ = std::string(mkdtemp(pattern)) + "/state";
  }
  ~ControllerProgramTest() override {
    if (process_) {
      process_->Signal(SIGKILL);
      process_->Wait(5s);
    }
    std::filesystem::remove_all(std::filesystem::path(state_).parent_path());
  }

  // Runs until ready; what it said then, or nothing when it ended instead.
  std::map<std::string, std::string> Start(const std::string& listen = "127.0.0.1:0",
                                           const std::string& http = "127.0.0.1:0",
                                           const std::vector<std::string>& more = {}) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]);
    UniqueFd write_end(ends[1]);
    std::vector<std::string> argv = {CONTROLLER, "--state-dir", state_,  "--listen", listen, "--http-listen",
                                     http,       "--user",      "alice", "--node",   "a",    "--log-level",
                                     "off",      "--ready-fd",  "3"};
    argv.insert(argv.end(), more.begin(), more.end());
    auto process = Subprocess::Start({.argv = argv, .fds = {{-1, 0}, {ends[1], 3}}});
    EXPECT_TRUE(process.ok()) << process.error().message;
    process_ = *std::move(process);
    write_end.reset();
    std::string text;
    char buffer[256];
    for (ssize_t got; (got = read(read_end.get(), buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(got));
    std::map<std::string, std::string> facts;
    std::istringstream lines(text);
    for (std::string key, value; lines >> key >> value;) facts[key] = value;
    return facts;
  }

  std::unique_ptr<sdk::Client> Client(const std::string& file = "client.conf") {
    const auto config = security::LoadCredentials(state_ + "/" + file);
    EXPECT_TRUE(config.ok()) << config.error().message;
    return *sdk::Client::Connect(*config);
  }

  std::string state_;
  std::optional<Subprocess> process_;
};

TEST_F(ControllerProgramTest, IsReadyServesAndStops) {
  const auto facts = Start();
  ASSERT_EQ(facts.size(), 2u);
  EXPECT_EQ(Client()->config().endpoint, facts.at("grpc"));
  EXPECT_EQ(Client()->config().http_endpoint, facts.at("http"));
  const auto mesh = Client()->GetMesh();
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  EXPECT_EQ(mesh->caller, "tulle://user/alice");
  EXPECT_EQ(mesh->hold_grace, 10s);
  EXPECT_EQ(Client("node-a.conf")->ListClaims().error().code, Code::kPermissionDenied) << "a node is no user";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(state_)) {
    struct stat info {};
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0077, 0u) << entry.path();
  }
  process_->Signal(SIGTERM);
  const auto exit = process_->Wait(20s);
  ASSERT_TRUE(exit);
  EXPECT_TRUE(exit->ok()) << exit->Text();
}

TEST_F(ControllerProgramTest, KeepsWhatItAcknowledgedThroughKill) {
  const auto facts = Start();
  ASSERT_EQ(facts.size(), 2u);
  const auto client = Client();
  for (int i = 0; i < 20; ++i) {
    const auto claim = client->CreateClaim({.name = "c" + std::to_string(i)});
    ASSERT_TRUE(claim.ok()) << claim.error().message;
  }
  process_->Signal(SIGKILL);
  process_->Wait(5s);
  ASSERT_EQ(Start(facts.at("grpc"), facts.at("http")), facts) << "the same ports again";
  const auto claims = client->ListClaims();  // the same client, and the same certificate
  ASSERT_TRUE(claims.ok()) << claims.error().message;
  EXPECT_EQ(claims->size(), 20u);
}

TEST_F(ControllerProgramTest, LimitsEachTenantsClaims) {
  ASSERT_EQ(Start("127.0.0.1:0", "127.0.0.1:0", {"--max-claims-per-tenant", "1"}).size(), 2u);
  const auto client = Client();
  ASSERT_TRUE(client->CreateClaim({.name = "first"}).ok());
  const auto second = client->CreateClaim({.name = "second"});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kResourceExhausted);
  EXPECT_NE(second.error().message.find("you have 1 claims"), std::string::npos) << second.error().message;
  ASSERT_TRUE(client->DeleteClaim("first").ok());
  EXPECT_TRUE(client->CreateClaim({.name = "second"}).ok());
}

TEST_F(ControllerProgramTest, ASecondOneIsRefused) {
  const auto facts = Start();
  ASSERT_EQ(facts.size(), 2u);
  Subprocess first = std::move(*process_);
  EXPECT_TRUE(Start().empty()) << "the state directory is in use";
  EXPECT_FALSE(process_->Wait(20s)->ok());
  const std::string own_state = std::exchange(state_, state_ + "-2");
  EXPECT_TRUE(Start(facts.at("grpc")).empty()) << "the port is in use";
  EXPECT_FALSE(process_->Wait(20s)->ok());
  std::filesystem::remove_all(std::exchange(state_, own_state));
  process_ = std::move(first);
  EXPECT_TRUE(Client()->GetMesh().ok());
}

}  // namespace
}  // namespace tulle
