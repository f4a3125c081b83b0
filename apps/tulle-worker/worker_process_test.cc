// The real thing: tulle-worker as a node starts it, sandboxed executors and builders, the installed OpenCL
// device, sessions over TLS.
#include <dirent.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <set>

#include "tulle/base/seqpacket.h"
#include "tulle/base/subprocess.h"
#include "tulle/wire/packet.h"
#include "tulle/wire/schema/node.h"
#include "tulle/worker/test_program.h"

namespace tulle::worker {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr Duration kSoon = std::chrono::seconds(30);  // only a hang takes so long

class WorkerProcessTest : public ::testing::Test {
 protected:
  void Start(std::vector<std::string> arguments = {}) {
    auto pair = MakeSeqPacketPair();
    ASSERT_TRUE(pair.ok());
    std::vector<std::string> argv = {TULLE_WORKER_BINARY, "--control-fd=3", "--log-level=warn"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    auto process =
        Subprocess::Start({.argv = argv, .fds = {{pair->child.get(), 3}}, .death_signal = SIGKILL});
    ASSERT_TRUE(process.ok()) << ToString(process.error());
    process_.emplace(std::move(*process));
    control_ = std::move(pair->parent);
    Tell(wire::node::AssignVGpu{{"vgpu-1"}, {"tenant-1"}, 0, 512 * kMiB, 100, {}, 1});
    Tell(wire::node::AddGrant{{target_.grant}, {target_.key}});
    ASSERT_TRUE(Await([&] { return ready_.has_value(); }));
    ASSERT_EQ(*ready_, 0) << ready_message_;
  }
  void SetUp() override {
    target_.vgpu = "vgpu-1";
    target_.grant = "grant-1";
    target_.key.fill(std::byte{7});
  }
  void TearDown() override {
    if (!process_.has_value()) return;
    process_->Signal(SIGKILL);
    EXPECT_TRUE(process_->Wait(kSoon).has_value());
  }

  template <wire::Message M>
  void Tell(const M& message, std::span<const int> fds = {}) {
    (void)SendPacket(control_.get(), wire::EncodePacket(wire::node::kNodeCommands, message), fds);
  }
  bool Await(const std::function<bool()>& done) {
    const Instant deadline = clock_.Now() + kSoon;
    std::array<std::byte, wire::kMaxPacketBytes> room;
    wire::Arena arena;
    while (!done()) {
      pollfd fd{control_.get(), POLLIN, 0};
      const Duration left = deadline - clock_.Now();
      if (poll(&fd, 1, static_cast<int>(std::max<std::int64_t>(0, left.count() / 1'000'000))) == 0)
        return false;
      auto received = ReceivePacket(control_.get(), room);
      if (!received.ok()) return done();
      if (!received->none) {
        (void)wire::DispatchPacket(wire::node::kNodeCommands, ByteView(room).first(received->size_bytes),
                                   arena, *this);
      }
    }
    return true;
  }
  Status Attach(Program& program) {
    int fds[2];
    TULLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    UniqueFd ours(fds[0]), theirs(fds[1]);
    const int passed[] = {theirs.get()};
    Tell(wire::node::AdoptConnection{}, passed);
    return program.Attach(std::move(ours), target_);
  }
  std::optional<ExitState> WaitExit() { return process_->Wait(kSoon); }

  // The worker's children: its executors and builders.
  std::set<pid_t> Executors() {
    std::set<pid_t> executors;
    const std::string tasks = "/proc/" + std::to_string(process_->pid()) + "/task";
    DIR* folder = opendir(tasks.c_str());
    if (folder == nullptr) return executors;
    while (const dirent* entry = readdir(folder)) {
      std::ifstream list(tasks + "/" + entry->d_name + "/children");
      for (pid_t pid = 0; list >> pid;) {
        std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
        const std::string words{std::istreambuf_iterator<char>(file), {}};
        if (words.find("--role=executor") != std::string::npos) executors.insert(pid);
      }
    }
    closedir(folder);
    return executors;
  }

 public:
  void On(const wire::node::WorkerReady& message) {
    ready_ = message.status;
    ready_message_ = message.message.text;
  }
  void On(const wire::node::WorkerStats& message) { stats_ = message; }

 protected:
  SystemClock clock_;
  std::optional<Subprocess> process_;
  UniqueFd control_;
  session::Target target_;
  std::optional<std::int32_t> ready_;
  std::string ready_message_;
  wire::node::WorkerStats stats_;
};

TEST_F(WorkerProcessTest, BuildsRunsAndReadsBack) {
  Start();
  Program program;
  const Status attached = Attach(program);
  ASSERT_TRUE(attached.ok()) << ToString(attached.error());
  program.ExpectVectorAdd(41, 1'000'000);
  EXPECT_TRUE(
      Await([&] { return stats_.memory_used_bytes >= 4'000'000 && stats_.device_time_ns_total > 0; }));
  program.session().Close();
  EXPECT_TRUE(Await([&] { return stats_.sessions == 0 && stats_.memory_used_bytes == 0; }));
  EXPECT_EQ(stats_.executor_crashes_total, 0u);
}

TEST_F(WorkerProcessTest, AKilledExecutorEndsItsSessionOnly) {
  Start({"--spare-executors=0"});
  Program victim, other;
  ASSERT_TRUE(Attach(victim).ok());
  victim.ExpectVectorAdd(1);
  const std::set<pid_t> executors = Executors();
  ASSERT_EQ(executors.size(), 1u);
  ASSERT_TRUE(Attach(other).ok());
  other.ExpectVectorAdd(2);

  ASSERT_EQ(kill(*executors.begin(), SIGKILL), 0);
  const Error error = victim.WaitLost();
  EXPECT_EQ(error.code, Code::kAborted) << ToString(error);
  EXPECT_NE(error.message.find("signal 9"), std::string::npos) << error.message;
  EXPECT_EQ(other.Finish(), 0);
  EXPECT_TRUE(Await([&] { return stats_.executor_crashes_total == 1 && stats_.sessions == 1; }));
  Program next;
  ASSERT_TRUE(Attach(next).ok());
  next.ExpectVectorAdd(3);
}

TEST_F(WorkerProcessTest, AKernelThatCrashesEndsItsSessionOnly) {
  Start();
  Program bad, good;
  ASSERT_TRUE(Attach(bad).ok());
  ASSERT_TRUE(Attach(good).ok());
  bad.CreateContextAndQueue();
  const auto built = bad.Build("kernel void crash(ulong at) { *(volatile global int*)at = 1; }");
  ASSERT_EQ(built.status, 0) << built.log.text;
  bad.Send(opencl::CreateKernel{{Program::kProgram}, {Program::kKernel}, {"crash"}});
  const std::uint64_t at = 16;
  bad.Send(opencl::SetKernelArg{
      {Program::kKernel}, 0, {opencl::ArgKind::kValue}, {}, 0, {std::as_bytes(std::span(&at, 1))}});
  bad.Send(opencl::EnqueueKernel{{Program::kQueue}, {Program::kKernel}, 1, {}, {1, 1, 1}, {}, {}, {}});
  bad.Send(opencl::Finish{{Program::kQueue}});
  const Error error = bad.WaitLost();
  EXPECT_EQ(error.code, Code::kAborted) << ToString(error);
  EXPECT_NE(error.message.find("signal 11"), std::string::npos) << error.message;
  good.ExpectVectorAdd(5);
}

TEST_F(WorkerProcessTest, AFailedBuildHasItsLog) {
  Start();
  Program program;
  ASSERT_TRUE(Attach(program).ok());
  program.CreateContextAndQueue();
  const auto built = program.Build("kernel void k() { undeclared = 1; }");
  EXPECT_EQ(built.status, -11);
  EXPECT_NE(built.log.text.find("undeclared"), std::string_view::npos) << built.log.text;
  EXPECT_EQ(program.Finish(), 0);
}

TEST_F(WorkerProcessTest, MemoryOfADestroyedBufferReadsAsZeroAgain) {
  Start();
  Program program;
  ASSERT_TRUE(Attach(program).ok());
  program.CreateContextAndQueue();
  const ByteVector secret(kMiB, std::byte{0x5a});
  for (std::uint32_t generation = 1; generation <= 3; ++generation) {
    const wire::Handle buffer{3, generation};
    program.Send(opencl::CreateBuffer{{Program::kContext}, {buffer}, {}, 300 * kMiB}, {}, wire::kWantStatus);
    const auto read = program.Send(opencl::EnqueueRead{{Program::kQueue}, {buffer}, 0, {kMiB}, 0, 0, {}, {}});
    EXPECT_EQ(program.WaitFor<opencl::EnqueueReadReply>(read).status, 0);
    EXPECT_EQ(program.Wait(read)->payload, ByteVector(kMiB));
    program.Send(opencl::EnqueueWrite{{Program::kQueue}, {buffer}, 0, {kMiB}, 0, 0, {}, {}}, secret);
    // The next one only fits when this one is gone: creation waits for it.
    program.Send(wire::DestroyObject{{wire::ObjectKind::kMemory, buffer}});
  }
  EXPECT_EQ(program.Finish(), 0);
}

TEST_F(WorkerProcessTest, AShutdownEndsEverythingAtOnce) {
  Start();
  Program program;
  ASSERT_TRUE(Attach(program).ok());
  program.ExpectVectorAdd(1);
  Tell(wire::node::Shutdown{});
  EXPECT_EQ(program.WaitLost().code, Code::kUnavailable);
  const auto exit = WaitExit();
  ASSERT_TRUE(exit.has_value());
  EXPECT_TRUE(exit->ok()) << exit->Text();
}

TEST_F(WorkerProcessTest, ATermSignalIsAShutdown) {
  Start();
  Program program;
  ASSERT_TRUE(Attach(program).ok());
  process_->Signal(SIGTERM);
  EXPECT_EQ(program.WaitLost().code, Code::kUnavailable);
  const auto exit = WaitExit();
  ASSERT_TRUE(exit.has_value());
  EXPECT_TRUE(exit->ok()) << exit->Text();
}

}  // namespace
}  // namespace tulle::worker
