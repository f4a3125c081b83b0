#include "apps/tulle/up.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "apps/tulle/join.h"
#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/paths.h"
#include "tulle/base/subprocess.h"
#include "tulle/base/unique_fd.h"
#include "tulle/sdk/client.h"
#include "tulle/security/files.h"
#include "tulle/security/identity.h"

namespace tulle::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kReadyTimeout = seconds(120);  // a node's first start measures its GPUs
constexpr Duration kStopTimeout = seconds(15);    // then children are killed
constexpr Duration kDownTimeout = seconds(30);
constexpr Duration kHealthy = seconds(30);  // a child that ran this long may be restarted at once
constexpr Duration kInvitationLifetime = std::chrono::hours(1);
constexpr int kMaxRestarts = 5;  // in a row
constexpr int kReadyFd = 3;
constexpr std::size_t kMaxReadyBytes = 4096;
constexpr int kLastLines = 12;  // of a log, in an error

void Print(const std::string& text) {
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
}

// ---- one mesh per state directory

class Lock {
 public:
  // Nothing when another process has it; `holder` is that one then (0: not known).
  static Result<std::optional<Lock>> Take(const std::string& state_dir, pid_t* holder) {
    const std::string path = state_dir + "/up.lock";
    Lock lock(UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)));
    if (!lock.fd_.valid()) return ErrnoError("cannot open " + path, errno);
    if (flock(lock.fd_.get(), LOCK_EX | LOCK_NB) == 0) return std::optional(std::move(lock));
    char text[32] = {};
    *holder = 0;
    const ssize_t size = pread(lock.fd_.get(), text, sizeof text - 1, 0);
    if (size > 0) std::from_chars(text, text + size, *holder);
    return std::optional<Lock>();
  }
  void WritePid() {
    const std::string text = std::to_string(getpid()) + "\n";
    [[maybe_unused]] const bool done =
        ftruncate(fd_.get(), 0) == 0 && pwrite(fd_.get(), text.data(), text.size(), 0) > 0;
  }

 private:
  explicit Lock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// ---- the children

using Facts =
    std::map<std::string, std::string>;  // what a child said when it was ready: "data HOST:PORT", ...

struct Program {
  std::string name;               // for people and for the log's name
  std::vector<std::string> argv;  // without --ready-fd
  std::string log_file;
};

class Child {
 public:
  explicit Child(Program program) : program_(std::move(program)) {}

  // Starts it; its log begins anew.
  Status Start(bool keep_log) {
    const UniqueFd log(open(program_.log_file.c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (keep_log ? 0 : O_TRUNC), 0600));
    if (!log.valid()) return ErrnoError("cannot open " + program_.log_file, errno);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("pipe", errno);
    ready_.reset(ends[0]);
    const UniqueFd write_end(ends[1]);
    std::vector<std::string> argv = program_.argv;
    argv.insert(argv.end(), {"--ready-fd", std::to_string(kReadyFd)});
    TULLE_ASSIGN_OR_RETURN(
        process_, Subprocess::Start({.argv = argv,
                                     .fds = {{-1, 0}, {log.get(), 1}, {log.get(), 2}, {ends[1], kReadyFd}},
                                     .death_signal = SIGTERM,
                                     .own_group = true}));
    started_ = SystemClock().Now();
    return OkStatus();
  }

  // Until it has said that it is ready. `signals`: a descriptor whose readability means to give up.
  Status WaitReady(int signals) {
    std::string text;
    const SystemClock clock;
    const Instant deadline = clock.Now() + kReadyTimeout;
    while (clock.Now() < deadline) {
      pollfd waiting[] = {{ready_.get(), POLLIN, 0}, {process_->pidfd(), POLLIN, 0}, {signals, POLLIN, 0}};
      poll(waiting, 3, 1000);
      if (waiting[2].revents != 0) return Error{.code = Code::kCancelled, .message = "interrupted"};
      if (waiting[0].revents != 0) {
        char buffer[512];
        const ssize_t got = read(ready_.get(), buffer, sizeof buffer);
        if (got > 0 && text.size() < kMaxReadyBytes) {
          text.append(buffer, static_cast<std::size_t>(got));
          continue;
        }
        if (!text.empty()) {
          std::istringstream lines(text);
          for (std::string key, value; lines >> key && std::getline(lines >> std::ws, value);)
            facts_[key] = value;
          ready_.reset();
          return OkStatus();
        }
      }
      if (const auto exit = process_->TryWait()) return Failed("it " + exit->Text());
    }
    return Failed("it was not ready after " + std::to_string(kReadyTimeout.count() / 1'000'000'000) + " s");
  }

  void Signal(int number) {
    if (process_) process_->Signal(number);
  }
  // Waits for its end, kills it when that does not come.
  void End() {
    if (!process_ || process_->Wait(kStopTimeout)) return;
    process_->Signal(SIGKILL);
    process_->Wait(seconds(5));
  }

  // Precondition: started.
  Subprocess& process() { return *process_; }
  const Program& program() const { return program_; }
  const Facts& facts() const { return facts_; }
  std::string fact(const std::string& key) const {
    const auto it = facts_.find(key);
    return it == facts_.end() ? "" : it->second;
  }

  // After it ended by itself: starts it again, at the addresses that it had.
  Status Restart(const std::vector<std::string>& argv) {
    restarts_ = SystemClock().Now() - started_ >= kHealthy ? 1 : restarts_ + 1;
    if (restarts_ > kMaxRestarts) return Failed("it ended " + std::to_string(restarts_) + " times in a row");
    program_.argv = argv;
    return Start(true);
  }

 private:
  // With the end of its log, where the reason is.
  Error Failed(const std::string& why) const {
    std::ifstream log(program_.log_file);
    std::vector<std::string> lines;
    for (std::string line; std::getline(log, line);) lines.push_back(line);
    std::string text = "the " + program_.name + " did not start: " + why + ". Its log, " + program_.log_file +
                       ", ends with:";
    for (std::size_t i = lines.size() > kLastLines ? lines.size() - kLastLines : 0; i < lines.size(); ++i) {
      text += "\n  " + lines[i];
    }
    return Error{.code = Code::kFailedPrecondition, .message = text};
  }

  Program program_;
  std::optional<Subprocess> process_;
  UniqueFd ready_;
  Facts facts_;
  Instant started_;
  int restarts_ = 0;
};

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

std::vector<std::string> NodeNames(int count) {
  char host[256] = "node";
  gethostname(host, sizeof host - 1);
  const std::string base = security::MakeName(host);
  if (count == 1) return {base};
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i)
    names.push_back(security::MakeName(base.substr(0, 55) + "-" + std::to_string(i)));
  return names;
}

class Mesh {
 public:
  Mesh(const UpOptions& options, int signals)
      : options_(options), signals_(signals), names_(NodeNames(options.nodes)) {}

  ~Mesh() { StopAll(); }

  Status Start() {
    const std::string logs = options_.state_dir + "/logs";
    TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(logs));
    controller_ = std::make_unique<Child>(Program{
        "controller", ControllerArgv(options_.listen, options_.http_listen), logs + "/controller.log"});
    TULLE_RETURN_IF_ERROR(controller_->Start(false));
    TULLE_RETURN_IF_ERROR(controller_->WaitReady(signals_));
    // One after the other: the first measures the GPUs, the others read what it kept.
    for (const std::string& name : names_) {
      nodes_.push_back(std::make_unique<Child>(
          Program{"node " + name, NodeArgv(name, HostOf(options_.listen) + ":0", "127.0.0.1:0"),
                  logs + "/node-" + name + ".log"}));
      TULLE_RETURN_IF_ERROR(nodes_.back()->Start(false));
      TULLE_RETURN_IF_ERROR(nodes_.back()->WaitReady(signals_));
    }
    return OkStatus();
  }

  std::string Banner() const {
    std::string text = "tulle " TULLE_VERSION ": a mesh runs on this machine\n\n";
    text += "  controller   " + controller_->fact("grpc") + ", JSON API https://" +
            controller_->fact("http") + "\n";
    for (const auto& node : nodes_) {
      text += "  " + node->program().name + "   data port " + node->fact("data") + ", metrics http://" +
              node->fact("http") + "/metrics\n";
    }
    text += Gpus();
    text += "  state, logs  " + options_.state_dir + "\n\nRun a program on a vGPU, in another terminal:\n\n";
    if (options_.name_state_dir) text += "  export TULLE_STATE_DIR=" + options_.state_dir + "\n";
    text += "  tulle run -- clinfo\n\n" + Invitations();
    text +=
        "See also `tulle status`, `tulle get gpus`, `tulle --help`. Ctrl-C stops "
        "everything.\n";
    return text;
  }

  // Until a signal says to stop, or a child cannot be kept alive.
  Status Watch() {
    for (;;) {
      std::vector<pollfd> waiting = {{signals_, POLLIN, 0}, {controller_->process().pidfd(), POLLIN, 0}};
      for (const auto& node : nodes_) waiting.push_back({node->process().pidfd(), POLLIN, 0});
      poll(waiting.data(), waiting.size(), -1);
      if (waiting[0].revents != 0) return OkStatus();
      TULLE_RETURN_IF_ERROR(Revive(*controller_, [this] {
        return ControllerArgv(controller_->fact("grpc"), controller_->fact("http"));
      }));
      for (std::size_t i = 0; i < nodes_.size(); ++i) {
        TULLE_RETURN_IF_ERROR(Revive(*nodes_[i], [&] {
          return NodeArgv(names_[i], nodes_[i]->fact("data"), nodes_[i]->fact("http"));
        }));
      }
    }
  }

  // Nodes first, so that they can take their leave.
  void StopAll() {
    for (const auto& node : nodes_) node->Signal(SIGTERM);
    for (const auto& node : nodes_) node->End();
    nodes_.clear();
    if (!controller_) return;
    controller_->Signal(SIGTERM);
    controller_->End();
    controller_.reset();
  }

 private:
  std::vector<std::string> ControllerArgv(const std::string& listen, const std::string& http_listen) const {
    std::vector<std::string> argv = {FindProgram("tulle-controller"),
                                     "--state-dir",
                                     options_.state_dir,
                                     "--listen",
                                     listen,
                                     "--http-listen",
                                     http_listen,
                                     "--log-level",
                                     options_.log_level};
    for (const std::string& name : names_) argv.insert(argv.end(), {"--node", name});
    argv.insert(argv.end(), options_.controller_arguments.begin(), options_.controller_arguments.end());
    return argv;
  }

  std::vector<std::string> NodeArgv(const std::string& name, const std::string& data,
                                    const std::string& http) const {
    std::vector<std::string> argv = {FindProgram("tulle-node"),
                                     "--name",
                                     name,
                                     "--state-dir",
                                     options_.state_dir + "/node",
                                     "--config",
                                     options_.state_dir + "/node-" + name + ".conf",
                                     "--data-listen",
                                     data,
                                     "--http-listen",
                                     http,
                                     "--log-level",
                                     options_.log_level,
                                     "--nodes-here",
                                     std::to_string(names_.size())};
    argv.insert(argv.end(), options_.node_arguments.begin(), options_.node_arguments.end());
    return argv;
  }

  template <typename Argv>
  Status Revive(Child& child, Argv argv) {
    const auto exit = child.process().TryWait();
    if (!exit) return OkStatus();
    std::fprintf(stderr, "tulle: the %s %s; starting it again (log: %s)\n", child.program().name.c_str(),
                 exit->Text().c_str(), child.program().log_file.c_str());
    TULLE_RETURN_IF_ERROR(child.Restart(argv()));
    return child.WaitReady(signals_);
  }

  // For a mesh that other machines can reach: the lines by which one of them joins, as a node or as a user's.
  // Each is for one use; `tulle token create` makes more.
  std::string Invitations() const {
    const std::string host = HostOf(options_.listen);
    if (host == "localhost" || host.starts_with("127.") || host == "[::1]") return "";
    const auto client = sdk::Client::Connect();
    if (!client.ok()) return "";
    const auto mesh = (*client)->GetMesh();
    if (!mesh.ok()) return "";
    const std::string user = mesh->caller.substr(mesh->caller.rfind('/') + 1);
    std::string text;
    for (const auto& [role, name, what] :
         {std::tuple(control::JoinRole::kNode, std::string(),
                     "Let another machine's GPUs join, within an hour:"),
          std::tuple(control::JoinRole::kUser, user,
                     "Use this mesh from another machine, within an hour:")}) {
      const auto token = (*client)->CreateToken(role, name, kInvitationLifetime);
      if (!token.ok()) return "";
      text +=
          std::string(what) + "\n\n  " + JoinLine(role, (*client)->config().endpoint, token->text) + "\n\n";
    }
    return text + "Each is for one use; `tulle token create` makes more.\n\n";
  }

  std::string Gpus() const {
    const auto client = sdk::Client::Connect();
    if (!client.ok()) return "";
    const auto gpus = (*client)->ListGpus({.timeout = seconds(5)});
    if (!gpus.ok()) return "";
    std::string text;
    for (const sdk::Gpu& gpu : *gpus) {
      if (!gpu.status.schedulable) continue;
      text += "  GPU " + gpu.metadata.name + "   " + FormatSize(gpu.status.allocatable_memory_bytes) +
              " and " + std::to_string(gpu.status.allocatable_compute_percent) +
              "% of its compute for vGPUs, " + std::to_string(gpu.spec.description.compute_units) +
              " compute units, " + gpu.spec.description.type + "\n";
    }
    return text.empty() ? "  no GPU was found; `tulle doctor` says more\n" : text;
  }

  const UpOptions& options_;
  const int signals_;
  const std::vector<std::string> names_;
  std::unique_ptr<Child> controller_;
  std::vector<std::unique_ptr<Child>> nodes_;
};

}  // namespace

Status Up(const UpOptions& options) {
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(options.state_dir));
  pid_t holder = 0;
  TULLE_ASSIGN_OR_RETURN(std::optional<Lock> lock, Lock::Take(options.state_dir, &holder));
  if (!lock) {
    return Error{.code = Code::kAlreadyExists,
                 .message = "a mesh runs already with its state in " + options.state_dir + " (process " +
                            std::to_string(holder) +
                            "); stop it with `tulle down`, or give this one another place with --state-dir"};
  }
  lock->WritePid();

  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const UniqueFd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));

  Mesh mesh(options, signal_fd.get());
  Status status = mesh.Start();
  if (status.ok()) {
    Print(mesh.Banner());
    if (options.ready_fd >= 0) {
      [[maybe_unused]] const ssize_t written = write(options.ready_fd, "ready\n", 6);
      close(options.ready_fd);
    }
    status = mesh.Watch();
  }
  const bool stopped = status.ok() || status.error().code == Code::kCancelled;
  if (stopped) Print("\nStopping ...\n");
  mesh.StopAll();
  return stopped ? OkStatus() : status;
}

Status UpDetached(const std::string& state_dir, const std::vector<std::string>& argv) {
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(state_dir));
  const std::string path = state_dir + "/up.log";
  const UniqueFd log(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!log.valid()) return ErrnoError("cannot open " + path, errno);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("pipe", errno);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  std::vector<std::string> command = argv;
  command.insert(command.end(), {"--ready-fd", std::to_string(kReadyFd)});
  TULLE_ASSIGN_OR_RETURN(
      Subprocess up, Subprocess::Start({.argv = command,
                                        .fds = {{-1, 0}, {log.get(), 1}, {log.get(), 2}, {ends[1], kReadyFd}},
                                        .own_group = true}));
  write_end.reset();
  char ready;
  const bool runs = read(read_end.get(), &ready, 1) == 1;  // it bounds its own start
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!runs) {
    up.Wait(kStopTimeout);
    return Error{.code = Code::kFailedPrecondition, .message = text.str()};
  }
  std::string banner = text.str();
  if (const std::size_t at = banner.find(" Ctrl-C"); at != std::string::npos) banner.resize(at);
  Print(banner + " `tulle down` stops everything.\n");
  return OkStatus();
}

Status Down(const std::string& state_dir) {
  const SystemClock clock;
  const Instant deadline = clock.Now() + kDownTimeout;
  if (access(state_dir.c_str(), F_OK) != 0) {
    return Error{.code = Code::kNotFound, .message = "no mesh has its state in " + state_dir};
  }
  for (bool told = false; clock.Now() < deadline; told = true) {
    pid_t holder = 0;
    TULLE_ASSIGN_OR_RETURN(const std::optional<Lock> lock, Lock::Take(state_dir, &holder));
    if (lock) {
      Print(told ? "The mesh has stopped.\n" : "No mesh runs with its state in " + state_dir + ".\n");
      return OkStatus();
    }
    if (!told && (holder <= 0 || kill(holder, SIGTERM) != 0)) {
      return ErrnoError("cannot stop process " + std::to_string(holder), errno);
    }
    poll(nullptr, 0, 50);
  }
  return Error{.code = Code::kDeadlineExceeded,
               .message = "the mesh did not stop in time; its logs are in " + state_dir + "/logs"};
}

}  // namespace tulle::cli
