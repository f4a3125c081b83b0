#include "tulle/net/tcp/socket.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

TEST(EndpointTest, GoodOnes) {
  const struct {
    const char* text;
    const char* host;
    std::uint16_t port;
  } cases[] = {{"localhost:1", "localhost", 1},
               {"192.0.2.1:65535", "192.0.2.1", 65535},
               {"[2001:db8::1]:443", "2001:db8::1", 443},
               {"gpu-7.example.org:7000", "gpu-7.example.org", 7000}};
  for (const auto& c : cases) {
    const auto endpoint = ParseEndpoint(c.text);
    ASSERT_TRUE(endpoint.ok()) << c.text;
    EXPECT_EQ(endpoint->host, c.host);
    EXPECT_EQ(endpoint->port, c.port);
    EXPECT_EQ(FormatEndpoint(*endpoint), c.text);
  }
}

TEST(EndpointTest, BadOnesSayHowToWriteIt) {
  for (const std::string text :
       {"", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:1x", "host: 1", "2001:db8::1:443",
        "[2001:db8::1]", "[]:1", "ho st:1", "host:+1"}) {
    const auto endpoint = ParseEndpoint(text);
    ASSERT_FALSE(endpoint.ok()) << text;
    EXPECT_NE(endpoint.error().message.find("host:port"), std::string::npos);
  }
  EXPECT_FALSE(ParseEndpoint(std::string(300, 'a') + ":1").ok());
}

TEST(SocketTest, ConnectsByAddressAndByName) {
  const auto listener = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << ToString(listener.error());
  ASSERT_NE(listener->port, 0);
  for (const char* host : {"127.0.0.1", "localhost"}) {
    const auto socket = ConnectTcp({host, listener->port}, Now() + std::chrono::seconds(20));
    ASSERT_TRUE(socket.ok()) << host << ": " << ToString(socket.error());
    EXPECT_NE(WaitFor(listener->socket.get(), POLLIN, Now() + std::chrono::seconds(20)), 0);
    UniqueFd accepted(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(accepted.valid());
  }
}

TEST(SocketTest, APeerWhoseHostIsGoneIsLookedFor) {
  auto listener = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok());
  auto socket = ConnectTcp({"127.0.0.1", listener->port}, SystemClock().Now() + std::chrono::seconds(5));
  ASSERT_TRUE(socket.ok());
  const int fd = socket->get();
  const auto transport = MakeStreamTransport(*std::move(socket));
  int on = 0, idle_s = 0;
  socklen_t size = sizeof on;
  ASSERT_EQ(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &size), 0);
  ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, &size), 0);
  EXPECT_EQ(on, 1);
  EXPECT_LE(idle_s, 10);
}

TEST(SocketTest, RefusedIsUnavailable) {
  std::uint16_t port = 0;
  {
    const auto listener = ListenTcp("127.0.0.1", 0);
    ASSERT_TRUE(listener.ok());
    port = listener->port;
  }
  const auto socket = ConnectTcp({"127.0.0.1", port}, Now() + std::chrono::seconds(20));
  ASSERT_FALSE(socket.ok());
  EXPECT_EQ(socket.error().code, Code::kUnavailable);
}

TEST(SocketTest, TheDeadlineHolds) {
  // A listener whose queue is full answers no further SYN.
  const auto listener = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok());
  ASSERT_EQ(listen(listener->socket.get(), 0), 0);
  std::vector<UniqueFd> queued;
  Result<UniqueFd> last = UniqueFd();
  for (int i = 0; i < 10 && last.ok(); ++i) {
    last = ConnectTcp({"127.0.0.1", listener->port}, Now() + std::chrono::milliseconds(100));
    if (last.ok()) queued.push_back(std::move(*last));
  }
  ASSERT_FALSE(last.ok());
  EXPECT_EQ(last.error().code, Code::kDeadlineExceeded);
}

TEST(SocketTest, ListeningOnTheSameTwiceNamesThePlace) {
  const auto first = ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(first.ok());
  const auto second = ListenTcp("127.0.0.1", first->port);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("127.0.0.1:" + std::to_string(first->port)), std::string::npos);
  EXPECT_FALSE(ListenTcp("not an address", 0).ok());
}

}  // namespace
}  // namespace tulle::net
