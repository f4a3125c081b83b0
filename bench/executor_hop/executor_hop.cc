// What the step from a worker to its executor and back costs, with the null device behind it, so that nothing
// but the step is timed. Prints one JSON object; round trips and CPU time in microseconds. This program is
// the executor too.
//
//   busy      one Finish after the other: both ends look before they sleep
//   idle      a pause before each, so that both ends sleep
//   batch     commands a second, one Finish at the end of a million
//   start     from nothing to the first answer
//
// With --machine kvm|emulated, of one in a virtual machine (TULLE_VM_KERNEL, TULLE_VM_MODULES); with
// --process, the same of one that is not:
//
//   start, busy, idle, batch   as above, fewer times
//   memory                     what an executor at rest has for itself, in MiB
//
// With --yardsticks, what the parts of these cost where there is nothing around them:
//
//   direct-finish     a Finish, given to the null device in this process
//   direct-batch      the commands of batch, given to it
//   spin-round-trip   a number to another process and back through shared memory; both look all the time
//   wake-round-trip   the same with an eventfd each way; both sleep
//   process-start     from nothing to the end of a process of this program that does nothing
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "bench/now.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/vm/machine.h"

namespace {

using namespace tulle;
using namespace tulle::gpu::isolated;

class Session {
 public:
  explicit Session(sandbox::Launcher& launcher, const std::optional<vm::Settings>& machine = std::nullopt) {
    ExecutorOptions options;
    options.argv = {"tulle_bench_executor_hop",
                    machine.has_value() ? "--role=executor-in-machine" : "--role=executor"};
    options.machine = machine;
    options.processors = 2;
    options.arena_bytes = 64 << 20;
    auto executor = ExecutorProcess::Start(launcher, options);
    TULLE_CHECK(executor.ok());
    executor_ = std::move(*executor);
    Send(wire::opencl::CreateContext{.context = {{1, 1}}});
    Send(wire::opencl::CreateQueue{.context = {{1, 1}}, .queue = {{2, 1}}});
  }

  template <wire::Message M>
  bool Send(const M& message, std::uint16_t flags = 0) {
    body_.resize(wire::EncodedSize(message));
    wire::Encode(message, body_);
    Submission submission{
        .opcode = wire::kOpcodeOf<M>, .flags = flags, .sequence = sequence_ + 1, .body = body_};
    if (!executor_->Submit(submission)) return false;
    ++sequence_;
    return true;
  }
  void Finish() {
    TULLE_CHECK(Send(wire::opencl::Finish{.queue = {{2, 1}}}));
    executor_->Flush();
    Wait(Received::Kind::kReply);
  }
  void Wait(Received::Kind kind) {
    Received received;
    while (true) {
      switch (executor_->TryReceive(&received)) {
        case Receive::kGot:
          if (received.kind == kind) return;
          continue;
        case Receive::kDead: std::fprintf(stderr, "%s\n", executor_->end_reason().c_str()); std::exit(1);
        case Receive::kNothing: break;
      }
      if (spin_ && executor_->SpinForReplies()) continue;
      if (executor_->PrepareToSleep()) {
        pollfd ready = {executor_->wake_fd(), POLLIN, 0};
        poll(&ready, 1, -1);
      }
      executor_->Awake();
    }
  }
  // A million commands without an answer, then one Finish. Seconds.
  double Batch(int commands) {
    const double begin = NowUs();
    for (int i = 0; i < commands; ++i) {
      while (!Send(wire::opencl::Flush{.queue = {{2, 1}}})) {
        executor_->Flush();
        if (executor_->PrepareToSleep()) {
          pollfd ready = {executor_->wake_fd(), POLLIN, 0};
          poll(&ready, 1, -1);
        }
        executor_->Awake();
      }
      if (i % 64 == 0) executor_->Flush();
    }
    while (!Send(wire::opencl::Finish{.queue = {{2, 1}}})) executor_->Flush();
    executor_->Flush();
    Wait(Received::Kind::kReply);
    return (NowUs() - begin) / 1e6;
  }
  // That no other process has, too.
  double PrivateMiB() const {
    std::ifstream file("/proc/" + std::to_string(executor_->pid()) + "/smaps_rollup");
    double kib = 0;
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with("Private_")) kib += std::stod(line.substr(line.find(':') + 1));
    }
    return kib / 1024;
  }
  bool spin_ = true;

 private:
  std::unique_ptr<ExecutorProcess> executor_;
  ByteVector body_;
  std::uint64_t sequence_ = 0;
};

void Report(const char* name, std::vector<double>& samples) {
  std::ranges::sort(samples);
  std::printf("  \"%s\": {\"value\": %.3g, \"p99\": %.3g},\n", name, samples[samples.size() / 2],
              samples[samples.size() * 99 / 100]);
}

// What is no single call has no p99. The last of an object.
void ReportRate(const char* name, std::vector<double>& samples) {
  std::ranges::sort(samples);
  std::printf("  \"%s\": {\"value\": %.3g}\n}\n", name, samples[samples.size() / 2]);
}

template <typename Trip, typename Before>
std::vector<double> Time(int count, const Trip& trip, const Before& before) {
  std::vector<double> samples;
  for (int i = 0; i < count; ++i) {
    before();
    const double begin = NowUs();
    trip();
    samples.push_back(NowUs() - begin);
  }
  return samples;
}
template <typename Trip>
std::vector<double> Time(int count, const Trip& trip) {
  return Time(count, trip, [] {});
}

void Pause() {
  const timespec time = {0, 300'000};
  nanosleep(&time, nullptr);
}

constexpr int kStarts = 10, kBusy = 20'000, kIdle = 2'000, kBatches = 5, kBatch = 1'000'000;

// --- the yardsticks ---

// The null device in this process.
class Direct final : public gpu::Completions {
 public:
  Direct() : driver_(gpu::null::OpenDriver()) {
    auto backend = driver_->OpenDevice(0, this);
    TULLE_CHECK(backend.ok());
    backend_ = std::move(*backend);
    Send(wire::opencl::CreateContext{.context = {{1, 1}}});
    Send(wire::opencl::CreateQueue{.context = {{1, 1}}, .queue = {{2, 1}}});
  }
  template <wire::Message M>
  void Send(const M& message) {
    body_.resize(wire::EncodedSize(message));
    wire::Encode(message, body_);
    backend_->Submit({wire::kOpcodeOf<M>, false, ++sequence_, body_, {}, {}});
  }
  void Finish() {
    const std::uint64_t before = replies_;
    Send(wire::opencl::Finish{.queue = {{2, 1}}});
    backend_->Flush();
    while (replies_ == before) {
    }
  }
  double Batch(int commands) {
    const double begin = NowUs();
    for (int i = 0; i < commands; ++i) Send(wire::opencl::Flush{.queue = {{2, 1}}});
    Finish();
    return (NowUs() - begin) / 1e6;
  }

  void Reply(std::uint16_t, std::uint64_t, ByteView, std::uint64_t) override { ++replies_; }
  void Notice(std::uint16_t, ByteView) override {}
  void PayloadDone(std::uint64_t) override {}

 private:
  std::unique_ptr<gpu::Driver> driver_;
  std::unique_ptr<gpu::Backend> backend_;
  ByteVector body_;
  std::uint64_t sequence_ = 0;
  std::atomic<std::uint64_t> replies_ = 0;
};

// Another process that does `work` until this one has no more use for it.
class Peer {
 public:
  explicit Peer(const std::function<void()>& work) : pid_(fork()) {
    TULLE_CHECK(pid_ >= 0);
    if (pid_ != 0) return;
    while (true) work();
  }
  ~Peer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

 private:
  pid_t pid_;
};

std::vector<double> SpinRoundTrips() {
  struct Shared {
    alignas(64) std::atomic<std::uint32_t> there = 0;
    alignas(64) std::atomic<std::uint32_t> back = 0;
  };
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TULLE_CHECK(memory != MAP_FAILED);
  Shared& shared = *new (memory) Shared;
  const Peer peer([&] { shared.back.store(shared.there.load(std::memory_order_acquire)); });
  std::uint32_t number = 0;
  return Time(kBusy, [&] {
    shared.there.store(++number);
    while (shared.back.load(std::memory_order_acquire) != number) {
    }
  });
}

std::vector<double> WakeRoundTrips() {
  const int there = eventfd(0, EFD_CLOEXEC), back = eventfd(0, EFD_CLOEXEC);
  TULLE_CHECK(there >= 0 && back >= 0);
  const auto pass = [](int from, int to) {
    eventfd_t value;
    if (eventfd_read(from, &value) == 0) eventfd_write(to, 1);
  };
  const Peer peer([&] { pass(there, back); });
  const auto trip = [&] {
    eventfd_t value;
    eventfd_write(there, 1);
    eventfd_read(back, &value);
  };
  return Time(kIdle, trip, Pause);
}

void StartProcess() {
  char name[] = "tulle_bench_executor_hop", role[] = "--role=nothing";
  char* argv[] = {name, role, nullptr};
  pid_t pid = 0;
  TULLE_CHECK(posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, argv, environ) == 0);
  waitpid(pid, nullptr, 0);
}

void MeasureYardsticks() {
  std::printf("{\n");
  auto spins = SpinRoundTrips();
  Report("spin-round-trip", spins);
  auto wakes = WakeRoundTrips();
  Report("wake-round-trip", wakes);
  auto starts = Time(kStarts, StartProcess);
  Report("process-start", starts);
  Direct direct;
  auto finishes = Time(kBusy, [&] { direct.Finish(); });
  Report("direct-finish", finishes);
  std::vector<double> rates;
  for (int i = 0; i < kBatches; ++i) rates.push_back(kBatch / direct.Batch(kBatch));
  ReportRate("direct-batch", rates);
}

// --- the step itself ---

void MeasureHop(sandbox::Launcher& launcher) {
  std::printf("{\n");
  auto starts = Time(kStarts, [&] { Session(launcher).Finish(); });
  Report("start", starts);
  Session session(launcher);
  const auto trip = [&] { session.Finish(); };
  Time(1'000, trip);  // warms up
  auto busy = Time(kBusy, trip);
  Report("busy", busy);
  auto idle = Time(kIdle, trip, Pause);
  Report("idle", idle);
  std::vector<double> rates;
  for (int i = 0; i < kBatches; ++i) rates.push_back(kBatch / session.Batch(kBatch));
  ReportRate("batch", rates);
}

// Less of it, as an emulated machine takes its time.
void MeasurePlace(sandbox::Launcher& launcher, const std::optional<vm::Settings>& machine) {
  std::printf("{\n");
  auto starts = Time(kStarts / 3, [&] { Session(launcher, machine).Finish(); });
  Report("start", starts);
  Session session(launcher, machine);
  const auto trip = [&] { session.Finish(); };
  Time(kBusy / 20, trip);  // warms up
  auto busy = Time(kBusy / 10, trip);
  Report("busy", busy);
  auto idle = Time(kIdle / 4, trip, Pause);
  Report("idle", idle);
  std::vector<double> memory = {session.PrivateMiB()};
  Report("memory", memory);
  std::vector<double> rates;
  for (int i = 0; i < kBatches; ++i) rates.push_back(kBatch / 10 / session.Batch(kBatch / 10));
  ReportRate("batch", rates);
}

Result<vm::Settings> MachineSettings(std::string_view accelerator) {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  return vm::Complete(
      {.accelerator = accelerator == "kvm" ? vm::Accelerator::kKvm : vm::Accelerator::kEmulated,
       .kernel = variable("TULLE_VM_KERNEL"),
       .modules = variable("TULLE_VM_MODULES")});
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "--role=executor") return RunExecutor(*gpu::null::OpenDriver());
  if (mode == "--role=executor-in-machine" && argc > 2) {
    return RunExecutor(*gpu::null::OpenDriver(),
                       {std::stoull(std::string(argv[2]).substr(sizeof "--machine-address"))});
  }
  if (mode == "--role=nothing") return 0;
  if (mode == "--yardsticks") {
    MeasureYardsticks();
    return 0;
  }
  auto launcher = sandbox::Launcher::Create({});
  if (!launcher.ok()) {
    std::fprintf(stderr, "%s\n", launcher.error().message.c_str());
    return 1;
  }
  if (mode == "--machine" && argc > 2) {
    const auto machine = MachineSettings(argv[2]);
    if (!machine.ok()) {
      std::fprintf(stderr, "%s\n", machine.error().message.c_str());
      return 1;
    }
    MeasurePlace(**launcher, *machine);
    return 0;
  }
  if (mode == "--process") {
    MeasurePlace(**launcher, std::nullopt);
    return 0;
  }
  MeasureHop(**launcher);
}
