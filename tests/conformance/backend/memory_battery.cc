// The battery on devices, contexts and memory: buffers, their bounds, copies and fills.
#include <algorithm>
#include <map>

#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

namespace status = cl_status;

}  // namespace

TEST_P(BackendBattery, DescribesItsDevice) {
  const auto reply = WaitFor<wire::opencl::DescribeDeviceReply>(Send(wire::opencl::DescribeDevice{}));
  EXPECT_EQ(reply.status, 0);
  std::map<std::uint32_t, ByteView> infos;
  for (const auto& info : reply.infos.items) {
    EXPECT_TRUE(infos.emplace(info.name, info.value.bytes).second) << "described twice: " << info.name;
  }
  // What no program can do without: type, units, dimensions, group sizes, memory, name, version, extensions.
  const std::pair<std::uint32_t, std::size_t> sizes[] = {{0x1000, 8}, {0x1002, 4},  {0x1003, 4},
                                                         {0x1004, 8}, {0x1005, 24}, {0x1010, 8},
                                                         {0x101F, 8}, {0x1023, 8},  {0x102A, 8}};
  for (const auto& [name, size] : sizes) EXPECT_EQ(infos[name].size(), size) << std::hex << name;
  for (std::uint32_t text : {0x102B, 0x102C, 0x102D, 0x102E, 0x102F, 0x1030, 0x103D}) {
    ASSERT_FALSE(infos[text].empty()) << std::hex << text;
    EXPECT_EQ(infos[text].back(), std::byte{0}) << std::hex << text;
  }
  EXPECT_FALSE(infos.contains(0x1031));  // the platform: an address in the driver's process
  EXPECT_FALSE(infos.contains(0x1042));  // so is the parent
}

TEST_P(BackendBattery, FreshMemoryReadsAsZero) {
  const Handle queue = Queue();
  for (int i = 0; i < 3; ++i) {
    const Handle buffer = Buffer(70'000);
    const Answer read = Wait(Read(queue, buffer, 0, 70'000));
    EXPECT_EQ(read.status, 0);
    EXPECT_EQ(read.payload, ByteVector(70'000));
    EXPECT_EQ(Wait(Write(queue, buffer, 0, Pattern(70'000), {}, true)).status, 0);
    EXPECT_EQ(Wait(Finish(queue)).status, 0);
    Destroy(ObjectKind::kMemory, buffer);
  }
}

TEST_P(BackendBattery, InitialContentsPrecedeEverything) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(10'000, 1u << 2 | 1u << 9);  // read-only for kernels, not at all for the host
  const ByteVector data = Pattern(10'000);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 0, {4'000}}, {data.begin(), data.begin() + 4'000}), 0);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 4'000, {6'000}}, {data.begin() + 4'000, data.end()}), 0);
  const Handle visible = Buffer(10'000);
  Send(wire::opencl::EnqueueCopy{{queue}, {buffer}, {visible}, 0, 0, 10'000});
  EXPECT_EQ(Wait(Read(queue, visible, 0, 10'000)).payload, data);

  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, 9'999, {2}}, Pattern(2)), status::kInvalidValue);
  EXPECT_EQ(Try(wire::opencl::InitBuffer{{buffer}, ~std::uint64_t{0}, {2}}, Pattern(2)),
            status::kInvalidValue);
}

TEST_P(BackendBattery, WritesAndReadsAnyRange) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1 << 20);
  ByteVector expected(1 << 20);
  for (std::uint64_t offset : {0, 1, 4'095, 65'536, (1 << 20) - 333}) {
    ByteVector data = Pattern(333, static_cast<std::uint8_t>(offset));
    std::copy(data.begin(), data.end(), expected.begin() + offset);
    const std::uint64_t write = Write(queue, buffer, offset, data);
    WaitPayloadDone(write);
    EXPECT_EQ(Wait(Read(queue, buffer, offset, 333)).payload, data);
  }
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 1 << 20)).payload, expected);
}

TEST_P(BackendBattery, RefusesBuffersThatCannotBe) {
  const auto create = [&](std::uint64_t size) {
    return Try(wire::opencl::CreateBuffer{{context_}, {NewHandle()}, {1}, size});
  };
  EXPECT_EQ(create(0), status::kInvalidBufferSize);
  EXPECT_LT(create(~std::uint64_t{0}), 0);
  EXPECT_LT(create(std::uint64_t{1} << 62), 0);
}

TEST_P(BackendBattery, ObjectsThatFailedAreInvalidAndCanBeDestroyed) {
  const Handle queue = Queue();
  const Handle buffer = NewHandle();
  const std::uint64_t create = Send(wire::opencl::CreateBuffer{{context_}, {buffer}, {1}, 0});
  EXPECT_EQ(WaitFailure(create), status::kInvalidBufferSize);
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 4)).status, status::kInvalidMemObject);
  const std::uint64_t write = Write(queue, buffer, 0, Pattern(4), {}, true);
  EXPECT_EQ(Wait(write).status, status::kInvalidMemObject);
  WaitPayloadDone(write);
  Destroy(ObjectKind::kMemory, buffer);

  const Handle nothing = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateQueue{{nothing}, {NewHandle()}, {}}), status::kInvalidContext);
  EXPECT_EQ(Try(wire::opencl::CreateBuffer{{nothing}, {NewHandle()}, {1}, 16}), status::kInvalidContext);
  EXPECT_EQ(Try(wire::opencl::CreateKernel{{nothing}, {NewHandle()}, {"null_add"}}),
            status::kInvalidProgramExecutable);
  EXPECT_EQ(SetUint(nothing, 0, 1), status::kInvalidKernel);
  EXPECT_EQ(Wait(Finish(nothing)).status, status::kInvalidCommandQueue);
  EXPECT_EQ(Try(wire::opencl::Flush{{nothing}}), status::kInvalidCommandQueue);
  EXPECT_EQ(Wait(Run(queue, nothing, 1, {}, true)).status, status::kInvalidKernel);
  EXPECT_EQ(SetUserEvent(nothing, 0), status::kInvalidEvent);
  for (ObjectKind kind : {ObjectKind::kContext, ObjectKind::kQueue, ObjectKind::kMemory, ObjectKind::kProgram,
                          ObjectKind::kKernel, ObjectKind::kEvent}) {
    EXPECT_EQ(Try(wire::DestroyObject{{kind, nothing}}), 0);
  }
}

TEST_P(BackendBattery, NothingReachesBeyondABuffer) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(1'000);
  const Handle other = Buffer(1'000);
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  const std::pair<std::uint64_t, std::uint64_t> ranges[] = {
      {0, 1'001}, {1, 1'000}, {1'000, 1}, {kMost, 1}, {kMost - 499, 500}, {kMost - 499, 999}, {1u << 31, 4}};
  for (const auto& [offset, size] : ranges) {
    SCOPED_TRACE(testing::Message() << offset << " + " << size);
    const Answer read = Wait(Read(queue, buffer, offset, size));
    EXPECT_EQ(read.status, status::kInvalidValue);
    EXPECT_TRUE(read.payload.empty());
    const std::uint64_t write = Write(queue, buffer, offset, Pattern(size), {}, true);
    EXPECT_EQ(Wait(write).status, status::kInvalidValue);
    WaitPayloadDone(write);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {buffer}, {other}, offset, 0, size}),
              status::kInvalidValue);
    EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {other}, {buffer}, 0, offset, size}),
              status::kInvalidValue);
    const ByteVector pattern = Pattern(1);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, offset, size, {pattern}}),
              status::kInvalidValue);
  }
  EXPECT_EQ(Wait(Read(queue, buffer, 0, 0)).status, status::kInvalidValue);
  EXPECT_EQ(Wait(Write(queue, buffer, 0, {}, {}, true)).status, status::kInvalidValue);
}

TEST_P(BackendBattery, HostAccessFlagsHold) {
  const Handle queue = Queue();
  const Handle write_only = Buffer(64, 1u << 0 | 1u << 7);
  const Handle read_only = Buffer(64, 1u << 0 | 1u << 8);
  const Handle no_access = Buffer(64, 1u << 0 | 1u << 9);
  EXPECT_EQ(Wait(Read(queue, write_only, 0, 4)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Read(queue, read_only, 0, 4)).status, 0);
  EXPECT_EQ(Wait(Read(queue, no_access, 0, 4)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Write(queue, write_only, 0, Pattern(4), {}, true)).status, 0);
  EXPECT_EQ(Wait(Write(queue, read_only, 0, Pattern(4), {}, true)).status, status::kInvalidOperation);
  EXPECT_EQ(Wait(Write(queue, no_access, 0, Pattern(4), {}, true)).status, status::kInvalidOperation);
}

TEST_P(BackendBattery, CopiesBetweenAndWithinBuffers) {
  const Handle queue = Queue();
  const Handle a = Buffer(1'000);
  const Handle b = Buffer(1'000);
  const ByteVector data = Pattern(1'000);
  Write(queue, a, 0, data);
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {b}, 100, 7, 500}), 0);
  EXPECT_EQ(Wait(Read(queue, b, 7, 500)).payload, ByteVector(data.begin() + 100, data.begin() + 600));
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {a}, 0, 500, 500}), 0);
  EXPECT_EQ(Wait(Read(queue, a, 500, 500)).payload, ByteVector(data.begin(), data.begin() + 500));
  EXPECT_EQ(Try(wire::opencl::EnqueueCopy{{queue}, {a}, {a}, 0, 499, 500}), status::kMemCopyOverlap);
}

TEST_P(BackendBattery, FillsWithEveryPatternSize) {
  const Handle queue = Queue();
  const Handle buffer = Buffer(4'096);
  for (std::size_t size = 1; size <= 128; size *= 2) {
    SCOPED_TRACE(size);
    const ByteVector pattern = Pattern(size, static_cast<std::uint8_t>(size));
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, size * 3, size * 5, {pattern}}), 0);
    ByteVector expected;
    for (int i = 0; i < 5; ++i) expected.insert(expected.end(), pattern.begin(), pattern.end());
    EXPECT_EQ(Wait(Read(queue, buffer, size * 3, size * 5)).payload, expected);
    if (size == 1) continue;
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, size / 2, size, {pattern}}),
              status::kInvalidValue);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, size / 2, {pattern}}),
              status::kInvalidValue);
  }
  for (std::size_t size : {0, 3, 127}) {
    const ByteVector pattern = Pattern(size);
    EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 384, {pattern}}), status::kInvalidValue);
  }
  const ByteVector pattern = Pattern(4);
  EXPECT_EQ(Try(wire::opencl::EnqueueFill{{queue}, {buffer}, 0, 0, {pattern}}), status::kInvalidValue);
}

}  // namespace tulle::gpu::conformance
