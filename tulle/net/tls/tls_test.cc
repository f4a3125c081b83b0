#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <semaphore>
#include <thread>

#include "tulle/base/random.h"
#include "tulle/net/tls/tls_transport.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

Instant Soon() { return Now() + std::chrono::seconds(20); }

struct Pair {
  UniqueFd a;
  UniqueFd b;
};
Pair MakePair() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

SecretKey KeyOf(int seed) {
  SecretKey key;
  SeededRandom(static_cast<std::uint64_t>(seed)).Fill(key.mutable_bytes());
  return key;
}

using Made = Result<std::unique_ptr<Transport>>;
struct Outcome {
  Made client = Error{};
  Made server = Error{};
  std::string identity;  // as the server saw it
};
Outcome Handshake(const std::string& identity, const SecretKey& client_key,
                  const Result<SecretKey>& server_key) {
  Pair pair = MakePair();
  Outcome outcome;
  std::thread server([&] {
    outcome.server = AcceptTls(
        *Crypto::Create(), std::move(pair.b),
        [&](std::string_view name) {
          outcome.identity = name;
          return server_key;
        },
        Soon());
  });
  outcome.client = ConnectTls(*Crypto::Create(), std::move(pair.a), identity, client_key, Soon());
  server.join();
  return outcome;
}

TEST(TlsTest, AConnectionMayGoBeforeTheThreadThatMadeIt) {
  for (int i = 0; i < 40; ++i) {
    Pair pair = MakePair();
    Made server = Error{};
    std::binary_semaphore made{0}, freed{0};
    std::thread thread([&] {
      server = AcceptTls(
          *Crypto::Create(), std::move(pair.b), [](std::string_view) { return KeyOf(1); }, Soon());
      made.release();
      freed.acquire();
    });
    auto client = ConnectTls(*Crypto::Create(), std::move(pair.a), "somebody", KeyOf(1), Soon());
    made.acquire();
    EXPECT_TRUE(client.ok() && server.ok());
    server = Error{};
    freed.release();
    thread.join();
  }
}

TEST(CryptoTest, HkdfAndHmacGiveThePublishedVectors) {
  const auto crypto = Crypto::Create();
  ASSERT_TRUE(crypto.ok());
  // RFC 5869 A.1, the first 32 bytes of output.
  const ByteVector key(22, std::byte{0x0b});
  std::array<std::byte, 13> salt;
  for (std::size_t i = 0; i < salt.size(); ++i) salt[i] = static_cast<std::byte>(i);
  const auto derived = (*crypto)->Hkdf(key, salt, "\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9");
  ASSERT_TRUE(derived.ok());
  EXPECT_EQ(ToHex(derived->bytes()), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
  // RFC 4231 4.3.
  const ByteView pieces[] = {AsBytes("what do ya want "), AsBytes("for nothing?")};
  const auto mac = (*crypto)->Hmac(AsBytes("Jefe"), pieces);
  ASSERT_TRUE(mac.ok());
  EXPECT_EQ(ToHex(mac->bytes()), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(CryptoTest, SecretsAreComparedWhole) {
  SecretKey a = KeyOf(1), b = KeyOf(1);
  EXPECT_TRUE(SecretsEqual(a.bytes(), b.bytes()));
  b.mutable_bytes()[31] ^= std::byte{1};
  EXPECT_FALSE(SecretsEqual(a.bytes(), b.bytes()));
  EXPECT_FALSE(SecretsEqual(a.bytes(), a.bytes().first(31)));
}

TEST(TlsTest, TheSameKeyConnects) {
  Outcome outcome = Handshake("who", KeyOf(1), KeyOf(1));
  ASSERT_TRUE(outcome.client.ok()) << ToString(outcome.client.error());
  ASSERT_TRUE(outcome.server.ok()) << ToString(outcome.server.error());
  EXPECT_EQ(outcome.identity, "who");
}

TEST(TlsTest, AnotherKeyIsUnauthenticated) {
  Outcome outcome = Handshake("who", KeyOf(1), KeyOf(2));
  ASSERT_FALSE(outcome.client.ok());
  ASSERT_FALSE(outcome.server.ok());
  EXPECT_EQ(outcome.client.error().code, Code::kUnauthenticated) << outcome.client.error().message;
  EXPECT_EQ(outcome.server.error().code, Code::kUnauthenticated) << outcome.server.error().message;
}

TEST(TlsTest, AnUnknownIdentityIsRefused) {
  Outcome outcome = Handshake("who", KeyOf(1), Error{Code::kNotFound, "no such grant"});
  ASSERT_FALSE(outcome.client.ok());
  ASSERT_FALSE(outcome.server.ok());
  EXPECT_EQ(outcome.client.error().code, Code::kPermissionDenied) << outcome.client.error().message;
  EXPECT_EQ(outcome.server.error().message, "no such grant");
}

TEST(TlsTest, GarbageEndsTheHandshakeOfBothSides) {
  SeededRandom random(5);
  for (int i = 0; i < 40; ++i) {
    for (const bool server : {false, true}) {
      Pair pair = MakePair();
      std::array<std::byte, 300> garbage;
      random.Fill(garbage);
      if (i % 2 == 0) {  // looks like TLS at first
        garbage[0] = std::byte{22};
        garbage[1] = std::byte{3};
        garbage[2] = std::byte{3};
        garbage[3] = std::byte{0};
        garbage[4] = static_cast<std::byte>(random.Below(200));
      }
      ASSERT_EQ(send(pair.b.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(garbage.size()));
      shutdown(pair.b.get(), SHUT_WR);
      const Made made = server ? AcceptTls(
                                     *Crypto::Create(), std::move(pair.a),
                                     [](std::string_view) -> Result<SecretKey> { return KeyOf(1); }, Soon())
                               : ConnectTls(*Crypto::Create(), std::move(pair.a), "who", KeyOf(1), Soon());
      EXPECT_FALSE(made.ok());
    }
  }
}

TEST(TlsTest, ASilentPeerRunsIntoTheDeadline) {
  Pair pair = MakePair();
  const Made made = ConnectTls(*Crypto::Create(), std::move(pair.a), "who", KeyOf(1), Now());
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, Code::kDeadlineExceeded);
}

TEST(TlsTest, AChangedByteOnTheWireIsNoticed) {
  // Two pairs with a relay between them that flips one bit of the application's record.
  Pair left = MakePair(), right = MakePair();
  Made client = Error{}, server = Error{};
  std::thread accepting([&] {
    server = AcceptTls(
        *Crypto::Create(), std::move(right.b), [](std::string_view) -> Result<SecretKey> { return KeyOf(1); },
        Soon());
  });
  std::thread connecting(
      [&] { client = ConnectTls(*Crypto::Create(), std::move(left.a), "who", KeyOf(1), Soon()); });
  const auto relay = [](int from, int to, bool flip) {
    std::array<std::byte, 4096> bytes;
    const ssize_t got = recv(from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got <= 0) return false;
    if (flip) bytes[static_cast<std::size_t>(got) - 1] ^= std::byte{1};
    EXPECT_EQ(send(to, bytes.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL), got);
    return true;
  };
  std::atomic<bool> done = false;
  std::thread relaying([&] {
    while (!done) {
      pollfd fds[] = {{left.b.get(), POLLIN, 0}, {right.a.get(), POLLIN, 0}};
      poll(fds, 2, 10);
      relay(left.b.get(), right.a.get(), false);
      relay(right.a.get(), left.b.get(), false);
    }
  });
  accepting.join();
  connecting.join();
  done = true;
  relaying.join();
  ASSERT_TRUE(client.ok() && server.ok());

  const std::string secret = "nothing of this may be seen, nor changed";
  const iovec piece{const_cast<char*>(secret.data()), secret.size()};
  ASSERT_EQ(*(*client)->Write({&piece, 1}), secret.size());
  std::array<char, 4096> seen{};
  const ssize_t size = recv(left.b.get(), seen.data(), seen.size(), MSG_PEEK);
  ASSERT_GT(size, 0);
  EXPECT_EQ(std::string_view(seen.data(), static_cast<std::size_t>(size)).find("may be seen"),
            std::string_view::npos);
  ASSERT_TRUE(relay(left.b.get(), right.a.get(), true));
  std::array<std::byte, 100> out;
  const auto got = (*server)->Read(out);
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace tulle::net
