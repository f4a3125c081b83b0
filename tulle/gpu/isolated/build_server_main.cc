#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <list>
#include <string>

#include "tulle/base/seqpacket.h"
#include "tulle/gpu/isolated/build_file.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/isolated/protocol.h"
#include "tulle/sandbox/launcher.h"
#include "tulle/sandbox/lock.h"
#include "tulle/wire/schema/exec.h"

namespace tulle::gpu::isolated {

namespace {

// CL_COMPILER_NOT_AVAILABLE: a status of clBuildProgram, as CompileOutput::status is.
constexpr std::int32_t kCompilerNotAvailable = -3;

bool Answer(const CompileOutput& output) {
  wire::exec::CompileReply reply;
  reply.status = output.status;
  reply.log.text = std::string_view(output.log).substr(0, wire::kMaxBuildLogBytes);
  reply.binary.size_bytes = output.binary.size();
  return WriteBuildFile(kResultFd, wire::OpcodeIn<wire::exec::Compile>(wire::exec::kExecCommands), reply,
                        output.binary);
}

class Server {
 public:
  Server(Driver& driver, char** argv, std::vector<std::string> device_nodes, const char* folder)
      : driver_(driver), argv_(argv), device_nodes_(std::move(device_nodes)), folders_{folder} {}

  int Run() {
    prctl(PR_SET_NAME, "tulle-builds");
    // One heap for all threads: builders are copies of a thread that has not warmed one up of its own, and
    // those grow by a system call for each page.
    mallopt(M_ARENA_MAX, 1);
    while (true) {
      std::vector<pollfd> watched = {{kOrdersFd, POLLIN, 0}};
      for (const Build& build : builds_) {
        watched.push_back({build.child->pidfd(), POLLIN, 0});
        watched.push_back({build.states.get(), POLLIN, 0});
      }
      const bool waits_long = builds_.empty() && launcher_ != nullptr;
      const int ready = poll(watched.data(), watched.size(), waits_long ? idle_ms_ : -1);
      if (ready < 0 && errno != EINTR) return 1;
      if (ready < 0) continue;
      if (ready == 0) RunAnew();
      std::size_t at = 1;
      std::erase_if(builds_, [&](Build& build) {
        const bool ended = watched[at].revents != 0, unwanted = watched[at + 1].revents != 0;
        at += 2;
        if (ended) Tell(build);
        return ended || unwanted;  // its destructor kills what still runs
      });
      if (watched[0].revents != 0 && !TakeOrders()) break;
    }
    builds_.clear();
    std::error_code ignored;
    std::filesystem::remove_all(folders_.front(), ignored);  // should the worker not have come to it
    return 0;
  }

 private:
  struct Build {
    std::unique_ptr<sandbox::Child> child;
    UniqueFd states;
  };

  // Gives back all that drivers hold, memory above all, and waits for the next order. None is lost: they wait
  // in the socket.
  [[noreturn]] void RunAnew() {
    fcntl(kOrdersFd, F_SETFD, 0);
    execv("/proc/self/exe", argv_);
    _exit(1);  // the next order starts another server
  }

  // False: the worker is gone.
  bool TakeOrders() {
    while (true) {
      BuildOrder order;
      auto received = ReceivePacket(kOrdersFd, std::as_writable_bytes(std::span(&order, 1)));
      if (!received.ok()) return false;
      if (received->none) return true;
      if (received->size_bytes != sizeof order || received->fds.size() != 4) return false;
      Start(order, received->fds);
    }
  }

  void Start(const BuildOrder& order, std::vector<UniqueFd>& fds) {
    idle_ms_ = static_cast<int>(order.idle_seconds * 1000);
    UniqueFd& states = fds[3];
    if (const Status ready = GetReady(order); !ready.ok()) return Refuse(states.get(), ready.error());
    sandbox::ChildSpec spec;
    spec.entry = [this, &order] { return RunBuilder(order); };
    spec.fds = {-1, fds[2].get(), fds[2].get(), fds[0].get(), fds[1].get()};
    static_assert(kRequestFd == 3 && kResultFd == 4);
    spec.device_nodes = device_nodes_;
    spec.tmp_bytes = order.tmp_bytes;
    spec.address_space_bytes = order.address_space_bytes;
    spec.cpu_seconds = order.cpu_seconds;
    spec.file_bytes = order.tmp_bytes;
    auto child = launcher_->Start(spec);
    if (!child.ok()) return Refuse(states.get(), child.error());
    Send(states.get(), {.kind = BuildState::Kind::kStarted});
    builds_.push_back({std::move(*child), std::move(states)});
  }

  // Once, by the first order: nothing is loaded before it is needed.
  Status GetReady(const BuildOrder& order) {
    if (launcher_ != nullptr) return OkStatus();
    TULLE_ASSIGN_OR_RETURN(launcher_, sandbox::Launcher::Create({.best_effort = order.best_effort != 0}));
    if (!SurvivesCopies(order.device_index)) return OkStatus();
    auto compiler = driver_.OpenCompiler(order.device_index);
    if (!compiler.ok()) return OkStatus();  // the builder will meet the same, and tell
    compiler_ = std::move(*compiler);
    compiler_of_ = order.device_index;
    // The first program is what takes long.
    compiler_->Compile(wire::opencl::ProgramKind::kSource,
                       AsBytes("kernel void warm_up(global int* a) { a[get_global_id(0)] = 1; }"), "");
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folders_.front())) {
      if (entry.is_directory()) folders_.push_back(entry.path());
    }
    return OkStatus();
  }

  // Asked in a child, because this process must not have loaded a driver that does not.
  bool SurvivesCopies(std::uint32_t device_index) {
    const pid_t pid = fork();
    if (pid == 0) {
      const auto compiler = driver_.OpenCompiler(device_index);
      _exit(compiler.ok() && (*compiler)->SurvivesCopies() ? 0 : 1);
    }
    int status = 1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return pid > 0 && status == 0;
  }

  static void Send(int socket, const BuildState& state) {
    (void)SendPacket(socket, std::as_bytes(std::span(&state, 1)));  // fails when it is no longer wanted
  }
  static void Refuse(int socket, const Error& error) {
    BuildState state = {.kind = BuildState::Kind::kNotStarted};
    error.message.copy(state.reason, sizeof state.reason - 1);
    Send(socket, state);
  }
  static void Tell(Build& build) {
    const auto exit = build.child->TryWait();
    TULLE_CHECK(exit.has_value());
    Send(build.states.get(),
         {.kind = BuildState::Kind::kEnded, .exit_code = exit->exit_code, .signal = exit->signal});
  }

  // --- in the builder ---

  int RunBuilder(const BuildOrder& order) {
    for (const std::string& folder : folders_) mkdir(folder.c_str(), 0700);
    const auto file = ReadBuildFile(kRequestFd);
    if (!file.ok()) return 2;
    return Answer(Compile(*file, order.best_effort != 0)) ? 0 : 1;
  }

  CompileOutput Compile(const BuildFile& file, bool best_effort) {
    wire::exec::Compile request;
    wire::Arena arena;
    if (wire::Decode(file.body, file.payload.size(), arena, &request) != wire::WireResult::kOk) {
      return {kCompilerNotAvailable, "the builder was given a request that it cannot read", {}};
    }
    if (compiler_ == nullptr || compiler_of_ != request.device_index) {
      auto compiler = driver_.OpenCompiler(request.device_index);
      if (!compiler.ok()) return {kCompilerNotAvailable, compiler.error().message, {}};
      compiler_ = std::move(*compiler);
    }
    if (const Status locked = sandbox::Lock(
            sandbox::Role::kBuilder, {.best_effort = best_effort, .drives_devices = !device_nodes_.empty()});
        !locked.ok()) {
      return {kCompilerNotAvailable, locked.error().message, {}};
    }
    return compiler_->Compile(request.kind.value, file.payload, std::string(request.options.text));
  }

  Driver& driver_;
  char** const argv_;
  const std::vector<std::string> device_nodes_;
  // That of BuildServer, and what drivers have made in it and expect to be there; parents first. Builders
  // have them in a /tmp of their own.
  std::vector<std::string> folders_;
  std::unique_ptr<sandbox::Launcher> launcher_;
  std::unique_ptr<Compiler> compiler_;  // where it survives copies
  std::uint32_t compiler_of_ = 0;       // the device
  int idle_ms_ = -1;
  std::list<Build> builds_;  // as many as the worker has under way at once
};

}  // namespace

int RunBuildServer(Driver& driver, char** argv, std::vector<std::string> device_nodes) {
  const char* folder = getenv(kFolderVariable);
  return folder == nullptr ? 2 : Server(driver, argv, std::move(device_nodes), folder).Run();
}

}  // namespace tulle::gpu::isolated
