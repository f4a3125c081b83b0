// Starts a child process in a jail: its own user, mount, pid, net, ipc and uts namespaces, a root of
// read-only system folders, no capability, no descriptor but the listed ones, a given environment. The jail
// is what the kernel keeps around the process; what the process may still ask of the kernel is lock.h.
//
// A program makes one Launcher and hands it to whatever starts processes. Children die with their launcher,
// whatever they do: it owns the thread whose end the kernel tells them with SIGKILL (PR_SET_PDEATHSIG is
// bound to a thread, so no session's thread may start them).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/base/guarded.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/sandbox/control_group.h"
#include "tulle/sandbox/layers.h"

namespace tulle::sandbox {

struct ChildSpec {
  std::string binary =
      "/proc/self/exe";  // as the parent sees it; run by descriptor, so it need not be in the jail
  // Instead of a binary: the child stays a copy of this process, and ends with what this returns as its exit
  // code (without exit handlers). Of its threads only the launcher's is there, on which this runs: all others
  // must be idle when Start() is called, so that no lock is held for ever. What memory holds is in the child,
  // too: nothing that its tenant may not see.
  std::function<int()> entry;
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value"; the whole of it
  std::vector<int> fds;  // fds[i] becomes descriptor i of the child; -1: /dev/null. Borrowed; at most 32.
  std::vector<std::string> read_only_paths;  // seen in the jail besides the system's folders
  // Files below /dev besides /dev/null and its like; those that are not there are left out. Who may open them
  // is said by their modes; where the launcher is root's, the jail's user is in no group.
  std::vector<std::string> device_nodes;
  std::uint64_t tmp_bytes =
      64ull << 20;                 // size of /tmp, the one place that can be written; gone with the child
  std::uint64_t open_files = 256;  // RLIMIT_NOFILE
  std::uint64_t tasks = 512;       // RLIMIT_NPROC: threads and processes of this jail
  std::uint64_t address_space_bytes = 0;  // RLIMIT_AS; 0: no limit
  std::uint64_t cpu_seconds = 0;          // RLIMIT_CPU; 0: no limit
  std::uint64_t file_bytes = 0;           // RLIMIT_FSIZE; 0: no limit
  // From its first instruction on; null: the parent's. Borrowed.
  const ControlGroup* control_group = nullptr;
};

struct ExitStatus {
  int exit_code = -1;             // when it exited
  int signal = 0;                 // when it was killed; else 0
  std::uint64_t cpu_time_ns = 0;  // of the process and the children that it waited for
  // "exited with code 3", "was killed by signal 11 (Segmentation fault)".
  std::string Text() const;
};

// A started child. Its destructor kills the child and waits for its end. All methods are thread-safe.
class Child {
 public:
  Child(pid_t pid, UniqueFd pidfd);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int pidfd() const { return pidfd_.get(); }  // readable (poll) once the child has ended
  pid_t pid() const { return pid_; }          // in the parent's pid namespace
  void Kill();
  // Stops all of its threads where they are; or lets them go on. It cannot prevent it.
  void Freeze(bool frozen);
  // The end, once there is one.
  std::optional<ExitStatus> TryWait();
  // CPU time so far, of all threads; the final one after the end.
  std::uint64_t CpuTimeNs();
  // Time in which its threads would have run if others had not been running, so far; 0: not known. Threads
  // that are gone no longer count.
  std::uint64_t CpuWaitNs();

 private:
  const pid_t pid_;
  const UniqueFd pidfd_;
  Guarded<std::optional<ExitStatus>> exit_;
};

struct LauncherOptions {
  // Start children although required layers are missing, with what the host gives. For development only: what
  // is missing then no longer stands between a tenant's kernel and the host.
  bool best_effort = false;
};

// Thread-safe.
class Launcher {
 public:
  // Tries the layers (Probe(), some milliseconds). kFailedPrecondition names each required layer that this
  // host does not give, with its fix.
  static Result<std::unique_ptr<Launcher>> Create(const LauncherOptions& options);
  ~Launcher();  // kills the children that still live
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  // Returns when the child runs its binary or entry, or the step that failed (a few milliseconds).
  Result<std::unique_ptr<Child>> Start(const ChildSpec& spec);

  const std::vector<Layer>& layers() const;
  bool best_effort() const;

 private:
  class Impl;
  explicit Launcher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::sandbox
