#include "tulle/gpu/isolated/build_server.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "tulle/base/guarded.h"
#include "tulle/base/seqpacket.h"
#include "tulle/base/subprocess.h"
#include "tulle/gpu/api/opencl_status.h"
#include "tulle/gpu/isolated/build_file.h"
#include "tulle/gpu/isolated/captured_output.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/sandbox/launcher.h"
#include "tulle/wire/schema/exec.h"

namespace tulle::gpu::isolated {

namespace {

constexpr std::uint16_t kCompile = wire::OpcodeIn<wire::exec::Compile>(wire::exec::kExecCommands);
constexpr Duration kServerEnds = std::chrono::seconds(5);

CompileOutput Failed(std::string log) { return {cl_status::kBuildProgramFailure, std::move(log), {}}; }

}  // namespace

class BuildProcess::Impl {
 public:
  Impl(CapturedOutput output, UniqueFd result, UniqueFd states, const BuildOptions& options)
      : output_(std::move(output)),
        result_(std::move(result)),
        states_(std::move(states)),
        deadline_(options.deadline),
        control_group_(options.control_group),
        kills_before_(control_group_ == nullptr ? 0 : control_group_->Usage().memory_kills) {}

  Status Watch() {
    timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    poll_.reset(epoll_create1(EPOLL_CLOEXEC));
    const itimerspec deadline = {{}, {deadline_.count(), 0}};
    if (!poll_.valid() || !timer_.valid() || timerfd_settime(timer_.get(), 0, &deadline, nullptr) != 0)
      return ErrnoError("the deadline of a build", errno);
    for (const int fd : {output_.fd(), states_.get(), timer_.get()}) {
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
    std::optional<CompileOutput> outcome = TakeStates();
    std::uint64_t expirations;
    if (!outcome.has_value() && read(timer_.get(), &expirations, sizeof expirations) > 0) outcome = TooLate();
    if (!outcome.has_value()) return std::nullopt;
    finished_ = true;
    output_.Drain();
    if (outcome->status != 0) {
      const std::string printed = output_.Tail(kMaxCapturedBytes);
      if (!printed.empty()) outcome->log += (outcome->log.empty() ? "" : "\n") + printed;
    }
    if (outcome->log.size() > wire::kMaxBuildLogBytes) {
      constexpr std::string_view kCut = "\n[the log was cut here]";
      outcome->log.resize(wire::kMaxBuildLogBytes - kCut.size());
      outcome->log += kCut;
    }
    return outcome;
  }

  CapturedOutput output_;
  UniqueFd result_, states_;
  UniqueFd server_;  // its pidfd

 private:
  std::optional<CompileOutput> TakeStates() {
    BuildState state;
    while (true) {
      const auto received = ReceivePacket(states_.get(), std::as_writable_bytes(std::span(&state, 1)));
      if (!received.ok())
        return Failed("the build server ended before the build did; the node's log says more");
      if (received->none) return std::nullopt;
      switch (state.kind) {
        case BuildState::Kind::kStarted: started_ = true; break;
        case BuildState::Kind::kNotStarted:
          return CompileOutput{cl_status::kOutOfResources,
                               "the compiler could not be started: " + std::string(state.reason),
                               {}};
        case BuildState::Kind::kEnded: return Judge({.exit_code = state.exit_code, .signal = state.signal});
      }
    }
  }

  CompileOutput TooLate() {
    states_.reset();  // which ends the build
    // It has not come to this build: the server itself hangs, and the next build gets another one.
    if (!started_) syscall(SYS_pidfd_send_signal, server_.get(), SIGKILL, nullptr, 0);
    return Failed("the build took longer than " + std::to_string(deadline_.count()) +
                  " s and was stopped; build smaller programs, or raise the build deadline of the node");
  }

  CompileOutput Judge(const sandbox::ExitStatus& exit) {
    if (exit.signal == SIGKILL && control_group_ != nullptr &&
        control_group_->Usage().memory_kills != kills_before_)
      return Failed(
          "the compiler was ended: there was no more of the host's memory for it; build smaller programs");
    if (exit.signal != 0 || exit.exit_code != 0)
      return Failed("the compiler crashed: the builder " + exit.Text());
    auto file = ReadBuildFile(result_.get());
    wire::exec::CompileReply reply;
    wire::Arena arena;
    if (!file.ok() ||
        wire::Decode(file->body, file->payload.size(), arena, &reply) != wire::WireResult::kOk) {
      return Failed("the builder's result cannot be read");
    }
    return {reply.status, std::string(reply.log.text), std::move(file->payload)};
  }

  const std::chrono::seconds deadline_;
  const std::shared_ptr<const sandbox::ControlGroup> control_group_;
  const std::uint64_t kills_before_;
  UniqueFd timer_, poll_;
  bool started_ = false;
  bool finished_ = false;

  friend class BuildProcess;
};

BuildProcess::BuildProcess(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BuildProcess::~BuildProcess() = default;
int BuildProcess::fd() const { return impl_->poll_.get(); }
std::optional<CompileOutput> BuildProcess::TryFinish() { return impl_->TryFinish(); }

class BuildServer::Impl {
 public:
  explicit Impl(BuildOptions options) : options_(std::move(options)) {}
  ~Impl() {
    auto server = server_.lock();
    if (server->has_value()) End(**server);
  }

  // Hands an order over, to a new server if there is none or if it has ended. Returns the server's pidfd.
  Result<UniqueFd> Send(const BuildOrder& order, std::span<const int> fds) {
    auto server = server_.lock();
    for (bool retried = false;; retried = true) {
      if (!server->has_value()) {
        TULLE_ASSIGN_OR_RETURN(*server, StartServer());
      }
      const Status sent = SendPacket((*server)->orders.get(), AsBytes(order), fds);
      if (sent.ok()) return UniqueFd(dup((*server)->process.pidfd()));
      if (retried || sent.error().code != Code::kUnavailable) return sent.error();
      End(**server);
      server->reset();
    }
  }

  const BuildOptions options_;

 private:
  struct Server {
    std::string folder;  // where drivers write
    Subprocess process;
    UniqueFd orders;
  };

  static ByteView AsBytes(const BuildOrder& order) { return std::as_bytes(std::span(&order, 1)); }

  Result<std::optional<Server>> StartServer() {
    TULLE_ASSIGN_OR_RETURN(auto pair, MakeSeqPacketPair());
    SubprocessSpec spec;
    spec.argv = options_.argv;
    spec.program = options_.binary;
    // In /tmp, because builders have one, too.
    std::string folder = "/tmp/tulle-builds-XXXXXX";
    if (mkdtemp(folder.data()) == nullptr) return ErrnoError("a folder for compilers in /tmp", errno);
    std::vector<std::string> environment = options_.environment;
    environment.push_back(kFolderVariable + ("=" + folder));
    environment.push_back("HOME=" + folder);
    environment.push_back("POCL_CACHE_DIR=" + folder + "/pocl");
    spec.environment = DriverEnvironment(environment);
    spec.fds = {{-1, STDIN_FILENO}, {pair.child.get(), kOrdersFd}};
    spec.own_group = true;
    auto process = Subprocess::Start(spec);
    if (!process.ok()) {
      rmdir(folder.c_str());
      return process.error();
    }
    if (options_.control_group != nullptr) {
      if (const Status entered = options_.control_group->Enter(process->pid()); !entered.ok()) {
        process->Signal(SIGKILL);
        process->Wait(kServerEnds);
        rmdir(folder.c_str());
        return entered.error();
      }
    }
    return std::optional<Server>(std::in_place, std::move(folder), std::move(*process),
                                 std::move(pair.parent));
  }

  static void End(Server& server) {
    server.orders.reset();  // which ends it
    if (!server.process.Wait(kServerEnds).has_value()) {
      server.process.Signal(SIGKILL);
      server.process.Wait(kServerEnds);
    }
    std::error_code ignored;
    std::filesystem::remove_all(server.folder, ignored);
  }

  Guarded<std::optional<Server>> server_;
};

BuildServer::BuildServer(BuildOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
BuildServer::~BuildServer() = default;

Result<std::unique_ptr<BuildProcess>> BuildServer::Start(const BuildRequest& request) {
  const BuildOptions& options = impl_->options_;
  const UniqueFd given(memfd_create("tulle program", MFD_CLOEXEC));
  UniqueFd result(memfd_create("tulle binary", MFD_CLOEXEC));
  if (!given.valid() || !result.valid()) return ErrnoError("files for a build", errno);
  wire::exec::Compile compile;
  compile.device_index = options.device_index;
  compile.kind.value = request.kind;
  compile.options.text = request.options;
  compile.text.size_bytes = request.text.size();
  if (!WriteBuildFile(given.get(), kCompile, compile, request.text))
    return ErrnoError("handing a program to a builder", errno);
  TULLE_ASSIGN_OR_RETURN(auto output, CapturedOutput::Create(/*drop_when_full=*/false));
  TULLE_ASSIGN_OR_RETURN(auto states, MakeSeqPacketPair());
  auto build = std::make_unique<BuildProcess::Impl>(std::move(output), std::move(result),
                                                    std::move(states.parent), options);
  TULLE_RETURN_IF_ERROR(build->Watch());

  const BuildOrder order = {.device_index = options.device_index,
                            .best_effort = options.best_effort ? 1u : 0u,
                            .idle_seconds = options.idle.count(),
                            .address_space_bytes = options.address_space_bytes,
                            .cpu_seconds = options.cpu_seconds,
                            .tmp_bytes = options.tmp_bytes};
  const std::array fds = {given.get(), build->result_.get(), build->output_.child_fd(), states.child.get()};
  TULLE_ASSIGN_OR_RETURN(build->server_, impl_->Send(order, fds));
  build->output_.CloseChildEnd();
  return std::unique_ptr<BuildProcess>(new BuildProcess(std::move(build)));
}

}  // namespace tulle::gpu::isolated
