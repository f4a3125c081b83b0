#include "tulle/session/flush_policy.h"

#include <gtest/gtest.h>

namespace tulle::session {
namespace {

using std::chrono::microseconds;

class FlushPolicyTest : public testing::Test {
 protected:
  // One command on an idle connection, another one, and their flush after `gap`. Whether the first left at
  // once.
  bool LeavesAtOnce(Duration gap, bool alone = false) {
    now_ = now_ + microseconds(100);
    const bool at_once = policy_.OnFirst(now_);
    if (!alone) policy_.OnNext();
    policy_.OnFlush(now_ + gap);
    return at_once;
  }
  // How many commands, each followed by its flush, left at once before one waited.
  int UntilOneWaits() {
    int count = 0;
    while (count < 100'000 && LeavesAtOnce(microseconds(1))) ++count;
    return count;
  }

  FlushPolicy policy_;
  Instant now_;
};

TEST_F(FlushPolicyTest, WaitsForAFlushThatUsuallyFollows) {
  EXPECT_EQ(UntilOneWaits(), 16);
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(LeavesAtOnce(microseconds(2)));
}

TEST_F(FlushPolicyTest, LeavesAtOnceWhereTheProgramDoesSomethingElseFirst) {
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(LeavesAtOnce(microseconds(50)));
}

TEST_F(FlushPolicyTest, LeavesAtOnceWhereNoFlushFollows) {
  EXPECT_EQ(UntilOneWaits(), 16);
  policy_.OnFirst(now_);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(policy_.OnFirst(now_ + microseconds(i)));
}

// A program that flushes now soon, now late pays for a wrong guess ever more rarely.
TEST_F(FlushPolicyTest, WrongGuessesGrowRare) {
  int last = 0;
  for (int round = 0; round < 12; ++round) {
    const int now = UntilOneWaits();
    EXPECT_GE(now, last);
    last = now;
    LeavesAtOnce(microseconds(500));
  }
  EXPECT_EQ(last, 4096);
  // And is trusted again when it has been steady for long.
  for (int i = 0; i < 3 * 4096; ++i) LeavesAtOnce(microseconds(1));
  LeavesAtOnce(microseconds(500));
  EXPECT_LT(UntilOneWaits(), 4096);
}

TEST_F(FlushPolicyTest, ACommandThatIsFlushedAloneMayAsWellLeaveAtOnce) {
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(LeavesAtOnce(microseconds(1), /*alone=*/true));
}

TEST_F(FlushPolicyTest, AFlushOfNothingSaysNothing) {
  EXPECT_EQ(UntilOneWaits(), 16);
  for (int i = 0; i < 100; ++i) policy_.OnFlush(now_ + microseconds(50 + i));
  EXPECT_FALSE(LeavesAtOnce(microseconds(1)));
}

TEST_F(FlushPolicyTest, FlushesInABurstShareAWrite) {
  EXPECT_EQ(policy_.OnFlush(now_), Duration::zero());
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(10)), microseconds(40));
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(49)), microseconds(1));
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(50)), Duration::zero());
  policy_.OnWait(now_ + microseconds(60));
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(61)), microseconds(49));
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(500)), Duration::zero());
}

TEST_F(FlushPolicyTest, AFlushOfTheFirstCommandWaitsForNothing) {
  policy_.OnFlush(now_);
  policy_.OnFirst(now_ + microseconds(2));
  EXPECT_EQ(policy_.OnFlush(now_ + microseconds(3)), Duration::zero());
}

}  // namespace
}  // namespace tulle::session
