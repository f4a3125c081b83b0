#include "tulle/sandbox/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <filesystem>
#include <fstream>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "tulle/sandbox/jail.h"

namespace tulle::sandbox {

namespace {

// Who a jail's process is inside, and outside when the parent is root: nobody.
constexpr unsigned kInnerId = 1000;
constexpr unsigned kNobody = 65534;

// Where the host has no memory left, its kernel takes a child for one that uses so much of the host's memory
// more than this process, and at least so much more than it does, in thousandths (proc(5), oom_score_adj):
// rather a tenant's code is ended than what serves others.
constexpr int kEndedBefore = 300, kEndedBeforeOthers = 500, kEndedFirst = 1000;

std::string EndedBefore() {
  int own = 0;
  std::ifstream("/proc/self/oom_score_adj") >> own;
  return std::to_string(std::min(std::max(own + kEndedBefore, kEndedBeforeOthers), kEndedFirst));
}

constexpr unsigned long kNamespaces =
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

std::uint64_t Nanoseconds(const timeval& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_usec) * 1'000u;
}

bool WriteFile(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Gives the child its one user and group id. Root gives it nobody's, so that what the jail might miss is not
// root's either; who is not root can only give its own.
bool MapIds(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  const auto map = [](unsigned outer) {
    return std::to_string(kInnerId) + " " + std::to_string(outer) + " 1";
  };
  if (geteuid() == 0 && WriteFile(proc + "/gid_map", map(kNobody)) &&
      WriteFile(proc + "/uid_map", map(kNobody))) {
    return true;
  }
  return WriteFile(proc + "/setgroups", "deny") && WriteFile(proc + "/gid_map", map(getegid())) &&
         WriteFile(proc + "/uid_map", map(geteuid()));
}

}  // namespace

std::string ExitStatus::Text() const {
  if (signal == 0) return "exited with code " + std::to_string(exit_code);
  std::string text = "was killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")";
  if (signal == SIGSYS) text += ": it asked the kernel for what the sandbox forbids";
  return text;
}

Child::Child(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

Child::~Child() {
  Kill();
  struct pollfd ended = {pidfd_.get(), POLLIN, 0};
  while (!TryWait().has_value()) poll(&ended, 1, -1);
}

void Child::Kill() { syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0); }

void Child::Freeze(bool frozen) {
  syscall(SYS_pidfd_send_signal, pidfd_.get(), frozen ? SIGSTOP : SIGCONT, nullptr, 0);
}

std::optional<ExitStatus> Child::TryWait() {
  auto exit = exit_.lock();
  if (exit->has_value()) return *exit;
  siginfo_t info = {};
  struct rusage usage = {};
  // The system call, because the library's waitid() leaves out the usage.
  const long result = syscall(SYS_waitid, P_PIDFD, pidfd_.get(), &info, WEXITED | WNOHANG, &usage);
  if (result == 0 && info.si_pid == 0) return std::nullopt;
  ExitStatus status;
  if (result != 0) {
    status.signal = SIGKILL;  // someone else has waited for it; that it has ended is all there is to know
  } else if (info.si_code == CLD_EXITED) {
    status.exit_code = info.si_status;
  } else {
    status.signal = info.si_status;
  }
  status.cpu_time_ns = Nanoseconds(usage.ru_utime) + Nanoseconds(usage.ru_stime);
  *exit = status;
  return status;
}

std::uint64_t Child::CpuTimeNs() {
  auto exit = exit_.lock();  // while it is held nobody waits for the child, so its pid stays its own
  if (exit->has_value()) return (*exit)->cpu_time_ns;
  clockid_t clock;
  timespec time = {};
  if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(time.tv_nsec);
}

// The second number of proc(5)'s schedstat, "time spent waiting on a runqueue".
std::uint64_t Child::CpuWaitNs() {
  auto exit = exit_.lock();  // as in CpuTimeNs
  if (exit->has_value()) return 0;
  std::uint64_t wait_ns = 0;
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task", error)) {
    std::ifstream file(task.path() / "schedstat");
    std::uint64_t ran_ns = 0, waited_ns = 0;
    if (file >> ran_ns >> waited_ns) wait_ns += waited_ns;
  }
  return wait_ns;
}

StartResult StartChild(const ChildSpec& spec, const JailMode& mode) {
  StartResult result;
  const auto fail = [&](Step step, int error_number) {
    result.failure = {step, error_number};
    return std::move(result);
  };
  UniqueFd binary;
  if (!spec.entry) {
    binary.reset(open(spec.binary.c_str(), O_RDONLY | O_CLOEXEC));
    if (!binary.valid()) return fail(Step::kExec, errno);
  }
  const Plan plan(spec, mode, binary.get());

  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return fail(Step::kDescriptors, errno);
  UniqueFd go_read(pipe_fds[0]), go_write(pipe_fds[1]);
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return fail(Step::kDescriptors, errno);
  UniqueFd report_read(pipe_fds[0]), report_write(pipe_fds[1]);

  // A plain clone, as fork does it, without running the library's fork handlers: on its way into the jail the
  // child only makes system calls. (Not clone3: container runtimes refuse it, since they cannot look into its
  // arguments.)
  int pidfd = -1;
  const unsigned long flags = (mode.namespaces ? kNamespaces : 0) | CLONE_PIDFD | SIGCHLD;
  const pid_t pid = static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, &pidfd, nullptr, nullptr));
  if (pid < 0) return fail(Step::kClone, errno);
  if (pid == 0) {
    close(go_write.release());
    char go;
    if (read(go_read.get(), &go, 1) != 1) _exit(127);
    const unsigned id = mode.namespaces ? kInnerId : geteuid() == 0 ? kNobody : geteuid();
    plan.Enter(id, go_read.get(), report_write.get());
  }
  result.child = std::make_unique<Child>(pid, UniqueFd(pidfd));
  go_read.reset();
  report_write.reset();
  if (mode.namespaces && !MapIds(pid)) {
    const int error_number = errno;
    result.child.reset();
    return fail(Step::kMapIds, error_number);
  }
  if (spec.control_group != nullptr) {
    errno = 0;
    if (!spec.control_group->Enter(pid).ok()) {
      const int error_number = errno != 0 ? errno : EIO;
      result.child.reset();
      return fail(Step::kControlGroup, error_number);
    }
  }
  // A kernel that has it otherwise is not asked again.
  (void)WriteFile("/proc/" + std::to_string(pid) + "/oom_score_adj", EndedBefore());
  const char go = 1;
  [[maybe_unused]] const ssize_t written = write(go_write.get(), &go, 1);

  // The report's end closes with exec or before the entry, or brings what failed before.
  Failure failure;
  ssize_t got;
  do {
    got = read(report_read.get(), &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  if (got == 0) {
    // Closed on purpose, or because the child was killed on its way.
    return result;
  }
  result.child.reset();
  return got == static_cast<ssize_t>(sizeof failure) ? fail(failure.step, failure.error_number)
                                                     : fail(Step::kExec, EIO);
}

// One thread that lives as long as the launcher, and starts all children.
class Launcher::Impl {
 public:
  explicit Impl(const LauncherOptions& options) : options_(options), thread_([this] { Loop(); }) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  // Runs `work` on the launcher's thread and waits for it.
  void Run(const std::function<void()>& work) {
    std::packaged_task<void()> task(work);
    auto done = task.get_future();
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
    done.wait();
  }

  const LauncherOptions options_;
  JailMode mode_;
  std::vector<Layer> layers_;

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::packaged_task<void()>> tasks_;  // at most one for each thread that starts a child
  bool ending_ = false;
  std::thread thread_;
};

Launcher::Launcher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Launcher::~Launcher() = default;

Result<std::unique_ptr<Launcher>> Launcher::Create(const LauncherOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  impl->Run([&] { impl->layers_ = Probe(&impl->mode_); });
  std::string missing;
  for (const Layer& layer : impl->layers_) {
    if (!layer.required || layer.available) continue;
    missing += "\n  " + layer.name + ": " + layer.problem + "; " + layer.fix;
  }
  if (!missing.empty() && !options.best_effort) {
    return Error{Code::kFailedPrecondition,
                 "this host does not give what keeps tenants' code apart:" + missing, Scope::kNode,
                 Retry::kNo};
  }
  return std::unique_ptr<Launcher>(new Launcher(std::move(impl)));
}

Result<std::unique_ptr<Child>> Launcher::Start(const ChildSpec& spec) {
  StartResult result;
  impl_->Run([&] { result = StartChild(spec, impl_->mode_); });
  if (result.child != nullptr) return std::move(result.child);
  Error error = ErrnoError(std::string(StepText(result.failure.step)) + " for a child process (" +
                               (spec.entry ? "a copy of this one" : spec.binary) + ")",
                           result.failure.error_number);
  error.code = Code::kUnavailable;
  return error;
}

const std::vector<Layer>& Launcher::layers() const { return impl_->layers_; }
bool Launcher::best_effort() const { return impl_->options_.best_effort; }

}  // namespace tulle::sandbox
