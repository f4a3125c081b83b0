// The battery on events: what completes them, what waits for them, and how they fail.
#include <vector>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

using wire::opencl::EventCompletion;
namespace status = cl_status;

}  // namespace

TEST_P(BackendBattery, EveryCommandCompletesItsEvent) {
  const Handle queue = Queue();
  const Handle a = Buffer(64);
  const Handle b = Buffer(64);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, a), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  const ByteVector pattern = Pattern(4);
  std::vector<Handle> events;
  const auto event = [&] { return events.emplace_back(NewHandle()); };
  Write(queue, a, 0, Pattern(64), {.event = event()});
  Run(queue, kernel, 16, {.event = event()});
  Send(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 0, 0, 64, {}, {event()}});
  Send(wire::opencl::EnqueueFill{{queue}, {a}, 0, 64, {pattern}, {}, {event()}});
  Marker(queue, {.event = event()});
  Barrier(queue, {.event = event()});
  const std::uint64_t read = Read(queue, b, 0, 64, {.event = event()});
  for (Handle handle : events) {
    const EventCompletion completion = WaitEvent(handle);
    EXPECT_EQ(completion.status, 0);
    EXPECT_EQ(completion.ended_ns, 0u);  // the queue does not profile
  }
  EXPECT_EQ(Wait(read).status, 0);
}

TEST_P(BackendBattery, AReadIsAnsweredBeforeItsEventCompletes) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  for (int i = 0; i < 50; ++i) {
    const Handle event = NewHandle();
    const std::uint64_t read = Read(queue, buffer, 0, 4'096, {.event = event});
    Position completed = 0;
    EXPECT_EQ(WaitEvent(event, &completed).status, 0);
    ASSERT_TRUE(Answered(read));
    EXPECT_LT(Wait(read).position, completed);
    Destroy(ObjectKind::kEvent, event);
  }
}

TEST_P(BackendBattery, CommandsWaitForUserEvents) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle written = NewHandle();
  Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
  const std::uint64_t read = Read(queue, buffer, 0, 64);
  const std::uint64_t finish = Finish(queue);
  // Other queues go on meanwhile.
  const Handle other = Queue();
  EXPECT_EQ(Wait(Read(other, Buffer(64), 0, 64)).status, 0);
  EXPECT_EQ(Wait(Finish(other)).status, 0);
  EXPECT_FALSE(Completed(written));
  EXPECT_FALSE(Answered(read));
  EXPECT_FALSE(Answered(finish));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(written).status, 0);
  EXPECT_EQ(Wait(read).payload, Pattern(64));
  EXPECT_EQ(Wait(finish).status, 0);
  EXPECT_EQ(SetUserEvent(gate, 0), status::kInvalidOperation);  // once only
  EXPECT_EQ(SetUserEvent(written, 0), status::kInvalidOperation);
}

TEST_P(BackendBattery, WhatComesBeforeAWaitCompletes) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle before = NewHandle();
  const Handle gate = UserEvent();
  const Handle after = NewHandle();
  Write(queue, buffer, 0, Pattern(64), {.event = before});
  const std::uint64_t read = Read(queue, buffer, 0, 64, {.waits = {gate}, .event = after});
  EXPECT_EQ(WaitEvent(before).status, 0);
  EXPECT_FALSE(Answered(read));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(after).status, 0);
  EXPECT_EQ(Wait(read).payload, Pattern(64));
}

TEST_P(BackendBattery, WaitListsCrossQueues) {
  const Handle queues[] = {Queue(), Queue(), Queue(kOutOfOrder)};
  const Handle buffer = Buffer(4);
  const Handle add = Kernel("null_add");
  const Handle mul = Kernel("null_mul");
  ASSERT_EQ(SetMemory(add, 0, buffer), 0);
  ASSERT_EQ(SetUint(add, 1, 3), 0);
  ASSERT_EQ(SetMemory(mul, 0, buffer), 0);
  ASSERT_EQ(SetUint(mul, 1, 5), 0);
  // x = (x + 3) * 5, eight times, each step on another queue and waiting for the one before.
  std::uint32_t expected = 0;
  Handle last = UserEvent();
  const Handle gate = last;
  for (int i = 0; i < 16; ++i) {
    const Handle next = NewHandle();
    Run(queues[i % 3], i % 2 == 0 ? add : mul, 1, {.waits = {last}, .event = next});
    expected = i % 2 == 0 ? expected + 3 : expected * 5;
    if (last != gate) Destroy(ObjectKind::kEvent, last, false);
    last = next;
  }
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(last).status, 0);
  EXPECT_EQ(Words(buffer, 1)[0], expected);
}

TEST_P(BackendBattery, AFailedUserEventFailsWhatWaitsForIt) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(64);
    const Handle gate = UserEvent();
    const Handle written = NewHandle();
    const Handle marked = NewHandle();
    const std::uint64_t write = Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
    Marker(queue, {.waits = {written}, .event = marked});
    const std::uint64_t read = Read(queue, buffer, 0, 64, {.waits = {gate}});
    EXPECT_EQ(SetUserEvent(gate, -5), 0);
    EXPECT_LT(WaitEvent(written).status, 0);
    EXPECT_LT(WaitEvent(marked).status, 0);
    WaitPayloadDone(write);
    const Answer answer = Wait(read);
    EXPECT_LT(answer.status, 0);
    EXPECT_TRUE(answer.payload.empty());
    // Known to have failed by now.
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 64, {.waits = {gate}})).status,
              status::kExecStatusErrorForEventsInWaitList);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);
    EXPECT_EQ(Words(buffer, 16), std::vector<std::uint32_t>(16));
  }
}

TEST_P(BackendBattery, AUserEventDestroyedUnsetReleasesWhatWaits) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  const Handle written = NewHandle();
  Write(queue, buffer, 0, Pattern(64), {.waits = {gate}, .event = written});
  const std::uint64_t finish = Finish(queue);
  Destroy(ObjectKind::kEvent, gate);
  EXPECT_LT(WaitEvent(written).status, 0);
  EXPECT_EQ(Wait(finish).status, 0);
}

TEST_P(BackendBattery, AFailedEnqueueLeavesAFailedEvent) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const Handle failed = NewHandle();
  const std::uint64_t write = Write(queue, buffer, 60, Pattern(64), {.event = failed});
  EXPECT_EQ(WaitFailure(write), status::kInvalidValue);
  EXPECT_EQ(WaitEvent(failed).status, status::kInvalidValue);
  WaitPayloadDone(write);

  const Handle failed_read = NewHandle();
  const std::uint64_t read = Read(queue, buffer, 60, 64, {.event = failed_read});
  Position completed = 0;
  EXPECT_EQ(WaitEvent(failed_read, &completed).status, status::kInvalidValue);
  EXPECT_EQ(Wait(read).status, status::kInvalidValue);
  EXPECT_LT(Wait(read).position, completed);

  const Handle next = NewHandle();
  const std::uint64_t waits = Read(queue, buffer, 0, 64, {.waits = {failed}, .event = next});
  EXPECT_EQ(Wait(waits).status, status::kExecStatusErrorForEventsInWaitList);
  EXPECT_EQ(WaitEvent(next).status, status::kExecStatusErrorForEventsInWaitList);
  const std::uint64_t run = Marker(queue, {.waits = {next}});
  EXPECT_EQ(WaitFailure(run), status::kExecStatusErrorForEventsInWaitList);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 64, {.waits = {NewHandle()}})).status, status::kInvalidEventWaitList);
  Destroy(ObjectKind::kEvent, failed);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

TEST_P(BackendBattery, EventsMayBeDestroyedWhileTheirCommandsRun) {
  const Handle queue = Queue(kProfiling);
  const Handle buffer = Buffer(64);
  const Handle gate = UserEvent();
  std::vector<Handle> events;
  std::vector<std::uint64_t> reads;
  for (int i = 0; i < 20; ++i) {
    events.push_back(NewHandle());
    reads.push_back(Read(queue, buffer, 0, 64, {.waits = {gate}, .event = events.back()}));
  }
  for (Handle event : events) EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kEvent, event}}), 0);
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  for (std::uint64_t read : reads) EXPECT_EQ(Wait(read).status, 0);
  for (Handle event : events) EXPECT_EQ(WaitEvent(event).status, 0);
}

TEST_P(BackendBattery, ProfilingQueuesReportTimesInOrder) {
  const Handle queue = Queue(kProfiling);
  const Handle buffer = Buffer(1 << 20);
  std::uint64_t last_end = 0;
  for (int i = 0; i < 5; ++i) {
    const Handle event = NewHandle();
    Write(queue, buffer, 0, Pattern(1 << 20), {.event = event});
    const EventCompletion times = WaitEvent(event);
    EXPECT_EQ(times.status, 0);
    EXPECT_GT(times.queued_ns, 0u);
    EXPECT_LE(times.queued_ns, times.submitted_ns);
    EXPECT_LE(times.submitted_ns, times.started_ns);
    EXPECT_LE(times.started_ns, times.ended_ns);
    EXPECT_LE(last_end, times.started_ns);
    last_end = times.ended_ns;
  }
}

TEST_P(BackendBattery, AFailureIsReportedOnceAndInOneWay) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const ByteVector pattern = Pattern(3);
  // Asked for: a status, and no CommandFailed (TearDown looks for those).
  EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 3, {pattern}}), status::kInvalidValue);
  // Not asked for: CommandFailed.
  EXPECT_EQ(WaitFailure(Send(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 3, {pattern}})),
            status::kInvalidValue);
  // With its own reply: only that.
  EXPECT_EQ(Wait(Read(queue, buffer, 65, 1)).status, status::kInvalidValue);
  // Bytes that are no message.
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

}  // namespace tulle::gpu::conformance
