// Sessions of vGPUs whose programs may allocate more than is on the device at once.
#include <gtest/gtest.h>

#include <vector>

#include "tulle/base/random.h"
#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

constexpr std::uint64_t kDeviceBytes = 8 * kMiB;
constexpr Handle kOtherQueue{30, 1}, kPart{31, 1};

// Buffers of 3 MiB: two of them fit.
class SpillTest : public SessionTest {
 protected:
  static constexpr std::uint64_t kBytes = 3 * kMiB;
  void SetUp() override {
    spill_ = &pool_;
    CreateContextAndQueue();
    client_.Send(opencl::CreateQueue{{kContext}, {kOtherQueue}, {}});
    client_.Send(wire::AcquireMemory{48 * kMiB});
  }
  static Handle Buffer(std::uint32_t i) { return {40 + i, 1}; }
  ByteVector Text(std::uint32_t i) { return ByteVector(1000, static_cast<std::byte>(i + 1)); }
  void Create(std::uint32_t i) { CreateBuffer(Buffer(i), kBytes); }
  std::uint64_t Write(std::uint32_t i, Handle queue = kQueue) {
    const ByteVector text = Text(i);
    return client_.Send(
        opencl::EnqueueWrite{{queue}, {Buffer(i)}, kBytes - text.size(), {text.size()}, 0, 0, {}, {}}, text);
  }
  std::uint64_t Read(std::uint32_t i, Handle queue = kQueue) {
    return client_.Send(opencl::EnqueueRead{{queue}, {Buffer(i)}, kBytes - 1000, {1000}, 0, 0, {}, {}});
  }
  void ExpectText(std::uint64_t read, std::uint32_t i) {
    ASSERT_EQ(client_.Reply<opencl::EnqueueReadReply>(read).status, 0);
    EXPECT_EQ(client_.Find(read)->payload, Text(i)) << i;
  }

  SecureRandom keys_;
  spill::Pool pool_{kDeviceBytes, 64 * kMiB, UniqueFd(), 0, keys_};
};

TEST_F(SpillTest, MoreThanFitsIsWrittenAndReadAgain) {
  constexpr std::uint32_t kBuffers = 10;
  std::vector<std::uint64_t> reads;
  for (std::uint32_t i = 0; i < kBuffers; ++i) Create(i);
  for (std::uint32_t i = 0; i < kBuffers; ++i) Write(i, i % 2 == 0 ? kQueue : kOtherQueue);
  for (const Handle queue : {kQueue, kOtherQueue})
    client_.WhenAnswered(client_.Send(opencl::Finish{{queue}}));
  for (int round = 0; round < 2; ++round) {
    for (std::uint32_t i = 0; i < kBuffers; ++i) reads.push_back(Read(i, i % 3 == 0 ? kQueue : kOtherQueue));
  }
  client_.WhenAnswered(reads.back());
  client_.Do([&] {
    EXPECT_LE(pool_.room.held_bytes(), kDeviceBytes);
    EXPECT_GT(pool_.store.memory_bytes(), 0u);
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  for (std::size_t i = 0; i < reads.size(); ++i)
    ExpectText(reads[i], static_cast<std::uint32_t>(i % kBuffers));
  EXPECT_GT(pool_.saved_bytes, 10 * kMiB);
  EXPECT_GT(pool_.restored_bytes, 10 * kMiB);
  EXPECT_EQ(pool_.room.held_bytes(), 0u);
  EXPECT_EQ(pool_.store.memory_bytes(), 0u);
}

TEST_F(SpillTest, FirstBytesAndImagesAndPartsComeBackToo) {
  const ByteVector text(2 * kMiB, std::byte{9});
  CreateBuffer(kBuffer, kBytes);
  client_.Send(opencl::InitBuffer{{kBuffer}, 4096, {text.size()}}, text);
  client_.Send(opencl::CreateSubBuffer{{kBuffer}, {kPart}, {1}, 4096, kMiB});
  // The part keeps it.
  Destroy(ObjectKind::kMemory, kBuffer);
  for (std::uint32_t i = 0; i < 4; ++i) Create(i), Write(i);
  const auto of_part = client_.Send(opencl::EnqueueRead{{kQueue}, {kPart}, kMiB - 8, {8}, 0, 0, {}, {}});
  const auto last = Read(0);
  client_.WhenAnswered(of_part);
  client_.WhenAnswered(last);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  ASSERT_EQ(client_.Reply<opencl::EnqueueReadReply>(of_part).status, 0);
  EXPECT_EQ(client_.Find(of_part)->payload, ByteVector(8, std::byte{9}));
  ExpectText(last, 0);
  EXPECT_GT(pool_.restored_bytes, 0u);
}

TEST_F(SpillTest, MemoryOfAnotherIsZeroWhereItWasUsedBefore) {
  for (std::uint32_t i = 0; i < 4; ++i) Create(i), Write(i);
  client_.WhenAnswered(client_.Send(opencl::Finish{{kQueue}}));
  for (std::uint32_t i = 0; i < 4; ++i) {
    client_.WhenAnswered(Destroy(ObjectKind::kMemory, Buffer(i), wire::kWantStatus));
  }
  client_.Do([&] {
    EXPECT_EQ(pool_.room.held_bytes(), 0u);
    EXPECT_EQ(pool_.store.memory_bytes(), 0u);
  });
  std::vector<std::uint64_t> reads;
  for (std::uint32_t i = 10; i < 14; ++i) Create(i), reads.push_back(Read(i));
  for (const auto read : reads) client_.WhenAnswered(read);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  for (const auto read : reads) ASSERT_NE(client_.Find(read), nullptr);
  for (const auto read : reads) EXPECT_EQ(client_.Find(read)->payload, ByteVector(1000));
}

TEST_F(SpillTest, ACommandThatUsesMoreThanTheVGpuHasFailsAlone) {
  CreateBuffer(kBuffer, 9 * kMiB);
  const std::byte pattern[] = {std::byte{1}};
  const auto too_large =
      client_.Send(opencl::EnqueueFill{{kQueue}, {kBuffer}, 0, 16, {pattern}, {}, {kEvent}});
  const auto read = client_.Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, 0, {8}, 0, 0, {}, {}});
  const ByteVector text(4096, std::byte{1});
  const auto init = client_.Send(opencl::InitBuffer{{kBuffer}, 0, {text.size()}}, text, wire::kWantStatus);
  Create(0), Write(0);
  const auto fine = Read(0);
  client_.WhenAnswered(fine);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::EnqueueReadReply>(read).status, cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(init), cl_status::kMemObjectAllocationFailure);
  ExpectText(fine, 0);
  bool told = false, completed = false;
  wire::Arena arena;
  for (const Sent& sent : client_.sent()) {
    wire::CommandFailed failed;
    if (sent.opcode == wire::kOpcodeOf<wire::CommandFailed> &&
        wire::Decode(sent.body, 0, arena, &failed) == wire::WireResult::kOk && failed.sequence == too_large) {
      told = failed.status == cl_status::kMemObjectAllocationFailure;
    }
    opencl::EventsCompleted completions;
    if (sent.opcode == wire::kOpcodeOf<opencl::EventsCompleted> &&
        wire::Decode(sent.body, 0, arena, &completions) == wire::WireResult::kOk) {
      for (const auto& event : completions.events.items)
        completed |= event.event == kEvent && event.status == cl_status::kMemObjectAllocationFailure;
    }
  }
  EXPECT_TRUE(told);
  EXPECT_TRUE(completed);
}

// What a kernel uses is what its arguments are when it is enqueued.
TEST_F(SpillTest, AKernelWaitsForItsArguments) {
  const auto enqueue = [&] {
    return client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {}});
  };
  const auto set = [&](std::uint32_t index, std::uint32_t buffer) {
    client_.Send(opencl::SetKernelArg{{kKernel}, index, {opencl::ArgKind::kMemory}, {Buffer(buffer)}, 0, {}});
  };
  for (std::uint32_t i = 0; i < 4; ++i) Create(i);
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"k"}});
  set(0, 0), set(1, 1);
  const auto first = enqueue();
  set(1, 2);
  const auto second = enqueue();
  bool asked = false;
  played_.on_look = [&] {
    const auto submitted = [&](std::uint64_t sequence) {
      return std::ranges::any_of(played_.seen, [&](const auto& seen) { return seen.sequence == sequence; });
    };
    for (const auto& seen : played_.seen) {
      if (seen.opcode != wire::kOpcodeOf<opencl::Finish> || asked) continue;
      asked = true;
      EXPECT_TRUE(submitted(first));
      EXPECT_FALSE(submitted(second));
      EXPECT_GE(pool_.room.held_bytes(), 6 * kMiB);
      played_.Answer(wire::kOpcodeOf<opencl::Finish>, seen.sequence, wire::StatusReply{0});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_TRUE(asked);
  EXPECT_EQ(played_.seen.back().sequence, second);
}

// An argument that was refused has not replaced what there was.
TEST_F(SpillTest, ARefusedArgumentLeavesTheOneBefore) {
  const auto set = [&](std::uint32_t buffer, std::uint16_t flags) {
    return client_.Send(
        opencl::SetKernelArg{{kKernel}, 0, {opencl::ArgKind::kMemory}, {Buffer(buffer)}, 0, {}}, {}, flags);
  };
  Create(0), Create(1);
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"k"}});
  set(0, 0);
  const auto refused = set(1, wire::kWantStatus);
  client_.WhenAnswered(refused);
  const auto launch = client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {}});
  client_.Do([&] { EXPECT_EQ(pool_.room.held_bytes(), kBytes) << "one of them"; });
  std::size_t looked_at = 0;
  played_.on_look = [&] {
    for (; looked_at < played_.seen.size(); ++looked_at) {
      if (played_.seen[looked_at].sequence == refused)
        played_.Answer(wire::kOpcodeOf<opencl::SetKernelArg>, refused,
                       wire::StatusReply{cl_status::kInvalidArgValue});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_TRUE(std::ranges::any_of(played_.seen, [&](const auto& seen) { return seen.sequence == launch; }));
}

TEST_F(SpillTest, ArgumentsAreNotRememberedWithoutEnd) {
  limits_.kernel_arguments = 3;
  Create(0);
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"k"}});
  for (std::uint32_t i = 0; i < 4; ++i)
    client_.Send(opencl::SetKernelArg{{kKernel}, i, {opencl::ArgKind::kMemory}, {Buffer(0)}, 0, {}});
  EXPECT_EQ(RunPlayed().reason, EndReason::kResource);
}

TEST_F(SpillTest, ACommandThatWaitsForTheProgramDoesNotHoldTheNextForEver) {
  limits_.wait_on_user_event = std::chrono::milliseconds(20);
  Create(0), Create(1), Create(2);
  client_.Send(opencl::CreateUserEvent{{kContext}, {kEvent}});
  const wire::Ref<ObjectKind::kEvent> waits[] = {{kEvent}};
  const std::byte pattern[] = {std::byte{1}};
  for (std::uint32_t i = 0; i < 2; ++i)
    client_.Send(opencl::EnqueueFill{{kQueue}, {Buffer(i)}, 0, 16, {pattern}, {waits}, {}});
  Read(2, kOtherQueue);
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("user event"), std::string::npos) << ending.message;
}

TEST_F(SpillTest, WhatCannotBeSavedEndsItsOwnSession) {
  spill::Pool none(kDeviceBytes, 0, UniqueFd(), 0, keys_);
  spill_ = &none;
  for (std::uint32_t i = 0; i < 4; ++i) Create(i), Write(i);
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("could not be saved"), std::string::npos) << ending.message;
}

}  // namespace
}  // namespace tulle::worker::exec
