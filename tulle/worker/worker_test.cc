// A worker with its threads, as a node and its clients see it, over the null device: real handshakes, real
// sessions, one process.
#include "tulle/worker/worker.h"

#include <gtest/gtest.h>

#include <poll.h>
#include <sys/socket.h>
#include <map>

#include "tulle/base/seqpacket.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/worker/local/local.h"
#include "tulle/worker/test_program.h"

namespace tulle::worker {
namespace {

using wire::Handle;

constexpr std::uint64_t kMiB = 1u << 20;
constexpr Duration kSoon = std::chrono::seconds(20);  // only a hang takes so long

// --- a node ---

class WorkerTest : public ::testing::Test {
 protected:
  void Start(const Options& options = {}, Status device = OkStatus()) {
    auto pair = MakeSeqPacketPair();
    ASSERT_TRUE(pair.ok());
    control_ = std::move(pair->parent);
    worker_ = std::make_unique<Worker>(
        std::move(pair->child), options,
        [this, device](const wire::node::AssignVGpu&) -> Result<Device> {
          if (!device.ok()) return device.error();
          if (builder_ == nullptr) builder_ = local::MakeBuilder(null_.get(), 0);
          return Device{local::MakeExecutors(null_.get(), {}), std::move(builder_)};
        },
        &clock_);
    thread_ = std::thread([this] { end_ = worker_->Run(); });
    Tell(wire::node::AssignVGpu{{"vgpu-1"}, {"tenant-1"}, 0, 64 * kMiB, 100});
  }
  void TearDown() override {
    if (thread_.joinable()) Stop();
  }
  void Stop() {
    Tell(wire::node::Shutdown{});
    thread_.join();
  }

  template <wire::Message M>
  void Tell(const M& message, std::span<const int> fds = {}) {
    (void)SendPacket(control_.get(), wire::EncodePacket(wire::node::kNodeCommands, message), fds);
  }
  // Reads what the worker says until `done`.
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
      if (received->none) continue;
      EXPECT_EQ(wire::DispatchPacket(wire::node::kNodeCommands, ByteView(room).first(received->size_bytes),
                                     arena, *this),
                wire::WireResult::kOk);
    }
    return true;
  }
  bool AwaitSessions(std::uint32_t count) {
    return Await([&] { return stats_.sessions == count; });
  }

  static session::Target TargetOf(const std::string& grant, int key) {
    session::Target target{.vgpu = "vgpu-1", .grant = grant};
    target.key.fill(static_cast<std::byte>(key));
    return target;
  }
  void AddGrant(const session::Target& target) { Tell(wire::node::AddGrant{{target.grant}, {target.key}}); }
  // A connection as the node hands it over; the client's end.
  UniqueFd Adopt() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    UniqueFd ours(fds[0]), theirs(fds[1]);
    const int passed[] = {theirs.get()};
    Tell(wire::node::AdoptConnection{}, passed);
    return ours;
  }
  Status Attach(Program& program, const session::Target& target) { return program.Attach(Adopt(), target); }

 public:
  // For DispatchPacket.
  void On(const wire::node::WorkerReady& message) {
    ready_status_ = message.status;
    ready_message_ = message.message.text;
  }
  void On(const wire::node::WorkerStats& message) {
    stats_ = message;
    ++stats_count_;
  }
  void On(const wire::node::SessionOpened& message) {
    EXPECT_EQ(message.session.text.size(), 32u);
    EXPECT_TRUE(open_.emplace(message.session.text, message.program.text).second);
    EXPECT_EQ(message.channel.text, "tls");
  }
  void On(const wire::node::SessionEnded& message) {
    EXPECT_EQ(open_.erase(std::string(message.session.text)), 1u);
  }
  void On(const wire::node::CommandStats& message) {
    EXPECT_EQ(message.latencies.items.size(), wire::node::kLatencyCounts);
    std::uint64_t timed = 0;
    for (const std::uint64_t count : message.latencies.items) timed += count;
    commands_[static_cast<std::uint16_t>(message.opcode)] = {message.count, message.bytes, timed};
  }

 protected:
  SystemClock clock_;
  std::unique_ptr<gpu::Driver> null_ = gpu::null::OpenDriver();
  std::unique_ptr<build::Builder> builder_;  // to be used instead of the null device's
  UniqueFd control_;
  std::unique_ptr<Worker> worker_;
  std::thread thread_;
  std::optional<Worker::End> end_;
  std::optional<std::int32_t> ready_status_;
  std::string ready_message_;
  std::map<std::string, std::string> open_;  // programs by session
  wire::node::WorkerStats stats_;
  int stats_count_ = 0;
  struct Command {
    std::uint64_t count, bytes, timed;
  };
  std::map<std::uint16_t, Command> commands_;
  const session::Target target_ = TargetOf("grant-1", 1);
};

TEST_F(WorkerTest, TellsWhenItIsReadyAndEndsWhenItIsTold) {
  Start();
  ASSERT_TRUE(Await([&] { return ready_status_.has_value(); }));
  EXPECT_EQ(*ready_status_, 0);
  Stop();
  EXPECT_EQ(end_, Worker::End::kDone);
}

TEST_F(WorkerTest, TellsWhyThereIsNoDevice) {
  Start({}, Error{Code::kFailedPrecondition, "no user namespaces; set kernel.unprivileged_userns_clone=1"});
  ASSERT_TRUE(Await([&] { return ready_status_.has_value(); }));
  EXPECT_EQ(*ready_status_, 1);
  EXPECT_NE(ready_message_.find("userns"), std::string::npos);
  thread_.join();
  EXPECT_EQ(end_, Worker::End::kNoDevice);
}

TEST_F(WorkerTest, ServesAProgram) {
  Start();
  AddGrant(target_);
  Program program;
  const Status attached = Attach(program, target_);
  ASSERT_TRUE(attached.ok()) << ToString(attached.error());
  EXPECT_EQ(program.session().limits().memory_limit_bytes, 64 * kMiB);
  program.ExpectVectorAdd(7);
  EXPECT_TRUE(AwaitSessions(1));
  EXPECT_TRUE(Await([&] { return open_.size() == 1; }));
  program.session().Close();
  EXPECT_TRUE(AwaitSessions(0));
  EXPECT_TRUE(Await([&] { return open_.empty(); }));
  EXPECT_TRUE(Await([&] { return stats_.memory_used_bytes == 0; }));
  EXPECT_GT(stats_.commands_total, 10u);
  EXPECT_GT(stats_.received_bytes_total, 4096u);
  EXPECT_GT(stats_.sent_bytes_total, 4096u);
  // Of each kind as many as there were in all, and each was timed.
  EXPECT_TRUE(Await([&] {
    std::uint64_t count = 0, timed = 0;
    for (const auto& [opcode, command] : commands_) count += command.count, timed += command.timed;
    return count == stats_.commands_total && timed == count;
  }));
  EXPECT_GE(commands_[wire::kOpcodeOf<wire::opencl::EnqueueRead>].count, 1u);
}

TEST_F(WorkerTest, ServesManyProgramsOfOneGrantAtOnce) {
  Start();
  AddGrant(target_);
  constexpr std::size_t kPrograms = 8;
  std::vector<std::thread> programs;
  for (std::size_t i = 0; i < kPrograms; ++i) {
    programs.emplace_back([&, i, socket = Adopt().release()] {
      Program program;
      const Status attached = program.Attach(UniqueFd(socket), target_);
      ASSERT_TRUE(attached.ok()) << ToString(attached.error());
      program.ExpectVectorAdd(static_cast<std::uint32_t>(i + 1), 100'000);
      program.session().Close();
    });
  }
  for (std::thread& thread : programs) thread.join();
  EXPECT_TRUE(Await([&] { return stats_.sessions == 0 && stats_.memory_used_bytes == 0; }));
  EXPECT_EQ(stats_.refused_sessions_total, 0u);
}

TEST_F(WorkerTest, SessionsShareTheMemoryOfTheVGpu) {
  Start();
  AddGrant(target_);
  Program first, second;
  ASSERT_TRUE(Attach(first, target_).ok());
  ASSERT_TRUE(Attach(second, target_).ok());
  EXPECT_EQ(first.WaitFor<wire::AcquireMemoryReply>(first.Send(wire::AcquireMemory{40 * kMiB})).granted_bytes,
            40 * kMiB);
  const auto refused = second.WaitFor<wire::AcquireMemoryReply>(second.Send(wire::AcquireMemory{40 * kMiB}));
  EXPECT_EQ(refused.granted_bytes, 0u);
  EXPECT_EQ(refused.available_bytes, 24 * kMiB);
  EXPECT_TRUE(Await([&] { return stats_.memory_used_bytes == 40 * kMiB; }));
  first.session().Close();
  EXPECT_TRUE(AwaitSessions(1));
  EXPECT_EQ(
      second.WaitFor<wire::AcquireMemoryReply>(second.Send(wire::AcquireMemory{40 * kMiB})).granted_bytes,
      40 * kMiB);
}

TEST_F(WorkerTest, RefusesWhatTheNodeDidNotGrant) {
  Start();
  AddGrant(target_);
  Program program;
  EXPECT_FALSE(Attach(program, TargetOf("grant-2", 1)).ok());  // unknown grant
  EXPECT_FALSE(Attach(program, TargetOf("grant-1", 2)).ok());  // forged key
  session::Target elsewhere = target_;
  elsewhere.vgpu = "vgpu-2";
  EXPECT_FALSE(Attach(program, elsewhere).ok());
  session::Target plain = target_;
  plain.tls = false;
  EXPECT_FALSE(Attach(program, plain).ok());
  {
    const UniqueFd stranger = Adopt();
    EXPECT_GT(send(stranger.get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 0);
    EXPECT_TRUE(Await([&] { return stats_.refused_sessions_total == 5; }));
  }
  EXPECT_TRUE(Attach(program, target_).ok());
  program.ExpectVectorAdd(1);
}

TEST_F(WorkerTest, ARevokedGrantEndsItsSessionsAndNoOthers) {
  Start();
  const session::Target other = TargetOf("grant-2", 2);
  AddGrant(target_);
  AddGrant(other);
  Program first, second, third, late;
  ASSERT_TRUE(Attach(first, target_).ok());
  ASSERT_TRUE(Attach(second, target_).ok());
  ASSERT_TRUE(Attach(third, other).ok());
  Tell(wire::node::RevokeGrant{{"grant-1"}});
  EXPECT_EQ(first.WaitLost().code, Code::kPermissionDenied);
  EXPECT_EQ(second.WaitLost().code, Code::kPermissionDenied);
  EXPECT_FALSE(Attach(late, target_).ok());
  third.ExpectVectorAdd(3);
  Tell(wire::node::RevokeGrant{{"never-was"}});
  AddGrant(target_);  // granted again
  EXPECT_TRUE(Attach(late, target_).ok());
}

TEST_F(WorkerTest, ABreachEndsItsSessionOnly) {
  Start();
  AddGrant(target_);
  Program good, bad;
  ASSERT_TRUE(Attach(good, target_).ok());
  ASSERT_TRUE(Attach(bad, target_).ok());
  bad.Send(opencl::Flush{{Handle{77, 7}}});
  const Error error = bad.WaitLost();
  EXPECT_EQ(error.code, Code::kInternal) << ToString(error);
  EXPECT_EQ(error.message.find("77"), std::string::npos);  // no details for whoever breaks the protocol
  good.ExpectVectorAdd(9);
}

// Builds that never end.
class HangingBuilder final : public build::Builder {
 public:
  class HangingBuild final : public build::Build {
   public:
    int fd() const override { return -1; }
    std::optional<gpu::CompileOutput> TryFinish() override { return std::nullopt; }
  };
  Result<std::unique_ptr<build::Build>> Start(opencl::ProgramKind, ByteView, std::string_view) override {
    return std::unique_ptr<build::Build>(std::make_unique<HangingBuild>());
  }
};

TEST_F(WorkerTest, AProgramThatEndsWhileItIsHeldIsNoticed) {
  builder_ = std::make_unique<HangingBuilder>();
  Start();
  AddGrant(target_);
  {
    Program held;
    ASSERT_TRUE(Attach(held, target_).ok());
    held.CreateContextAndQueue();
    held.Send(opencl::CreateProgram{{Program::kContext}, {Program::kProgram}, {}});
    held.Send(opencl::BuildProgram{{Program::kProgram}, {}});
    held.Send(opencl::CreateKernel{{Program::kProgram}, {Program::kKernel}, {"k"}});  // waits for the build
    (void)held.session().Flush();
    ASSERT_TRUE(Await([&] { return stats_.commands_total == 5; }));
  }
  EXPECT_TRUE(AwaitSessions(0));
}

TEST_F(WorkerTest, IsBusyBeyondItsSessions) {
  Options options;
  options.max_sessions = 2;
  Start(options);
  AddGrant(target_);
  Program first, second, third;
  ASSERT_TRUE(Attach(first, target_).ok());
  ASSERT_TRUE(Attach(second, target_).ok());
  ASSERT_TRUE(AwaitSessions(2));
  const Status refused = Attach(third, target_);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_NE(refused.error().message.find("2 programs"), std::string::npos) << refused.error().message;
  first.session().Close();
  ASSERT_TRUE(AwaitSessions(1));
  EXPECT_TRUE(Attach(third, target_).ok());
}

// Two programs, of which the first has 40 MiB of 64; its connection can be cut.
class AbsenceTest : public WorkerTest {
 protected:
  void StartWithOne(Options options) {
    Start(options);
    AddGrant(target_);
    UniqueFd socket = Adopt();
    connection_.reset(dup(socket.get()));
    ASSERT_TRUE(first_.Attach(std::move(socket), target_).ok());
    EXPECT_EQ(Acquire(first_, 40), 40 * kMiB);
  }
  void Cut() { shutdown(connection_.get(), SHUT_RDWR); }
  static std::uint64_t Acquire(Program& program, std::uint64_t mib) {
    return program.WaitFor<wire::AcquireMemoryReply>(program.Send(wire::AcquireMemory{mib * kMiB}))
        .granted_bytes;
  }
  UniqueFd connection_;
  Program first_, second_, third_;
};

TEST_F(AbsenceTest, WhoIsAwayMakesRoomInMemory) {
  Options options;
  options.absence_patience = std::chrono::milliseconds(50);
  StartWithOne(options);
  ASSERT_TRUE(Attach(second_, target_).ok());
  EXPECT_EQ(Acquire(second_, 40), 0u) << "the first one is there";
  Cut();
  first_.WaitLost();
  ASSERT_TRUE(Attach(third_, target_).ok());
  EXPECT_EQ(Acquire(third_, 40), 0u) << "what a client asks for first is ahead of its need";
  // Whether or not the worker has noticed yet, it does not take long.
  while (Acquire(second_, 40) == 0) {
  }
  EXPECT_TRUE(AwaitSessions(2));
}

TEST_F(AbsenceTest, NobodyIsGivenUpInVain) {
  Options options;
  options.absence_patience = std::chrono::milliseconds(1);
  StartWithOne(options);
  ASSERT_TRUE(Attach(second_, target_).ok());
  EXPECT_EQ(Acquire(second_, 20), 20 * kMiB);
  ASSERT_TRUE(Attach(third_, target_).ok());
  Cut();
  first_.WaitLost();
  EXPECT_EQ(Acquire(third_, 64), 0u) << "more than there could be";
  EXPECT_EQ(Acquire(third_, 45), 0u) << "more than the first one has, with what is free";
  EXPECT_EQ(Acquire(third_, 4), 4 * kMiB);
  EXPECT_TRUE(AwaitSessions(3));
}

TEST_F(AbsenceTest, WhoWaitsForOneThatIsAwayCanBeEnded) {
  Options options;
  options.absence_patience = std::chrono::hours(1);
  StartWithOne(options);
  ASSERT_TRUE(Attach(second_, target_).ok());
  Cut();
  first_.WaitLost();
  // Refused until the worker has noticed that the first one is away; from then on it waits.
  std::thread asking([&] {
    while (second_.Wait(second_.Send(wire::AcquireMemory{40 * kMiB})).has_value()) {
    }
  });
  ASSERT_TRUE(Attach(third_, target_).ok());  // which takes longer than that
  Stop();
  EXPECT_EQ(end_, Worker::End::kDone);
  asking.join();
}

TEST_F(AbsenceTest, WhoIsAwayMakesRoomForAnotherSessionThatProvesItsGrant) {
  Options options;
  options.absence_patience = std::chrono::milliseconds(50);
  options.max_sessions = 1;
  StartWithOne(options);
  ASSERT_TRUE(AwaitSessions(1));
  Cut();
  first_.WaitLost();
  EXPECT_FALSE(Attach(third_, TargetOf("grant-1", 2)).ok()) << "another key";
  EXPECT_EQ(stats_.sessions, 1u);
  Status attached = Attach(second_, target_);
  while (!attached.ok()) attached = Attach(second_, target_);  // the worker had not noticed yet
  EXPECT_EQ(Acquire(second_, 64), 64 * kMiB);
}

TEST_F(WorkerTest, StrangersThatSayNothingShutNobodyOut) {
  Options options;
  options.max_handshakes = 2;
  Start(options);
  AddGrant(target_);
  const UniqueFd first = Adopt(), second = Adopt(), third = Adopt();
  pollfd fd{first.get(), POLLIN, 0};
  ASSERT_EQ(poll(&fd, 1, 5'000), 1);  // the oldest makes room, long before its time is up
  char byte;
  EXPECT_EQ(recv(first.get(), &byte, 1, 0), 0);
  Program program;
  EXPECT_TRUE(Attach(program, target_).ok());
  // They do not keep the worker from ending either.
  const Instant before = clock_.Now();
  Stop();
  EXPECT_EQ(end_, Worker::End::kDone);
  EXPECT_LT(clock_.Now() - before, options.handshake_timeout);
}

TEST_F(WorkerTest, AShutdownIsToldToThePrograms) {
  Start();
  AddGrant(target_);
  Program program;
  ASSERT_TRUE(Attach(program, target_).ok());
  Tell(wire::node::Shutdown{});
  EXPECT_EQ(program.WaitLost().code, Code::kUnavailable);
  thread_.join();
  EXPECT_EQ(end_, Worker::End::kDone);
}

TEST_F(WorkerTest, EndsWhenItsNodeIsGone) {
  Start();
  AddGrant(target_);
  Program program;
  ASSERT_TRUE(Attach(program, target_).ok());
  control_.reset();
  EXPECT_EQ(program.WaitLost().code, Code::kUnavailable);
  thread_.join();
  EXPECT_EQ(end_, Worker::End::kDone);
}

TEST_F(WorkerTest, GarbageFromTheNodeChangesNothing) {
  Start();
  AddGrant(target_);
  (void)SendPacket(control_.get(), AsBytes("what is this"));
  Tell(wire::node::AdoptConnection{});  // without its socket
  Tell(wire::node::AddGrant{{"short"}, {AsBytes("key")}});
  Tell(wire::node::AssignVGpu{{"vgpu-2"}, {"t"}, 0, 1, 1});
  Program program;
  EXPECT_TRUE(Attach(program, target_).ok());
}

TEST_F(WorkerTest, StatsAreRateLimitedAndTheLastOnesCome) {
  Options options;
  options.stats_interval = std::chrono::milliseconds(100);
  Start(options);
  AddGrant(target_);
  const Instant begin = clock_.Now();
  for (int i = 0; i < 5; ++i) {
    Program program;
    ASSERT_TRUE(Attach(program, target_).ok());
    program.ExpectVectorAdd(1);
    program.session().Close();
  }
  EXPECT_TRUE(Await([&] { return stats_.sessions == 0 && stats_.commands_total >= 5 * 10; }));
  const auto elapsed_ms = (clock_.Now() - begin).count() / 1'000'000;
  EXPECT_LE(stats_count_, elapsed_ms / 100 + 2);
}

}  // namespace
}  // namespace tulle::worker
