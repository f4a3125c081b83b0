#include "tulle/base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tulle/base/check.h"

namespace tulle {
namespace {

// What the child must know, all of it made before the fork: after it only async-signal-safe calls are
// allowed.
struct Plan {
  const char* const* candidates;  // paths to try, null-terminated
  char* const* argv;
  char* const* environment;
  std::pair<int, int>* fds;
  std::size_t fd_count;
  int death_signal;
  bool own_group;
  bool keep_other_fds;
  bool keep_ignored_signals;
  pid_t parent;
  int error_pipe;
};

[[noreturn]] void FailChild(int error_pipe) {
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_pipe, &error, sizeof error);
  _exit(127);
}

[[noreturn]] void RunChild(Plan& plan) {
  if (plan.own_group && setpgid(0, 0) != 0) FailChild(plan.error_pipe);
  if (plan.death_signal != 0) {
    if (prctl(PR_SET_PDEATHSIG, plan.death_signal) != 0) FailChild(plan.error_pipe);
    if (getppid() != plan.parent) _exit(127);  // the parent died before the line above
  }
  // Out of the way of all targets first, so that no dup2 overwrites a source that is still needed.
  int above = plan.error_pipe;
  for (std::size_t i = 0; i < plan.fd_count; ++i) above = std::max(above, plan.fds[i].second);
  const int error_pipe = fcntl(plan.error_pipe, F_DUPFD_CLOEXEC, above + 1);
  if (error_pipe < 0) FailChild(plan.error_pipe);
  for (std::size_t i = 0; i < plan.fd_count; ++i) {
    int& source = plan.fds[i].first;
    if (source >= 0) {
      source = fcntl(source, F_DUPFD_CLOEXEC, above + 1);
    } else {
      const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
      source = null < 0 ? -1 : fcntl(null, F_DUPFD_CLOEXEC, above + 1);
    }
    if (source < 0) FailChild(error_pipe);
  }
  for (std::size_t i = 0; i < plan.fd_count; ++i) {
    if (dup2(plan.fds[i].first, plan.fds[i].second) < 0) FailChild(error_pipe);
  }
  // Close the rest at exec: the gaps between the targets, which are few, and all above.
  for (unsigned from = 3; !plan.keep_other_fds && from <= static_cast<unsigned>(above); ++from) {
    bool wanted = false;
    for (std::size_t i = 0; i < plan.fd_count; ++i) wanted |= plan.fds[i].second == static_cast<int>(from);
    if (!wanted) fcntl(static_cast<int>(from), F_SETFD, FD_CLOEXEC);  // fails when it is not open: fine
  }
  if (!plan.keep_other_fds) syscall(SYS_close_range, above + 1, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);

  sigset_t none;
  sigemptyset(&none);
  for (int number = 1; number < 32; ++number) {
    struct sigaction action {};
    sigaction(number, nullptr, &action);
    if (!plan.keep_ignored_signals || action.sa_handler != SIG_IGN) signal(number, SIG_DFL);
  }
  pthread_sigmask(SIG_SETMASK, &none, nullptr);

  int error = ENOENT;
  for (const char* const* path = plan.candidates; *path != nullptr; ++path) {
    execve(*path, plan.argv, plan.environment);
    if (errno != ENOENT && errno != ENOTDIR) error = errno;
  }
  errno = error;
  FailChild(error_pipe);
}

std::vector<std::string> Candidates(const std::string& program) {
  if (program.find('/') != std::string::npos) return {program};
  std::vector<std::string> candidates;
  const char* path = getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (true) {
    const std::size_t colon = rest.find(':');
    const std::string_view folder = rest.substr(0, colon);
    candidates.push_back((folder.empty() ? "." : std::string(folder)) + "/" + program);
    if (colon == std::string_view::npos) return candidates;
    rest.remove_prefix(colon + 1);
  }
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

std::string ExitState::Text() const {
  if (signal == 0) return "exited with code " + std::to_string(exit_code);
  return "was killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")";
}

Result<Subprocess> Subprocess::Start(const SubprocessSpec& spec) {
  TULLE_CHECK(!spec.argv.empty());
  const std::string& program = spec.program.has_value() ? *spec.program : spec.argv[0];
  const std::vector<std::string> candidates = Candidates(program);
  const std::vector<char*> candidate_pointers = Pointers(candidates);
  const std::vector<char*> argv = Pointers(spec.argv);
  const std::vector<char*> environment =
      spec.environment ? Pointers(*spec.environment) : std::vector<char*>();
  std::vector<std::pair<int, int>> fds = spec.fds;

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("pipe", errno);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  Plan plan{.candidates = candidate_pointers.data(),
            .argv = argv.data(),
            .environment = spec.environment ? environment.data() : environ,
            .fds = fds.data(),
            .fd_count = fds.size(),
            .death_signal = spec.death_signal,
            .own_group = spec.own_group,
            .keep_other_fds = spec.keep_other_fds,
            .keep_ignored_signals = spec.keep_ignored_signals,
            .parent = getpid(),
            .error_pipe = write_end.get()};

  // No signal handler of ours may run in the child before it has reset them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = _Fork();  // not fork: a library's atfork handlers are not for a child that only executes
  if (pid == 0) RunChild(plan);
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return ErrnoError("cannot start " + program, fork_error);

  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_error = errno;
  write_end.reset();
  int error = 0;
  ssize_t got;
  do {
    got = read(read_end.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got != 0 || !pidfd.valid()) {
    if (!pidfd.valid()) kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (got == 0) return ErrnoError("pidfd_open (Linux 5.4 or newer is needed)", pidfd_error);
    Error failure = ErrnoError("cannot run " + program, error);
    failure.code = error == ENOENT   ? Code::kNotFound
                   : error == EACCES ? Code::kPermissionDenied
                                     : Code::kFailedPrecondition;
    return failure;
  }
  return Subprocess(pid, std::move(pidfd));
}

void Subprocess::Signal(int number) {
  if (!exit_) syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0);
}

std::optional<ExitState> Subprocess::TryWait() {
  if (exit_) return exit_;
  int status = 0;
  pid_t got;
  do {
    got = waitpid(pid_, &status, WNOHANG);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return std::nullopt;
  if (got < 0) {
    exit_ = ExitState{};  // somebody else reaped it: how it ended is not known
  } else if (WIFSIGNALED(status)) {
    exit_ = ExitState{.signal = WTERMSIG(status)};
  } else {
    exit_ = ExitState{.exit_code = WEXITSTATUS(status)};
  }
  return exit_;
}

std::optional<ExitState> Subprocess::Wait(Duration timeout) {
  const Instant deadline = SystemClock().Now() + timeout;
  for (;;) {
    if (auto exit = TryWait()) return exit;
    const Duration left = deadline - SystemClock().Now();
    if (left <= Duration(0)) return std::nullopt;
    pollfd waiting{pidfd_.get(), POLLIN, 0};
    poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left.count() / 1'000'000 + 1, 1'000'000)));
  }
}

}  // namespace tulle
