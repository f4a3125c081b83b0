// Starts one of the mesh's own programs (or a user's) as a child process: with an exact set of descriptors, a
// clean signal state, and a death signal, so that nothing is left behind when the parent is killed. No jail:
// see tulle/sandbox for that.
//
// A Subprocess belongs to one thread. It is not waited for by its destructor: reap it with TryWait or Wait.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle {

struct SubprocessSpec {
  std::vector<std::string> argv;
  std::optional<std::string> program;  // default: argv[0]; looked up in PATH when it has no '/'
  std::optional<std::vector<std::string>>
      environment;  // "NAME=value", the whole of it; default: the parent's
  // {ours, the child's number}. Standard input, output and error are inherited unless named here; every other
  // descriptor is closed in the child, see keep_other_fds. -1: /dev/null.
  std::vector<std::pair<int, int>> fds;
  // Descriptors that are not close-on-exec are inherited, as by fork and exec: for running a program in place
  // of whoever started us, who may have opened some for it.
  bool keep_other_fds = false;
  // Sent to the child when the *thread* that called Start ends; 0: none.
  int death_signal = 0;
  // A process group of its own, so that the terminal's signals do not reach it.
  bool own_group = false;
  // Signals that the parent ignores stay ignored, as nohup(1) wants it; else the child starts with the
  // defaults.
  bool keep_ignored_signals = false;
};

// How a process ended.
struct ExitState {
  int exit_code = -1;  // when it exited
  int signal = 0;      // when it was killed; else 0
  bool ok() const { return signal == 0 && exit_code == 0; }
  // As a shell shows it: the exit code, or 128 + the signal.
  int ShellCode() const { return signal != 0 ? 128 + signal : exit_code; }
  std::string Text() const;  // "exited with code 3", "was killed by signal 9 (Killed)"
};

class Subprocess {
 public:
  // Returns once the program runs; kNotFound, kPermissionDenied, ... when it could not be executed.
  static Result<Subprocess> Start(const SubprocessSpec& spec);

  Subprocess(Subprocess&&) = default;
  Subprocess& operator=(Subprocess&&) = default;

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }  // readable once the child has ended
  // To the child alone. Does nothing once it has been reaped.
  void Signal(int number);
  // The end, once there is one; the child is reaped by the first call that returns it.
  std::optional<ExitState> TryWait();
  // The same, waiting for at most `timeout`.
  std::optional<ExitState> Wait(Duration timeout);

 private:
  Subprocess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  pid_t pid_;
  UniqueFd pidfd_;
  std::optional<ExitState> exit_;
};

}  // namespace tulle
