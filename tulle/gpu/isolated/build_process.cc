#include "tulle/gpu/isolated/build_process.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/isolated/build_file.h"
#include "tulle/gpu/isolated/captured_output.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/wire/schema/exec.h"

namespace tulle::gpu::isolated {

namespace {

constexpr std::uint16_t kCompile = wire::OpcodeIn<wire::exec::Compile>(wire::exec::kExecCommands);

}  // namespace

class BuildProcess::Impl {
 public:
  Impl(CapturedOutput output, UniqueFd result, std::chrono::seconds deadline)
      : output_(std::move(output)), result_(std::move(result)), deadline_(deadline) {}

  Status Watch() {
    for (const int fd : {output_.fd(), child_->pidfd(), timer_.get()}) {
      epoll_event event = {};
      event.events = EPOLLIN;
      event.data.fd = fd;
      if (epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        return ErrnoError("watching a build", errno);
    }
    return OkStatus();
  }

  std::optional<CompileOutput> TryFinish() {
    if (finished_) return std::nullopt;
    if (!output_.Drain()) epoll_ctl(poll_.get(), EPOLL_CTL_DEL, output_.fd(), nullptr);
    std::uint64_t expirations;
    if (read(timer_.get(), &expirations, sizeof expirations) > 0) {
      late_ = true;
      child_->Kill();
    }
    const auto exit = child_->TryWait();
    if (!exit.has_value()) return std::nullopt;
    finished_ = true;
    output_.Drain();
    CompileOutput outcome = Judge(*exit);
    if (outcome.status != 0) {
      const std::string printed = output_.Tail(kMaxCapturedBytes);
      if (!printed.empty()) outcome.log += (outcome.log.empty() ? "" : "\n") + printed;
    }
    if (outcome.log.size() > wire::kMaxBuildLogBytes) {
      constexpr std::string_view kCut = "\n[the log was cut here]";
      outcome.log.resize(wire::kMaxBuildLogBytes - kCut.size());
      outcome.log += kCut;
    }
    return outcome;
  }

  CapturedOutput output_;
  UniqueFd result_, timer_, poll_;
  std::unique_ptr<sandbox::Child> child_;

 private:
  CompileOutput Judge(const sandbox::ExitStatus& exit) {
    const auto failed = [](std::string log) {
      return CompileOutput{cl_status::kBuildProgramFailure, std::move(log), {}};
    };
    if (late_) {
      return failed("the build took longer than " + std::to_string(deadline_.count()) +
                    " s and was stopped; build smaller programs, or raise the build deadline of the node");
    }
    if (exit.signal != 0 || exit.exit_code != 0)
      return failed("the compiler crashed: the builder " + exit.Text());
    auto file = ReadBuildFile(result_.get());
    wire::exec::CompileReply reply;
    wire::Arena arena;
    if (!file.ok() ||
        wire::Decode(file->body, file->payload.size(), arena, &reply) != wire::WireResult::kOk) {
      return failed("the builder's result cannot be read");
    }
    return {reply.status, std::string(reply.log.text), std::move(file->payload)};
  }

  const std::chrono::seconds deadline_;
  bool late_ = false;
  bool finished_ = false;
};

BuildProcess::BuildProcess(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BuildProcess::~BuildProcess() = default;

Result<std::unique_ptr<BuildProcess>> BuildProcess::Start(sandbox::Launcher& launcher,
                                                          const BuildOptions& options,
                                                          const BuildRequest& request) {
  const auto failed = [](const char* what) { return ErrnoError(what, errno); };
  const UniqueFd given(memfd_create("tulle program", MFD_CLOEXEC));
  UniqueFd result(memfd_create("tulle binary", MFD_CLOEXEC));
  if (!given.valid() || !result.valid()) return failed("files for a build");
  wire::exec::Compile compile;
  compile.device_index = options.device_index;
  compile.kind.value = request.kind;
  compile.options.text = request.options;
  compile.text.size_bytes = request.text.size();
  if (!WriteBuildFile(given.get(), kCompile, compile, request.text, launcher.best_effort() ? 1 : 0)) {
    return failed("handing a program to a builder");
  }
  TULLE_ASSIGN_OR_RETURN(auto output, CapturedOutput::Create(/*drop_when_full=*/false));
  auto impl = std::make_unique<Impl>(std::move(output), std::move(result), options.deadline);
  impl->timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  impl->poll_.reset(epoll_create1(EPOLL_CLOEXEC));
  const itimerspec deadline = {{}, {options.deadline.count(), 0}};
  if (!impl->poll_.valid() || !impl->timer_.valid() ||
      timerfd_settime(impl->timer_.get(), 0, &deadline, nullptr) != 0) {
    return failed("the deadline of a build");
  }

  sandbox::ChildSpec spec;
  spec.binary = options.binary;
  spec.argv = options.argv;
  spec.environment = DriverEnvironment(options.environment);
  spec.read_only_paths = options.read_only_paths;
  spec.fds = {-1, impl->output_.child_fd(), impl->output_.child_fd(), given.get(), impl->result_.get()};
  static_assert(kRequestFd == 3 && kResultFd == 4);
  spec.tmp_bytes = options.tmp_bytes;
  spec.address_space_bytes = options.address_space_bytes;
  spec.cpu_seconds = options.cpu_seconds;
  spec.file_bytes = options.tmp_bytes;
  TULLE_ASSIGN_OR_RETURN(impl->child_, launcher.Start(spec));
  impl->output_.CloseChildEnd();
  TULLE_RETURN_IF_ERROR(impl->Watch());
  return std::unique_ptr<BuildProcess>(new BuildProcess(std::move(impl)));
}

int BuildProcess::fd() const { return impl_->poll_.get(); }
std::optional<CompileOutput> BuildProcess::TryFinish() { return impl_->TryFinish(); }
void BuildProcess::Kill() { impl_->child_->Kill(); }
std::uint64_t BuildProcess::CpuTimeNs() const { return impl_->child_->CpuTimeNs(); }

}  // namespace tulle::gpu::isolated
