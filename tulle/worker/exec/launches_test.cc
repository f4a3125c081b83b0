#include "tulle/worker/exec/launches.h"

#include <gtest/gtest.h>

namespace tulle::worker::exec {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
constexpr wire::Handle kOne{1, 1}, kTwo{2, 1};

class LaunchesTest : public ::testing::Test {
 protected:
  // Launches and asks until there is no room, and then has all answered after `each`. How many there were.
  int Fill(Duration each) {
    int launched = 0, asked = 0;
    std::vector<std::pair<std::uint64_t, int>> questions;
    while (launches_.has_room(now_)) {
      launches_.Began(kOne, now_);
      ++launched, ++asked;
      while (const auto queue = launches_.WantsQuestion(false, false)) {
        EXPECT_EQ(*queue, kOne);
        launches_.Asked(*queue, ++sequence_);
        questions.emplace_back(sequence_, std::exchange(asked, 0));
      }
    }
    for (const auto& [sequence, launches] : questions) {
      EXPECT_TRUE(launches_.any());
      now_ = now_ + each * launches;
      launches_.Answered(sequence, now_);
    }
    EXPECT_FALSE(launches_.any());
    return launched;
  }
  Launches launches_;
  Instant now_{1'000'000'000};
  std::uint64_t sequence_ = 0;
};

TEST_F(LaunchesTest, ShortOnesShareAQuestion) {
  int most = 0;
  for (int i = 0; i < 20; ++i) {
    const int now = Fill(microseconds(50));
    EXPECT_LE(now, 8 * std::max(most, 1)) << "more step by step";
    most = now;
  }
  EXPECT_EQ(most, 2 * (Launches::kAhead / microseconds(50)));
  for (int i = 0; i < 20; ++i) most = Fill(Duration(1));
  EXPECT_EQ(most, 2 * static_cast<int>(Launches::kMostPerQuestion));
}

TEST_F(LaunchesTest, OfLongOnesOneRunsAtATime) {
  EXPECT_EQ(Fill(milliseconds(5)), 2);
  EXPECT_EQ(Fill(milliseconds(5)), 2);
  EXPECT_EQ(Fill(milliseconds(500)), 2);
  EXPECT_EQ(Fill(milliseconds(500)), 1);
  EXPECT_EQ(Fill(microseconds(10)), 1);
  EXPECT_EQ(Fill(microseconds(10)), 4);
}

TEST_F(LaunchesTest, QuestionsDoNotPileUpBehindWhatWaitsForTheProgram) {
  launches_.Began(kOne, now_);
  EXPECT_EQ(launches_.WantsQuestion(true, true), kOne);
  launches_.Asked(kOne, 7);
  for (int i = 0; i < 900; ++i) launches_.Began(kOne, now_);
  EXPECT_EQ(launches_.WantsQuestion(true, true), std::nullopt);
  launches_.Began(kTwo, now_);
  EXPECT_EQ(launches_.WantsQuestion(true, true), kTwo) << "of another queue";
  launches_.Answered(7, now_);
  launches_.Asked(kTwo, 8);
  EXPECT_EQ(launches_.WantsQuestion(true, true), kOne);
}

TEST_F(LaunchesTest, EachQueueHasItsQuestions) {
  launches_.Began(kOne, now_);
  EXPECT_EQ(launches_.WantsQuestion(false, false), kOne);
  launches_.Asked(kOne, 7);
  EXPECT_FALSE(launches_.IsUnasked(kOne));
  launches_.Began(kTwo, now_);
  EXPECT_TRUE(launches_.IsUnasked(kTwo));
  EXPECT_EQ(launches_.WantsQuestion(true, false), kTwo);
  launches_.Asked(kTwo, 8);
  EXPECT_EQ(launches_.WantsQuestion(true, false), std::nullopt);
  launches_.Answered(8, now_);
  launches_.Answered(8, now_);   // another command's answer
  launches_.Answered(99, now_);  // likewise
  EXPECT_TRUE(launches_.any());
  launches_.Answered(7, now_);
  EXPECT_FALSE(launches_.any());
  launches_.Asked(kOne, 9);  // of nothing
  launches_.Answered(9, now_);
  EXPECT_FALSE(launches_.any());
}

TEST_F(LaunchesTest, WhatNeverEndsDoesNotHoldUpTheRestForGood) {
  launches_.Began(kOne, now_);
  launches_.Began(kOne, now_);
  EXPECT_FALSE(launches_.has_room(now_));
  now_ = now_ + Launches::kPatience;
  EXPECT_TRUE(launches_.has_room(now_));
  launches_.Began(kTwo, now_);
  EXPECT_FALSE(launches_.has_room(now_)) << "one at a time";
}

}  // namespace
}  // namespace tulle::worker::exec
