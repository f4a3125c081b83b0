// The executor's word: what it may not say, its death, and what comes late.
#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

class LyingExecutor : public SessionTest {
 protected:
  // What the executor does once it has seen the client's last command, an EnqueueKernel with an event.
  void ExpectDistrust(std::function<void(std::uint64_t kernel)> lie) {
    CreateContextAndQueue();
    client_.Send(wire::AcquireMemory{kMiB});
    CreateBuffer(kBuffer, 4096);
    const std::uint64_t last = client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {kEvent}});
    client_.says_goodbye = false;
    bool lied = false;
    played_.on_look = [&, lie = std::move(lie)] {
      if (played_.seen.size() != 4 || std::exchange(lied, true)) return;
      lie(last);
    };
    const Ending ending = RunPlayed();
    EXPECT_EQ(ending.reason, EndReason::kDeviceLost);
    EXPECT_TRUE(ending.executor_crashed);
    EXPECT_NE(ending.detail, "");
    EXPECT_TRUE(played_.killed);
  }
  void Complete(Handle event) {
    const opencl::EventCompletion events[] = {{.event = event}};
    played_.Notice(opencl::EventsCompleted{{events}});
  }
};

TEST_F(LyingExecutor, AnswersToNothing) {
  ExpectDistrust([&](std::uint64_t last) {
    played_.Answer(wire::kOpcodeOf<opencl::EnqueueSync>, last,
                   wire::StatusReply{0});  // a status nobody asked for
  });
}
TEST_F(LyingExecutor, AnswersToTheFuture) {
  ExpectDistrust([&](std::uint64_t last) {
    played_.Answer(wire::kOpcodeOf<opencl::Finish>, last + 1, wire::StatusReply{0});
  });
}
TEST_F(LyingExecutor, CompletesAnEventThatNobodyMade) {
  ExpectDistrust([&](std::uint64_t) { Complete({7, 1}); });
}
TEST_F(LyingExecutor, CompletesAnEventOfTheFuture) {
  ExpectDistrust([&](std::uint64_t) { Complete({6, 2}); });
}
TEST_F(LyingExecutor, CompletesAnEventTwice) {
  ExpectDistrust([&](std::uint64_t) {
    Complete(kEvent);
    Complete(kEvent);
  });
}
TEST_F(LyingExecutor, CompletesAnEventBeyondAllSlots) {
  ExpectDistrust([&](std::uint64_t) { Complete({~0u, 1}); });
}
TEST_F(LyingExecutor, FailsACommandThatWasNotSent) {
  ExpectDistrust([&](std::uint64_t last) { played_.Notice(wire::CommandFailed{last + 1, -5}); });
}
TEST_F(LyingExecutor, SendsWhatOnlyAWorkerSays) {
  ExpectDistrust([&](std::uint64_t) { played_.Notice(wire::SessionEnded{}); });
}

TEST_F(SessionTest, AnswersOfTheWrongKindAreNotPassedOn) {
  CreateContextAndQueue();
  const auto finish = client_.Send(opencl::Finish{{kQueue}});
  client_.says_goodbye = false;
  bool lied = false;
  played_.on_look = [&] {
    if (played_.seen.size() == 3 && !std::exchange(lied, true)) {
      played_.Answer(wire::kOpcodeOf<wire::Ping>, finish, wire::StatusReply{0});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kDeviceLost);
  EXPECT_TRUE(client_.sent().empty());
}

TEST_F(SessionTest, ADeadExecutorIsALostDevice) {
  CreateContextAndQueue();
  const auto finish = client_.Send(opencl::Finish{{kQueue}});
  client_.says_goodbye = false;
  played_.on_look = [&] {
    if (played_.seen.size() != 3 || played_.dead) return;
    played_.Answer(wire::kOpcodeOf<opencl::Finish>, finish, wire::StatusReply{0});  // its last words count
    played_.dead = true;
  };
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kDeviceLost);
  EXPECT_EQ(ending.message, "the executor was killed by signal 11");
  EXPECT_TRUE(ending.executor_crashed);
  EXPECT_EQ(client_.StatusOf(finish), 0);
  ASSERT_TRUE(client_.end.has_value());
  EXPECT_EQ(client_.end->reason, EndReason::kDeviceLost);
}

TEST_F(SessionTest, LateCompletionsOfDestroyedEventsAreFine) {
  CreateContextAndQueue();
  client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {kEvent}});
  Destroy(ObjectKind::kEvent, kEvent);
  client_.Send(opencl::EnqueueSync{{kQueue}, {}, {}, {Handle{6, 2}}});
  bool completed = false;
  played_.on_look = [&] {
    if (played_.seen.size() != 5 || std::exchange(completed, true)) return;
    const opencl::EventCompletion events[] = {{.event = kEvent}, {.event = {6, 2}}};
    played_.Notice(opencl::EventsCompleted{{events}});
  };
  client_.When([&] { return !client_.sent().empty(); });
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
}

}  // namespace
}  // namespace tulle::worker::exec
