// Executors and builders as real processes in the real sandbox. This program is also those processes: see
// main() at the end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <new>
#include <thread>

#include "tulle/base/random.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/isolated/build_server.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/gpu/isolated/protocol.h"

namespace tulle::gpu::isolated {
namespace {

using namespace std::chrono_literals;
using wire::kOpcodeOf;
constexpr std::uint16_t kLoadProgram = wire::OpcodeIn<wire::exec::LoadProgram>(wire::exec::kExecCommands);
constexpr std::int32_t kNotZeroed = -999;

// --- what runs in the jail: a driver that does as it is told ---

// What a tenant's code might do. Empty: done, and alive.
std::string Misbehave(std::string_view order) {
  if (order == "crash") *reinterpret_cast<volatile int*>(sysconf(_SC_PAGESIZE) / 2) = 1;
  if (order == "abort") {
    fprintf(stderr, "scripted: giving up\x1b[31m");
    abort();
  }
  if (order == "exit") _exit(42);
  if (order == "hang") {
    while (true) {
    }
  }
  if (order == "exec") execl("/bin/true", "true", nullptr);
  if (order == "read host") return open("/etc/passwd", O_RDONLY) < 0 ? "" : "read a file of the host";
  if (order == "tool") {
    const pid_t pid = fork();
    if (pid == 0) {
      execl("/usr/bin/env", "env", "-i", "echo", "a tool's words", nullptr);
      _exit(1);
    }
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? "" : "no tool";
  }
  return "";
}

class ScriptedBackend final : public Backend {
 public:
  explicit ScriptedBackend(Completions* completions) : completions_(*completions) {}

  void Submit(const Command& command) override {
    if (Dispatch(command, arena_, *this) != wire::WireResult::kOk) abort();
  }
  void Flush() override {}

  void Run(const wire::opencl::Finish&, const Command& command) {
    SendStatus(completions_, command.opcode, command.sequence, 0);
  }
  void Run(const wire::opencl::CreateBuffer&, const Command& command) {
    const bool zero = std::ranges::all_of(command.memory, [](std::byte b) { return b == std::byte{0}; });
    std::ranges::fill(command.memory, std::byte{0xcd});
    SendStatus(completions_, command.opcode, command.sequence, zero ? 0 : kNotZeroed);
  }
  void Run(const wire::DestroyObject&, const Command& command) { ReportDone(completions_, command); }
  void Run(const wire::opencl::EnqueueRead& read, const Command& command) {
    for (std::size_t i = 0; i < command.payload.size(); ++i) {
      command.payload[i] = static_cast<std::byte>(command.sequence + i);
    }
    wire::opencl::EnqueueReadReply reply;
    reply.data.size_bytes = read.data.size_bytes;
    SendReply(completions_, command.opcode, command.sequence, reply, read.data.size_bytes);
  }
  // Completes the event with the sum of the bytes, later and from another thread when `more` is set.
  void Run(const wire::opencl::EnqueueWrite& write, const Command& command) {
    const auto done = [this, bytes = command.payload, sequence = command.sequence,
                       event = write.event.handle] {
      std::int32_t sum = 0;
      for (const std::byte b : bytes) sum += static_cast<std::int32_t>(b);
      completions_.PayloadDone(sequence);
      const wire::opencl::EventCompletion completion{.event = event, .status = sum};
      SendNotice(completions_, wire::opencl::EventsCompleted{{{&completion, 1}}});
    };
    if (write.more != 0) {
      std::thread(done).detach();
    } else {
      done();
    }
  }
  // `local_bytes` notices, with `index` events in each.
  void Run(const wire::opencl::SetKernelArg& argument, const Command& command) {
    const std::vector<wire::opencl::EventCompletion> events(argument.index, {.event = {1, 1}});
    for (std::uint64_t i = 0; i < argument.local_bytes; ++i) {
      SendNotice(completions_, wire::opencl::EventsCompleted{{events}});
    }
    ReportDone(completions_, command);
  }
  void Run(const wire::exec::LoadProgram&, const Command& command) {
    const std::string order(AsText(command.payload));
    completions_.PayloadDone(command.sequence);
    std::string log = Misbehave(order);
    if (order.rfind("log ", 0) == 0) log.assign(std::stoul(order.substr(4)), 'l');
    if (order.rfind("print ", 0) == 0) {
      const std::string text(std::stoul(order.substr(6)), 'p');
      for (std::size_t at = 0; at < text.size();)
        at += static_cast<std::size_t>(write(STDOUT_FILENO, text.data() + at, text.size() - at));
    }
    if (order == "environment") {
      for (char** variable = environ; *variable != nullptr; ++variable) log += std::string(*variable) + "\n";
    }
    wire::exec::LoadProgramReply reply;
    reply.log.text = log;
    const std::vector<wire::opencl::KernelInfo> kernels(
        order == "many kernels" ? wire::kMaxKernelsInProgram : 0,
        {.name = {"a_kernel_with_quite_a_long_name_for_a_kernel"}});
    reply.kernels.items = kernels;
    SendReply(completions_, command.opcode, command.sequence, reply);
  }

 private:
  Completions& completions_;
  wire::Arena arena_;
};

class ScriptedCompiler final : public Compiler {
 public:
  ScriptedCompiler(bool survives_copies, bool crashes)
      : survives_copies_(survives_copies), crashes_(crashes) {}
  CompileOutput Compile(wire::opencl::ProgramKind, ByteView text, const std::string& options) override {
    const std::string order(AsText(text).substr(0, AsText(text).find('\n')));
    ++compiled_;
    if (crashes_) Misbehave("crash");
    if (order == "folder") return {0, getenv("TMPDIR"), {}};
    if (order == "leave a trace") {
      const bool found = open("/tmp/trace", O_RDONLY | O_CLOEXEC) >= 0;
      if (found || open("/tmp/trace", O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0)
        return {cl_status::kBuildProgramFailure, found ? "a trace was there" : "no trace can be left", {}};
      return {0,
              "the " +
                  std::string(compiled_ == 1   ? "first"
                              : compiled_ == 2 ? "second"
                                               : "umpteenth") +
                  " program here",
              {}};
    }
    if (order == "tool fails") {
      Misbehave("tool");
      return {cl_status::kBuildProgramFailure, "the linker failed", {}};
    }
    if (order == "log") return {0, std::string(2 * wire::kMaxBuildLogBytes, 'x'), {}};
    const std::string problem = Misbehave(order);
    if (!problem.empty()) return {cl_status::kBuildProgramFailure, problem, {}};
    return {0, "built with " + options, {text.begin(), text.end()}};
  }
  bool SurvivesCopies() const override { return survives_copies_; }

 private:
  const bool survives_copies_, crashes_;
  int compiled_ = 0;
};

class ScriptedDriver final : public Driver {
 public:
  Result<std::vector<DeviceInfo>> Probe(bool) override { return std::vector<DeviceInfo>(); }
  Result<std::unique_ptr<Backend>> OpenDevice(std::uint32_t index, Completions* completions) override {
    if (index != 0) return Error{Code::kNotFound, "there is no device " + std::to_string(index)};
    return std::unique_ptr<Backend>(std::make_unique<ScriptedBackend>(completions));
  }
  Result<std::unique_ptr<Compiler>> OpenCompiler(std::uint32_t index) override {
    if (index != 0) return Error{Code::kNotFound, "there is no device " + std::to_string(index)};
    return std::unique_ptr<Compiler>(
        std::make_unique<ScriptedCompiler>(compiler_survives_copies, compiler_crashes));
  }

  bool compiler_survives_copies = false;
  bool compiler_crashes = false;
};

// --- what runs in the jail: an executor that was taken over ---

// Writes to the shared memory directly. Cases below 100 are particular lies, others are random by seed.
int RunTakenOver(int number) {
  auto memory = SharedMemory::Adopt(UniqueFd(kRingsFd));
  auto bytes = RingBytes::Map(memory->fd(), kRepliesOffset);
  auto& head = *reinterpret_cast<RingsHead*>(memory->bytes().data());
  RingWriter writer(&head.replies, &*bytes);
  const auto say = [&](RecordHeader header, ByteView body = {}) {
    while (writer.TryWrite(header, body) == RingResult::kNotNow) sched_yield();
  };
  const auto ring_doorbell = [] { [[maybe_unused]] const ssize_t written = write(kDoorbellFd, "x", 1); };
  const auto kind = [](RecordKind k) { return static_cast<std::uint8_t>(k); };
  const ByteVector status(4);
  const ByteVector large(kMaxRecordBodyBytes);
  const std::uint16_t finish = kOpcodeOf<wire::opencl::Finish>;
  const std::uint16_t read = kOpcodeOf<wire::opencl::EnqueueRead>;
  // The test has submitted: 1 Finish, 2 EnqueueRead of 100 bytes, 3 EnqueueWrite of 100 bytes.
  while (head.commands.written.load() < 3 * sizeof(RecordHeader)) sched_yield();
  switch (number) {
    case 0: head.replies.written = kRingBytes * 5; break;
    case 1: head.replies.written = 13; break;
    case 2: head.commands.read = ~std::uint64_t{0}; break;  // seen when commands fill the ring
    case 3: say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 77}, status); break;
    case 4: say({.opcode = read, .kind = kind(RecordKind::kReply), .sequence = 1}, status); break;
    case 5: say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 1}, large); break;
    case 6:
      say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 1, .payload_bytes = 10}, status);
      break;
    case 7: {
      wire::opencl::EnqueueReadReply reply;
      reply.data.size_bytes = 101;
      ByteVector body(wire::EncodedSize(reply));
      wire::Encode(reply, body);
      say({.opcode = read, .kind = kind(RecordKind::kReply), .sequence = 2, .payload_bytes = 101}, body);
      break;
    }
    case 8: say({.kind = kind(RecordKind::kPayloadDone), .sequence = 2}); break;
    case 9: say({.opcode = finish, .kind = kind(RecordKind::kNotice)}, status); break;
    case 10: say({.kind = kind(RecordKind::kCommand)}); break;
    case 11: say({.kind = 200}); break;
    case 12:
      say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 1}, status);
      say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 1}, status);
      break;
    case 13:
      say({.kind = kind(RecordKind::kReady)});
      say({.kind = kind(RecordKind::kReady)});
      break;
    case 14:
      say({.opcode = finish, .kind = kind(RecordKind::kReply), .flags = kMoreFollows, .sequence = 1}, status);
      say({.opcode = finish, .kind = kind(RecordKind::kReply), .sequence = 2}, status);
      break;
    case 15:
      while (true) {
        ring_doorbell();
        say({.opcode = finish, .kind = kind(RecordKind::kReply), .flags = kMoreFollows, .sequence = 1},
            large);
      }
    case 16:
      close(kDoorbellFd);
      pause();
      break;
    case 17:
      while (true) {
        ring_doorbell();
        say({.kind = kind(RecordKind::kFailed)}, AsBytes("\x1b[2J lies"));
      }
    case 18:
      while (true) {
        ring_doorbell();
        say({.opcode = finish, .kind = kind(RecordKind::kReply), .flags = kMoreFollows, .sequence = 1});
      }
    default: {
      SeededRandom random(static_cast<std::uint64_t>(number));
      for (int i = 0; i < 50; ++i) {
        RecordHeader header;
        header.kind = static_cast<std::uint8_t>(random.Below(7));
        header.flags = random.Below(8) == 0 ? kMoreFollows : 0;
        header.opcode = std::vector<std::uint16_t>{finish, read, kOpcodeOf<wire::opencl::EnqueueWrite>,
                                                   kOpcodeOf<wire::opencl::EventsCompleted>,
                                                   kOpcodeOf<wire::CommandFailed>}[random.Below(5)];
        header.sequence = random.Below(5);
        header.payload_bytes = random.Below(2) == 0 ? 0 : random.Below(120);
        ByteVector body(random.Below(40));
        random.Fill(body);
        if (random.Below(3) == 0) std::ranges::fill(body, std::byte{0});
        say(header, body);
        if (random.Below(20) == 0) head.replies.written += random.Below(64);
      }
    }
  }
  ring_doorbell();
  while (true) pause();
}

// --- the worker's side ---

// Crashes are to reach the kernel in a sanitizer's build too, and the sandbox has no leak checker's calls.
const std::vector<std::string> kSanitizers = {"TSAN_OPTIONS=handle_segv=0:handle_abort=0",
                                              "ASAN_OPTIONS=handle_segv=0:handle_abort=0:detect_leaks=0"};

class Isolated : public testing::Test {
 protected:
  void SetUp() override {
    auto launcher = sandbox::Launcher::Create({});
    ASSERT_TRUE(launcher.ok()) << launcher.error().message;
    launcher_ = std::move(*launcher);
  }

  ExecutorOptions Options(const std::string& role = "executor") {
    ExecutorOptions options;
    options.argv = {"isolated_test", "--role=" + role};
    options.environment = kSanitizers;
    options.arena_bytes = 64 << 20;
    options.staging_bytes = 80 << 20;
    return options;
  }
  void Start() { Start(Options()); }
  void Start(const ExecutorOptions& options) {
    auto executor = ExecutorProcess::Start(*launcher_, options);
    ASSERT_TRUE(executor.ok()) << executor.error().message;
    executor_ = std::move(*executor);
  }

  template <wire::Message M>
  bool TrySend(const M& message, std::uint16_t opcode, StagingBlock* payload = nullptr,
               std::uint16_t flags = 0, std::optional<Range> memory = std::nullopt) {
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    Submission submission{
        .opcode = opcode, .flags = flags, .sequence = sequence_ + 1, .body = body, .memory = memory};
    if (payload != nullptr) submission.payload = std::move(*payload);
    if (!executor_->Submit(submission)) {
      if (payload != nullptr) *payload = std::move(submission.payload);
      return false;
    }
    ++sequence_;
    return true;
  }
  template <wire::Message M>
  std::uint64_t Send(const M& message, StagingBlock payload = {}, std::uint16_t flags = 0,
                     std::optional<Range> memory = std::nullopt) {
    EXPECT_TRUE(TrySend(message, kOpcodeOf<M>, &payload, flags, memory));
    executor_->Flush();
    return sequence_;
  }
  std::uint64_t Load(std::string_view order) {
    auto block = executor_->AllocateStaging(order.size());
    std::ranges::copy(AsBytes(order), block->bytes().begin());
    wire::exec::LoadProgram load;
    load.binary.size_bytes = order.size();
    EXPECT_TRUE(TrySend(load, kLoadProgram, &*block));
    executor_->Flush();
    return sequence_;
  }
  wire::opencl::Finish Finish() { return {.queue = {{1, 1}}}; }

  // Waits for the next report as a session's thread does.
  Receive Next(Received* received, std::chrono::milliseconds deadline = 20s) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (true) {
      const Receive result = executor_->TryReceive(received);
      if (result != Receive::kNothing) return result;
      if (std::chrono::steady_clock::now() > end) return result;
      if (executor_->SpinForReplies()) continue;
      if (executor_->PrepareToSleep()) {
        pollfd ready[] = {{executor_->wake_fd(), POLLIN, 0}, {executor_->death_fd(), POLLIN, 0}};
        poll(ready, 2, static_cast<int>(deadline.count()));
      }
      executor_->Awake();
    }
  }
  // The next report of this kind; others are dropped.
  bool Until(Received::Kind kind, Received* received) {
    Receive result;
    while ((result = Next(received)) == Receive::kGot) {
      if (received->kind == kind) return true;
    }
    return false;
  }
  std::string EndReason() {
    Received received;
    Receive result;
    while ((result = Next(&received)) == Receive::kGot) {
    }
    EXPECT_EQ(result, Receive::kDead);
    EXPECT_EQ(executor_->TryReceive(&received), Receive::kDead);
    EXPECT_FALSE(TrySend(Finish(), kOpcodeOf<wire::opencl::Finish>));
    return executor_->end_reason();
  }
  std::string LoadLog() {
    Received received;
    if (!Until(Received::Kind::kReply, &received)) return executor_->end_reason();
    wire::Arena arena;
    wire::exec::LoadProgramReply reply;
    EXPECT_EQ(wire::Decode(received.body, 0, arena, &reply), wire::WireResult::kOk);
    kernels_ = reply.kernels.items.size();
    return std::string(reply.log.text);
  }

  std::unique_ptr<sandbox::Launcher> launcher_;
  std::unique_ptr<ExecutorProcess> executor_;
  std::uint64_t sequence_ = 0;
  std::size_t kernels_ = 0;
};

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

// The parameter: whether the compiler survives copies of its process.
class Builder : public testing::TestWithParam<bool> {
 protected:
  BuildOptions Options() {
    BuildOptions options;
    options.argv = {"isolated_test", "--role=build-server", GetParam() ? "survives" : "does not"};
    options.environment = kSanitizers;
    return options;
  }
  CompileOutput Build(std::string_view text) { return Build(text, Options()); }
  CompileOutput Build(std::string_view text, const BuildOptions& options) {
    BuildServer server(options);
    return Build(server, text);
  }
  CompileOutput Build(BuildServer& server, std::string_view text) {
    auto build = server.Start({.text = AsBytes(text), .options = "-cl-fast"});
    if (!build.ok()) return {-999, build.error().message, {}};
    const auto end = std::chrono::steady_clock::now() + 30s;
    while (std::chrono::steady_clock::now() < end) {
      if (auto output = (*build)->TryFinish(); output.has_value()) {
        EXPECT_FALSE((*build)->TryFinish().has_value());
        return *output;
      }
      pollfd ready = {(*build)->fd(), POLLIN, 0};
      EXPECT_EQ(poll(&ready, 1, 30'000), 1);
    }
    return {-999, "nothing came", {}};
  }
};

TEST_P(Builder, Builds) {
  const CompileOutput output = Build("source\n of a program");
  EXPECT_EQ(output.status, 0);
  EXPECT_EQ(output.log, "built with -cl-fast");
  EXPECT_EQ(AsText(output.binary), "source\n of a program");
}

TEST_P(Builder, TakesTheLargestProgram) {
  const std::string text = "large\n" + std::string(wire::kMaxProgramBytes - 6, 'y');
  EXPECT_TRUE(AsText(Build(text).binary) == text);
}

TEST_P(Builder, MayStartTools) {
  EXPECT_EQ(Build("tool").status, 0);
  const CompileOutput output = Build("tool fails");
  EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
  EXPECT_EQ(output.log, "the linker failed\na tool's words");
}

TEST_P(Builder, CrashesAreFailedBuilds) {
  for (const std::string_view order : {"crash", "abort", "exit"}) {
    const CompileOutput output = Build(order);
    EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
    EXPECT_NE(output.log.find("the compiler crashed"), std::string::npos) << output.log;
    EXPECT_EQ(output.log.find("giving up") != std::string::npos, order == "abort") << output.log;
  }
}

TEST_P(Builder, LateIsAFailedBuild) {
  auto options = Options();
  options.deadline = 1s;
  const CompileOutput output = Build("hang", options);
  EXPECT_EQ(output.status, cl_status::kBuildProgramFailure);
  EXPECT_NE(output.log.find("longer than 1 s"), std::string::npos) << output.log;
}

TEST_P(Builder, LimitsHold) {
  auto options = Options();
  options.cpu_seconds = 1;
  EXPECT_NE(Build("hang", options).log.find("the compiler crashed"), std::string::npos);
  const CompileOutput output = Build("log");
  EXPECT_EQ(output.log.size(), wire::kMaxBuildLogBytes);
  options.device_index = 5;
  EXPECT_EQ(Build("x", options).log, "there is no device 5");
}

TEST_P(Builder, OneThatIsNoLongerWantedDies) {
  BuildServer server(Options());
  auto build = server.Start({.text = AsBytes("hang")});
  ASSERT_TRUE(build.ok());
  EXPECT_EQ(Build(server, "x").status, 0);  // orders are taken in turn: the first one runs by now
  pid_t pid = 0;
  std::ifstream("/proc/thread-self/children") >> pid;
  ASSERT_GT(pid, 0);
  const auto builders = [&] {
    std::size_t count = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      std::ifstream list(task.path() / "children");
      for (pid_t child = 0; list >> child;) ++count;
    }
    return count;
  };
  EXPECT_EQ(builders(), 1u);
  EXPECT_FALSE((*build)->TryFinish().has_value());
  build->reset();
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (builders() != 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(builders(), 0u);
}

// Of each other they see nothing: neither what was compiled, nor what was written.
TEST_P(Builder, BuildersOfOneServerAreStrangers) {
  BuildServer server(Options());
  std::vector<std::unique_ptr<BuildProcess>> hanging;
  for (int i = 0; i < 3; ++i) {
    auto build = server.Start({.text = AsBytes("hang")});
    ASSERT_TRUE(build.ok());
    hanging.push_back(std::move(*build));
    EXPECT_EQ(Build(server, "crash").status, cl_status::kBuildProgramFailure);
    const CompileOutput output = Build(server, "leave a trace");
    EXPECT_EQ(output.status, 0) << output.log;
    EXPECT_EQ(output.log, GetParam() ? "the second program here" : "the first program here");
  }
  for (const auto& build : hanging) EXPECT_FALSE(build->TryFinish().has_value());
}

TEST_P(Builder, AnIdleServerBeginsAnew) {
  auto options = Options();
  options.idle = 0s;
  BuildServer server(options);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(Build(server, "x").status, 0);
    // Anew it has not even the thread that starts builders.
    pid_t pid = 0;
    std::ifstream("/proc/thread-self/children") >> pid;
    ASSERT_GT(pid, 0);
    const auto threads = [&] {
      const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(pid) + "/task");
      return std::distance(begin(tasks), end(tasks));
    };
    const auto limit = std::chrono::steady_clock::now() + 30s;
    while (threads() != 1 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    EXPECT_EQ(threads(), 1);
  }
}

TEST_P(Builder, EndWithTheirServer) {
  std::optional<BuildServer> server(Options());
  auto build = server->Start({.text = AsBytes("hang")});
  ASSERT_TRUE(build.ok());
  server.reset();
  pollfd ready = {(*build)->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 30'000), 1);
  std::optional<CompileOutput> output;
  while (!(output = (*build)->TryFinish()).has_value()) {
  }
  EXPECT_EQ(output->status, cl_status::kBuildProgramFailure);
  EXPECT_NE(output->log.find("the build server ended"), std::string::npos) << output->log;
}

std::string SurvivesText(const testing::TestParamInfo<bool>& survives) {
  return survives.param ? "Copied" : "Anew";
}
INSTANTIATE_TEST_SUITE_P(Compiler, Builder, testing::Bool(), SurvivesText);

// What drivers write outside of builders goes with the server, also when that was killed.
TEST_P(Builder, LeaveNoFolderBehind) {
  for (const bool killed : {false, true}) {
    std::optional<BuildServer> server(Options());
    const std::string folder = Build(*server, "folder").log;
    EXPECT_TRUE(folder.starts_with("/tmp/tulle-builds-") && std::filesystem::is_directory(folder)) << folder;
    pid_t pid = 0;
    std::ifstream("/proc/thread-self/children") >> pid;
    ASSERT_GT(pid, 0);
    if (killed) kill(pid, SIGKILL);
    server.reset();
    EXPECT_FALSE(std::filesystem::exists(folder));
  }
}

// A driver that crashes as soon as it is used: each build fails and says so, and another server is tried.
TEST(BuildServer, MayCrash) {
  BuildOptions options;
  options.argv = {"isolated_test", "--role=build-server", "crashes"};
  options.environment = kSanitizers;
  BuildServer server(options);
  for (int i = 0; i < 3; ++i) {
    auto build = server.Start({.text = AsBytes("x")});
    ASSERT_TRUE(build.ok());
    std::optional<CompileOutput> output;
    while (!(output = (*build)->TryFinish()).has_value()) {
      pollfd ready = {(*build)->fd(), POLLIN, 0};
      EXPECT_EQ(poll(&ready, 1, 30'000), 1);
    }
    EXPECT_NE(output->log.find("the build server ended"), std::string::npos) << output->log;
  }
}

TEST(BuildServer, ThatIsNoProgramIsAnError) {
  BuildOptions options;
  options.argv = {"isolated_test"};
  options.binary = "/nonexistent";
  auto build = BuildServer(options).Start({.text = AsBytes("x")});
  ASSERT_FALSE(build.ok());
  EXPECT_NE(build.error().message.find("/nonexistent"), std::string::npos) << build.error().message;
}

}  // namespace
}  // namespace tulle::gpu::isolated

int main(int argc, char** argv) {
  using namespace tulle::gpu::isolated;
  const std::string role = argc > 1 ? argv[1] : "";
  ScriptedDriver driver;
  if (role == "--role=executor") return RunExecutor(driver);
  if (role == "--role=build-server") {
    driver.compiler_survives_copies = argv[2] != std::string("does not");
    driver.compiler_crashes = argv[2] == std::string("crashes");
    return RunBuildServer(driver, argv);
  }
  if (role == "--role=hostile") return RunTakenOver(std::stoi(argv[2]));
  if (role.rfind("--role=", 0) == 0) return 9;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
