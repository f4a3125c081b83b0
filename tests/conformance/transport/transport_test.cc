// What every Transport must do, whatever carries it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/net/tcp/socket.h"
#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/tls/tls_transport.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

Instant Soon() { return Now() + std::chrono::seconds(20); }

struct Ends {
  std::unique_ptr<Transport> a;
  std::unique_ptr<Transport> b;
};
struct Sockets {
  UniqueFd a;
  UniqueFd b;
};

Sockets ByTcp(const std::string& address) {
  auto listener = ListenTcp(address, 0);
  EXPECT_TRUE(listener.ok());
  auto client = ConnectTcp({address, listener->port}, Soon());
  EXPECT_TRUE(client.ok());
  EXPECT_NE(WaitFor(listener->socket.get(), POLLIN, Soon()), 0);
  UniqueFd server(accept4(listener->socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(server.valid());
  return {std::move(*client), std::move(server)};
}
Sockets BySocketPair() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}
Ends Plain(Sockets sockets) {
  return {MakeStreamTransport(std::move(sockets.a)), MakeStreamTransport(std::move(sockets.b))};
}
Ends Secured(Sockets sockets, std::uint64_t rekey_bytes = kRekeyBytes) {
  Result<std::unique_ptr<Transport>> server = Error{};
  std::thread accepting([&] {
    server = AcceptTls(
        *Crypto::Create(), std::move(sockets.b),
        [](std::string_view) -> Result<SecretKey> { return SecretKey(); }, Soon(), rekey_bytes);
  });
  auto client = ConnectTls(*Crypto::Create(), std::move(sockets.a), "test", SecretKey(), Soon(), rekey_bytes);
  accepting.join();
  EXPECT_TRUE(client.ok() && server.ok());
  return {std::move(*client), std::move(*server)};
}

struct Kind {
  const char* name;
  std::function<Ends()> make;
};

class TransportTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { ends_ = GetParam().make(); }
  Transport& a() { return *ends_.a; }
  Transport& b() { return *ends_.b; }
  Ends ends_;
};

ByteVector RandomBytes(Random& random, std::size_t size) {
  ByteVector bytes(size);
  random.Fill(bytes);
  return bytes;
}

// Writes `bytes` cut into random pieces.
Status WriteAll(Transport& transport, ByteView bytes, Random& random) {
  while (!bytes.empty()) {
    std::vector<iovec> pieces;
    std::size_t offset = 0;
    const std::size_t count = 1 + random.Below(5);
    for (std::size_t i = 0; i < count && offset < bytes.size(); ++i) {
      const std::size_t most =
          std::min<std::size_t>(bytes.size() - offset, random.Below(2) == 0 ? 200 : 300'000);
      const std::size_t size = random.Below(most + 1);
      pieces.push_back({const_cast<std::byte*>(bytes.data() + offset), size});
      offset += size;
    }
    // Until these are taken: what was not must be offered again.
    std::size_t left = offset;
    std::span<iovec> rest(pieces);
    while (left != 0) {
      TULLE_ASSIGN_OR_RETURN(std::size_t taken, transport.Write(rest));
      if (taken > left) return Error{Code::kInternal, "took more than there was"};
      left -= taken;
      if (taken == 0 && WaitFor(transport.fd(), transport.write_events(), Soon()) == 0) {
        return Error{Code::kDeadlineExceeded, "stuck writing"};
      }
      while (!rest.empty() && taken >= rest.front().iov_len) {
        taken -= rest.front().iov_len;
        rest = rest.subspan(1);
      }
      if (taken != 0) {
        rest.front().iov_base = static_cast<std::byte*>(rest.front().iov_base) + taken;
        rest.front().iov_len -= taken;
      }
    }
    bytes = bytes.subspan(offset);
  }
  return OkStatus();
}

// Reads `size` bytes in pieces of random sizes.
Result<ByteVector> ReadAll(Transport& transport, std::size_t size, Random& random) {
  ByteVector bytes(size);
  std::size_t offset = 0;
  while (offset < size) {
    const std::size_t want = 1 + random.Below(random.Below(2) == 0 ? 300 : 500'000);
    const MutableByteView room = MutableByteView(bytes).subspan(offset, std::min(want, size - offset));
    TULLE_ASSIGN_OR_RETURN(const std::size_t got, transport.Read(room));
    if (got > room.size()) return Error{Code::kInternal, "read more than there was room for"};
    offset += got;
    if (got == 0 && WaitFor(transport.fd(), transport.read_events(), Soon()) == 0) {
      return Error{Code::kDeadlineExceeded, "stuck reading"};
    }
  }
  return bytes;
}

TEST_P(TransportTest, NothingToReadIsNotAnError) {
  std::byte byte;
  const auto got = a().Read({&byte, 1});
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(*got, 0u);
  EXPECT_FALSE(a().has_buffered_input());
  EXPECT_EQ(fcntl(a().fd(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

TEST_P(TransportTest, EmptyReadsAndWritesTakeNothing) {
  EXPECT_EQ(*a().Read({}), 0u);
  EXPECT_EQ(*a().Write({}), 0u);
  const iovec none{nullptr, 0};
  EXPECT_EQ(*a().Write({&none, 1}), 0u);
}

TEST_P(TransportTest, BytesArriveInOrderWhateverThePieces) {
  SeededRandom random(1);
  for (const std::size_t size : {1u, 31u, 4096u, 16384u, 16385u, 100'000u, 3'000'000u}) {
    const ByteVector sent = RandomBytes(random, size);
    std::thread writer([&] {
      SeededRandom mine(size);
      EXPECT_TRUE(WriteAll(a(), sent, mine).ok());
    });
    const auto got = ReadAll(b(), size, random);
    writer.join();
    ASSERT_TRUE(got.ok()) << ToString(got.error());
    EXPECT_TRUE(*got == sent);
  }
}

TEST_P(TransportTest, BufferedInputIsAnnounced) {
  SeededRandom random(2);
  const ByteVector sent = RandomBytes(random, 1000);
  ASSERT_TRUE(WriteAll(a(), sent, random).ok());
  ByteVector got;
  while (got.size() < sent.size()) {
    if (!b().has_buffered_input()) {
      ASSERT_NE(WaitFor(b().fd(), b().read_events(), Soon()), 0);
    }
    std::byte some[7];
    const auto size = b().Read(some);
    ASSERT_TRUE(size.ok());
    got.insert(got.end(), some, some + *size);
  }
  EXPECT_TRUE(got == sent);
}

TEST_P(TransportTest, BothDirectionsAtOnce) {
  constexpr std::size_t kSize = 8u << 20;
  SeededRandom random(3);
  const ByteVector to_b = RandomBytes(random, kSize), to_a = RandomBytes(random, kSize);
  Status written_a, written_b;
  Result<ByteVector> got_a = Error{}, got_b = Error{};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    SeededRandom mine(4);
    written_a = WriteAll(a(), to_b, mine);
  });
  threads.emplace_back([&] {
    SeededRandom mine(5);
    written_b = WriteAll(b(), to_a, mine);
  });
  threads.emplace_back([&] {
    SeededRandom mine(6);
    got_a = ReadAll(a(), kSize, mine);
  });
  threads.emplace_back([&] {
    SeededRandom mine(7);
    got_b = ReadAll(b(), kSize, mine);
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(written_a.ok() && written_b.ok());
  ASSERT_TRUE(got_a.ok() && got_b.ok());
  EXPECT_TRUE(*got_a == to_a);
  EXPECT_TRUE(*got_b == to_b);
}

TEST_P(TransportTest, AFullStreamTakesNothingAndGoesOnLater) {
  SeededRandom random(8);
  const ByteVector sent = RandomBytes(random, 24u << 20);
  std::size_t offset = 0;
  for (;;) {
    const iovec piece{const_cast<std::byte*>(sent.data() + offset), sent.size() - offset};
    const auto taken = a().Write({&piece, 1});
    ASSERT_TRUE(taken.ok());
    if (*taken == 0) break;
    offset += *taken;
    ASSERT_LT(offset, sent.size()) << "never full";
  }
  std::thread rest([&] {
    SeededRandom mine(9);
    EXPECT_TRUE(WriteAll(a(), ByteView(sent).subspan(offset), mine).ok());
  });
  const auto got = ReadAll(b(), sent.size(), random);
  rest.join();
  ASSERT_TRUE(got.ok());
  EXPECT_TRUE(*got == sent);
}

TEST_P(TransportTest, PeerThatClosesIsUnavailable) {
  SeededRandom random(10);
  const ByteVector sent = RandomBytes(random, 5000);
  ASSERT_TRUE(WriteAll(a(), sent, random).ok());
  ends_.a.reset();
  const auto got = ReadAll(b(), sent.size(), random);
  ASSERT_TRUE(got.ok());
  EXPECT_TRUE(*got == sent);
  for (int i = 0; i < 2; ++i) {
    std::byte byte;
    Result<std::size_t> end = std::size_t{0};
    while (end.ok() && *end == 0) {
      end = b().Read({&byte, 1});
      if (end.ok()) {
        ASSERT_NE(WaitFor(b().fd(), b().read_events(), Soon()), 0);
      }
    }
    EXPECT_EQ(end.error().code, Code::kUnavailable);
  }
}

TEST_P(TransportTest, WritingToAPeerThatIsGoneIsAnErrorNotASignal) {
  struct sigaction before {};
  struct sigaction fatal {};
  fatal.sa_handler = [](int) { std::abort(); };
  sigaction(SIGPIPE, &fatal, &before);
  ends_.a.reset();
  const ByteVector bytes(100'000);
  const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  Result<std::size_t> taken = std::size_t{0};
  for (int i = 0; i < 1000 && taken.ok(); ++i) {
    taken = b().Write({&piece, 1});
    if (taken.ok() && *taken == 0) WaitFor(b().fd(), b().write_events(), Soon());
  }
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code, Code::kUnavailable);
  sigaction(SIGPIPE, &before, nullptr);
}

TEST_P(TransportTest, ShutdownFromAnotherThreadWakesAReader) {
  Result<std::size_t> got = std::size_t{0};
  std::thread reader([&] {
    std::byte byte;
    while (got.ok() && *got == 0) {
      got = b().Read({&byte, 1});
      if (got.ok() && WaitFor(b().fd(), b().read_events(), Soon()) == 0) break;
    }
  });
  b().Shutdown();
  b().Shutdown();
  reader.join();
  EXPECT_FALSE(got.ok());
}

TEST_P(TransportTest, ShutdownFromAnotherThreadWakesAWriter) {
  const ByteVector bytes(1u << 20);
  std::atomic<bool> stuck = false;
  Result<std::size_t> taken = std::size_t{0};
  std::thread writer([&] {
    const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    std::size_t offset = 0;
    while (taken.ok()) {
      const iovec rest{static_cast<std::byte*>(piece.iov_base) + offset, piece.iov_len - offset};
      taken = a().Write({&rest, 1});
      if (!taken.ok()) break;
      offset = (offset + *taken) % bytes.size();
      if (*taken != 0) continue;
      stuck = true;
      stuck.notify_one();
      if (WaitFor(a().fd(), a().write_events(), Soon()) == 0) break;
    }
  });
  stuck.wait(false);
  a().Shutdown();
  writer.join();
  EXPECT_FALSE(taken.ok());
}

INSTANTIATE_TEST_SUITE_P(All, TransportTest,
                         testing::Values(Kind{"SocketPair", [] { return Plain(BySocketPair()); }},
                                         Kind{"Tcp4", [] { return Plain(ByTcp("127.0.0.1")); }},
                                         Kind{"TlsOverSocketPair", [] { return Secured(BySocketPair()); }},
                                         Kind{"TlsOverTcp", [] { return Secured(ByTcp("127.0.0.1")); }},
                                         Kind{"TlsWithNewKeysAllTheTime",
                                              [] { return Secured(ByTcp("127.0.0.1"), 40'000); }}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tulle::net
