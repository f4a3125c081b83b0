// What the step from a worker to its executor and back costs, with the null device behind it, so that nothing
// but the step is timed. Prints one JSON object; round trips and CPU time in microseconds. This program is
// the executor too.
//
//   busy      one Finish after the other: both ends look before they sleep
//   idle      a pause before each, so that both ends sleep
//   batch     commands a second, one Finish at the end of a million
//   start     from nothing to the first answer
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/gpu/null/driver.h"

namespace {

using namespace tulle;
using namespace tulle::gpu::isolated;

double NowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class Session {
 public:
  explicit Session(sandbox::Launcher& launcher) {
    ExecutorOptions options;
    options.argv = {"tulle_bench_executor_hop", "--role=executor"};
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
  std::uint64_t ExecutorCpuNs() const { return executor_->CpuTimeNs(); }
  bool spin_ = true;

 private:
  std::unique_ptr<ExecutorProcess> executor_;
  ByteVector body_;
  std::uint64_t sequence_ = 0;
};

void Report(const char* name, std::vector<double>& samples, const char* end = ",\n") {
  std::ranges::sort(samples);
  std::printf("  \"%s\": {\"value\": %.3g, \"p99\": %.3g}%s", name, samples[samples.size() / 2],
              samples[samples.size() * 99 / 100], end);
}

template <typename Before>
std::vector<double> RoundTrips(Session& session, int count, const Before& before) {
  std::vector<double> samples;
  for (int i = 0; i < count; ++i) {
    before();
    const double begin = NowUs();
    session.Finish();
    samples.push_back(NowUs() - begin);
  }
  return samples;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--role=executor") == 0) return RunExecutor(*gpu::null::OpenDriver());
  auto launcher = sandbox::Launcher::Create({});
  if (!launcher.ok()) {
    std::fprintf(stderr, "%s\n", launcher.error().message.c_str());
    return 1;
  }
  std::printf("{\n");
  std::vector<double> starts;
  for (int i = 0; i < 10; ++i) {
    const double begin = NowUs();
    Session session(**launcher);
    session.Finish();
    starts.push_back(NowUs() - begin);
  }
  Report("start", starts);
  Session session(**launcher);
  auto warm = RoundTrips(session, 1000, [] {});
  auto busy = RoundTrips(session, 20000, [] {});
  Report("busy", busy);
  const auto pause = [] {
    const timespec time = {0, 300'000};
    nanosleep(&time, nullptr);
  };
  auto idle = RoundTrips(session, 2000, pause);
  Report("idle", idle);
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) rates.push_back(1e6 / session.Batch(1'000'000));
  Report("batch", rates, "\n}\n");
}
