// Sessions whose connections are cut, over a relay: whatever happens to them, the program sees only delay;
// and what cannot be saved is told.
#include "tulle/session/resume.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <list>
#include <optional>
#include <semaphore>
#include <thread>

#include "tulle/net/tcp/socket.h"
#include "tulle/net/testing/relay.h"
#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

// A worker behind a port, one session at a time, and a client that reaches it through a relay.
class ResumeTest : public testing::TestWithParam<bool> {
 protected:
  void StartWorker(Duration window = std::chrono::seconds(60)) {
    limits_.allow_plain_tcp = true;
    limits_.resume_window = window;
    limits_.resume_table = &table_;
    auto listener = net::ListenTcp("127.0.0.1", 0);
    ASSERT_TRUE(listener.ok());
    listener_ = std::move(listener->socket);
    port_ = listener->port;
    listening_ = std::thread([this] { Listen(); });
  }
  void StartRelay(net::Relay::Options options) {
    options.target = {"127.0.0.1", port_};
    auto relay = net::Relay::Start(options);
    ASSERT_TRUE(relay.ok());
    relay_ = std::move(*relay);
  }
  void Attach() {
    ClientSession::Options options = ClientOptions(GetParam());
    options.target.endpoints = {"127.0.0.1:" + std::to_string(relay_->port())};
    auto session = ClientSession::Connect(options, &client_);
    ASSERT_TRUE(session.ok()) << ToString(session.error());
    client_.session = std::move(*session);
    served_.acquire();
  }
  void TearDown() override {
    if (client_.session != nullptr) client_.session->Close();
    relay_.reset();
    stop_ = true;
    shutdown(listener_.get(), SHUT_RDWR);
    listening_.join();
    for (std::thread& thread : threads_) thread.join();
    if (worker_) worker_->Join();
    EXPECT_TRUE(!worker_ || (worker_->patterns_ok() && worker_->sequences_ok()));
  }
  ClientSession& session() { return *client_.session; }

  std::optional<EchoWorker> worker_;
  Client client_;
  std::unique_ptr<net::Relay> relay_;
  ServerLimits limits_;
  ResumeTable table_;
  std::atomic<bool> revoked_{false};  // the grant, for those who come from now on

 private:
  void Listen() {
    while (!stop_) {
      net::WaitFor(listener_.get(), POLLIN, Soon());
      UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.valid()) continue;
      threads_.emplace_back([this, s = std::move(socket)]() mutable {
        const auto keys = [this](const std::string& vgpu, const std::string& grant) -> Result<GrantKey> {
          if (revoked_) return Error{Code::kPermissionDenied, "the grant was revoked"};
          return TestKeys(vgpu, grant);
        };
        auto session = ServerSession::Accept(std::move(s), limits_, keys);
        if (!session.ok() || *session == nullptr) return;
        worker_.emplace(7).Start(std::move(*session));
        served_.release();
      });
    }
  }

  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  std::thread listening_;
  std::list<std::thread> threads_;
  std::binary_semaphore served_{0};
};

// One thread of a program: writes, reads, statuses.
void Work(Client& client, std::uint64_t seed, const std::function<bool()>& goes_on) {
  SeededRandom random(seed);
  ByteVector bytes;
  while (goes_on()) {
    const std::uint64_t pattern = random.Below(1'000'000);
    bytes.assign(1 + random.Below(random.Below(8) == 0 ? 500'000 : 3'000), std::byte{});
    switch (random.Below(3)) {
      case 0: {
        FillPattern(pattern, bytes);
        const ByteView view(bytes);
        const auto sent = client.session->Send(WriteOf(pattern, bytes.size()), {&view, 1});
        ASSERT_TRUE(sent.ok()) << ToString(sent.error());
        break;
      }
      case 1: {
        const auto status = client.Call(ReadOf(pattern, bytes.size()), {}, 0, bytes);
        ASSERT_EQ(status, 0);
        ASSERT_TRUE(HasPattern(pattern, bytes));
        break;
      }
      default: ASSERT_TRUE(client.Call(WithHandles<Finish>()).has_value()); break;
    }
  }
}

TEST_P(ResumeTest, CutAnywhereManyTimes) {
  constexpr std::uint64_t kCuts = 300;
  const std::uint64_t seed = SecureRandom().Below(1'000'000'000);
  SCOPED_TRACE("seed " + std::to_string(seed));
  StartWorker();
  StartRelay({.seed = seed, .cut_within_bytes = 60'000, .spared = 1, .most_cuts = kCuts});
  Attach();
  relay_->CutAll(/*refuse=*/false);
  const auto goes_on = [&] { return relay_->cuts() < kCuts && client_.lost_times == 0; };
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 3; ++t) threads.emplace_back([&, t] { Work(client_, seed + t, goes_on); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client_.lost_times, 0) << ToString(client_.lost_error);
  EXPECT_TRUE(client_.Ping());
  EXPECT_EQ(relay_->cuts(), kCuts);
}

// One thread waits for what another will send, and that one for room on a connection that is cut when all
// that was under way has arrived: nothing is sent again, and nothing comes that would wake it.
TEST_P(ResumeTest, WhoWaitsForRoomGoesOnWithTheNextConnection) {
  StartWorker();
  net::Relay::Options slow;
  slow.delay = std::chrono::milliseconds(3);
  StartRelay(slow);
  SeededRandom random(23);
  ByteVector bytes(300'000);  // somewhat more than may be under way at first
  FillPattern(1, bytes);
  const ByteView view(bytes);
  for (int round = 0; round < 20; ++round) {
    Attach();
    worker_->MoreFollows();  // so that it does not acknowledge commands on its own
    std::atomic<bool> sent{false};
    std::thread waits([&] { EXPECT_TRUE(session().WaitUntil([&] { return sent.load(); }).ok()); });
    std::thread sends([&] {
      EXPECT_TRUE(session().Send(WriteOf(1, bytes.size()), {&view, 1}).ok());
      sent = true;
      EXPECT_TRUE(client_.Ping());
    });
    while (worker_->parted() == 0) std::this_thread::yield();
    // What it has told by then is on its way for three milliseconds.
    const Instant cut_at = net::Now() + std::chrono::microseconds(random.Below(3'000));
    while (net::Now() < cut_at) std::this_thread::yield();
    relay_->CutAll(/*refuse=*/false);
    sends.join();
    waits.join();
    session().Close();
    client_.session.reset();
    worker_->Join();
  }
}

TEST_P(ResumeTest, AnIdleSessionComesBackToo) {
  StartWorker();
  StartRelay({});
  Attach();
  ASSERT_TRUE(client_.Ping());
  for (int i = 0; i < 3; ++i) {
    relay_->CutAll(/*refuse=*/false);
    while (relay_->connections() < 2u + static_cast<unsigned>(i)) std::this_thread::yield();
    ASSERT_TRUE(client_.Ping());
  }
}

TEST_P(ResumeTest, TheWindowEnds) {
  StartWorker(std::chrono::milliseconds(300));
  StartRelay({});
  Attach();
  ASSERT_TRUE(client_.Ping());
  relay_->CutAll(/*refuse=*/true);
  EXPECT_FALSE(client_.Ping());
  const Error error = client_.AwaitLost();
  EXPECT_EQ(error.code, Code::kUnavailable) << ToString(error);
  EXPECT_NE(error.message.find("the connection was lost"), std::string::npos) << error.message;
  worker_->Join();
  EXPECT_EQ(worker_->end_error().code, Code::kUnavailable);
}

TEST_P(ResumeTest, ASessionThatIsGoneIsLostAtOnce) {
  StartWorker();
  StartRelay({});
  Attach();
  ASSERT_TRUE(client_.Ping());
  relay_->CutAll(/*refuse=*/true);
  worker_->End(wire::EndReason::kShuttingDown, "the worker stops");
  worker_->Join();
  relay_->CutAll(/*refuse=*/false);
  const Error error = client_.AwaitLost();  // long before the window ends
  EXPECT_EQ(error.code, Code::kAborted) << ToString(error);
}

TEST_P(ResumeTest, WhoseGrantWasRevokedMeanwhileDoesNotComeBack) {
  StartWorker();
  StartRelay({});
  Attach();
  ASSERT_TRUE(client_.Ping());
  relay_->CutAll(/*refuse=*/true);
  revoked_ = true;
  relay_->CutAll(/*refuse=*/false);
  const Error error = client_.AwaitLost();  // long before the window ends
  EXPECT_EQ(error.code, Code::kPermissionDenied) << ToString(error);
  worker_->End(wire::EndReason::kGrantRevoked, "revoked");  // as its worker does
}

TEST_P(ResumeTest, CloseWithoutAConnectionTakesItsSecondOnly) {
  StartWorker();
  StartRelay({});
  Attach();
  ASSERT_TRUE(client_.Ping());
  relay_->CutAll(/*refuse=*/true);
  const Instant before = net::Now();
  client_.session->Close();
  EXPECT_LT(net::Now() - before, std::chrono::seconds(20));
  worker_->End(wire::EndReason::kGoodbye, "");
}

INSTANTIATE_TEST_SUITE_P(All, ResumeTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "tls" : "plain"; });

}  // namespace
}  // namespace tulle::session
