#include "tulle/session/compression.h"

#include <gtest/gtest.h>

#include "tulle/base/random.h"

namespace tulle::session {
namespace {

constexpr std::size_t kBlock = 256u << 10;

// A connection that takes so many bytes a second, a compressor, and bytes that it makes that much smaller.
struct Line {
  double wire_bytes_per_ns;
  double codec_bytes_per_ns;
  double ratio;
  CompressionPolicy policy = {};
  Instant now = {};

  // Sends blocks; returns how many of them were compressed. What that took is a part of all the time.
  double taken = 0;
  int Send(int blocks) {
    int packed = 0;
    const Instant began = now;
    Duration all_took{};
    for (int i = 0; i < blocks; ++i) {
      double sent = kBlock;
      if (policy.Wants(kBlock, now)) {
        ++packed;
        sent *= ratio;
        const auto took = Duration(static_cast<std::int64_t>(kBlock / codec_bytes_per_ns));
        now = now + took;
        all_took += took;
        policy.OnBlock(kBlock, static_cast<std::size_t>(sent), took, now);
      }
      now = now + Duration(static_cast<std::int64_t>(sent / wire_bytes_per_ns));
      policy.OnWrite(static_cast<std::size_t>(sent), /*full=*/true, now);
    }
    taken = static_cast<double>(all_took.count()) / static_cast<double>((now - began).count());
    return packed;
  }
};

TEST(CompressionPolicy, PaysWhereTheLineIsSlowerThanTheCompressor) {
  Line line{.wire_bytes_per_ns = 0.1, .codec_bytes_per_ns = 0.6, .ratio = 0.4};
  EXPECT_GT(line.Send(1000), 990);
}

TEST(CompressionPolicy, TrialsCostLittleWhereItDoesNotPay) {
  Line fast{.wire_bytes_per_ns = 1.3, .codec_bytes_per_ns = 0.6, .ratio = 0.4};
  EXPECT_GT(fast.Send(10'000), 0);
  EXPECT_LT(fast.taken, 0.011);
  Line random{.wire_bytes_per_ns = 0.1, .codec_bytes_per_ns = 2, .ratio = 1};
  EXPECT_GT(random.Send(10'000), 0);
  EXPECT_LT(random.taken, 0.011);
}

TEST(CompressionPolicy, FollowsTheBytes) {
  Line line{.wire_bytes_per_ns = 0.1, .codec_bytes_per_ns = 0.6, .ratio = 0.4};
  line.Send(100);
  line.ratio = 1;
  EXPECT_LT(line.Send(1000), 100);
  line.ratio = 0.4;
  EXPECT_GT(line.Send(1000), 900);
}

TEST(CompressionPolicy, NothingIsTriedWhileTheConnectionTakesAllItIsOffered) {
  CompressionPolicy policy;
  Instant now;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(policy.Wants(kBlock, now));
    now = now + std::chrono::milliseconds(10);
    policy.OnWrite(kBlock, /*full=*/false, now);
  }
}

// Full now and then, with nothing to send in between: that says nothing of its speed.
TEST(CompressionPolicy, PausesDoNotCountAsSlowness) {
  CompressionPolicy policy;
  Instant now;
  for (int i = 0; i < 100; ++i) {
    policy.OnWrite(kBlock, /*full=*/true, now);
    now = now + std::chrono::microseconds(100);
    policy.OnWrite(kBlock, /*full=*/false, now);
    policy.OnDrained();
    now = now + std::chrono::milliseconds(100);
    EXPECT_FALSE(policy.Wants(kBlock, now));
  }
}

TEST(CompressionPolicy, SmallBlocksAreSentAsTheyAre) {
  Line line{.wire_bytes_per_ns = 0.1, .codec_bytes_per_ns = 0.6, .ratio = 0.4};
  line.Send(10);
  EXPECT_TRUE(line.policy.Wants(kBlock, line.now));
  EXPECT_FALSE(line.policy.Wants(1000, line.now));
}

TEST(Blocks, BecomeAgainWhatTheyWere) {
  SeededRandom random(1);
  for (int i = 0; i < 200; ++i) {
    ByteVector plain(1 + random.Below(i % 2 == 0 ? 300 : kBlock));
    const std::uint64_t values = 1 + random.Below(20);
    for (std::byte& byte : plain) byte = static_cast<std::byte>(random.Below(values));
    ByteVector packed(MostPackedBytes(plain.size()));
    const std::size_t size = PackBlock(plain, packed);
    if (size == 0) continue;
    ByteVector again(plain.size());
    ASSERT_TRUE(UnpackBlock(ByteView(packed).first(size), again));
    EXPECT_EQ(again, plain);
    again.pop_back();
    EXPECT_FALSE(UnpackBlock(ByteView(packed).first(size), again));
  }
}

TEST(Blocks, WhatIsNoSmallerIsLeftAsItIs) {
  ByteVector plain(kBlock);
  SeededRandom(1).Fill(plain);
  ByteVector packed(MostPackedBytes(plain.size()));
  EXPECT_EQ(PackBlock(plain, packed), 0u);
}

}  // namespace
}  // namespace tulle::session
