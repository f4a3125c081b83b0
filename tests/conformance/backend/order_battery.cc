// The battery on order: what a Finish means, what an out-of-order queue may do, and the end of objects and
// sessions with commands under way.
#include <vector>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {

TEST_P(BackendBattery, FinishIsAnsweredBehindEverythingBeforeIt) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder, kProfiling}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(4'096);
    const Handle kernel = Kernel("null_add");
    ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
    ASSERT_EQ(SetUint(kernel, 1, 1), 0);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);  // nothing to finish
    for (int round = 0; round < 20; ++round) {
      std::vector<Handle> events;
      std::vector<std::uint64_t> reads;
      for (int i = 0; i < 10; ++i) {
        const Options options{.event = events.emplace_back(NewHandle())};
        if (i % 3 == 0) {
          Run(queue, kernel, 1'024, options);
        } else if (i % 3 == 1) {
          reads.push_back(Read(queue, buffer, 0, 4'096, options));
        } else {
          Run(queue, kernel, 1'024);
          Marker(queue, options);
        }
      }
      if (round % 2 == 0) Run(queue, kernel, 1'024);  // the last command has no event
      const Answer finished = Wait(Finish(queue));
      EXPECT_EQ(finished.status, 0);
      for (Handle event : events) {
        ASSERT_TRUE(Completed(event));
        Position position = 0;
        EXPECT_EQ(WaitEvent(event, &position).status, 0);
        EXPECT_LT(position, finished.position);
        Destroy(ObjectKind::kEvent, event);
      }
      for (std::uint64_t read : reads) EXPECT_LT(Wait(read).position, finished.position);
    }
  }
}

TEST_P(BackendBattery, FinishesAreAnsweredInOrderAndDoNotBlock) {
  const Handle queue = Queue();
  const Handle gate = UserEvent();
  std::vector<std::uint64_t> finishes;
  Marker(queue, {.waits = {gate}});
  for (int i = 0; i < 5; ++i) finishes.push_back(Finish(queue));
  Marker(queue);
  for (int i = 0; i < 5; ++i) finishes.push_back(Finish(queue));
  EXPECT_FALSE(Answered(finishes.front()));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  Position last = 0;
  for (std::uint64_t finish : finishes) {
    const Answer answer = Wait(finish);
    EXPECT_EQ(answer.status, 0);
    EXPECT_GT(answer.position, last);
    last = answer.position;
  }
}

TEST_P(BackendBattery, FinishOfUntrackedCommandsMeansTheyRan) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(4'096);
    const Handle kernel = Kernel("null_add");
    ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
    ASSERT_EQ(SetUint(kernel, 1, 1), 0);
    for (std::uint32_t round = 1; round <= 100; ++round) {
      Run(queue, kernel, 1'024);
      EXPECT_EQ(Wait(Finish(queue)).status, 0);
      if (round % 25 == 0) {
        EXPECT_EQ(Words(buffer, 1'024), std::vector<std::uint32_t>(1'024, round));
      }
    }
  }
}

TEST_P(BackendBattery, AnOutOfOrderQueueRunsWhatCanRun) {
  const Handle queue = Queue(kOutOfOrder);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const std::uint64_t blocked = Read(queue, buffer, 0, 64, {.waits = {gate}});
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 64)).status, 0);
  EXPECT_FALSE(Answered(blocked));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(Wait(blocked).status, 0);
}

TEST_P(BackendBattery, BarriersHoldAnOutOfOrderQueue) {
  const Handle queue = Queue(kOutOfOrder);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle marked = NewHandle();
  const Handle passed = NewHandle();
  Read(queue, buffer, 0, 64, {.waits = {gate}});
  Marker(queue, {.event = marked});  // behind all so far
  Barrier(queue, {.event = passed});
  const std::uint64_t behind = Read(queue, buffer, 0, 64);
  const Handle other = Queue();
  EXPECT_EQ(Wait(Read(other, buffer, 0, 64)).status, 0);
  EXPECT_FALSE(Completed(marked));
  EXPECT_FALSE(Completed(passed));
  EXPECT_FALSE(Answered(behind));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(marked).status, 0);
  EXPECT_EQ(WaitEvent(passed).status, 0);
  EXPECT_EQ(Wait(behind).status, 0);
}

TEST_P(BackendBattery, ManyCommandsWithEventsCompleteEachOnce) {
  const Handle queues[] = {Queue(), Queue(kOutOfOrder), Queue(kProfiling)};
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  std::vector<Handle> events;
  std::vector<std::uint64_t> writes;
  for (int i = 0; i < 1'500; ++i) {
    const Handle event = events.emplace_back(NewHandle());
    if (i % 4 == 3) {
      writes.push_back(Write(queues[i % 3], buffer, 0, Pattern(64), {.event = event}));
    } else {
      Run(queues[i % 3], kernel, 16, {.event = event});
    }
  }
  for (Handle queue : queues) EXPECT_EQ(Wait(Finish(queue)).status, 0);
  for (Handle event : events) ASSERT_TRUE(Completed(event));
  for (std::uint64_t write : writes) WaitPayloadDone(write);
}

TEST_P(BackendBattery, ABuffersMemoryIsUsedUntilItsCommandsHaveRun) {
  const Handle queue = Queue();
  const Handle a = Buffer(1 << 20);
  const Handle b = Buffer(1 << 20);
  const Handle gate = UserEvent();
  Write(queue, a, 0, Pattern(1 << 20));
  Marker(queue, {.waits = {gate}});
  Send(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 0, 0, 1 << 20});
  const std::uint64_t destroyed = Send(wire::DestroyObject{{ObjectKind::kMemory, a}}, {true});
  const std::uint64_t read = Read(queue, b, 0, 1 << 20);
  EXPECT_FALSE(Answered(destroyed));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(Wait(destroyed).status, 0);
  EXPECT_EQ(Wait(read).payload, Pattern(1 << 20));
}

TEST_P(BackendBattery, AKernelsBufferLivesUntilItHasRun) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const Handle gate = UserEvent();
  const Handle ran = NewHandle();
  Run(queue, kernel, 1'024, {.waits = {gate}, .event = ran});
  const std::uint64_t destroyed = Send(wire::DestroyObject{{ObjectKind::kMemory, buffer}}, {true});
  Destroy(ObjectKind::kKernel, kernel);
  Destroy(ObjectKind::kQueue, queue);
  EXPECT_FALSE(Answered(destroyed));
  EXPECT_FALSE(Completed(ran));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(ran).status, 0);
  EXPECT_EQ(Wait(destroyed).status, 0);
}

TEST_P(BackendBattery, QueuesMayBeDestroyedWithCommandsInThem) {
  const Handle buffer = Buffer(64);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder, kProfiling}) {
    const Handle gate = UserEvent();
    const Handle event = NewHandle();
    const Handle queue = Queue(flags);
    const std::uint64_t read = Read(queue, buffer, 0, 64, {.waits = {gate}, .event = event});
    Run(queue, kernel, 16, {.waits = {gate}});
    const std::uint64_t finish = Finish(queue);
    Destroy(ObjectKind::kQueue, queue);
    EXPECT_FALSE(Answered(finish));
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    EXPECT_EQ(Wait(read).status, 0);
    EXPECT_EQ(WaitEvent(event).status, 0);
    EXPECT_EQ(Wait(finish).status, 0);
  }
}

TEST_P(BackendBattery, EverythingMayBeDestroyedInAnyOrder) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const Handle kernel = Kernel("null_add");
  const Handle program = Program();
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const Handle event = NewHandle();
  for (int i = 0; i < 50; ++i) Run(queue, kernel, 1'024);
  Run(queue, kernel, 1'024, {.event = event});
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kContext, context_}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kProgram, program}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kKernel, kernel}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kQueue, queue}}), 0);
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kMemory, buffer}}), 0);
  EXPECT_EQ(WaitEvent(event).status, 0);
}

TEST_P(BackendBattery, ASessionEndsWhateverIsUnderWay) {
  const Handle queues[] = {Queue(), Queue(kOutOfOrder), Queue(kProfiling)};
  const Handle buffer = Buffer(1 << 20);
  const Handle gate = UserEvent();
  for (Handle queue : queues) {
    for (int i = 0; i < 20; ++i) {
      Write(queue, buffer, 0, Pattern(1 << 12), {.waits = {gate}, .event = NewHandle()});
      Read(queue, buffer, 0, 1 << 12, {.transfer = 5, .more = true});
      Write(queue, buffer, 0, Pattern(1 << 12));
    }
    Finish(queue);
  }
  Close();  // the subject checks that every payload was released
}

}  // namespace tulle::gpu::conformance
