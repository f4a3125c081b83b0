// Which answers may overtake large ones: those of commands that do not depend on them.
#include <gtest/gtest.h>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

constexpr std::uint64_t kEverything = session::ServerSession::kEverything;
constexpr Handle kOther{10, 1}, kThird{11, 1}, kDone{12, 1}, kLater{13, 1};

class OrderTest : public SessionTest {
 protected:
  void SetUp() override {
    CreateContextAndQueue();
    for (const Handle queue : {kOther, kThird}) client_.Send(opencl::CreateQueue{{kContext}, {queue}, {}});
    client_.Send(wire::AcquireMemory{8 * kMiB});
    CreateBuffer(kBuffer, kMiB);
  }
  std::uint64_t Read(Handle queue, std::uint64_t size, Handle event = {},
                     std::vector<wire::Ref<ObjectKind::kEvent>> waits = {}) {
    waits_.push_back(std::move(waits));
    return client_.Send(opencl::EnqueueRead{{queue}, {kBuffer}, 0, {size}, 0, 0, {waits_.back()}, {event}});
  }
  std::uint64_t AfterOf(std::uint64_t command) {
    const Sent* sent = client_.Find(command);
    EXPECT_NE(sent, nullptr);
    return sent == nullptr ? 0 : sent->after;
  }

 private:
  std::deque<std::vector<wire::Ref<ObjectKind::kEvent>>> waits_;
};

TEST_F(OrderTest, AQueueDependsOnWhatWasReadInIt) {
  const auto before = Read(kQueue, 4);
  const auto large = Read(kQueue, kMiB);
  const auto small = Read(kQueue, 4);
  const auto other = Read(kOther, 4);
  const auto finish = client_.Send(opencl::Finish{{kQueue}});
  const auto other_finish = client_.Send(opencl::Finish{{kOther}});
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(AfterOf(before), 0u);
  EXPECT_EQ(AfterOf(large), large);
  EXPECT_EQ(AfterOf(small), large);
  EXPECT_EQ(AfterOf(finish), large);
  EXPECT_EQ(AfterOf(other), 0u);
  EXPECT_EQ(AfterOf(other_finish), 0u);
}

TEST_F(OrderTest, AndOnWhatItsEventsDependOn) {
  const auto large = Read(kQueue, kMiB, kDone);
  client_.Send(opencl::EnqueueSync{{kOther}, {}, {}, {kEvent}});
  const wire::Ref<ObjectKind::kEvent> waits[] = {{kEvent}, {kDone}};
  client_.Send(opencl::EnqueueSync{{kThird}, {opencl::SyncKind::kMarker}, {waits}, {kLater}});
  const auto small = Read(kThird, 4);
  const auto other = Read(kOther, 4, {}, {{kEvent}});
  const auto waiting = Read(kOther, 4, {}, {{kLater}});
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(AfterOf(small), large);
  EXPECT_EQ(AfterOf(other), 0u);
  EXPECT_EQ(AfterOf(waiting), large);
}

TEST_F(OrderTest, WhatIsOfNoQueueDependsOnNothingAndAnEndOnEverything) {
  Read(kQueue, kMiB);
  const auto memory = client_.Send(wire::AcquireMemory{kMiB});
  const auto created = CreateBuffer({20, 1}, 64, wire::kWantStatus);
  const auto destroyed = Destroy(ObjectKind::kMemory, kBuffer, wire::kWantStatus);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(AfterOf(memory), 0u);
  EXPECT_EQ(AfterOf(created), 0u);
  EXPECT_EQ(AfterOf(destroyed), kEverything);
}

TEST_F(OrderTest, EventsThatMustWaitDoNotHoldUpOthers) {
  const auto large = Read(kQueue, kMiB, kDone);
  const auto last = client_.Send(opencl::EnqueueSync{{kOther}, {}, {}, {kEvent}});
  client_.says_goodbye = false;
  bool told = false;
  played_.on_look = [&] {
    if (played_.seen.empty() || played_.seen.back().sequence != last) return;
    if (!std::exchange(told, true)) {
      // The answer is on its way to a client that takes it slowly.
      client_.set_first_delayed(large);
      const opencl::EventCompletion events[] = {{.event = kDone}, {.event = kEvent}};
      played_.Notice(opencl::EventsCompleted{{events}});
    } else if (played_.answers.empty()) {
      client_.says_goodbye = true;
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  std::vector<std::pair<Handle, std::uint64_t>> notices;
  for (const Sent& sent : client_.sent()) {
    if (sent.opcode != wire::kOpcodeOf<opencl::EventsCompleted>) continue;
    wire::Arena arena;
    opencl::EventsCompleted notice;
    ASSERT_EQ(wire::Decode(sent.body, 0, arena, &notice), wire::WireResult::kOk);
    for (const auto& completion : notice.events.items) notices.emplace_back(completion.event, sent.after);
  }
  ASSERT_EQ(notices.size(), 2u);
  EXPECT_EQ(notices[0], std::pair(kEvent, std::uint64_t{0}));
  EXPECT_EQ(notices[1], std::pair(kDone, kEverything));
}

}  // namespace
}  // namespace tulle::worker::exec
