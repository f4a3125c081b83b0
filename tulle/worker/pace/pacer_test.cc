#include "tulle/worker/pace/pacer.h"

#include <gtest/gtest.h>

#include <atomic>

namespace tulle::worker::pace {
namespace {

using std::chrono::milliseconds;

class FakePaced final : public Paced {
 public:
  std::uint64_t DeviceTimeNs() const override { return used_ns; }
  void Freeze(bool value) override {
    frozen = value;
    frozen.notify_all();
  }
  mutable std::atomic<std::uint64_t> used_ns{0};
  std::atomic<bool> frozen{false};
};

class PacerTest : public ::testing::Test {
 protected:
  void SetShare(double share) { page_.share = static_cast<std::uint32_t>(share * wire::kWholeShare); }
  wire::SharePage page_{};
  SystemClock clock_;
  FakePaced paced_;
  Duration wait_{};
};

TEST_F(PacerTest, WhoMayUseAllIsNeverHeldUp) {
  SetShare(1);
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  paced_.used_ns = 1'000'000'000'000;
  EXPECT_TRUE(pacer.MayBegin(&wait_));
  while (page_.used_ns == 0) std::this_thread::yield();
  EXPECT_TRUE(pacer.MayBegin(&wait_));
  EXPECT_FALSE(paced_.frozen);
  EXPECT_EQ(page_.throttled_ns, 0u);
  pacer.Remove(&paced_);
}

TEST_F(PacerTest, WhoOwesTimeIsFrozenAndHeldUpUntilItIsMadeUpFor) {
  SetShare(0.5);
  paced_.used_ns = 77'000'000'000;  // of before: nobody's
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  paced_.frozen.wait(true);
  while (!pacer.MayBegin(&wait_)) std::this_thread::yield();
  paced_.used_ns += 100'000'000;
  const Instant then = clock_.Now();
  EXPECT_FALSE(pacer.MayBegin(&wait_));
  EXPECT_GT(wait_, Duration::zero());
  EXPECT_LE(wait_, milliseconds(20)) << "so that another share is noticed";
  paced_.frozen.wait(false);
  EXPECT_TRUE(paced_.frozen);
  paced_.frozen.wait(true);
  // 100 ms of use are 200 of waiting, less the 50 that may have been saved, 25 of use.
  EXPECT_GE(clock_.Now() - then, milliseconds(140));
  EXPECT_TRUE(pacer.MayBegin(&wait_));
  EXPECT_GE(page_.throttled_ns, 140'000'000u);
  EXPECT_GE(page_.used_ns, 100'000'000u);
  EXPECT_LT(page_.used_ns, 77'000'000'000u);
  pacer.Remove(&paced_);
}

TEST_F(PacerTest, AnotherShareCountsAtOnce) {
  SetShare(0.001);
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  paced_.used_ns = 3'600'000'000'000;
  while (!paced_.frozen) paced_.frozen.wait(false);
  EXPECT_FALSE(pacer.MayBegin(&wait_));
  SetShare(1);
  EXPECT_TRUE(pacer.MayBegin(&wait_));
  while (paced_.frozen) paced_.frozen.wait(true);
  pacer.Remove(&paced_);
}

TEST_F(PacerTest, AllOfAVGpuAreOne) {
  SetShare(0.01);
  FakePaced other;
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  paced_.used_ns = 10'000'000'000;
  while (!paced_.frozen) paced_.frozen.wait(false);
  pacer.Add(&other);  // it comes into what the others owe
  EXPECT_TRUE(other.frozen);
  pacer.Remove(&paced_);
  EXPECT_FALSE(paced_.frozen) << "whoever ends it need not know";
  EXPECT_FALSE(pacer.MayBegin(&wait_));
  pacer.Remove(&other);
  EXPECT_FALSE(other.frozen);
}

// As of a process that has ended, until it was waited for.
TEST_F(PacerTest, TimeThatGoesBackIsCountedOnce) {
  SetShare(1);
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  const auto await = [&](std::uint64_t used_ns) {
    while (page_.used_ns < used_ns) std::this_thread::yield();
  };
  paced_.used_ns = 1'000'000;
  await(1'000'000);
  FakePaced other;
  pacer.Add(&other);
  paced_.used_ns = 0;
  other.used_ns = 1;
  await(1'000'001);  // it has been looked at
  paced_.used_ns = 1'000'005;
  await(1'000'006);
  EXPECT_EQ(page_.used_ns, 1'000'006u);
  pacer.Remove(&paced_);
  pacer.Remove(&other);
}

}  // namespace
}  // namespace tulle::worker::pace
