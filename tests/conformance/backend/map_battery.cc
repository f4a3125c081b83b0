// The battery on buffers that the worker's client reads and writes where they lie.
#include <algorithm>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

namespace status = cl_status;
constexpr std::uint64_t kRead = 1, kWrite = 2, kOverwrite = 4;

}  // namespace

TEST_P(BackendBattery, MappedBytesAreTheBuffers) {
  if (Try(wire::ShareMemory{}) != 0) GTEST_SKIP() << "its buffers lie elsewhere";
  for (const std::uint64_t flags : {std::uint64_t{0}, kOutOfOrder}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(10'000);
    const MutableByteView bytes = Lent(buffer);
    if (bytes.empty()) GTEST_SKIP() << "nothing was lent";
    const ByteVector data = Pattern(10'000);
    const Handle written = NewHandle(), mapped = NewHandle(), unmapped = NewHandle();
    Write(queue, buffer, 0, data, {.event = written});
    Map(queue, buffer, 1'000, 5'000, kRead | kWrite, {.waits = {written}, .event = mapped});
    EXPECT_EQ(WaitEvent(mapped).status, 0);
    EXPECT_TRUE(std::equal(data.begin(), data.end(), bytes.begin()));
    std::fill_n(bytes.begin() + 1'000, 5'000, std::byte{7});
    Unmap(queue, buffer, 1'000, 5'000, {.event = unmapped});
    ByteVector expected = data;
    std::fill_n(expected.begin() + 1'000, 5'000, std::byte{7});
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 10'000, {.waits = {unmapped}})).payload, expected);
  }
}

TEST_P(BackendBattery, MapsAndUnmapsKeepTheirPlaceInTheQueue) {
  if (Try(wire::ShareMemory{}) != 0) GTEST_SKIP() << "its buffers lie elsewhere";
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  const MutableByteView bytes = Lent(buffer);
  if (bytes.empty()) GTEST_SKIP() << "nothing was lent";
  const Handle gate = UserEvent(), mapped = NewHandle(), done = UserEvent();
  Write(queue, buffer, 0, ByteVector(4'096, std::byte{1}), {.waits = {gate}});
  Map(queue, buffer, 0, 4'096, kWrite, {.event = mapped});
  Unmap(queue, buffer, 0, 4'096, {.waits = {done}});
  const std::uint64_t read = Read(queue, buffer, 0, 4'096);
  EXPECT_FALSE(Completed(mapped));
  EXPECT_EQ(SetUserEvent(gate, 0), 0);
  EXPECT_EQ(WaitEvent(mapped).status, 0);
  EXPECT_EQ(bytes.front(), std::byte{1});
  std::ranges::fill(bytes, std::byte{2});
  EXPECT_FALSE(Answered(read));  // which waits for the unmap
  EXPECT_EQ(SetUserEvent(done, 0), 0);
  EXPECT_EQ(Wait(read).payload, ByteVector(4'096, std::byte{2}));
}

TEST_P(BackendBattery, PartsAreMappedWhereTheyLie) {
  if (Try(wire::ShareMemory{}) != 0) GTEST_SKIP() << "its buffers lie elsewhere";
  const Handle queue = Queue();
  const Handle whole = Buffer(16'384);
  const MutableByteView bytes = Lent(whole);
  if (bytes.empty()) GTEST_SKIP() << "nothing was lent";
  const Handle part = NewHandle(), mapped = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateSubBuffer{{whole}, {part}, {1}, 4'096, 4'096}), 0);
  Map(queue, part, 100, 200, kOverwrite, {.event = mapped});
  EXPECT_EQ(WaitEvent(mapped).status, 0);
  std::fill_n(bytes.begin() + 4'196, 200, std::byte{9});
  EXPECT_EQ(Wait(Unmap(queue, part, 100, 200, {}, true)).status, 0);
  EXPECT_EQ(Wait(Read(queue, part, 100, 200)).payload, ByteVector(200, std::byte{9}));
  EXPECT_EQ(Wait(Read(queue, whole, 4'195, 2)).payload, (ByteVector{std::byte{0}, std::byte{9}}));
}

TEST_P(BackendBattery, WhatCannotBeMappedIsRefused) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1'000);
  const bool shares = Try(wire::ShareMemory{}) == 0 && !Lent(buffer).empty();
  const auto map = [&](Handle memory, std::uint64_t offset, std::uint64_t size, std::uint64_t access) {
    return Wait(Map(queue, memory, offset, size, access, {}, true)).status;
  };
  if (!shares) {
    EXPECT_EQ(map(buffer, 0, 100, kRead), status::kInvalidOperation);
    return;
  }
  EXPECT_EQ(map(NewHandle(), 0, 100, kRead), status::kInvalidMemObject);
  EXPECT_EQ(map(buffer, 0, 0, kRead), status::kInvalidValue);
  EXPECT_EQ(map(buffer, 900, 101, kRead), status::kInvalidValue);
  EXPECT_EQ(map(buffer, ~std::uint64_t{0}, 2, kRead), status::kInvalidValue);
  EXPECT_EQ(map(buffer, 0, 100, 0), status::kInvalidValue);
  EXPECT_EQ(map(Buffer(1'000, 1u << 0 | 1u << 7), 0, 100, kRead), status::kInvalidOperation);
  EXPECT_EQ(map(Buffer(1'000, 1u << 0 | 1u << 8), 0, 100, kOverwrite), status::kInvalidOperation);
  EXPECT_EQ(map(Buffer(1'000, 1u << 0 | 1u << 9), 0, 100, kRead), status::kInvalidOperation);
  const auto unmap = [&](Handle memory, std::uint64_t offset, std::uint64_t size) {
    return Wait(Unmap(queue, memory, offset, size, {}, true)).status;
  };
  EXPECT_EQ(unmap(buffer, 0, 100), status::kInvalidValue);
  EXPECT_EQ(map(buffer, 0, 100, kRead), 0);
  EXPECT_EQ(map(buffer, 0, 100, kRead), 0);
  EXPECT_EQ(unmap(buffer, 0, 99), status::kInvalidValue);
  EXPECT_EQ(unmap(buffer, 0, 100), 0);
  EXPECT_EQ(unmap(buffer, 0, 100), 0);
  EXPECT_EQ(unmap(buffer, 0, 100), status::kInvalidValue);
  EXPECT_EQ(unmap(NewHandle(), 0, 100), status::kInvalidMemObject);
}

}  // namespace tulle::gpu::conformance
