// The battery on parts of a device, and contexts of several devices.
#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

namespace status = cl_status;
using wire::opencl::CountSubDevices;
using wire::opencl::CreateSubDevice;

constexpr std::uint32_t kComputeUnits = 0x1002;    // CL_DEVICE_MAX_COMPUTE_UNITS
constexpr std::uint64_t kEqually[] = {0x1086, 1};  // CL_DEVICE_PARTITION_EQUALLY

std::uint32_t Units(const wire::opencl::DescribeDeviceReply& described) {
  std::uint32_t units = 0;
  for (const auto& info : described.infos.items) {
    if (info.name == kComputeUnits) std::memcpy(&units, info.value.bytes.data(), sizeof units);
  }
  return units;
}

}  // namespace

TEST_P(BackendBattery, PartsOfADeviceRunWhatItsContextHas) {
  const auto counted = WaitFor<wire::opencl::CountSubDevicesReply>(Send(CountSubDevices{{}, {kEqually}}));
  if (counted.status != 0 || counted.count < 2) GTEST_SKIP() << "the device cannot be divided";
  if (GetParam().name.ends_with("as_if_remote"))
    GTEST_SKIP() << "PoCL (3.1) finds no queue on a part for a buffer that is in its own memory, and aborts";
  const Handle first = NewHandle(), second = NewHandle();
  ASSERT_EQ(Try(CreateSubDevice{{}, {kEqually}, 0, {first}}), 0);
  ASSERT_EQ(Try(CreateSubDevice{{}, {kEqually}, 1, {second}}), 0);
  EXPECT_EQ(Units(WaitFor<wire::opencl::DescribeDeviceReply>(Send(wire::opencl::DescribeSubDevice{{first}}))),
            1u);

  const wire::OptRef<ObjectKind::kDevice> all[] = {{first}, {second}, {}};
  const Handle whole_context = context_;
  context_ = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateContextOn{{context_}, {all}}), 0);
  const Handle queues[] = {NewHandle(), NewHandle(), NewHandle()};
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Try(wire::opencl::CreateQueueOn{{context_}, {queues[i]}, {}, all[i]}), 0);
  }
  const Handle buffer = Buffer(400);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, buffer), 0);
  for (std::uint32_t i = 0; i < 3; ++i) {
    ASSERT_EQ(SetUint(kernel, 1, i + 1), 0);
    Run(queues[i], kernel, 100);
    EXPECT_EQ(Wait(Finish(queues[i])).status, 0);
  }
  EXPECT_EQ(Wait(Read(queues[0], buffer, 0, 400)).payload, WordBytes(std::vector<std::uint32_t>(100, 6)));

  // The context keeps its devices; the names go.
  Destroy(ObjectKind::kDevice, first);
  EXPECT_EQ(Wait(Read(queues[0], buffer, 0, 4)).payload, WordBytes({6}));
  EXPECT_EQ(Try(wire::opencl::CreateQueueOn{{context_}, {NewHandle()}, {}, {first}}), status::kInvalidDevice);
  EXPECT_EQ(Try(wire::opencl::CreateQueueOn{{whole_context}, {NewHandle()}, {}, {second}}),
            status::kInvalidDevice);
}

TEST_P(BackendBattery, RefusesPartsThatCannotBe) {
  const Handle nothing = NewHandle();
  EXPECT_NE(Wait(Send(CountSubDevices{{nothing}, {kEqually}})).status, 0);
  EXPECT_NE(Wait(Send(CountSubDevices{{}, {}})).status, 0);
  const std::uint64_t absurd[] = {0x1086, ~std::uint64_t{0}};
  EXPECT_NE(Wait(Send(CountSubDevices{{}, {absurd}})).status, 0);
  EXPECT_NE(Try(CreateSubDevice{{}, {kEqually}, 1u << 30, {NewHandle()}}), 0);
  EXPECT_NE(Wait(Send(wire::opencl::DescribeSubDevice{{nothing}})).status, 0);
  const wire::OptRef<ObjectKind::kDevice> missing[] = {{}, {nothing}};
  EXPECT_EQ(Try(wire::opencl::CreateContextOn{{NewHandle()}, {missing}}), status::kInvalidDevice);
  EXPECT_EQ(Try(wire::opencl::CreateContextOn{{NewHandle()}, {}}), status::kInvalidValue);
  EXPECT_EQ(Try(wire::opencl::CreateQueueOn{{context_}, {NewHandle()}, {}, {nothing}}),
            status::kInvalidDevice);

  // The whole device may be asked for in so many words.
  const wire::OptRef<ObjectKind::kDevice> whole[] = {{}};
  const Handle context = NewHandle();
  EXPECT_EQ(Try(wire::opencl::CreateContextOn{{context}, {whole}}), 0);
  EXPECT_EQ(Try(wire::opencl::CreateQueueOn{{context}, {NewHandle()}, {}, {}}), 0);
}

}  // namespace tulle::gpu::conformance
