#include "tulle/worker/pace/network.h"

#include <gtest/gtest.h>

namespace tulle::worker::pace {
namespace {

using std::chrono::milliseconds;

class NetworkTest : public ::testing::Test {
 protected:
  // As a session would, in pieces of so many bytes whenever it may; how many pass in that time.
  std::uint64_t Move(std::uint64_t piece, milliseconds time) {
    std::uint64_t moved = 0;
    for (const Instant end = clock_.Now() + time; clock_.Now() < end;) {
      Duration wait{};
      if (network_.MayPass(&wait)) {
        network_.Note(piece);
        moved += piece;
      } else {
        EXPECT_GT(wait, Duration::zero());
        clock_.Advance(wait);
      }
    }
    return moved;
  }
  void Rate(std::uint64_t bytes_per_s) { page_.network_bytes_per_s = bytes_per_s; }

  wire::SharePage page_{};
  FakeClock clock_;
  Network network_{&page_, &clock_};
};

TEST_F(NetworkTest, WithoutALimitAllPasses) {
  Duration wait{};
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(network_.MayPass(&wait));
    network_.Note(1u << 30);
  }
  EXPECT_EQ(page_.network_bytes, 1000ull << 30);
  EXPECT_EQ(page_.network_throttled_ns, 0u);
}

TEST_F(NetworkTest, SoMuchASecondPassesWhateverThePieces) {
  for (const std::uint64_t piece : {100u, 10'000u, 3'000'000u}) {
    Rate(10'000'000);
    Move(piece, milliseconds(1000));  // what it had saved
    const std::uint64_t moved = Move(piece, milliseconds(10'000));
    EXPECT_NEAR(static_cast<double>(moved), 1e8, 2e5 + 2.0 * static_cast<double>(piece)) << piece;
  }
  EXPECT_GT(page_.network_throttled_ns, 9'000'000'000u);
}

TEST_F(NetworkTest, AnotherRateHoldsAtOnce) {
  Rate(1'000'000);
  Move(1000, milliseconds(100));
  Rate(100'000'000);
  EXPECT_NEAR(static_cast<double>(Move(1000, milliseconds(1000))), 1e8, 1e6);
  Rate(1'000'000);
  EXPECT_LT(Move(1000, milliseconds(1000)), 1'100'000u);
}

TEST_F(NetworkTest, WhatPassedWithoutALimitIsNotOwed) {
  network_.Note(1ull << 40);
  Rate(10'000'000);
  EXPECT_GT(Move(1000, milliseconds(100)), 900'000u);
}

TEST_F(NetworkTest, WhoWasIdleHasSavedALittle) {
  Rate(10'000'000);
  Move(1000, milliseconds(100));
  clock_.Advance(std::chrono::seconds(100));
  EXPECT_LT(Move(1000, milliseconds(100)), 1'000'000u + 600'000u) << "no more than 50 ms of it";
}

}  // namespace
}  // namespace tulle::worker::pace
