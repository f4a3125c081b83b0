// The battery on parts of buffers: sub-buffers and rectangular transfers.
#include <algorithm>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

using wire::opencl::Rect;
namespace status = cl_status;

constexpr std::uint64_t kMost = ~std::uint64_t{0};
// A multiple of every device's CL_DEVICE_MEM_BASE_ADDR_ALIGN.
constexpr std::uint64_t kAligned = 4096;

// The bytes of a box, packed.
ByteVector Packed(const ByteVector& bytes, const Rect& rect, const wire::Vec3& region) {
  ByteVector packed;
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row) {
      const auto begin =
          bytes.begin() + static_cast<std::ptrdiff_t>(rect.offset_bytes + slice * rect.slice_pitch_bytes +
                                                      row * rect.row_pitch_bytes);
      packed.insert(packed.end(), begin, begin + static_cast<std::ptrdiff_t>(region[0]));
    }
  }
  return packed;
}

// Puts packed bytes where the box has them.
void Unpack(const ByteVector& packed, const Rect& rect, const wire::Vec3& region, ByteVector* bytes) {
  auto from = packed.begin();
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row, from += static_cast<std::ptrdiff_t>(region[0])) {
      std::copy_n(
          from, region[0],
          bytes->begin() + static_cast<std::ptrdiff_t>(rect.offset_bytes + slice * rect.slice_pitch_bytes +
                                                       row * rect.row_pitch_bytes));
    }
  }
}

std::uint64_t Size(const wire::Vec3& region) { return region[0] * region[1] * region[2]; }

}  // namespace

TEST_P(BackendBattery, ASubBufferIsItsParentsMemory) {
  const Handle queue = Queue();
  const Handle parent = Buffer(4 * kAligned);
  ByteVector bytes = Pattern(4 * kAligned);
  Write(queue, parent, 0, bytes);
  const Handle part = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{parent}, {part}, {1}, kAligned, 1'000}), 0);
  EXPECT_EQ(Wait(Read(queue, part, 10, 990)).payload,
            ByteVector(bytes.begin() + kAligned + 10, bytes.begin() + kAligned + 1'000));
  EXPECT_EQ(Wait(Read(queue, part, 10, 991)).status, status::kInvalidValue);
  Write(queue, part, 500, Pattern(100, 77));
  const ByteVector written = Pattern(100, 77);
  std::copy(written.begin(), written.end(), bytes.begin() + kAligned + 500);
  EXPECT_EQ(Wait(Read(queue, parent, 0, 4 * kAligned)).payload, bytes);

  // It keeps the memory, and goes without a word of its own.
  const std::uint64_t gone = Send(wire::DestroyObject{{ObjectKind::kMemory, parent}}, {.status = true});
  EXPECT_EQ(Wait(Read(queue, part, 500, 100)).payload, written);
  EXPECT_FALSE(Answered(gone));
  EXPECT_EQ(Try(wire::DestroyObject{{ObjectKind::kMemory, part}}), 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Wait(gone).status, 0);
}

TEST_P(BackendBattery, KernelsRunOnSubBuffers) {
  const Handle queue = Queue();
  const Handle parent = Buffer(3 * kAligned);
  const Handle part = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{parent}, {part}, {1}, kAligned, kAligned}), 0);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, part), 0);
  ASSERT_EQ(SetUint(kernel, 1, 7), 0);
  Run(queue, kernel, kAligned / 4);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  const std::vector<std::uint32_t> words = Words(parent, 3 * kAligned / 4);
  for (std::size_t i = 0; i < words.size(); ++i)
    ASSERT_EQ(words[i], i >= kAligned / 4 && i < 2 * kAligned / 4 ? 7u : 0u) << i;
}

TEST_P(BackendBattery, RefusesSubBuffersThatCannotBe) {
  const Handle parent = Buffer(2 * kAligned);
  const auto create = [&](Handle of, std::uint64_t offset, std::uint64_t size) {
    return Try(wire::opencl::CreateSubBuffer{{of}, {NewHandle()}, {1}, offset, size});
  };
  EXPECT_EQ(create(parent, 0, 0), status::kInvalidBufferSize);
  EXPECT_EQ(create(parent, 0, 2 * kAligned + 1), status::kInvalidValue);
  EXPECT_EQ(create(parent, kAligned, kAligned + 1), status::kInvalidValue);
  EXPECT_EQ(create(parent, kMost, 1), status::kInvalidValue);
  EXPECT_EQ(create(parent, kAligned, kMost), status::kInvalidValue);
  EXPECT_EQ(create(parent, 1, 16), status::kMisalignedSubBufferOffset);
  EXPECT_EQ(create(NewHandle(), 0, 16), status::kInvalidMemObject);
  const Handle part = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateSubBuffer{{parent}, {part}, {1}, 0, kAligned}), 0);
  EXPECT_EQ(create(part, 0, 16), status::kInvalidMemObject);
}

TEST_P(BackendBattery, CopiesSeeThatSubBuffersOverlap) {
  const Handle queue = Queue();
  const Handle parent = Buffer(4 * kAligned);
  const Handle first = NewHandle();
  const Handle second = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{parent}, {first}, {1}, 0, 2 * kAligned}), 0);
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{parent}, {second}, {1}, kAligned, 2 * kAligned}), 0);
  const auto copy = [&](Handle from, Handle to, std::uint64_t source, std::uint64_t destination) {
    return Try(wire::opencl::EnqueueCopy{{queue}, {from}, {to}, source, destination, 100});
  };
  EXPECT_EQ(copy(first, second, kAligned, 0), status::kMemCopyOverlap);
  EXPECT_EQ(copy(first, second, kAligned - 99, 0), status::kMemCopyOverlap);
  EXPECT_EQ(copy(second, parent, 50, kAligned + 149), status::kMemCopyOverlap);
  const Rect rect = {0, 10, 100};
  EXPECT_EQ(
      Try(wire::opencl::EnqueueCopyRect{{queue}, {first}, {second}, {kAligned, 10, 100}, rect, {5, 2, 1}}),
      status::kMemCopyOverlap);
  EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{
                {queue}, {first}, {second}, {kAligned + 5, 10, 100}, rect, {5, 2, 1}}),
            0);
  EXPECT_EQ(copy(first, second, 0, 0), 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

TEST_P(BackendBattery, RectanglesAreReadAndWritten) {
  const Handle queue = Queue();
  constexpr std::uint64_t kSize = 20'000;
  const Handle buffer = Buffer(kSize);
  ByteVector bytes = Pattern(kSize);
  Write(queue, buffer, 0, bytes);
  const std::pair<Rect, wire::Vec3> boxes[] = {{{0, 1, 1}, {1, 1, 1}},
                                               {{3, 100, 1'000}, {100, 10, 20}},
                                               {{17, 64, 640}, {5, 10, 4}},
                                               {{19'999, 1, 1}, {1, 1, 1}},
                                               {{100, 7, 7'000}, {7, 3, 2}}};
  std::uint8_t first = 50;
  for (const auto& [rect, region] : boxes) {
    SCOPED_TRACE(testing::Message() << "at " << rect.offset_bytes);
    // The largest box ends beyond the buffer when it begins at 3.
    const bool fits = rect.offset_bytes + *wire::opencl::SpanOf(rect, region) <= kSize;
    const auto read =
        Send(wire::opencl::EnqueueReadRect{{queue}, {buffer}, rect, region, {Size(region)}, 0, 0, {}, {}});
    const Answer answer = Wait(read);
    EXPECT_EQ(answer.status, fits ? 0 : status::kInvalidValue);
    const ByteVector data = Pattern(Size(region), first++);
    const auto write =
        Send(wire::opencl::EnqueueWriteRect{{queue}, {buffer}, rect, region, {Size(region)}, 0, 0, {}, {}},
             {true, data});
    EXPECT_EQ(Wait(write).status, fits ? 0 : status::kInvalidValue);
    WaitPayloadDone(write);
    if (!fits) continue;
    EXPECT_EQ(answer.payload, Packed(bytes, rect, region));
    Unpack(data, rect, region, &bytes);
    EXPECT_EQ(Wait(Read(queue, buffer, 0, kSize)).payload, bytes);
  }
}

TEST_P(BackendBattery, RectanglesAreCopied) {
  const Handle queue = Queue();
  const Handle source = Buffer(10'000);
  const Handle destination = Buffer(10'000);
  const ByteVector bytes = Pattern(10'000);
  Write(queue, source, 0, bytes);
  const Rect from = {11, 50, 500};
  const Rect to = {2'000, 33, 990};
  const wire::Vec3 region = {30, 10, 5};
  ByteVector expected(10'000);
  Unpack(Packed(bytes, from, region), to, region, &expected);
  EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{{queue}, {source}, {destination}, from, to, region}), 0);
  EXPECT_EQ(Wait(Read(queue, destination, 0, 10'000)).payload, expected);
  // Within one buffer: from column to column.
  EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{
                {queue}, {source}, {source}, {0, 100, 10'000}, {50, 100, 10'000}, {50, 100, 1}}),
            0);
  ByteVector shifted = bytes;
  Unpack(Packed(bytes, {0, 100, 10'000}, {50, 100, 1}), {50, 100, 10'000}, {50, 100, 1}, &shifted);
  EXPECT_EQ(Wait(Read(queue, source, 0, 10'000)).payload, shifted);
  // Side by side, through slices that both have a part of.
  const Rect left = {641, 20, 200};
  const Rect right = {231, 20, 200};
  const wire::Vec3 box = {8, 6, 6};
  EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{{queue}, {source}, {source}, left, right, box}), 0);
  Unpack(Packed(shifted, left, box), right, box, &shifted);
  EXPECT_EQ(Wait(Read(queue, source, 0, 10'000)).payload, shifted);
}

TEST_P(BackendBattery, ARectangleInPiecesHasOneEvent) {
  for (std::uint64_t flags : {kProfiling, kOutOfOrder | kProfiling}) {
    const Handle queue = Queue(flags);
    const Handle buffer = Buffer(1'000);
    const Handle done = NewHandle();
    const auto piece = [&](std::uint64_t offset, std::uint8_t more, Handle event) {
      Send(
          wire::opencl::EnqueueWriteRect{
              {queue}, {buffer}, {offset, 10, 50}, {4, 5, 1}, {20}, 3, more, {}, {event}},
          {.payload = Pattern(20, static_cast<std::uint8_t>(offset))});
    };
    piece(0, 1, {});
    piece(100, 1, {});
    piece(200, 0, done);
    EXPECT_EQ(WaitEvent(done).status, 0);
    ByteVector expected(1'000);
    for (std::uint64_t offset : {0, 100, 200})
      Unpack(Pattern(20, static_cast<std::uint8_t>(offset)), {offset, 10, 50}, {4, 5, 1}, &expected);
    EXPECT_EQ(Wait(Read(queue, buffer, 0, 1'000)).payload, expected);
  }
}

TEST_P(BackendBattery, NoRectangleReachesBeyondABuffer) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1'000);
  const Handle other = Buffer(1'000);
  const std::pair<Rect, wire::Vec3> boxes[] = {
      {{0, 10, 100}, {10, 10, 11}},      {{1, 10, 100}, {10, 10, 10}},
      {{1'000, 1, 1}, {1, 1, 1}},        {{kMost, 1, 1}, {1, 1, 1}},
      {{kMost - 1, 2, 2}, {2, 1, 1}},    {{0, kMost, kMost}, {1, 1, 2}},
      {{0, 1u << 31, kMost}, {1, 2, 1}}, {{0, kMost / 2, kMost - 1}, {1, 2, 2}},
      {{0, 9, 90}, {10, 1, 1}},          {{0, 10, 15}, {10, 2, 1}},
      {{0, 10, 25}, {10, 2, 2}},         {{0, 10, 10}, {0, 1, 1}},
      {{0, 10, 10}, {10, 0, 1}},         {{0, 10, 10}, {10, 1, 0}}};
  for (const auto& [rect, region] : boxes) {
    SCOPED_TRACE(testing::Message() << rect.offset_bytes << ", " << rect.row_pitch_bytes << ", "
                                    << rect.slice_pitch_bytes);
    const std::uint64_t size = std::min<std::uint64_t>(Size(region), 2'000);
    const auto read =
        Send(wire::opencl::EnqueueReadRect{{queue}, {buffer}, rect, region, {size}, 0, 0, {}, {}});
    EXPECT_EQ(Wait(read).status, status::kInvalidValue);
    const auto write =
        Send(wire::opencl::EnqueueWriteRect{{queue}, {buffer}, rect, region, {size}, 0, 0, {}, {}},
             {true, Pattern(size)});
    EXPECT_EQ(Wait(write).status, status::kInvalidValue);
    if (size != 0) WaitPayloadDone(write);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{{queue}, {buffer}, {other}, rect, {0, 10, 100}, region}),
              status::kInvalidValue);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopyRect{{queue}, {other}, {buffer}, {0, 10, 100}, rect, region}),
              status::kInvalidValue);
  }
  // The payload is what the region says, no more and no less.
  for (std::uint64_t size : {19, 21}) {
    const auto read = Send(
        wire::opencl::EnqueueReadRect{{queue}, {buffer}, {0, 10, 100}, {10, 2, 1}, {size}, 0, 0, {}, {}});
    EXPECT_EQ(Wait(read).status, status::kInvalidValue);
    const auto write = Send(
        wire::opencl::EnqueueWriteRect{{queue}, {buffer}, {0, 10, 100}, {10, 2, 1}, {size}, 0, 0, {}, {}},
        {true, Pattern(size)});
    EXPECT_EQ(Wait(write).status, status::kInvalidValue);
    WaitPayloadDone(write);
  }
  // Host access holds for rectangles, too.
  const Handle hidden = Buffer(64, 1u << 0 | 1u << 9);
  EXPECT_EQ(
      Wait(Send(wire::opencl::EnqueueReadRect{{queue}, {hidden}, {0, 4, 4}, {4, 1, 1}, {4}, 0, 0, {}, {}}))
          .status,
      status::kInvalidOperation);
  EXPECT_EQ(
      Wait(Send(wire::opencl::EnqueueWriteRect{{queue}, {hidden}, {0, 4, 4}, {4, 1, 1}, {4}, 0, 0, {}, {}},
                {true, Pattern(4)}))
          .status,
      status::kInvalidOperation);
}

}  // namespace tulle::gpu::conformance
