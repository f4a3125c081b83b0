// The battery on shared virtual memory: buffers at addresses that the program chose.
#include "tests/conformance/backend/battery.h"

namespace tulle::gpu::conformance {
namespace {

namespace status = cl_status;
using wire::opencl::kSvmBase;

constexpr std::uint64_t kPage = wire::opencl::kMemoryGranuleBytes;

}  // namespace

TEST_P(BackendBattery, SvmIsABufferToTransfersAndKernels) {
  if (!HasSvm()) GTEST_SKIP() << "the device has no shared virtual memory";
  const Handle queue = Queue();
  const Handle memory = Svm(kSvmBase + 3 * kPage, 3'000);
  EXPECT_EQ(Wait(Read(queue, memory, 0, 3'000)).payload, ByteVector(3'000));
  ByteVector bytes = WordBytes(std::vector<std::uint32_t>(750, 40));
  Write(queue, memory, 0, bytes);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetPointer(kernel, 0, memory, 400), 0);
  ASSERT_EQ(SetUint(kernel, 1, 2), 0);
  Run(queue, kernel, 10);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  std::vector<std::uint32_t> words = Words(memory, 750);
  EXPECT_EQ(words[99], 40u);
  EXPECT_EQ(words[100], 42u);
  EXPECT_EQ(words[109], 42u);
  EXPECT_EQ(words[110], 40u);

  // As a buffer it is an argument, too, and a part of it a buffer of its own.
  ASSERT_EQ(SetMemory(kernel, 0, memory), 0);
  Run(queue, kernel, 1);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  EXPECT_EQ(Words(memory, 1)[0], 42u);
  const Handle part = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{memory}, {part}, {1}, 2'048, 100}), 0);
  Write(queue, part, 0, Pattern(100));
  EXPECT_EQ(Wait(Read(queue, memory, 2'048, 100)).payload, Pattern(100));
  EXPECT_EQ(SetPointer(kernel, 0, part, 0), status::kInvalidArgValue);
  Destroy(ObjectKind::kMemory, part);
  Destroy(ObjectKind::kMemory, memory);
}

TEST_P(BackendBattery, PartsOfSvmBeginAnywhere) {
  if (!HasSvm()) GTEST_SKIP() << "the device has no shared virtual memory";
  const Handle queue = Queue();
  const Handle memory = Svm(kSvmBase, 3'000);
  ByteVector bytes = WordBytes(std::vector<std::uint32_t>(750, 40));
  Write(queue, memory, 0, bytes);
  const Handle part = NewHandle();
  ASSERT_EQ(Try(wire::opencl::CreateSubBuffer{{memory}, {part}, {1}, 12, 100}), 0);
  EXPECT_EQ(Wait(Read(queue, part, 96, 5)).status, status::kInvalidValue);
  const Handle kernel = Kernel("null_add");
  ASSERT_EQ(SetMemory(kernel, 0, part), 0);
  ASSERT_EQ(SetUint(kernel, 1, 2), 0);
  Run(queue, kernel, 25);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
  std::vector<std::uint32_t> words(750, 40);
  std::fill(words.begin() + 3, words.begin() + 28, 42);
  EXPECT_EQ(Words(memory, 750), words);
  // It keeps the memory, also while only a command has it.
  const std::uint64_t gone = Send(wire::DestroyObject{{ObjectKind::kMemory, memory}}, {.status = true});
  Run(queue, kernel, 25);
  EXPECT_EQ(Wait(Read(queue, part, 0, 100)).payload, WordBytes(std::vector<std::uint32_t>(25, 44)));
  EXPECT_FALSE(Answered(gone));
  Run(queue, kernel, 25);
  Destroy(ObjectKind::kMemory, part);
  EXPECT_EQ(Wait(gone).status, 0);
  EXPECT_EQ(Wait(Finish(queue)).status, 0);
}

TEST_P(BackendBattery, KernelsFollowPointersThatLieInSvm) {
  if (!HasSvm() || !GetParam().checks_programs) GTEST_SKIP() << "no kernel of the device follows pointers";
  const Handle queue = Queue();
  const std::uint64_t target_address = kSvmBase + (std::uint64_t{7} << 30);
  const Handle holder = Svm(kSvmBase, kPage);
  const Handle target = Svm(target_address, 2 * kPage);
  const std::uint64_t pointer = target_address + kPage;
  const ByteView pointer_bytes = std::as_bytes(std::span(&pointer, 1));
  Write(queue, holder, 0, {pointer_bytes.begin(), pointer_bytes.end()});
  const Handle kernel = Kernel("follow");
  ASSERT_EQ(SetPointer(kernel, 0, holder, 0), 0);
  Run(queue, kernel, 1);
  EXPECT_EQ(Wait(Read(queue, target, kPage, 4)).payload, WordBytes({7}));
  Destroy(ObjectKind::kMemory, holder);
  Destroy(ObjectKind::kMemory, target);
}

TEST_P(BackendBattery, SvmAddressesAreUsedAgain) {
  if (!HasSvm()) GTEST_SKIP() << "the device has no shared virtual memory";
  const Handle queue = Queue();
  for (int i = 0; i < 3; ++i) {
    const Handle memory = Svm(kSvmBase, 5'000);
    EXPECT_EQ(Wait(Read(queue, memory, 0, 5'000)).payload, ByteVector(5'000));
    Write(queue, memory, 0, Pattern(5'000));
    EXPECT_EQ(Wait(Finish(queue)).status, 0);
    Destroy(ObjectKind::kMemory, memory);
  }
}

TEST_P(BackendBattery, RefusesSvmThatCannotBe) {
  if (!HasSvm()) {
    EXPECT_EQ(Try(wire::opencl::CreateSvm{{context_}, {NewHandle()}, {1}, kSvmBase, kPage}),
              status::kInvalidOperation);
    return;
  }
  const auto create = [this](std::uint64_t address, std::uint64_t size) {
    return Try(wire::opencl::CreateSvm{{context_}, {NewHandle()}, {1}, address, size});
  };
  const std::uint64_t end = kSvmBase + wire::opencl::kSvmBytes;
  EXPECT_EQ(create(kSvmBase - kPage, kPage), status::kInvalidValue);
  EXPECT_EQ(create(kSvmBase + 1, kPage), status::kInvalidValue);
  EXPECT_EQ(create(end - kPage, kPage + 1), status::kInvalidValue);
  EXPECT_EQ(create(end, 1), status::kInvalidValue);
  EXPECT_EQ(create(~std::uint64_t{0} - kPage + 1, kPage), status::kInvalidValue);
  EXPECT_EQ(create(0, kPage), status::kInvalidValue);
  EXPECT_EQ(create(kSvmBase, 0), status::kInvalidBufferSize);

  const Handle kernel = Kernel("null_add");
  const Handle memory = Svm(kSvmBase, kPage);
  EXPECT_EQ(SetPointer(kernel, 0, memory, kPage), status::kInvalidArgValue);
  EXPECT_EQ(SetPointer(kernel, 0, Buffer(64), 0), status::kInvalidArgValue);
  EXPECT_EQ(SetPointer(kernel, 1, memory, 0), status::kInvalidArgValue);
  EXPECT_EQ(SetPointer(kernel, 2, memory, 0), status::kInvalidArgIndex);
  EXPECT_EQ(SetPointer(kernel, 0, {}, 0), 0);

  // A kernel does not keep what its argument points at.
  const Handle queue = Queue();
  ASSERT_EQ(SetPointer(kernel, 0, memory, 0), 0);
  ASSERT_EQ(SetUint(kernel, 1, 1), 0);
  Destroy(ObjectKind::kMemory, memory);
  EXPECT_EQ(Wait(Run(queue, kernel, 1, {}, true)).status, status::kInvalidKernelArgs);
}

}  // namespace tulle::gpu::conformance
