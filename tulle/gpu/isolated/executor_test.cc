// Executors as real processes in the real sandbox.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>

#include "tulle/base/random.h"
#include "tulle/base/shared_memory.h"
#include "tulle/gpu/isolated/test_executor.h"

namespace tulle::gpu::isolated {
namespace {

using namespace std::chrono_literals;
using wire::kOpcodeOf;

TEST_F(Isolated, AnswersInOrder) {
  Start();
  std::vector<std::uint64_t> sent;
  for (int i = 0; i < 100; ++i) sent.push_back(Send(Finish()));
  Received received;
  ASSERT_EQ(Next(&received), Receive::kGot);
  EXPECT_EQ(received.kind, Received::Kind::kReady);
  for (const std::uint64_t sequence : sent) {
    ASSERT_EQ(Next(&received), Receive::kGot);
    EXPECT_EQ(received.kind, Received::Kind::kReply);
    EXPECT_EQ(received.sequence, sequence);
    EXPECT_EQ(received.opcode, kOpcodeOf<wire::opencl::Finish>);
  }
  EXPECT_GT(executor_->CpuTimeNs(), 0u);
  EXPECT_EQ(executor_->end_reason(), "");
}

TEST_F(Isolated, PayloadsGoBothWays) {
  Start();
  SeededRandom random(5);
  for (int i = 0; i < 200; ++i) {
    const std::uint64_t size = 1 + random.Below(random.Below(10) == 0 ? wire::kMaxPayloadBytes : 5000);
    wire::opencl::EnqueueWrite write{.queue = {{1, 1}}, .memory = {{2, 1}}, .transfer = 1};
    write.data.size_bytes = size;
    write.more = static_cast<std::uint8_t>(random.Below(2));  // from another thread of the driver
    write.event.handle = {3, static_cast<std::uint32_t>(i + 1)};
    auto block = executor_->AllocateStaging(size);
    ASSERT_TRUE(block.has_value());
    random.Fill(block->bytes());
    std::int32_t sum = 0;
    for (const std::byte b : block->bytes()) sum += static_cast<std::int32_t>(b);
    const std::uint64_t sequence = Send(write, std::move(*block));
    Received received;
    ASSERT_TRUE(Until(Received::Kind::kPayloadDone, &received));
    EXPECT_EQ(received.sequence, sequence);
    ASSERT_TRUE(Until(Received::Kind::kNotice, &received));
    wire::Arena arena;
    wire::opencl::EventsCompleted completed;
    ASSERT_EQ(wire::Decode(received.body, 0, arena, &completed), wire::WireResult::kOk);
    EXPECT_EQ(completed.events.items[0].event, write.event.handle);
    EXPECT_EQ(completed.events.items[0].status, sum);

    wire::opencl::EnqueueRead read{.queue = {{1, 1}}, .memory = {{2, 1}}};
    read.data.size_bytes = size;
    const std::uint64_t asked = Send(read, std::move(*executor_->AllocateStaging(size)));
    ASSERT_TRUE(Until(Received::Kind::kReply, &received));
    ASSERT_EQ(received.payload.size_bytes(), size);
    for (std::size_t b = 0; b < size; b += 97) {
      ASSERT_EQ(received.payload.bytes()[b], static_cast<std::byte>(asked + b));
    }
  }
}

TEST_F(Isolated, WhatKernelsPrintComesAheadOfTheAnswer) {
  Start();
  for (const std::size_t size : {1u, 1000u, 65'536u, 1'000'000u}) {  // some of them more than a pipe holds
    Load("print " + std::to_string(size));
    std::string printed;
    Received received;
    while (Next(&received) == Receive::kGot && received.kind != Received::Kind::kReply) {
      if (received.kind != Received::Kind::kNotice) continue;
      wire::Arena arena;
      wire::opencl::KernelOutput output;
      ASSERT_EQ(received.opcode, kOpcodeOf<wire::opencl::KernelOutput>);
      ASSERT_EQ(wire::Decode(received.body, 0, arena, &output), wire::WireResult::kOk);
      printed += AsText(output.text.bytes);
    }
    EXPECT_EQ(received.kind, Received::Kind::kReply);
    EXPECT_EQ(printed, std::string(size, 'p'));
  }
}

TEST_F(Isolated, LargeAnswersComeWhole) {
  Start();
  for (const std::string size : {"0", "100", "262000", "262096", "300000", "1048576"}) {
    Load("log " + size);
    EXPECT_EQ(LoadLog(), std::string(std::stoul(size), 'l'));
  }
  Load("many kernels");
  EXPECT_EQ(LoadLog(), "");
  EXPECT_EQ(kernels_, wire::kMaxKernelsInProgram);
}

TEST_F(Isolated, FullRingPushesBackAndGoesOn) {
  Start();
  // Nothing is flushed, so the executor sleeps and the ring fills.
  Received received;
  ASSERT_TRUE(Until(Received::Kind::kReady, &received));
  int submitted = 0;
  constexpr int kCommands = 60'000;
  int replies = 0;
  bool refused = false;
  while (replies < kCommands) {
    while (submitted < kCommands && TrySend(Finish(), kOpcodeOf<wire::opencl::Finish>)) ++submitted;
    refused = refused || submitted < kCommands;
    executor_->Flush();
    ASSERT_EQ(Next(&received), Receive::kGot) << executor_->end_reason();
    do {
      ASSERT_EQ(received.kind, Received::Kind::kReply);
      ASSERT_EQ(received.sequence, static_cast<std::uint64_t>(++replies));
    } while (executor_->TryReceive(&received) == Receive::kGot);
  }
  EXPECT_TRUE(refused);
}

TEST_F(Isolated, FullReplyRingWaitsForTheWorker) {
  Start();
  // Some 30 MiB of notices through a ring of 1 MiB, from inside Submit, while more commands come.
  wire::opencl::SetKernelArg flood{.kernel = {{1, 1}}};
  flood.index = wire::kMaxEventsPerNotice;
  flood.local_bytes = 2500;
  Send(flood, {}, wire::kWantStatus);
  for (int i = 0; i < 100; ++i) Send(Finish());
  Received received;
  std::uint64_t notices = 0, replies = 0;
  while (replies < 101) {
    ASSERT_EQ(Next(&received), Receive::kGot);
    notices += received.kind == Received::Kind::kNotice ? 1 : 0;
    replies += received.kind == Received::Kind::kReply ? 1 : 0;
  }
  EXPECT_EQ(notices, 2500u);
}

TEST_F(Isolated, IdleExecutorUsesNoTime) {
  Start();
  Received received;
  ASSERT_TRUE(Until(Received::Kind::kReady, &received));
  Send(Finish());
  ASSERT_TRUE(Until(Received::Kind::kReply, &received));
  // Whoever spins would use all of this.
  ASSERT_EQ(Next(&received, 20ms), Receive::kNothing);
  const std::uint64_t before = executor_->CpuTimeNs();
  ASSERT_EQ(Next(&received, 200ms), Receive::kNothing);
  EXPECT_LT(executor_->CpuTimeNs() - before, 5'000'000u);
}

TEST_F(Isolated, FreedMemoryReadsAsZero) {
  auto options = Options();
  options.arena_bytes = 8 << 20;
  Start(options);
  SeededRandom random(9);
  std::vector<Range> held;
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t size = 1 + random.Below(1 << 20);
    while (true) {
      const auto range = executor_->AllocateMemory(size);
      if (range.has_value()) {
        wire::opencl::CreateBuffer create{.context = {{1, 1}}, .buffer = {{2, 1}}, .size_bytes = size};
        Send(create, {}, wire::kWantStatus, range);
        Received received;
        ASSERT_TRUE(Until(Received::Kind::kReply, &received));
        std::int32_t status = 1;
        std::memcpy(&status, received.body.data(), sizeof status);
        ASSERT_EQ(status, 0);
        EXPECT_EQ(executor_->memory(*range)[0], std::byte{0xcd});  // one memory, two processes
        held.push_back(*range);
        break;
      }
      const std::size_t victim = random.Below(held.size());
      executor_->FreeMemory(held[victim]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }
}

TEST_F(Isolated, ItsMemoryGoesWithItWhoeverElseHasIt) {
  auto options = Options();
  options.arena_bytes = 8 << 20;
  Start(options);
  const auto range = executor_->AllocateMemory(1 << 20);
  std::ranges::fill(executor_->memory(*range), std::byte{7});
  const UniqueFd held(fcntl(executor_->memory_fd(), F_DUPFD_CLOEXEC, 0));
  executor_.reset();
  struct stat info {};
  ASSERT_EQ(fstat(held.get(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
}

class MemoryOfOthers : public Isolated {
 protected:
  static constexpr std::uint64_t kBytes = 2u << 20;
  void SetUp() override {
    Isolated::SetUp();
    auto memory = SharedMemory::Create("of another", kBytes);
    ASSERT_TRUE(memory.ok());
    memory_.emplace(std::move(*memory));
    const std::string path = "/proc/self/fd/" + std::to_string(memory_->fd());
    read_only_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(read_only_.valid());
    ASSERT_EQ(fchmod(memory_->fd(), 0), 0);
    memory_->bytes()[0] = std::byte{5};
    Start();
  }
  std::int32_t Do(const Range& range, std::string_view order) {
    const std::uint64_t sequence =
        Send(wire::opencl::ImportBuffer{{{1, 1}}, {{2, 1}}, {}, {order}}, {}, wire::kWantStatus, range);
    Received received;
    wire::Arena arena;
    wire::StatusReply reply{-1};
    if (!Until(Received::Kind::kReply, &received)) return -1000;
    EXPECT_EQ(received.sequence, sequence);
    EXPECT_EQ(wire::Decode(received.body, 0, arena, &reply), wire::WireResult::kOk);
    return reply.status;
  }
  std::optional<SharedMemory> memory_;
  UniqueFd read_only_;
};

TEST_F(MemoryOfOthers, IsTheSameMemory) {
  const auto range = executor_->MapMemory(memory_->fd(), kBytes, true);
  ASSERT_TRUE(range.has_value());
  EXPECT_EQ(Do(*range, "value"), 5);
  EXPECT_EQ(Do(*range, "descriptor"), 0) << "it is there for the first command only";
  EXPECT_EQ(Do(*range, "write"), 1);
  EXPECT_EQ(memory_->bytes()[0], std::byte{9});
  const auto other = executor_->MapMemory(memory_->fd(), kBytes, true);
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(Do(*other, "descriptor"), 1);
  executor_->FreeMemory(*range);
  EXPECT_EQ(Do(*other, "value"), 9);
}

TEST_F(MemoryOfOthers, ThatMayOnlyBeReadCannotBeHadForWriting) {
  const auto map = [&] { return *executor_->MapMemory(read_only_.get(), kBytes, false); };
  for (const char* order :
       {"unprotect", "open for writing", "permit by name", "permit", "map for writing", "open for writing"})
    EXPECT_EQ(Do(map(), order), 0) << order;
  const Range range = map();
  EXPECT_EQ(Do(range, "value"), 5);
  EXPECT_EQ(Do(range, "write"), -1000) << "it ends of it";
  EXPECT_EQ(EndReason(), "the executor was killed by signal 11 (Segmentation fault)");
  EXPECT_EQ(memory_->bytes()[0], std::byte{5});
}

TEST_F(MemoryOfOthers, IsMappedAndUnmappedForEver) {
  const std::uint64_t before = memory_->size_bytes();
  for (int i = 0; i < 3000; ++i) {
    const auto range = executor_->MapMemory(memory_->fd(), kBytes, true);
    ASSERT_TRUE(range.has_value()) << i;
    ASSERT_EQ(Do(*range, "value"), 5) << i;
    executor_->FreeMemory(*range);
  }
  ASSERT_EQ(Do(*executor_->MapMemory(memory_->fd(), kBytes, true), "value"), 5);
  // Only the last is left.
  std::ifstream maps("/proc/" + std::to_string(executor_->pid()) + "/maps");
  std::string line;
  int left = 0;
  while (std::getline(maps, line)) left += line.find("of another") != std::string::npos ? 1 : 0;
  EXPECT_EQ(left, 1) << before;
}

TEST_F(Isolated, CrashesAreToldAndTouchNobodyElse) {
  Start();
  auto bystander = std::move(executor_);
  const std::map<std::string, std::string> ends = {{"crash", "signal 11"},
                                                   {"exit", "code 42"},
                                                   {"exec", "sandbox forbids"},
                                                   {"abort", "scripted: giving up?[31m"}};
  for (const auto& [order, reason] : ends) {
    Start();
    Send(Finish());
    Load(order);
    Send(Finish());
    const std::string told = EndReason();
    EXPECT_NE(told.find(reason), std::string::npos) << told;
  }
  executor_ = std::move(bystander);
  Send(Finish());
  Received received;
  EXPECT_TRUE(Until(Received::Kind::kReply, &received));
}

TEST_F(Isolated, OneThatTakesTooMuchOfTheHostsMemoryIsEndedAlone) {
  auto base = sandbox::ControlGroup::MakeBase({.name = "tulle-test-executor", .parent = ""});
  if (!base.ok()) GTEST_SKIP() << base.error().message;
  auto options = Options();
  options.host_memory = std::make_shared<HostMemory>(
      std::move(*base), HostMemory::Options{.memory_bytes = 64u << 20, .own_bytes = 256u << 20});
  Start(options);
  auto bystander = std::move(executor_);
  Start(options);
  EXPECT_EQ(options.host_memory->group().Below().size(), 2u);
  Load("hoard");
  Send(Finish());
  EXPECT_THAT(EndReason(), testing::HasSubstr("for want of memory: it may have 384MiB"));
  executor_ = std::move(bystander);
  EXPECT_EQ(options.host_memory->group().Below().size(), 1u);
  // It is told so only of one that has been ended by the kernel.
  kill(executor_->pid(), SIGKILL);
  EXPECT_THAT(EndReason(), testing::HasSubstr("was killed by signal 9"));
}

TEST_F(Isolated, KilledInMidStream) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    SeededRandom random(seed);
    Start();
    Received received;
    ASSERT_TRUE(Until(Received::Kind::kReady, &received));
    const std::uint64_t kill_after = random.Below(3000);
    const std::uint64_t first = sequence_ + 1;
    std::uint64_t expected = first;
    for (std::uint64_t i = 0; i < 6000; ++i) {
      if (!TrySend(Finish(), kOpcodeOf<wire::opencl::Finish>)) break;
      if (random.Below(20) == 0) executor_->Flush();
      if (i == kill_after) kill(executor_->pid(), SIGKILL);
      while (executor_->TryReceive(&received) == Receive::kGot) ASSERT_EQ(received.sequence, expected++);
    }
    // Then what it had answered, without a gap, and then its end.
    Receive result;
    while ((result = Next(&received)) == Receive::kGot) ASSERT_EQ(received.sequence, expected++);
    EXPECT_EQ(result, Receive::kDead);
    EXPECT_NE(executor_->end_reason().find("signal 9"), std::string::npos) << executor_->end_reason();
  }
}

TEST_F(Isolated, HangingExecutorCanBeKilled) {
  Start();
  Load("hang");
  Send(Finish());
  Received received;
  ASSERT_TRUE(Until(Received::Kind::kPayloadDone, &received));
  EXPECT_EQ(Next(&received, 50ms), Receive::kNothing);
  executor_->Kill();
  EXPECT_NE(EndReason().find("told to end"), std::string::npos);
  EXPECT_GT(executor_->CpuTimeNs(), 10'000'000u);
}

TEST_F(Isolated, SandboxHolds) {
  Start();
  Load("read host");
  EXPECT_EQ(LoadLog(), "");
  Load("tool");
  EXPECT_EQ(LoadLog(), "no tool");
  setenv("TULLE_TEST_SECRET", "of the worker", 1);
  auto options = Options();
  options.environment = {"POCL_CACHE_DIR=/tmp/given"};
  Start(options);
  Load("environment");
  const std::string environment = LoadLog();
  EXPECT_EQ(environment.find("SECRET"), std::string::npos);
  EXPECT_NE(environment.find("POCL_WORK_GROUP_SPECIALIZATION=0\n"), std::string::npos);
  EXPECT_LT(environment.find("POCL_CACHE_DIR=/tmp/given\n"), environment.find("POCL_CACHE_DIR=/tmp/pocl\n"));
}

TEST_F(Isolated, FailureToStartIsTold) {
  auto options = Options();
  options.device_index = 7;
  Start(options);
  // What it printed may follow: in a build for coverage, that it cannot write what it counted.
  const std::string told = EndReason();
  EXPECT_EQ(told.find("the executor could not start: there is no device 7"), 0u) << told;
  options.argv = {"isolated_test", "--role=none"};
  Start(options);
  EXPECT_NE(EndReason().find("exited with code 9"), std::string::npos);
  options.binary = "/nonexistent/tulle-worker";
  const auto executor = ExecutorProcess::Start(*launcher_, options);
  ASSERT_FALSE(executor.ok());
  EXPECT_NE(executor.error().message.find("/nonexistent/tulle-worker"), std::string::npos);
}

class TakenOver : public Isolated, public testing::WithParamInterface<int> {};

TEST_P(TakenOver, IsNoticedAndEnded) {
  auto options = Options("hostile");
  options.argv.push_back(std::to_string(GetParam()));
  Start(options);
  Send(Finish());
  wire::opencl::EnqueueRead read{.queue = {{1, 1}}, .memory = {{2, 1}}};
  read.data.size_bytes = 100;
  Send(read, std::move(*executor_->AllocateStaging(100)));
  wire::opencl::EnqueueWrite write{.queue = {{1, 1}}, .memory = {{2, 1}}};
  write.data.size_bytes = 100;
  Send(write, std::move(*executor_->AllocateStaging(100)));
  Received received;
  Receive result;
  const auto fill = [&] {
    while (GetParam() == 2 && TrySend(Finish(), kOpcodeOf<wire::opencl::Finish>)) {
    }
    return GetParam() == 2;
  };
  while (fill() && Next(&received, 1ms) != Receive::kDead) {
  }
  int got = 0;
  const bool random = GetParam() >= 100;
  // What happens to be well-formed is taken; a random one may even be right to its end.
  while ((result = Next(&received, random ? 200ms : 20s)) == Receive::kGot) ASSERT_LE(++got, 50);
  if (!random) {
    EXPECT_EQ(result, Receive::kDead);
    EXPECT_NE(executor_->end_reason(), "");
    EXPECT_EQ(executor_->end_reason().find('\x1b'), std::string::npos);
    EXPECT_LE(got, 2);
  }
}
INSTANTIATE_TEST_SUITE_P(Lie, TakenOver, testing::Range(0, 19));
INSTANTIATE_TEST_SUITE_P(Random, TakenOver, testing::Range(100, 140));

}  // namespace
}  // namespace tulle::gpu::isolated
