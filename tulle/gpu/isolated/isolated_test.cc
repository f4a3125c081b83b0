// The program of this folder's tests, and what it is in the jail, by its first argument: an executor or a
// build server whose driver does as it is told, or an executor that was taken over.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <thread>

#include "tulle/base/random.h"
#include "tulle/base/shared_memory.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/isolated/build_server.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/gpu/isolated/test_program.h"

namespace tulle::gpu::isolated {
namespace {

using wire::kOpcodeOf;

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
  if (order == "hoard") {
    constexpr std::size_t kBytes = std::size_t{2} << 30;
    auto* const memory = static_cast<volatile char*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < kBytes; i += 4096) memory[i] = 1;
    return "had it all";
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
  // The token says what is done with the memory; the status is 0 where that has not gone well.
  void Run(const wire::opencl::ImportBuffer& import, const Command& command) {
    const std::string_view order = import.token.text;
    const std::string path = "/proc/self/fd/" + std::to_string(command.memory_fd);
    volatile std::byte* const first = command.memory.data();
    bool done = true;
    if (order == "write") *first = std::byte{9};
    if (order == "unprotect") {
      done = mprotect(command.memory.data(), 4096, PROT_READ | PROT_WRITE) == 0;
    }
    if (order == "open for writing") done = open(path.c_str(), O_RDWR | O_CLOEXEC) >= 0;
    if (order == "permit by name") done = chmod(path.c_str(), 0777) == 0;
    if (order == "permit") done = fchmod(command.memory_fd, 0777) == 0;
    if (order == "map for writing") {
      done = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, command.memory_fd, 0) != MAP_FAILED;
    }
    if (order == "descriptor") done = command.memory_fd >= 0;
    if (order == "value")
      return SendStatus(completions_, command.opcode, command.sequence, static_cast<int>(*first));
    SendStatus(completions_, command.opcode, command.sequence, done ? 1 : 0);
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

}  // namespace
}  // namespace tulle::gpu::isolated

int main(int argc, char** argv) {
  using namespace tulle::gpu::isolated;
  const std::string role = argc > 1 ? argv[1] : "";
  ScriptedDriver driver;
  if (role == "--role=executor") return RunExecutor(driver);
  if (role == "--role=executor-in-machine")
    return RunExecutor(driver, {std::stoull(std::string(argv[2]).substr(sizeof "--machine-address"))});
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
