// How one child is started: cloned into new namespaces, and what it does from there to put itself into a
// jail. Internal to the sandbox.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tulle/sandbox/launcher.h"

namespace tulle::sandbox {

// The steps of a child's way into the jail; a failure names the one that did not work.
enum class Step : int {
  kClone,
  kMapIds,
  kControlGroup,
  kParentDied,
  kIdentity,
  kMountTmpfs,
  kPivot,
  kBind,
  kDevices,
  kProc,
  kReadOnly,
  kHostname,
  kDescriptors,
  kLimits,
  kCapabilities,
  kNoNewPrivileges,
  kExec,
};
const char* StepText(Step step);

struct Failure {
  Step step = Step::kExec;
  int error_number = 0;
};

// Which of the optional ways the host offers; found by Probe().
struct JailMode {
  bool namespaces = true;  // false: best effort, no jail at all
  bool own_proc = true;    // false: a few files of the host's /proc stand in
  bool landlock = true;
};

// Everything as the child needs it, since it may not allocate: it is a copy of one thread of many.
class Plan {
 public:
  Plan(const ChildSpec& spec, const JailMode& mode, int binary_fd);  // -1: spec.entry
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // In the child, after its ids were mapped: becomes `id`, enters the jail and runs the binary or the entry.
  // Up to there only system calls, no memory. `go_fd` hangs up when the parent has died; what fails is
  // written to `report_fd`.
  [[noreturn]] void Enter(unsigned id, int go_fd, int report_fd) const;

 private:
  struct Mount {
    std::string source;  // below /old
    std::string target;  // below /new
    bool folder = true;
  };
  Failure TryEnter(unsigned id, int go_fd, int* report_fd) const;
  bool BuildRoot(Failure* failure) const;
  bool SetLimits() const;
  void RestrictWithLandlock() const;

  const ChildSpec& spec_;
  const JailMode mode_;
  const int binary_fd_;
  std::vector<std::string> folders_;                        // below /new, parents first
  std::vector<std::pair<std::string, std::string>> links_;  // {text, path below /new}
  std::vector<Mount> binds_;
  std::vector<Mount> devices_;
  std::string tmp_options_;
  std::vector<char*> argv_;
  std::vector<char*> environment_;
};

// Either a child that runs its binary, or what failed. To be called by a thread that outlives the child.
struct StartResult {
  std::unique_ptr<Child> child;
  Failure failure;
};
StartResult StartChild(const ChildSpec& spec, const JailMode& mode);

// Probe(), and the strictest mode that works here.
std::vector<Layer> Probe(JailMode* mode);

}  // namespace tulle::sandbox
