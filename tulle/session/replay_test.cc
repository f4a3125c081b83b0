// Somebody on the wire who has seen a session, or sits in the middle of one: what was said before opens
// nothing, is believed by nobody, and is carried out no second time.
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

// Passes bytes between a client and a worker, keeps what passed, and may put some of it in once more.
class Wiretap {
 public:
  Wiretap() : clients_(MakeSocketPair()), workers_(MakeSocketPair()) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Wiretap() {
    stop_ = true;
    shutdown(clients_.server.get(), SHUT_RDWR);
    shutdown(workers_.client.get(), SHUT_RDWR);
    thread_.join();
  }
  // The two ends, for those who think that they are connected.
  SocketPair TakeEnds() { return {std::move(clients_.client), std::move(workers_.server)}; }

  // The next piece from there is passed on twice.
  void RepeatNext(bool from_client) { repeat_[from_client ? 0 : 1] = true; }
  bool repeated() const { return repeated_; }

  // All that passed. After the ends have closed.
  ByteVector FromClient() { return Seen(0); }
  ByteVector FromWorker() { return Seen(1); }

 private:
  ByteVector Seen(int from) {
    if (thread_.joinable()) {
      thread_.join();
      thread_ = std::thread([] {});
    }
    return seen_[from];
  }
  void Run() {
    const int fds[] = {clients_.server.get(), workers_.client.get()};
    bool open[] = {true, true};
    ByteVector buffer(64u << 10);
    while (!stop_ && (open[0] || open[1])) {
      pollfd waiting[] = {{open[0] ? fds[0] : -1, POLLIN, 0}, {open[1] ? fds[1] : -1, POLLIN, 0}};
      poll(waiting, 2, -1);
      for (int from = 0; from < 2; ++from) {
        if (waiting[from].revents == 0) continue;
        const ssize_t got = recv(fds[from], buffer.data(), buffer.size(), 0);
        if (got <= 0) {
          open[from] = false;
          shutdown(fds[1 - from], SHUT_WR);
          continue;
        }
        const ByteView bytes = ByteView(buffer).first(static_cast<std::size_t>(got));
        seen_[from].insert(seen_[from].end(), bytes.begin(), bytes.end());
        for (int times = repeat_[from].exchange(false) ? 2 : 1; times > 0; --times) {
          if (times == 2) repeated_ = true;
          [[maybe_unused]] const ssize_t sent = send(fds[1 - from], bytes.data(), bytes.size(), MSG_NOSIGNAL);
        }
      }
    }
  }

  SocketPair clients_, workers_;
  std::atomic<bool> stop_{false}, repeated_{false};
  std::atomic<bool> repeat_[2] = {false, false};
  ByteVector seen_[2];
  std::thread thread_;
};

class ReplayTest : public testing::TestWithParam<bool> {
 protected:
  ReplayTest() { limits_.allow_plain_tcp = true; }

  void Attach(Wiretap& tap) {
    Ends ends = Connect(tap.TakeEnds(), &client_, ClientOptions(GetParam()), limits_);
    ASSERT_TRUE(ends.client.ok()) << ToString(ends.client.error());
    ASSERT_TRUE(ends.server.ok()) << ToString(ends.server.error());
    client_.session = std::move(*ends.client);
    worker_.Start(std::move(*ends.server));
  }
  // A whole session, with its writes.
  void Record(ByteVector* from_client, ByteVector* from_worker) {
    Wiretap tap;
    Attach(tap);
    ByteVector bytes(1000);
    FillPattern(3, bytes);
    const ByteView view(bytes);
    ASSERT_TRUE(client_.session->Send(WriteOf(3, bytes.size()), {&view, 1}).ok());
    ASSERT_TRUE(client_.Ping());
    client_.session->Close();
    worker_.Join();
    client_.session.reset();
    *from_client = tap.FromClient();
    *from_worker = tap.FromWorker();
    ASSERT_GT(from_client->size(), 1000u);
  }
  // Sends what was said before, and takes whatever is answered, until the other end has enough of it.
  static void Play(int socket, ByteView bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    std::byte buffer[4096];
    pollfd waiting{socket, POLLIN, 0};
    while (poll(&waiting, 1, 20'000) == 1 && recv(socket, buffer, sizeof buffer, 0) > 0) {
    }
  }

  ServerLimits limits_;
  Client client_;
  EchoWorker worker_;
};

TEST_P(ReplayTest, ARecordedClientOpensNoSession) {
  ByteVector from_client, from_worker;
  Record(&from_client, &from_worker);
  SocketPair sockets = MakeSocketPair();
  Result<std::unique_ptr<ServerSession>> server = Error{};
  std::thread accepting(
      [&] { server = ServerSession::Accept(std::move(sockets.server), limits_, TestKeys); });
  Play(sockets.client.get(), from_client);
  accepting.join();
  ASSERT_FALSE(server.ok());
  // The key is not proved; with TLS the first record that should prove it does not decrypt.
  EXPECT_EQ(server.error().code, GetParam() ? Code::kDataLoss : Code::kUnauthenticated)
      << ToString(server.error());
}

TEST_P(ReplayTest, ARecordedWorkerIsNotBelieved) {
  ByteVector from_client, from_worker;
  Record(&from_client, &from_worker);
  SocketPair sockets = MakeSocketPair();
  std::thread playing([&] {
    Play(sockets.server.get(), from_worker);
    sockets.server.reset();
  });
  Client client;
  const auto session =
      ClientSession::ConnectOver(std::move(sockets.client), ClientOptions(GetParam()), &client);
  playing.join();
  ASSERT_FALSE(session.ok());
  EXPECT_NE(session.error().code, Code::kPermissionDenied) << ToString(session.error());
  EXPECT_EQ(client.lost_times, 0);
}

TEST_P(ReplayTest, WhatIsSaidTwiceEndsTheSessionAndIsNotDoneTwice) {
  for (const bool from_client : {true, false}) {
    Wiretap tap;
    Client client;
    EchoWorker worker;
    Ends ends = Connect(tap.TakeEnds(), &client, ClientOptions(GetParam()), limits_);
    ASSERT_TRUE(ends.client.ok() && ends.server.ok());
    client.session = std::move(*ends.client);
    worker.Start(std::move(*ends.server));
    ASSERT_TRUE(client.Ping());
    tap.RepeatNext(from_client);
    while (client.Ping()) {
    }
    EXPECT_TRUE(tap.repeated());
    client.AwaitLost();
    worker.Join();
    EXPECT_TRUE(worker.sequences_ok());
    EXPECT_TRUE(worker.patterns_ok());
    client.session->Close();
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReplayTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "tls" : "plain"; });

// --- downgrade ---

// A worker that would serve without TLS, reached by a client that is told to use it.
TEST(DowngradeTest, AClientThatWantsTlsSpeaksNothingElse) {
  SocketPair sockets = MakeSocketPair();
  std::thread plain([&] {
    // Says what a worker without TLS says first, and what one says that refuses TLS.
    for (const std::string_view line : {"tulle1 ok\n", "tulle1 plain\n"}) {
      [[maybe_unused]] const ssize_t sent =
          send(sockets.server.get(), line.data(), line.size(), MSG_NOSIGNAL);
    }
    std::byte first[5] = {};
    ASSERT_EQ(recv(sockets.server.get(), first, sizeof first, MSG_WAITALL), 5);
    EXPECT_EQ(first[0], std::byte{0x16}) << "a TLS handshake record, and nothing but TLS";
    shutdown(sockets.server.get(), SHUT_WR);
    std::byte rest[4096];
    std::string all;
    for (ssize_t got; (got = recv(sockets.server.get(), rest, sizeof rest, 0)) > 0;) {
      all.append(reinterpret_cast<const char*>(rest), static_cast<std::size_t>(got));
    }
    EXPECT_EQ(all.find("session_test"), std::string::npos) << "no Hello without TLS";
  });
  Client client;
  const auto session = ClientSession::ConnectOver(std::move(sockets.client), ClientOptions(true), &client);
  EXPECT_FALSE(session.ok());
  plain.join();
}

TEST(DowngradeTest, AnOlderTlsIsRefused) {
  SocketPair sockets = MakeSocketPair();
  Result<std::unique_ptr<ServerSession>> server = Error{};
  std::thread accepting([&] { server = ServerSession::Accept(std::move(sockets.server), {}, TestKeys); });
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_psk_client_callback(
      context.get(),
      [](SSL*, const char*, char* identity, unsigned size, unsigned char* key, unsigned) -> unsigned {
        const PskIdentity mine{"vgpu-1", "grant-1", "0123456789abcdef0123456789abcdef", 0};
        std::snprintf(identity, size, "%s", FormatPskIdentity(mine).c_str());
        std::fill_n(key, 32, static_cast<unsigned char>(7));
        return 32;
      });
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  SSL_set_fd(ssl.get(), sockets.client.get());
  EXPECT_NE(SSL_connect(ssl.get()), 1);
  sockets.client.reset();
  accepting.join();
  EXPECT_FALSE(server.ok());
}

}  // namespace
}  // namespace tulle::session
