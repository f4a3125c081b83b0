#include "tulle/worker/pace/pacer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

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
  // Of a machine that stood still meanwhile, not all.
  std::uint64_t TimeSinceNs(Instant* then) {
    const Instant now = clock_.Now(), before = std::exchange(*then, now);
    return static_cast<std::uint64_t>(std::min<Duration>(now - before, milliseconds(2)).count());
  }
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
  EXPECT_TRUE(pacer.MayBegin(&paced_, &wait_));
  while (page_.used_ns == 0) std::this_thread::yield();
  EXPECT_TRUE(pacer.MayBegin(&paced_, &wait_));
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
  while (!pacer.MayBegin(&paced_, &wait_)) std::this_thread::yield();
  paced_.used_ns += 100'000'000;
  const Instant then = clock_.Now();
  EXPECT_FALSE(pacer.MayBegin(&paced_, &wait_));
  EXPECT_GT(wait_, Duration::zero());
  EXPECT_LE(wait_, milliseconds(20)) << "so that another share is noticed";
  paced_.frozen.wait(false);
  EXPECT_TRUE(paced_.frozen);
  paced_.frozen.wait(true);
  // 100 ms of use are 200 of waiting, less the 50 that may have been saved, 25 of use.
  EXPECT_GE(clock_.Now() - then, milliseconds(140));
  EXPECT_TRUE(pacer.MayBegin(&paced_, &wait_));
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
  EXPECT_FALSE(pacer.MayBegin(&paced_, &wait_));
  SetShare(1);
  EXPECT_TRUE(pacer.MayBegin(&paced_, &wait_));
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
  EXPECT_FALSE(pacer.MayBegin(&other, &wait_));
  EXPECT_FALSE(pacer.MayBegin(nullptr, &wait_));
  pacer.Remove(&other);
  EXPECT_FALSE(other.frozen);
}

// One that uses all that it can get, and one that wants less than half: neither its launches nor itself wait
// for what the other owes.
TEST_F(PacerTest, WhoUsesLessThanItsPartGoesOn) {
  SetShare(0.5);
  FakePaced modest;
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  pacer.Add(&modest);
  const Instant end = clock_.Now() + milliseconds(400);
  std::uint64_t held = 0, launches = 0;
  Instant then = clock_.Now();
  while (clock_.Now() < end) {
    const std::uint64_t time_ns = TimeSinceNs(&then);
    if (!paced_.frozen) paced_.used_ns += time_ns;
    if (!modest.frozen) modest.used_ns += time_ns / 10;
    ++launches;
    held += pacer.MayBegin(&modest, &wait_) ? 0 : 1;
    std::this_thread::yield();
  }
  // A tenth of the time is two fifths of its half; the other has what is left of the share, and what may have
  // been saved.
  EXPECT_LT(held, launches / 4) << launches;
  EXPECT_GT(modest.used_ns, 25'000'000u);
  EXPECT_LT(paced_.used_ns + modest.used_ns, 300'000'000u);
  EXPECT_GT(paced_.used_ns, 60'000'000u);
  pacer.Remove(&paced_);
  pacer.Remove(&modest);
}

// What one has used while nobody else wanted it does not keep it out when others come, though it asks for
// nothing: as in the middle of a long kernel.
TEST_F(PacerTest, WhoHadMuchComesInAgain) {
  SetShare(0.5);
  FakePaced others[2];
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  for (FakePaced& other : others) pacer.Add(&other);
  Instant then = clock_.Now();
  // The first uses what it can; `busy`: the others, too.
  const auto run = [&](milliseconds time, bool busy) {
    for (const Instant end = clock_.Now() + time; clock_.Now() < end; std::this_thread::yield()) {
      const std::uint64_t time_ns = TimeSinceNs(&then);
      if (!paced_.frozen) paced_.used_ns += time_ns;
      for (FakePaced& other : others) {
        if (!other.frozen && pacer.MayBegin(&other, &wait_)) other.used_ns += busy ? time_ns : time_ns / 50;
      }
    }
  };
  run(milliseconds(600), false);
  const std::uint64_t had_ns = paced_.used_ns;
  run(milliseconds(600), true);
  // A third of the half would be 100 ms.
  EXPECT_GT(paced_.used_ns - had_ns, 40'000'000u);
  pacer.Remove(&paced_);
  for (FakePaced& other : others) pacer.Remove(&other);
}

TEST_F(PacerTest, NobodyGoesOnWhereMuchIsOwed) {
  SetShare(0.1);
  FakePaced others[8];
  Pacer pacer(&page_, 1, &clock_);
  pacer.Add(&paced_);
  for (FakePaced& other : others) pacer.Add(&other);
  paced_.used_ns = 1'000'000'000;
  while (!paced_.frozen) paced_.frozen.wait(false);
  for (FakePaced& other : others) {
    EXPECT_FALSE(pacer.MayBegin(&other, &wait_));
    while (!other.frozen) other.frozen.wait(false);
  }
  pacer.Remove(&paced_);
  for (FakePaced& other : others) pacer.Remove(&other);
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
