// Handshakes that fail, each with its reason at both ends, and the endpoints that a client tries.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

TEST(HandshakeTest, AnotherKey) {
  for (const bool tls : {true, false}) {
    Client client;
    auto options = ClientOptions(tls);
    options.target.key[5] ^= std::byte{1};
    ServerLimits limits;
    limits.allow_plain_tcp = true;
    const Ends ends = Connect(MakeSocketPair(), &client, options, limits);
    ASSERT_FALSE(ends.server.ok());
    ASSERT_FALSE(ends.client.ok());
    EXPECT_EQ(ends.client.error().code, Code::kUnauthenticated) << ToString(ends.client.error());
    EXPECT_EQ(ends.server.error().code, Code::kUnauthenticated) << ToString(ends.server.error());
    EXPECT_EQ(client.lost_times, 0);
  }
}

TEST(HandshakeTest, AnUnknownRevokedOrForeignGrant) {
  for (const bool tls : {true, false}) {
    for (const bool vgpu : {true, false}) {
      Client client;
      auto options = ClientOptions(tls);
      (vgpu ? options.target.vgpu : options.target.grant) = "other";
      ServerLimits limits;
      limits.allow_plain_tcp = true;
      const Ends ends = Connect(MakeSocketPair(), &client, options, limits);
      ASSERT_FALSE(ends.server.ok());
      ASSERT_FALSE(ends.client.ok());
      EXPECT_EQ(ends.client.error().code, Code::kPermissionDenied) << ToString(ends.client.error());
      EXPECT_NE(ends.client.error().message.find("other"), std::string::npos);
      EXPECT_EQ(ends.server.error().message, "unknown grant");
    }
  }
}

TEST(HandshakeTest, PlainOnlyWhereItIsAllowed) {
  Client client;
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(false), {});
  ASSERT_FALSE(ends.server.ok());
  ASSERT_FALSE(ends.client.ok());
  EXPECT_NE(ends.client.error().message.find("without TLS"), std::string::npos)
      << ToString(ends.client.error());
}

TEST(HandshakeTest, ABusyWorkerSaysSo) {
  Client client;
  ServerLimits limits;
  const std::string busy = "8 sessions of 8 are in use";
  limits.busy = [&] { return busy; };
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(true), limits);
  ASSERT_FALSE(ends.server.ok());
  ASSERT_FALSE(ends.client.ok());
  EXPECT_EQ(ends.client.error().code, Code::kResourceExhausted);
  EXPECT_NE(ends.client.error().message.find(busy), std::string::npos);
}

TEST(HandshakeTest, WhoHoldsAConnectionForNobodyHereSaysSo) {
  for (const bool tls : {true, false}) {
    SocketPair sockets = MakeSocketPair();
    std::thread node([&] {
      net::WaitFor(sockets.server.get(), POLLIN, Soon());
      RefuseUnread(sockets.server.get());
      sockets.server.reset();
    });
    Client client;
    const auto session = ClientSession::ConnectOver(std::move(sockets.client), ClientOptions(tls), &client);
    node.join();
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.error().code, Code::kPermissionDenied) << ToString(session.error());
  }
}

TEST(HandshakeTest, NoCommonCapability) {
  Client client;
  ServerLimits limits;
  limits.capabilities = 0;
  const Ends ends = Connect(MakeSocketPair(), &client, ClientOptions(true), limits);
  ASSERT_FALSE(ends.client.ok());
  EXPECT_EQ(ends.client.error().code, Code::kFailedPrecondition) << ToString(ends.client.error());
}

TEST(HandshakeTest, ASilentClientRunsIntoTheDeadline) {
  SocketPair sockets = MakeSocketPair();
  ServerLimits limits;
  limits.handshake_timeout = std::chrono::milliseconds(1);
  const auto server = ServerSession::Accept(std::move(sockets.server), limits, TestKeys);
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, Code::kDeadlineExceeded);
}

TEST(HandshakeTest, EndpointsAreTriedInOrderAndEachFailureIsTold) {
  std::uint16_t closed = 0;
  {
    const auto gone = net::ListenTcp("127.0.0.1", 0);
    closed = gone->port;
  }
  auto listener = net::ListenTcp("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok());
  Client client;
  auto options = ClientOptions(true);
  const std::string bad = "127.0.0.1:" + std::to_string(closed);
  options.target.endpoints = {bad, "nonsense"};
  const auto failed = ClientSession::Connect(options, &client);
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find(bad), std::string::npos);
  EXPECT_NE(failed.error().message.find("nonsense"), std::string::npos);

  options.target.endpoints = {bad, "127.0.0.1:" + std::to_string(listener->port)};
  EchoWorker worker;
  std::thread accepting([&] {
    net::WaitFor(listener->socket.get(), POLLIN, Soon());
    auto server = ServerSession::Accept(
        UniqueFd(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC)), {}, TestKeys);
    ASSERT_TRUE(server.ok());
    worker.Start(std::move(*server));
  });
  auto session = ClientSession::Connect(options, &client);
  accepting.join();
  ASSERT_TRUE(session.ok()) << ToString(session.error());
  client.session = std::move(*session);
  EXPECT_TRUE(client.Ping());
  client.session->Close();
}

}  // namespace
}  // namespace tulle::session
