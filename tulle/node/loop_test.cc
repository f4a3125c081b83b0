#include "tulle/node/loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>
#include <vector>

namespace tulle::node {
namespace {

using std::chrono::milliseconds;

TEST(Loop, RunsTimersInOrderAndNotCancelledOnes) {
  const SystemClock clock;
  Loop loop(clock);
  std::vector<int> order;
  loop.After(milliseconds(10), [&] {
    order.push_back(2);
    loop.Stop();
  });
  loop.After(milliseconds(0), [&] { order.push_back(1); });
  const Loop::TimerId never = loop.After(milliseconds(1), [&] { order.push_back(9); });
  loop.Cancel(never);
  loop.Cancel(never);
  loop.Run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(Loop, AnEventOfAClosedDescriptorIsLost) {
  const SystemClock clock;
  Loop loop(clock);
  int a[2], b[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b), 0);
  ASSERT_EQ(write(a[1], "x", 1), 1);
  ASSERT_EQ(write(b[1], "x", 1), 1);
  int events = 0;
  // Both are ready in one wait; whichever comes first removes the other.
  const auto on_event = [&](int other) {
    ++events;
    loop.Unwatch(other);
    loop.Stop();
  };
  loop.Watch(a[0], EPOLLIN, [&](std::uint32_t) { on_event(b[0]); });
  loop.Watch(b[0], EPOLLIN, [&](std::uint32_t) { on_event(a[0]); });
  loop.Run();
  EXPECT_EQ(events, 1);
  for (const int fd : {a[0], a[1], b[0], b[1]}) close(fd);
}

TEST(Loop, CallsFromOtherThreadsWaitForTheirTurn) {
  const SystemClock clock;
  Loop loop(clock);
  int value = 0;
  bool ran = false, ran_after = true;
  std::thread caller([&] {
    for (int i = 0; i < 100; ++i) ran = loop.Call([&] { ++value; });
    loop.Stop();
    while (loop.Call([] {})) {  // until the loop has ended
    }
    ran_after = loop.Call([&] { ++value; });
  });
  loop.Run();
  caller.join();
  EXPECT_TRUE(ran);
  EXPECT_FALSE(ran_after);
  EXPECT_EQ(value, 100);
}

}  // namespace
}  // namespace tulle::node
