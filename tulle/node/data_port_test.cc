#include "tulle/node/data_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "tulle/net/local/local.h"
#include "tulle/node/testing/steps.h"

namespace tulle::node {
namespace {

using std::chrono::milliseconds;

// The plain form of the hello: the peek treats it as it does the one in TLS, whose parsing has tests of its
// own.
const std::string kHello =
    session::FormatPskIdentity({.vgpu = "v1", .grant = "g1", .session_id = std::string(32, 'a')}) + "\n";

class DataPortTest : public testing::Test {
 protected:
  void Open(Duration hello_timeout = std::chrono::seconds(5)) {
    auto opened =
        DataPort::Open(loop_, {.listen = {"127.0.0.1", 0}, .socket = socket_, .hello_timeout = hello_timeout},
                       [this](const session::PskIdentity& identity, int socket) -> Status {
                         if (starting_) return Error{.code = Code::kUnavailable, .message = "starting"};
                         if (identity.vgpu != "v1") return Error{.code = Code::kNotFound, .message = "none"};
                         // As the worker gets it: nothing has been taken from it.
                         char buffer[256];
                         const ssize_t got = recv(socket, buffer, sizeof buffer, 0);
                         routed_.emplace_back(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
                         return OkStatus();
                       });
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    port_ = std::move(*opened);
  }
  UniqueFd Dial() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET,
                        .sin_port = htons(port_->address().port),
                        .sin_addr = {htonl(INADDR_LOOPBACK)}};
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static void Send(const UniqueFd& fd, const std::string& text) {
    EXPECT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  static bool Closed(const UniqueFd& fd) {
    char byte;
    const ssize_t got = recv(fd.get(), &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno == ECONNRESET);
  }

  const SystemClock clock_;
  Loop loop_{clock_};
  std::unique_ptr<DataPort> port_;
  std::vector<std::string> routed_;
  std::string socket_;
  bool starting_ = false;
};

TEST_F(DataPortTest, PassesOnWhatShowsAWholeHelloHoweverItArrives) {
  Open();
  UniqueFd whole = Dial(), pieces = Dial();
  std::size_t sent = 0;
  Steps steps(loop_);
  steps.Then([&] { Send(whole, kHello + "more"); }, [&] { return routed_.size() == 1; })
      .Then([&] {},
            [&] {
              if (sent < kHello.size()) Send(pieces, kHello.substr(sent++, 1));
              return routed_.size() == 2;
            });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(routed_[0], kHello + "more");
  EXPECT_EQ(routed_[1], kHello);
  EXPECT_EQ(port_->counters().routed, 2u);
  EXPECT_EQ(port_->counters().waiting, 0u);
}

TEST_F(DataPortTest, ProgramsOfThisHostComeThroughItsSocket) {
  std::string folder = testing::TempDir() + "tulle-port-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  socket_ = folder + "/data.sock";
  Open();
  ASSERT_TRUE(port_->has_socket());
  auto good = net::ConnectLocal({net::BootId(), geteuid(), socket_});
  ASSERT_TRUE(good.ok()) << good.error().message;
  const UniqueFd garbage = *net::ConnectLocal({net::BootId(), geteuid(), socket_});
  const UniqueFd other = Dial();
  Steps steps(loop_);
  steps.Then(
      [&] {
        Send(*good, kHello);
        Send(garbage, "GET / HTTP/1.1\r\n");
        Send(other, kHello);
      },
      [&] { return routed_.size() == 2 && Closed(garbage); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(port_->counters().accepted, 3u);
  port_.reset();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  std::filesystem::remove_all(folder);
}

TEST_F(DataPortTest, ASocketThatCannotBeHadIsNoError) {
  socket_ = "/nonexistent/data.sock";
  Open();
  EXPECT_FALSE(port_->has_socket());
}

TEST_F(DataPortTest, ClosesGarbageUnknownSlowAndLost) {
  Open(milliseconds(100));
  UniqueFd garbage = Dial(), unknown = Dial(), slow = Dial(), lost = Dial(), half = Dial();
  Steps steps(loop_);
  steps.Then(
      [&] {
        Send(garbage, "GET / HTTP/1.1\r\n");
        Send(unknown, "tulle1.v2" + kHello.substr(9));
        Send(slow, kHello.substr(0, 5));
        Send(half, kHello.substr(0, 5));
        shutdown(half.get(), SHUT_WR);
        lost.reset();
      },
      [&] {
        return Closed(garbage) && Closed(unknown) && Closed(slow) && Closed(half) &&
               port_->counters().waiting == 0;
      });
  EXPECT_EQ(steps.Run(), steps.size());
  const DataPort::Counters counters = port_->counters();
  EXPECT_EQ(counters.accepted, 5u);
  EXPECT_EQ(counters.garbage, 1u);
  EXPECT_EQ(counters.refused, 1u);
  EXPECT_EQ(counters.too_slow, 1u);
  EXPECT_EQ(counters.hung_up, 2u);
}

TEST_F(DataPortTest, WaitsForAWorkerThatIsBeingStarted) {
  Open(milliseconds(500));
  starting_ = true;
  UniqueFd patient = Dial(), gone = Dial(), unlucky;
  Steps steps(loop_);
  steps
      .Then(
          [&] {
            Send(patient, kHello);
            Send(gone, kHello);
          },
          [&] { return port_->counters().accepted == 2; })
      .Then([&] { loop_.After(milliseconds(100), [&] { starting_ = false; }); },
            [&] { return routed_.size() == 2; })
      .Then(
          [&] {
            starting_ = true;
            unlucky = Dial();
            Send(unlucky, kHello);
          },
          [&] { return Closed(unlucky); });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_EQ(port_->counters().routed, 2u);
  EXPECT_EQ(port_->counters().refused, 1u);
}

TEST_F(DataPortTest, SilentConnectionsDoNotKeepOthersOut) {
  Open();
  std::vector<UniqueFd> silent;
  UniqueFd real;
  Steps steps(loop_);
  steps
      .Then([] {},
            [&] {
              for (int i = 0; i < 16; ++i) silent.push_back(Dial());
              return port_->counters().waiting == kMaxWaiting;
            })
      .Then(
          [&] {
            real = Dial();
            Send(real, kHello);
          },
          [&] { return routed_.size() == 1; });
  EXPECT_EQ(steps.Run(), steps.size());
  EXPECT_GE(port_->counters().too_slow, 1u);
}

TEST(Listen, AddressesAreParsedAndShown) {
  EXPECT_EQ(ParseHostPort("[::1]:7410")->Text(), "[::1]:7410");
  EXPECT_EQ(ParseHostPort(":0")->Text(), "*:0");
  EXPECT_EQ(ParseHostPort("0.0.0.0:1")->host, "");
  EXPECT_EQ(ParseHostPort("host.example:65535")->host, "host.example");
  for (const char* bad : {"", "7410", "host:", "host:70000", "host:1x", "::1:7410", "[zz]:1"}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
  EXPECT_EQ(LocalAddressTowards("127.0.0.1:7400"), "127.0.0.1");
}

TEST(Listen, AnyAddressMeansIpv6AndIpv4) {
  const auto listener = ListenTcp({});
  ASSERT_TRUE(listener.ok()) << listener.error().message;
  EXPECT_NE(listener->address.port, 0);
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{
      .sin_family = AF_INET, .sin_port = htons(listener->address.port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const auto again = ListenTcp({.port = listener->address.port});
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace tulle::node
