// The battery on backends that live in an executor: real processes, the real sandbox, shared memory. This
// program is the executor and the builder too (see main).
#include <poll.h>

#include <cstring>
#include <deque>
#include <map>

#include "tests/conformance/backend/battery.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/isolated/build_server.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/executor_process.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/gpu/opencl/driver.h"

namespace tulle::gpu::conformance {
namespace {

using isolated::ExecutorProcess;
using isolated::Received;

class IsolatedSubject final : public Subject {
 public:
  IsolatedSubject(sandbox::Launcher& launcher, const std::string& driver) {
    isolated::ExecutorOptions options;
    options.argv = {"isolated_conformance", "--role=executor", driver};
    options.arena_bytes = 8ull << 30;
    auto executor = ExecutorProcess::Start(launcher, options);
    EXPECT_TRUE(executor.ok()) << executor.error().message;
    executor_ = std::move(*executor);
  }

  void Submit(const Outgoing& command) override {
    isolated::Submission submission{
        .opcode = command.opcode,
        .flags = command.wants_status ? std::uint16_t{wire::kWantStatus} : std::uint16_t{0},
        .sequence = command.sequence,
        .body = command.body};
    if (const std::uint64_t size = std::max<std::uint64_t>(command.payload.size(), command.room_bytes);
        size != 0) {
      auto block = executor_->AllocateStaging(size);
      ASSERT_TRUE(block.has_value());
      std::ranges::copy(command.payload, block->bytes().begin());
      submission.payload = std::move(*block);
    }
    if (command.memory_bytes != 0) {
      submission.memory = executor_->AllocateMemory(command.memory_bytes);
      ASSERT_TRUE(submission.memory.has_value());
    }
    TrackMemory(command, submission.memory);
    while (!executor_->Submit(submission)) ASSERT_TRUE(Take(std::chrono::seconds(20)));
  }
  void Flush() override { executor_->Flush(); }

  bool Receive(Duration timeout, Report* report) override {
    if (reports_.empty() && !Take(timeout)) return false;
    *report = std::move(reports_.front());
    reports_.pop_front();
    return true;
  }

  MutableByteView Lent(wire::Handle memory) override {
    const auto range = ranges_.find(memory);
    return range == ranges_.end() ? MutableByteView() : executor_->memory(range->second);
  }

 private:
  // What a worker does: a range is free again when its DestroyObject is answered.
  void TrackMemory(const Outgoing& command, const std::optional<Range>& range) {
    wire::Arena arena;
    wire::opencl::CreateBuffer create;
    wire::opencl::CreateImage create_image;
    wire::opencl::CreateSvm create_svm;
    wire::DestroyObject destroy;
    if (range.has_value() && wire::Decode(command.body, 0, arena, &create) == wire::WireResult::kOk) {
      ranges_[create.buffer.handle] = *range;
    } else if (range.has_value() &&
               wire::Decode(command.body, 0, arena, &create_image) == wire::WireResult::kOk) {
      ranges_[create_image.image.handle] = *range;
    } else if (range.has_value() &&
               wire::Decode(command.body, 0, arena, &create_svm) == wire::WireResult::kOk) {
      ranges_[create_svm.memory.handle] = *range;
    } else if (command.opcode == wire::kOpcodeOf<wire::DestroyObject> && command.wants_status &&
               wire::Decode(command.body, 0, arena, &destroy) == wire::WireResult::kOk) {
      if (auto range = ranges_.extract(destroy.object.handle); !range.empty())
        freed_[command.sequence] = range.mapped();
    }
  }

  // Waits for reports and takes all that are there. False when none came.
  bool Take(Duration timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    Received received;
    while (true) {
      isolated::Receive result;
      while ((result = executor_->TryReceive(&received)) == isolated::Receive::kGot) Keep(received);
      if (!reports_.empty()) return true;
      if (result == isolated::Receive::kDead) {
        ADD_FAILURE() << executor_->end_reason();
        return false;
      }
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      if (left.count() <= 0) return false;
      if (executor_->SpinForReplies()) continue;
      if (executor_->PrepareToSleep()) {
        pollfd ready = {executor_->wake_fd(), POLLIN, 0};
        ::poll(&ready, 1, static_cast<int>(left.count()));
      }
      executor_->Awake();
    }
  }

  void Keep(Received& received) {
    Report report;
    switch (received.kind) {
      case Received::Kind::kReady: return;
      case Received::Kind::kReply:
        report.kind = Report::Kind::kReply;
        if (auto range = freed_.extract(received.sequence); !range.empty())
          executor_->FreeMemory(range.mapped());
        break;
      case Received::Kind::kNotice: report.kind = Report::Kind::kNotice; break;
      case Received::Kind::kPayloadDone: report.kind = Report::Kind::kPayloadDone; break;
    }
    report.opcode = received.opcode;
    report.sequence = received.sequence;
    report.body.assign(received.body.begin(), received.body.end());
    const MutableByteView payload = received.payload.bytes();
    report.payload.assign(payload.begin(), payload.end());
    reports_.push_back(std::move(report));
  }

  std::unique_ptr<ExecutorProcess> executor_;
  std::deque<Report> reports_;
  std::map<wire::Handle, Range> ranges_;
  std::map<std::uint64_t, Range> freed_;
};

CompileOutput Compile(isolated::BuildServer& server, wire::opencl::ProgramKind kind, const std::string& text,
                      const std::string& options) {
  auto build = server.Start({.kind = kind, .text = AsBytes(text), .options = options});
  TULLE_CHECK(build.ok());
  while (true) {
    if (auto output = (*build)->TryFinish(); output.has_value()) return std::move(*output);
    pollfd ready = {(*build)->fd(), POLLIN, 0};
    TULLE_CHECK(::poll(&ready, 1, 60'000) == 1);
  }
}

std::vector<SubjectFactory> IsolatedFactories() {
  auto made = sandbox::Launcher::Create({});
  if (!made.ok()) {
    fprintf(stderr, "%s\n", made.error().message.c_str());
    return {};
  }
  const std::shared_ptr<sandbox::Launcher> launcher = std::move(*made);
  std::vector<SubjectFactory> factories;
  for (const std::string driver : {"null", "opencl"}) {
    SubjectFactory factory;
    factory.name = "isolated_" + driver;
    factory.open = [launcher, driver] { return std::make_unique<IsolatedSubject>(*launcher, driver); };
    isolated::BuildOptions build_options;
    build_options.argv = {"isolated_conformance", "--role=build-server", driver};
    const auto server = std::make_shared<isolated::BuildServer>(build_options);
    factory.compile = [server](wire::opencl::ProgramKind kind, const std::string& text,
                               const std::string& options) { return Compile(*server, kind, text, options); };
    factory.checks_programs = driver == "opencl";
    factories.push_back(factory);
  }
  return factories;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackendBattery);
INSTANTIATE_TEST_SUITE_P(Isolated, BackendBattery, testing::ValuesIn(IsolatedFactories()), SubjectName);

}  // namespace
}  // namespace tulle::gpu::conformance

int main(int argc, char** argv) {
  using namespace tulle::gpu;
  const std::string role = argc > 2 ? argv[1] : "";
  if (role == "--role=executor" || role == "--role=build-server") {
    const auto driver = std::string(argv[2]) == "null" ? null::OpenDriver() : opencl::OpenDriver();
    return role == "--role=executor" ? isolated::RunExecutor(*driver)
                                     : isolated::RunBuildServer(*driver, argv);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
