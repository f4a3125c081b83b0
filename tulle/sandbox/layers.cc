#include "tulle/sandbox/layers.h"

#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tulle/sandbox/jail.h"

namespace tulle::sandbox {

namespace {

std::string Reason(const Failure& failure) {
  return std::string(StepText(failure.step)) + " failed: " + std::strerror(failure.error_number);
}

// Runs a program that does nothing in a jail; a failure to run it at all counts as one of exec.
Failure TryJail(const JailMode& mode) {
  ChildSpec spec;
  spec.binary = "/bin/true";
  spec.argv = {"true"};
  spec.fds = {-1, -1, -1};
  StartResult result = StartChild(spec, mode);
  if (result.child == nullptr) return result.failure;
  pollfd ended = {result.child->pidfd(), POLLIN, 0};
  poll(&ended, 1, 10'000);
  const auto exit = result.child->TryWait();
  return {Step::kExec, exit.has_value() && exit->exit_code == 0 ? 0 : ENOEXEC};
}

constexpr char kContainerFix[] =
    "in a container, run it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined";

}  // namespace

std::vector<Layer> Probe(JailMode* mode) {
  *mode = {};
  // ABI 1 forbids every rename from folder to folder, which compilers' caches need.
  const long landlock_abi = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  mode->landlock = landlock_abi >= 2;

  Failure failure = TryJail(*mode);
  const Failure proc_failure = failure;
  if (failure.step == Step::kProc) {
    mode->own_proc = false;
    failure = TryJail(*mode);
  }
  const bool namespaces =
      failure.step != Step::kClone && failure.step != Step::kMapIds && failure.step != Step::kIdentity;
  const bool jailed = failure.error_number == 0;
  mode->namespaces = jailed;

  std::vector<Layer> layers;
  layers.push_back(
      {.name = "namespaces",
       .purpose = "no process, network, host name or IPC object of the host is visible, and no "
                  "privilege outside",
       .required = true,
       .available = namespaces,
       .problem = namespaces ? "" : Reason(failure),
       .fix = std::string("allow user namespaces: sysctl -w user.max_user_namespaces=15000, and where "
                          "they exist kernel.unprivileged_userns_clone=1 and "
                          "kernel.apparmor_restrict_unprivileged_userns=0; ") +
              kContainerFix});
  layers.push_back(
      {.name = "private root",
       .purpose = "only the system's read-only folders and an own /tmp are there",
       .required = true,
       .available = jailed,
       .problem = jailed       ? ""
                  : namespaces ? Reason(failure)
                               : "needs namespaces",
       .fix = std::string("allow mounts inside user namespaces, on Linux 5.12 or newer; ") + kContainerFix});
  const bool own_proc = jailed && mode->own_proc;
  layers.push_back(
      {.name = "own /proc",
       .purpose = "drivers find /proc/self; without it, they get a few files of the host's /proc",
       .required = false,
       .available = own_proc,
       .problem = own_proc ? ""
                  : jailed ? Reason(proc_failure)
                           : "needs a private root",
       .fix = "in a container, run it with --security-opt systempaths=unconfined (podman: "
              "unmask=/proc/*)"});
  const bool no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0;
  layers.push_back({.name = "no new privileges",
                    .purpose = "no set-user-ID program raises what a child may do",
                    .required = true,
                    .available = no_new_privileges,
                    .problem = no_new_privileges ? "" : "the kernel does not know PR_SET_NO_NEW_PRIVS",
                    .fix = "use Linux 3.5 or newer"});
  // No filter is given, so a kernel that can do it complains about the address and nothing else.
  const bool filter =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, nullptr) != 0 &&
      errno == EFAULT;
  layers.push_back({.name = "system call filter",
                    .purpose = "only the system calls that a driver needs reach the kernel",
                    .required = true,
                    .available = filter,
                    .problem = filter ? "" : "the kernel has no seccomp filters for all threads at once",
                    .fix = "use a kernel with CONFIG_SECCOMP_FILTER (3.17 or newer)"});
  layers.push_back(
      {.name = "Landlock",
       .purpose = "writing is possible below /tmp only, whatever the mounts say",
       .required = false,
       .available = mode->landlock,
       .problem = mode->landlock     ? ""
                  : landlock_abi < 0 ? "the kernel has no Landlock"
                                     : "it is too old",
       .fix =
           "use Linux 5.19 or newer with Landlock among its security modules (boot with lsm=landlock,...)"});
  for (Layer& layer : layers) {
    if (layer.available) layer.fix.clear();
  }
  return layers;
}

std::vector<Layer> Probe() {
  JailMode mode;
  return Probe(&mode);
}

}  // namespace tulle::sandbox
