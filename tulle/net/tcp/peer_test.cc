#include "tulle/net/tcp/peer.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "tulle/net/tcp/socket.h"
#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

struct Pair {
  UniqueFd near, far;
};
Pair Connect() {
  auto listener = ListenTcp("127.0.0.1", 0);
  auto near = ConnectTcp({"127.0.0.1", listener->port}, Now() + std::chrono::seconds(10));
  WaitFor(listener->socket.get(), POLLIN, Now() + std::chrono::seconds(10));
  UniqueFd far(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return {std::move(*near), std::move(far)};
}

// As if the host were gone: its kernel sees no packet of the connection any more.
void Vanish(const UniqueFd& socket) {
  sock_filter drop{BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program{1, &drop};
  ASSERT_EQ(setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
}

TEST(PeerTest, AHostThatIsGoneIsSilent) {
  Pair pair = Connect();
  EXPECT_EQ(LookAtPeer(pair.near.get()), PeerState::kNothingUnderWay);
  ASSERT_EQ(send(pair.near.get(), "a", 1, 0), 1);
  char byte;
  ASSERT_EQ(recv(pair.far.get(), &byte, 1, 0), 1);
  Vanish(pair.far);
  EXPECT_EQ(LookAtPeer(pair.near.get()), PeerState::kNothingUnderWay);
  ASSERT_EQ(send(pair.near.get(), "b", 1, 0), 1);
  EXPECT_EQ(LookAtPeer(pair.near.get()), PeerState::kUnderWay);
  const Instant deadline = Now() + std::chrono::seconds(60);
  while (LookAtPeer(pair.near.get()) == PeerState::kUnderWay && Now() < deadline) {
    WaitFor(pair.near.get(), 0, Now() + std::chrono::milliseconds(20));
  }
  EXPECT_EQ(LookAtPeer(pair.near.get()), PeerState::kSilent);
}

TEST(PeerTest, APeerThatTakesNothingLives) {
  Pair pair = Connect();
  const std::vector<char> bytes(1u << 20);
  while (send(pair.near.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
  }
  const Instant deadline = Now() + std::chrono::seconds(2);
  while (Now() < deadline) {
    ASSERT_EQ(LookAtPeer(pair.near.get()), PeerState::kUnderWay);
    WaitFor(pair.near.get(), 0, Now() + std::chrono::milliseconds(20));
  }
}

TEST(PeerTest, ASocketThatIsNotTcpIsNotLookedAt) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  const UniqueFd one(fds[0]), other(fds[1]);
  ASSERT_EQ(send(one.get(), "a", 1, 0), 1);
  EXPECT_EQ(LookAtPeer(one.get()), PeerState::kNothingUnderWay);
}

}  // namespace
}  // namespace tulle::net
