#include "tulle/session/psk_identity.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

#include "tulle/base/random.h"
#include "tulle/net/tls/tls_transport.h"
#include "tulle/net/wait.h"
#include "tulle/session/secure.h"
#include "tulle/session/test_pair.h"

namespace tulle::session {
namespace {

const PskIdentity kIdentity{"vgpu-1", "grant_2", "0123456789abcdef0123456789abcdef", 7};

void ExpectSame(const PskIdentity& a, const PskIdentity& b) {
  EXPECT_EQ(a.vgpu, b.vgpu);
  EXPECT_EQ(a.grant, b.grant);
  EXPECT_EQ(a.session_id, b.session_id);
  EXPECT_EQ(a.stream, b.stream);
}

TEST(PskIdentityTest, FormatAndParse) {
  const std::string text = FormatPskIdentity(kIdentity);
  EXPECT_EQ(text, "tulle1.vgpu-1.grant_2.0123456789abcdef0123456789abcdef.7");
  const auto parsed = ParsePskIdentity(text);
  ASSERT_TRUE(parsed.has_value());
  ExpectSame(*parsed, kIdentity);
  PskIdentity longest{std::string(64, 'v'), std::string(64, 'g'), std::string(32, 'f'), 4294967295u};
  EXPECT_EQ(FormatPskIdentity(longest).size(), kMaxPskIdentityBytes);
  EXPECT_TRUE(ParsePskIdentity(FormatPskIdentity(longest)).has_value());
}

TEST(PskIdentityTest, OnlyTheExactForm) {
  const std::string id = "0123456789abcdef0123456789abcdef";
  for (const std::string& text : {std::string(),
                                  std::string("tulle1"),
                                  "tulle2.v.g." + id + ".0",
                                  "tulle1..g." + id + ".0",
                                  "tulle1.v.." + id + ".0",
                                  "tulle1.v.g." + id,
                                  "tulle1.v.g." + id + ".",
                                  "tulle1.v.g." + id + ".00",
                                  "tulle1.v.g." + id + ".01",
                                  "tulle1.v.g." + id + ".-1",
                                  "tulle1.v.g." + id + ".4294967296",
                                  "tulle1.v.g." + id + ".0.",
                                  "tulle1.v.g." + id + ".0 ",
                                  "tulle1.v.g." + id.substr(1) + ".0",
                                  "tulle1.v.g.0" + id + ".0",
                                  std::string("tulle1.v.g.ABCDEF6789abcdef0123456789abcdef.0"),
                                  "tulle1." + std::string(65, 'v') + ".g." + id + ".0",
                                  "tulle1.v/x.g." + id + ".0",
                                  "tulle1.v.g\n." + id + ".0",
                                  std::string("tulle1.v\0.g.", 12) + id + ".0"}) {
    EXPECT_FALSE(ParsePskIdentity(text).has_value()) << text;
  }
}

// What OpenSSL really sends.
ByteVector RealClientHello(const std::string& identity) {
  SocketPair pair = MakeSocketPair();
  std::thread client([socket = std::move(pair.client), &identity]() mutable {
    EXPECT_FALSE(net::ConnectTls(*net::Crypto::Create(), std::move(socket), identity, net::SecretKey(),
                                 net::Now() + std::chrono::seconds(20))
                     .ok());
  });
  EXPECT_NE(net::WaitFor(pair.server.get(), POLLIN, net::Now() + std::chrono::seconds(20)), 0);
  ByteVector bytes(kMaxClientHelloBytes);
  const ssize_t size = recv(pair.server.get(), bytes.data(), bytes.size(), 0);
  EXPECT_GT(size, 0);
  bytes.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  pair.server.reset();
  client.join();
  return bytes;
}

TEST(PeekTest, ARealClientHelloAndEachPartOfIt) {
  const ByteVector hello = RealClientHello(FormatPskIdentity(kIdentity));
  for (std::size_t size = 0; size < hello.size(); ++size) {
    PskIdentity found;
    // A copy of its own, so that a sanitizer sees each byte read beyond it.
    const ByteVector part(hello.begin(), hello.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_EQ(PeekPskIdentity(part, &found), PeekResult::kMore) << size;
    ASSERT_TRUE(found.vgpu.empty());
  }
  PskIdentity found;
  ASSERT_EQ(PeekPskIdentity(hello, &found), PeekResult::kFound);
  ExpectSame(found, kIdentity);
  ByteVector with_more = hello;
  with_more.resize(with_more.size() + 100);
  EXPECT_EQ(PeekPskIdentity(with_more, &found), PeekResult::kFound);
}

TEST(PeekTest, AForeignIdentityIsInvalid) {
  PskIdentity found;
  EXPECT_EQ(PeekPskIdentity(RealClientHello("somebody else"), &found), PeekResult::kInvalid);
}

TEST(PeekTest, AHelloCutIntoRecordsAnywhere) {
  const ByteVector hello = RealClientHello(FormatPskIdentity(kIdentity));
  const ByteView message = ByteView(hello).subspan(5);
  for (std::size_t cut = 1; cut < message.size(); ++cut) {
    ByteVector bytes;
    for (const ByteView part : {message.first(cut), message.subspan(cut)}) {
      const std::byte header[] = {std::byte{22}, std::byte{3}, std::byte{1},
                                  static_cast<std::byte>(part.size() >> 8),
                                  static_cast<std::byte>(part.size())};
      bytes.insert(bytes.end(), header, header + 5);
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    PskIdentity found;
    ASSERT_EQ(PeekPskIdentity(bytes, &found), PeekResult::kFound) << cut;
    ExpectSame(found, kIdentity);
  }
}

TEST(PeekTest, ChangedAndRandomBytesNeverLeadAstray) {
  const ByteVector hello = RealClientHello(FormatPskIdentity(kIdentity));
  SeededRandom random(1);
  for (int i = 0; i < 20'000; ++i) {
    ByteVector bytes = hello;
    const std::size_t changes = 1 + random.Below(4);
    for (std::size_t c = 0; c < changes; ++c) {
      bytes[random.Below(bytes.size())] = static_cast<std::byte>(random.Below(256));
    }
    if (random.Below(4) == 0) bytes.resize(random.Below(bytes.size()));
    PskIdentity found;
    if (PeekPskIdentity(bytes, &found) == PeekResult::kFound) {
      EXPECT_TRUE(ParsePskIdentity(FormatPskIdentity(found)).has_value());
    }
  }
  for (int i = 0; i < 20'000; ++i) {
    ByteVector bytes(random.Below(400));
    random.Fill(bytes);
    if (!bytes.empty() && random.Below(2) == 0) bytes[0] = std::byte{22};
    PskIdentity found;
    EXPECT_NE(PeekPskIdentity(bytes, &found), PeekResult::kFound);
  }
}

TEST(PeekTest, AHelloThatNeverEndsIsInvalidAtTheLimit) {
  // A record that announces more than fits, and many that bring one byte each.
  ByteVector large(kMaxClientHelloBytes);
  const std::byte header[] = {std::byte{22}, std::byte{3}, std::byte{1},    std::byte{0x40}, std::byte{0},
                              std::byte{1},  std::byte{0}, std::byte{0x3f}, std::byte{0xff}};
  std::copy(std::begin(header), std::end(header), large.begin());
  PskIdentity found;
  EXPECT_EQ(PeekPskIdentity(ByteView(large).first(large.size() - 1), &found), PeekResult::kMore);
  EXPECT_EQ(PeekPskIdentity(large, &found), PeekResult::kInvalid);

  ByteVector slow;
  while (slow.size() < kMaxClientHelloBytes) {
    const std::byte record[] = {std::byte{22}, std::byte{3}, std::byte{1},
                                std::byte{0},  std::byte{1}, std::byte{1}};
    slow.insert(slow.end(), record, record + 6);
    if (slow.size() == 12) slow[11] = std::byte{0};  // the length of the message
    if (slow.size() == 18) slow[17] = std::byte{0x20};
  }
  EXPECT_EQ(PeekPskIdentity(slow, &found), PeekResult::kInvalid);
}

TEST(PeekTest, APlainLine) {
  const std::string line = FormatPskIdentity(kIdentity) + "\n";
  PskIdentity found;
  for (std::size_t size = 0; size < line.size(); ++size) {
    EXPECT_EQ(PeekPskIdentity(AsBytes(line.substr(0, size)), &found), PeekResult::kMore);
  }
  ASSERT_EQ(PeekPskIdentity(AsBytes(line + "more"), &found), PeekResult::kFound);
  ExpectSame(found, kIdentity);
  EXPECT_EQ(PeekPskIdentity(AsBytes("tulip"), &found), PeekResult::kInvalid);
  EXPECT_EQ(PeekPskIdentity(AsBytes("tulle1." + std::string(kMaxPskIdentityBytes, 'a')), &found),
            PeekResult::kInvalid);
  EXPECT_EQ(PeekPskIdentity(AsBytes("tulle1.\n"), &found), PeekResult::kInvalid);
  EXPECT_EQ(PeekPskIdentity(AsBytes("GET / HTTP/1.1\r\n"), &found), PeekResult::kInvalid);
}

TEST(StreamKeyTest, EverySessionAndStreamHasItsOwn) {
  const auto crypto = *net::Crypto::Create();
  const GrantKey key = TestTarget().key;
  PskIdentity identity = kIdentity;
  const auto first = DeriveStreamKey(*crypto, key, identity);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(net::SecretsEqual(first->bytes(), DeriveStreamKey(*crypto, key, identity)->bytes()));
  identity.stream = 8;
  EXPECT_FALSE(net::SecretsEqual(first->bytes(), DeriveStreamKey(*crypto, key, identity)->bytes()));
  identity = kIdentity;
  identity.session_id[0] = '1';
  EXPECT_FALSE(net::SecretsEqual(first->bytes(), DeriveStreamKey(*crypto, key, identity)->bytes()));
  GrantKey other = key;
  other[31] ^= std::byte{1};
  EXPECT_FALSE(net::SecretsEqual(first->bytes(), DeriveStreamKey(*crypto, other, kIdentity)->bytes()));
}

}  // namespace
}  // namespace tulle::session
