#include "tulle/worker/pace/bucket.h"

#include <gtest/gtest.h>

namespace tulle::worker::pace {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMs = 1'000'000;

TEST(Bucket, SavesItsShareAndNoMoreThanItMay) {
  Bucket bucket(4, 0.5, Instant{0}, 100);
  EXPECT_FALSE(bucket.has_some());
  bucket.Update(Instant{0} + milliseconds(1), 100);
  EXPECT_TRUE(bucket.has_some());
  // One ms of a half of four lanes are two; they are used, and as much again.
  bucket.Update(Instant{0} + milliseconds(1), 100 + 4 * kMs);
  EXPECT_FALSE(bucket.has_some());
  EXPECT_NEAR(static_cast<double>(bucket.UntilSaved(Duration(1)).count()), 1e6, 10);
  bucket.Update(Instant{0} + milliseconds(3), 100 + 4 * kMs);
  EXPECT_TRUE(bucket.has_some());
  // An hour of rest is worth 50 ms.
  bucket.Update(Instant{0} + seconds(3600), 100 + 4 * kMs);
  bucket.Update(Instant{0} + seconds(3600), 100 + (4 + 101) * kMs);
  EXPECT_FALSE(bucket.has_some());
  EXPECT_EQ(bucket.UntilSaved(milliseconds(1)), milliseconds(1) + Duration(500'001));
}

TEST(Bucket, WhateverTheLengthOfKernelsTheShareIsTheSame) {
  for (const double share : {0.1, 0.3, 0.7, 0.95}) {
    for (const std::int64_t kernel_us : {20, 500, 5'000, 500'000}) {
      Instant now{0};
      std::uint64_t used_ns = 0;
      Bucket bucket(1, share, now, 0);
      while (now < Instant{0} + seconds(60)) {
        bucket.Update(now, used_ns);
        if (bucket.has_some()) {
          used_ns += static_cast<std::uint64_t>(kernel_us) * 1000;
          now = now + std::chrono::microseconds(kernel_us);
        } else {
          now = now + bucket.UntilSaved(Duration(1));
        }
      }
      EXPECT_NEAR(static_cast<double>(used_ns) / 60e9, share, 0.02) << kernel_us;
    }
  }
}

TEST(Bucket, AnotherShareHoldsFromThenOn) {
  Bucket bucket(1, 1, Instant{0}, 0);
  bucket.Update(Instant{0} + seconds(1), 0);
  bucket.SetShare(0.1);  // and what was saved is no more than that saves
  bucket.Update(Instant{0} + seconds(1), 5 * kMs + 1);
  EXPECT_FALSE(bucket.has_some());
  bucket.SetShare(0);
  EXPECT_EQ(bucket.UntilSaved(Duration(1)), seconds(1)) << "of nothing nothing comes";
}

}  // namespace
}  // namespace tulle::worker::pace
