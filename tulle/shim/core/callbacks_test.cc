#include "tulle/shim/core/callbacks.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <utility>
#include <vector>

namespace tulle::shim {
namespace {

struct Note {
  int number;
  std::thread::id thread;
};

class CallbackThreadTest : public testing::Test {
 protected:
  void Post(int number) {
    callbacks_.Post(MakeTask([this, number] {
      EXPECT_FALSE(std::exchange(running_, true));
      notes_.push_back({number, std::this_thread::get_id()});
      running_ = false;
    }));
  }
  // What was due before has been run when it returns.
  void Drain() {
    std::promise<void> done;
    callbacks_.Post(MakeTask([&] { done.set_value(); }));
    done.get_future().wait();
  }

  CallbackThread callbacks_;
  std::vector<Note> notes_;
  bool running_ = false;  // guarded by nothing: callbacks run one at a time
};

TEST_F(CallbackThreadTest, RunInTheOrderInWhichTheyBecameDue) {
  ASSERT_TRUE(callbacks_.Start().ok());
  for (int i = 0; i < 100; ++i) Post(i);
  Drain();
  ASSERT_EQ(notes_.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(notes_[i].number, i);
  EXPECT_NE(notes_[0].thread, std::this_thread::get_id());
}

TEST_F(CallbackThreadTest, WhoHoldsThemRunsThemOrWakesTheThread) {
  // Without the thread: one that is not asleep yet would take them.
  {
    const CallbackThread::Held held;
    Post(1);
    EXPECT_TRUE(callbacks_.has_due());
  }
  callbacks_.RunDue();
  EXPECT_FALSE(callbacks_.has_due());
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_EQ(notes_[0].thread, std::this_thread::get_id());

  ASSERT_TRUE(callbacks_.Start().ok());
  std::promise<void> ran;
  {
    const CallbackThread::Held held;
    callbacks_.Post(MakeTask([&] { ran.set_value(); }));
  }
  callbacks_.Wake();
  ran.get_future().wait();
}

// While one runs, others that become due follow it on its thread, whoever asks for them.
TEST_F(CallbackThreadTest, OneAtATime) {
  std::promise<void> begun, go_on;
  std::thread::id first;
  {
    const CallbackThread::Held held;
    callbacks_.Post(MakeTask([&] {
      first = std::this_thread::get_id();
      begun.set_value();
      go_on.get_future().wait();
    }));
  }
  std::thread runner([&] { callbacks_.RunDue(); });
  begun.get_future().wait();
  Post(1);
  callbacks_.Wake();
  callbacks_.RunDue();  // returns: another is about it
  EXPECT_TRUE(callbacks_.has_due());
  go_on.set_value();
  runner.join();
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_EQ(notes_[0].thread, first);
}

}  // namespace
}  // namespace tulle::shim
