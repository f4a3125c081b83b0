// How a session ends, and who is told: a lost connection, a revoked grant, a close, a fork. SessionTest is
// instantiated in session_test.cc.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

TEST_P(SessionTest, ALostConnectionWakesEverybodyOnce) {
  Start();
  worker_.Hold(true);
  std::vector<std::thread> threads;
  std::atomic<int> waiting = 0, woken = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      if (t % 2 == 0) {
        ++waiting;
        if (!client_.Call(WithHandles<Finish>())) ++woken;
      } else {
        ByteVector bytes(1u << 20);
        FillPattern(3, bytes);
        const ByteView view(bytes);
        Status status;
        ++waiting;
        while (status.ok()) {
          const auto sent = session().Send(WriteOf(3, bytes.size()), {&view, 1});
          if (!sent.ok()) status = sent.error();
        }
        ++woken;
      }
    });
  }
  while (waiting < 8) std::this_thread::yield();
  worker_.End(wire::EndReason::kDeviceLost, "the device went away");
  const Error error = client_.AwaitLost();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken, 8);
  EXPECT_EQ(client_.lost_times, 1);
  EXPECT_EQ(error.code, Code::kAborted) << ToString(error);
  EXPECT_NE(error.message.find("the device went away"), std::string::npos);
  EXPECT_TRUE(session().lost());
  const auto sent = session().Send(WithHandles<Finish>());
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().message, error.message) << "every later call gives the same reason";
  EXPECT_FALSE(session().Flush().ok());
  session().Poll();
}

TEST_P(SessionTest, ARevokedGrantEndsTheSessionWithItsReason) {
  Start();
  ASSERT_TRUE(client_.Ping());
  worker_.End(wire::EndReason::kGrantRevoked, "the claim was deleted");
  const Error error = client_.AwaitLost();  // nobody waits in the session: the I/O thread finds out
  EXPECT_EQ(error.code, Code::kPermissionDenied);
  EXPECT_NE(error.message.find("the claim was deleted"), std::string::npos);
}

TEST_P(SessionTest, CloseSaysGoodbyeAndIsNotALoss) {
  Start();
  ASSERT_TRUE(client_.Ping());
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
  }
  session().Close();
  worker_.Join();
  EXPECT_EQ(worker_.frames(), 10u) << "what was queued has arrived";
  EXPECT_EQ(worker_.end_error().code, Code::kCancelled);
  EXPECT_EQ(client_.lost_times, 0);
  EXPECT_FALSE(session().Send(wire::Ping{}).ok());
  session().Close();
}

TEST_P(SessionTest, CloseDoesNotHangOnAWorkerThatTakesNothing) {
  Start();
  worker_.Hold(true);
  ByteVector bytes(20'000);  // of which the first fits into the socket
  const ByteView view(bytes);
  std::atomic<int> sent = 0;
  std::thread sender([&] {
    while (session().Send(WriteOf(3, bytes.size()), {&view, 1}).ok()) ++sent;
  });
  // More than a socket holds is on its way; no word of it is read.
  while (sent == 0 && !session().lost()) std::this_thread::yield();
  const Instant before = net::Now();
  session().Close();
  EXPECT_LT(net::Now() - before, std::chrono::seconds(10));
  sender.join();
  worker_.End(wire::EndReason::kGoodbye, "");
}

TEST_P(SessionTest, TheChildOfAForkGivesUpWithoutTouchingTheParents) {
  Start();
  ASSERT_TRUE(client_.Ping());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(session().Send(wire::DestroyObject{{wire::ObjectKind::kEvent, {1, 1}}}).ok());
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      client_.session->AbandonAfterFork();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    ASSERT_TRUE(client_.Ping());
  }
  EXPECT_EQ(worker_.frames(), 5u);
}

}  // namespace
}  // namespace tulle::session
