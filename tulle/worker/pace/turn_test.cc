#include "tulle/worker/pace/turn.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <functional>

namespace tulle::worker::pace {
namespace {

using std::chrono::milliseconds;

class TurnTest : public ::testing::Test {
 protected:
  TurnTest() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    node_.reset(ends[0]);
    turn_.emplace(&page_, UniqueFd(ends[1]), &clock_);
    turn_->Enter(&user_);
  }
  ~TurnTest() override { turn_->Leave(&user_); }

  static bool IsReadable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  }
  // Where it has not read what it was told before, it will look anyway.
  void TellWorker() { ASSERT_TRUE(send(node_.get(), "", 1, 0) == 1 || errno == EAGAIN); }
  void Give() {
    ++page_.turns_given;
    TellWorker();
  }
  void SetOthersWait(bool wait) {
    page_.others_wait = wait ? 1 : 0;
    TellWorker();
  }
  // Its thread looks at the clock when it is told something.
  void Await(const std::function<bool()>& is) {
    while (!is()) {
      TellWorker();
      std::this_thread::yield();
    }
  }
  // Something begins in a turn that others wait for the end of, and has not ended when that has come.
  void BeginAndRunOver() {
    Give();
    SetOthersWait(true);
    Await([&] { return IsReadable(turn_->fd()); });
    ASSERT_TRUE(turn_->MayBegin(&user_));
    clock_.Advance(Turn::kLength);
    Await([&] { return !IsReadable(turn_->fd()); });
  }
  bool HasTurn() const { return page_.turns_given != page_.turns_ended; }

  wire::SharePage page_{};
  FakeClock clock_;
  UniqueFd node_;
  std::optional<Turn> turn_;
  std::atomic<Duration> overdue_{Duration{}};
  Turn::User user_{[this](Duration longest) { overdue_ = longest; }};
};

TEST_F(TurnTest, WorkBeginsWhenATurnIsGiven) {
  EXPECT_EQ(page_.wants_turn, 0u);
  EXPECT_FALSE(turn_->MayBegin(&user_));
  EXPECT_EQ(page_.wants_turn, 1u);
  EXPECT_TRUE(IsReadable(node_.get())) << "the node is told";
  EXPECT_TRUE(turn_->Waits());
  EXPECT_FALSE(IsReadable(turn_->fd()));
  Give();
  Await([&] { return IsReadable(turn_->fd()); });
  EXPECT_TRUE(turn_->MayBegin(&user_));
  EXPECT_FALSE(turn_->Waits());
}

TEST_F(TurnTest, ATurnEndsWithItsWorkWhenOthersWait) {
  BeginAndRunOver();
  EXPECT_FALSE(turn_->MayBegin(&user_)) << "nothing more begins in it";
  clock_.Advance(Turn::kPatience * 2);
  TellWorker();
  EXPECT_TRUE(HasTurn()) << "what runs is waited for";
  turn_->SetIdle(&user_);
  EXPECT_FALSE(HasTurn());
  EXPECT_EQ(page_.wants_turn, 1u) << "for what was not let in";
  EXPECT_EQ(turn_->DeviceTimeNs(), static_cast<std::uint64_t>((Turn::kLength + Turn::kPatience * 2).count()));
}

TEST_F(TurnTest, WithoutOthersATurnGoesOnAndOnlyWorkCounts) {
  Give();
  Await([&] { return IsReadable(turn_->fd()); });
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(turn_->MayBegin(&user_));
    clock_.Advance(Turn::kLength * 3);
    turn_->SetIdle(&user_);
    clock_.Advance(Turn::kIdleTime / 2);
  }
  EXPECT_TRUE(HasTurn());
  EXPECT_EQ(turn_->DeviceTimeNs(), static_cast<std::uint64_t>((Turn::kLength * 9).count()));
  clock_.Advance(Turn::kIdleTime);
  Await([&] { return !HasTurn(); });
  EXPECT_EQ(page_.wants_turn, 0u);
}

TEST_F(TurnTest, AProgramMayThinkForAMoment) {
  Give();
  SetOthersWait(true);
  Await([&] { return IsReadable(turn_->fd()); });
  ASSERT_TRUE(turn_->MayBegin(&user_));
  turn_->SetIdle(&user_);
  clock_.Advance(Turn::kThinkTime / 2);
  ASSERT_TRUE(turn_->MayBegin(&user_));
  turn_->SetIdle(&user_);
  clock_.Advance(Turn::kThinkTime);
  Await([&] { return !HasTurn(); });
  EXPECT_EQ(turn_->DeviceTimeNs(), static_cast<std::uint64_t>((Turn::kThinkTime * 3 / 2).count()))
      << "others could not use the device meanwhile";
}

TEST_F(TurnTest, WhoIsHeldUpOtherwiseKeepsNobodyWaiting) {
  Give();
  SetOthersWait(true);
  Await([&] { return IsReadable(turn_->fd()); });
  ASSERT_TRUE(turn_->MayBegin(&user_));
  turn_->SetIdle(&user_);
  turn_->Rest(&user_);
  Await([&] { return !HasTurn(); });
}

TEST_F(TurnTest, AllOfAVGpuUseItsTurn) {
  Turn::User other(nullptr);
  turn_->Enter(&other);
  Give();
  SetOthersWait(true);
  Await([&] { return IsReadable(turn_->fd()); });
  ASSERT_TRUE(turn_->MayBegin(&user_));
  ASSERT_TRUE(turn_->MayBegin(&other));
  turn_->SetIdle(&user_);
  clock_.Advance(Turn::kLength);
  Await([&] { return !IsReadable(turn_->fd()); });
  EXPECT_TRUE(HasTurn());
  turn_->Leave(&other);  // its device's process has ended
  EXPECT_FALSE(HasTurn());
}

TEST_F(TurnTest, WhoKeepsOthersWaitingForTooLongIsToldToEnd) {
  page_.longest_turn_ms = 3000;
  BeginAndRunOver();
  Turn::User idle(nullptr);
  turn_->Enter(&idle);
  clock_.Advance(milliseconds(2999));
  turn_->Rest(&idle);  // looks
  EXPECT_EQ(overdue_.load(), Duration::zero());
  clock_.Advance(milliseconds(1));
  turn_->Leave(&idle);  // looks
  EXPECT_EQ(overdue_.load(), milliseconds(3000));
  EXPECT_TRUE(HasTurn()) << "until it has ended";
}

TEST_F(TurnTest, WhoGoesWithoutATurnIsWaitedForByNobody) {
  Turn::User other([](Duration) {});
  turn_->Enter(&other);
  EXPECT_FALSE(turn_->MayBegin(&other));
  EXPECT_EQ(page_.wants_turn, 1u);
  turn_->Leave(&other);
  EXPECT_EQ(page_.wants_turn, 0u);
  EXPECT_FALSE(turn_->MayBegin(&user_));
  turn_->Rest(&user_);
  EXPECT_EQ(page_.wants_turn, 0u);
}

TEST_F(TurnTest, HowLongOthersWaitCountsFromWhenTheyDo) {
  page_.longest_turn_ms = 1000;
  BeginAndRunOver();
  EXPECT_TRUE(turn_->MayGoOn(&user_)) << "what has begun";
  EXPECT_FALSE(turn_->MayBegin(&user_));
  const auto look = [&] {
    Turn::User passing([](Duration) {});
    turn_->Enter(&passing);
    turn_->Leave(&passing);
  };
  SetOthersWait(false);  // they have gone
  for (int i = 0; i < 50; ++i) {
    clock_.Advance(milliseconds(100));
    look();
  }
  SetOthersWait(true);
  for (int i = 0; i < 9; ++i) {
    clock_.Advance(milliseconds(100));
    look();
  }
  EXPECT_EQ(overdue_.load(), Duration{});
  clock_.Advance(milliseconds(200));
  Await([&] { return overdue_.load() != Duration{}; });
  turn_->SetIdle(&user_);
  EXPECT_FALSE(turn_->MayGoOn(&user_));
}

TEST_F(TurnTest, WhatMayWaitForItsProgramIsNotWaitedForLong) {
  Give();
  SetOthersWait(true);
  Await([&] { return IsReadable(turn_->fd()); });
  ASSERT_TRUE(turn_->MayBegin(&user_));
  turn_->SetStuck(&user_, true);
  clock_.Advance(Turn::kLength);
  Await([&] { return !IsReadable(turn_->fd()); });
  EXPECT_TRUE(HasTurn());
  clock_.Advance(Turn::kPatience);
  Await([&] { return !HasTurn(); });
  const std::uint64_t used_ns = turn_->DeviceTimeNs();
  clock_.Advance(Turn::kPatience);
  EXPECT_EQ(turn_->DeviceTimeNs(), used_ns);
  turn_->SetIdle(&user_);
}

}  // namespace
}  // namespace tulle::worker::pace
