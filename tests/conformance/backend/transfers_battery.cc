// The battery on transfers that come in pieces.
#include <vector>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

using wire::opencl::EventCompletion;
namespace status = cl_status;

}  // namespace

TEST_P(BackendBattery, APiecewiseTransferHasOneEvent) {
  for (std::uint64_t flags : {kProfiling, kOutOfOrder | kProfiling}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(5'000);
    const ByteVector data = Pattern(5'000, static_cast<std::uint8_t>(flags));
    const Handle gate = UserEvent();
    const Handle written = NewHandle();
    const auto piece = [&](std::size_t begin, std::size_t end) {
      return ByteVector(data.begin() + begin, data.begin() + end);
    };
    std::vector<std::uint64_t> writes;
    writes.push_back(
        Write(queue, buffer, 0, piece(0, 2'000), {.waits = {gate}, .transfer = 9, .more = true}));
    writes.push_back(
        Write(queue, buffer, 2'000, piece(2'000, 4'000), {.waits = {gate}, .transfer = 9, .more = true}));
    writes.push_back(
        Write(queue, buffer, 4'000, piece(4'000, 5'000), {.waits = {gate}, .event = written, .transfer = 9}));
    const Handle read_done = NewHandle();
    std::vector<std::uint64_t> reads;
    reads.push_back(Read(queue, buffer, 0, 2'000, {.waits = {written}, .transfer = 10, .more = true}));
    reads.push_back(Read(queue, buffer, 2'000, 2'000, {.waits = {written}, .transfer = 10, .more = true}));
    reads.push_back(
        Read(queue, buffer, 4'000, 1'000, {.waits = {written}, .event = read_done, .transfer = 10}));
    EXPECT_FALSE(Completed(written));
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    Position write_position = 0;
    Position read_position = 0;
    const EventCompletion write_times = WaitEvent(written, &write_position);
    const EventCompletion read_times = WaitEvent(read_done, &read_position);
    EXPECT_EQ(write_times.status, 0);
    EXPECT_EQ(read_times.status, 0);
    for (std::uint64_t write : writes) EXPECT_LT(WaitPayloadDone(write), write_position);
    ByteVector all;
    for (std::uint64_t read : reads) {
      ASSERT_TRUE(Answered(read));
      const Answer answer = Wait(read);
      EXPECT_EQ(answer.status, 0);
      EXPECT_LT(answer.position, read_position);
      all.insert(all.end(), answer.payload.begin(), answer.payload.end());
    }
    EXPECT_EQ(all, data);
    for (const EventCompletion& times : {write_times, read_times}) {
      EXPECT_GT(times.queued_ns, 0u);
      EXPECT_LE(times.queued_ns, times.submitted_ns);
      EXPECT_LE(times.submitted_ns, times.started_ns);
      EXPECT_LT(times.started_ns, times.ended_ns);
    }
    EXPECT_LE(write_times.ended_ns, read_times.started_ns);
  }
}

TEST_P(BackendBattery, PiecesOfTransfersMayInterleave) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(6'000);
    const Handle first = NewHandle();
    const Handle second = NewHandle();
    Write(queue, buffer, 0, Pattern(1'000, 1), {.transfer = 1, .more = true});
    Write(queue, buffer, 3'000, Pattern(1'000, 4), {.transfer = 2, .more = true});
    Write(queue, buffer, 1'000, Pattern(1'000, 2), {.transfer = 1, .more = true});
    Write(queue, buffer, 4'000, Pattern(1'000, 5), {.transfer = 2, .more = true});
    Write(queue, buffer, 5'000, Pattern(1'000, 6), {.event = second, .transfer = 2});
    EXPECT_EQ(WaitEvent(second).status, 0);
    EXPECT_FALSE(Completed(first));
    Write(queue, buffer, 2'000, Pattern(1'000, 3), {.event = first, .transfer = 1});
    EXPECT_EQ(WaitEvent(first).status, 0);
    for (std::uint8_t i = 0; i < 6; ++i) {
      EXPECT_EQ(Wait(Read(queue, buffer, i * 1'000, 1'000)).payload, Pattern(1'000, i + 1)) << int{i};
    }
  }
}

TEST_P(BackendBattery, APieceThatFailsFailsItsTransfer) {
  for (std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(3'000);
    const Handle gate = UserEvent();
    const Handle event = NewHandle();
    const std::uint64_t good = Read(queue, buffer, 0, 1'000, {.waits = {gate}, .transfer = 1, .more = true});
    const std::uint64_t bad =
        Read(queue, buffer, 2'500, 1'000, {.waits = {gate}, .transfer = 1, .more = true});
    const std::uint64_t last =
        Read(queue, buffer, 2'000, 1'000, {.waits = {gate}, .event = event, .transfer = 1});
    EXPECT_EQ(Wait(bad).status, status::kInvalidValue);
    EXPECT_EQ(Wait(last).status, status::kInvalidValue);
    EXPECT_FALSE(Completed(event));  // a piece is still under way
    EXPECT_EQ(SetUserEvent(gate, 0), 0);
    EXPECT_EQ(Wait(good).status, 0);
    EXPECT_EQ(WaitEvent(event).status, status::kInvalidValue);
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 4, {.waits = {event}})).status,
              status::kExecStatusErrorForEventsInWaitList);
    // The number is free again.
    const Handle next = NewHandle();
    Read(queue, buffer, 0, 1'000, {.transfer = 1, .more = true});
    Read(queue, buffer, 1'000, 1'000, {.event = next, .transfer = 1});
    EXPECT_EQ(WaitEvent(next).status, 0);
  }
}

TEST_P(BackendBattery, TransfersThatNeverEndHoldNothingUp) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(64);
  const std::uint64_t read = Read(queue, buffer, 0, 32, {.transfer = 1, .more = true});
  EXPECT_EQ(Wait(read).status, 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 32, {.more = true})).status, status::kInvalidValue);  // more of what?
  const Handle early = NewHandle();
  const std::uint64_t wrong = Read(queue, buffer, 0, 32, {.event = early, .transfer = 2, .more = true});
  EXPECT_EQ(Wait(wrong).status, status::kInvalidValue);  // the event goes with the last piece
  EXPECT_EQ(WaitEvent(early).status, status::kInvalidValue);
  std::vector<std::uint64_t> reads;
  for (std::uint64_t i = 0; i < 2'000; ++i)
    reads.push_back(Read(queue, buffer, 0, 1, {.transfer = 100 + i, .more = true}));
  EXPECT_EQ(Wait(reads.back()).status, status::kOutOfResources);
  Destroy(ObjectKind::kQueue, queue);
}

}  // namespace tulle::gpu::conformance
