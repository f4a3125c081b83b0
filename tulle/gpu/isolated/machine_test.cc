// An executor in a virtual machine. Machines take their time (ten seconds and more where they are emulated),
// so each test starts one, and does much with it. TULLE_VM_KERNEL and TULLE_VM_MODULES name a kernel that is
// not in /boot; TULLE_VM=kvm runs them by the processor.
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>

#include "tulle/gpu/isolated/test_executor.h"
#include "tulle/vm/machine.h"

namespace tulle::gpu::isolated {
namespace {

using wire::kOpcodeOf;

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

class InMachine : public Isolated {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "an emulated machine is no place for a sanitizer";
#endif
    Isolated::SetUp();
    auto settings = vm::Complete(
        {.accelerator = Variable("TULLE_VM") == "kvm" ? vm::Accelerator::kKvm : vm::Accelerator::kEmulated,
         .kernel = Variable("TULLE_VM_KERNEL"),
         .modules = Variable("TULLE_VM_MODULES")});
    if (!settings.ok()) GTEST_SKIP() << settings.error().message;
    settings_ = *settings;
    patience_ = std::chrono::minutes(3);
  }
  ExecutorOptions MachineOptions() {
    ExecutorOptions options = Options("executor-in-machine");
    options.machine = settings_;
    options.processors = 2;
    return options;
  }
  vm::Settings settings_;
};

TEST_F(InMachine, ServesAsOneBesideItsWorkerDoes) {
  Start(MachineOptions());
  // Commands and answers, more of each than the rings hold, with sleeps of both ends between.
  Received received;
  ASSERT_EQ(Next(&received), Receive::kGot) << executor_->end_reason();
  ASSERT_EQ(received.kind, Received::Kind::kReady);
  constexpr int kMany = 30'000;
  int sent = 0, answered = 0;
  while (answered < kMany) {
    while (sent < kMany && TrySend(Finish(), kOpcodeOf<wire::opencl::Finish>)) ++sent;
    executor_->Flush();
    ASSERT_EQ(Next(&received), Receive::kGot) << executor_->end_reason();
    ++answered;
  }

  // Payloads both ways.
  wire::opencl::EnqueueWrite write{.queue = {{1, 1}}, .memory = {{2, 1}}, .transfer = 1};
  write.event.handle = {7, 1};
  write.data.size_bytes = 1'000'000;
  auto block = executor_->AllocateStaging(write.data.size_bytes);
  std::ranges::fill(block->bytes(), std::byte{1});
  Send(write, std::move(*block));
  ASSERT_TRUE(Until(Received::Kind::kNotice, &received)) << executor_->end_reason();
  wire::Arena arena;
  wire::opencl::EventsCompleted events;
  ASSERT_EQ(wire::Decode(received.body, 0, arena, &events), wire::WireResult::kOk);
  EXPECT_EQ(events.events.items[0].status, 1'000'000);
  wire::opencl::EnqueueRead read{.queue = {{1, 1}}, .memory = {{2, 1}}};
  read.data.size_bytes = 300'000;
  const std::uint64_t sequence = Send(read, std::move(*executor_->AllocateStaging(300'000)));
  ASSERT_TRUE(Until(Received::Kind::kReply, &received)) << executor_->end_reason();
  for (std::size_t i : {std::size_t{0}, std::size_t{123'456}, std::size_t{299'999}})
    EXPECT_EQ(received.payload.bytes()[i], static_cast<std::byte>(sequence + i));
  received.payload.Release();

  // The device's memory is the same on both sides, and zero when it is used again.
  for (int times = 0; times < 2; ++times) {
    const auto range = executor_->AllocateMemory(1 << 20);
    const wire::opencl::CreateBuffer create{.context = {{1, 1}}, .buffer = {{2, 1}}, .size_bytes = 1 << 20};
    Send(create, {}, wire::kWantStatus, range);
    ASSERT_TRUE(Until(Received::Kind::kReply, &received)) << executor_->end_reason();
    wire::StatusReply status;
    ASSERT_EQ(wire::Decode(received.body, 0, arena, &status), wire::WireResult::kOk);
    EXPECT_EQ(status.status, 0);
    EXPECT_EQ(executor_->memory(*range)[12'345], std::byte{0xcd});
    executor_->FreeMemory(*range);
  }

  // Nobody else's can be mapped; what kernels print comes; the host's files are not there.
  EXPECT_FALSE(executor_->MapMemory(executor_->memory_fd(), 4096, false).has_value());
  Load("read host");
  EXPECT_EQ(LoadLog(), "");
  Load("print 5000");
  std::size_t printed = 0;
  while (printed < 5000) {
    ASSERT_TRUE(Until(Received::Kind::kNotice, &received)) << executor_->end_reason();
    wire::opencl::KernelOutput output;
    ASSERT_EQ(wire::Decode(received.body, 0, arena, &output), wire::WireResult::kOk);
    printed += output.text.bytes.size();
  }

  // It stops where it is, uses no time once it has, and goes on.
  executor_->Freeze(true);
  Send(Finish());
  EXPECT_EQ(Next(&received, std::chrono::milliseconds(200)), Receive::kNothing);
  const std::uint64_t before_ns = executor_->CpuTimeNs();
  EXPECT_EQ(Next(&received, std::chrono::milliseconds(200)), Receive::kNothing);
  EXPECT_EQ(executor_->CpuTimeNs(), before_ns);
  executor_->Freeze(false);
  ASSERT_TRUE(Until(Received::Kind::kReply, &received)) << executor_->end_reason();

  Load("exit");
  EXPECT_EQ(EndReason(), "the executor exited with code 42");
}

TEST_F(InMachine, TellsWhatEndedItsProgram) {
  Start(MachineOptions());
  Load("abort");
  EXPECT_EQ(EndReason(),
            "the executor was killed by signal 6 (Aborted); it last printed: scripted: giving up?[31m");
}

TEST_F(InMachine, EndsWhenItIsNotReadyInTime) {
  ExecutorOptions options = MachineOptions();
  options.ready_within = std::chrono::seconds(0);
  Start(options);
  EXPECT_EQ(EndReason(), "the executor's virtual machine was ended: it was not ready in time");
}

}  // namespace
}  // namespace tulle::gpu::isolated
