#include "tulle/sandbox/lock.h"

#include <linux/sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include <cerrno>
#include <initializer_list>
#include <memory>

namespace tulle::sandbox {

namespace {

// Three answers, by what a call means:
//   - Allowed: what running or compiling kernels takes.
//   - Killed: what no driver, compiler or C library does once it is running. Whoever tries is an exploit; it
//     gets no second try, and the exit reason (SIGSYS) tells the operator.
//   - Everything else fails, most of it with ENOSYS: to a library the kernel looks older than it is, and it
//     falls back. (EPERM would be taken for a verdict on this one call; clone3 is the known example.) Where
//     EPERM is the ordinary answer (sockets, processes), it is that.
//
// Paths cannot be judged here. That nothing outside /tmp can be written is the work of the jail's mounts
// and of Landlock.

// Both roles, any arguments.
constexpr const char* kAllowed[] = {
    // memory
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "membarrier",
    "mlock",
    "munlock",
    "msync",
    "get_mempolicy",
    // threads and time
    "futex",
    "futex_waitv",
    "set_robust_list",
    "get_robust_list",
    "rseq",
    "sched_yield",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "getcpu",
    "gettid",
    "getpid",
    "getppid",
    "set_tid_address",
    "nanosleep",
    "clock_nanosleep",
    "clock_gettime",
    "clock_getres",
    "gettimeofday",
    "time",
    "getrusage",
    "times",
    "restart_syscall",
    "pause",
    "exit",
    "exit_group",
    // signals to oneself (abort) and their handlers
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigpending",
    "rt_sigtimedwait",
    "sigaltstack",
    "tgkill",
    // files
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "preadv",
    "pwritev",
    "lseek",
    "open",
    "openat",
    "creat",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "flock",
    "fsync",
    "fdatasync",
    "ftruncate",
    "truncate",
    "fallocate",
    "fadvise64",
    "stat",
    "fstat",
    "lstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents",
    "getdents64",
    "getcwd",
    "chdir",
    "fchdir",
    "mkdir",
    "mkdirat",
    "rmdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "umask",
    "utimensat",
    "utime",
    "utimes",
    "copy_file_range",
    "sendfile",
    // waiting on descriptors
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "pipe",
    "pipe2",
    "eventfd2",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    // about the host and oneself
    "uname",
    "sysinfo",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getresuid",
    "getresgid",
    "getgroups",
    "getpgrp",
    "getpgid",
    "getsid",
    "getrlimit",
    "getrandom",
    "getpriority",
    "arch_prctl",
};

// A builder starts the compiler's tools, and they are programs like others.
constexpr const char* kAllowedToBuild[] = {
    "fork",    "vfork",  "execve",    "execveat",  "wait4", "waitid", "kill",
    "setpgid", "setsid", "prlimit64", "setrlimit", "chmod", "fchmod", "fchmodat",
};

// An executor is given memory of others while it runs. What it may only read has no permissions as a file, so
// that it cannot be opened again for writing; it must not give it any.
constexpr const char* kAllowedToExecute[] = {"recvmsg"};
constexpr const char* kRefusedToExecute[] = {"chmod", "fchmod", "fchmodat"};

constexpr const char* kKilled[] = {
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "unshare",
    "setns",
    "swapon",
    "swapoff",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "keyctl",
    "add_key",
    "request_key",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "open_by_handle_at",
    "name_to_handle_at",
    "quotactl",
    "acct",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "iopl",
    "ioperm",
    "modify_ldt",
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "setfsuid",
    "setfsgid",
    "capset",
    "sethostname",
    "setdomainname",
};

constexpr const char* kRefused[] = {
    // EPERM
    "socket",        "socketpair", "connect",     "bind",           "listen",
    "accept",        "accept4",    "sendto",      "sendmsg",        "sendmmsg",
    "recvfrom",      "recvmmsg",   "shutdown",    "getsockname",    "getpeername",
    "setsockopt",    "getsockopt", "setpriority", "sched_setparam", "sched_setscheduler",
    "sched_setattr", "ioprio_set", "chown",       "fchown",         "lchown",
    "fchownat",      "mknod",      "mknodat",
};

constexpr unsigned kNewNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)), &seccomp_release) {
    Keep(context_ != nullptr ? 0 : -ENOMEM);
    Keep(seccomp_attr_set(context_.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS));
    Keep(seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_TSYNC, 1));
    // A tree instead of a list: some ten comparisons for a call instead of some two hundred.
    Keep(seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2));
  }

  template <std::size_t N>
  void Answer(unsigned action, const char* const (&names)[N]) {
    for (const char* name : names) Answer(action, name);
  }
  template <typename... Compare>
  void Answer(unsigned action, const char* name, Compare... compare) {
    const int number = seccomp_syscall_resolve_name(name);
    // Not known to this version of the library, or not on this machine: then it gets the default answer.
    if (number < 0) return;
    const scmp_arg_cmp comparisons[] = {compare..., scmp_arg_cmp{}};
    Keep(seccomp_rule_add_array(context_.get(), action, number, sizeof...(compare), comparisons));
  }
  int Load() {
    Keep(seccomp_load(context_.get()));
    return error_;
  }

 private:
  void Keep(int result) {
    if (error_ == 0 && result != 0) error_ = result;
  }
  std::unique_ptr<void, decltype(&seccomp_release)> context_;
  int error_ = 0;  // the first that a call returned
};

// Requests (ioctl) of GPUs' drivers. That they reach no other device is the jail's doing, which has no
// others.
void AllowDriversRequests(Filter* filter) {
  // By the letter that a driver's requests have: NVIDIA's, the direct rendering manager's, AMD's compute.
  for (const unsigned letter : {'F', 'd', 'K'}) {
    filter->Answer(SCMP_ACT_ALLOW, "ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, letter << 8));
  }
  // NVIDIA's unified memory has plain numbers, and two of its own to begin and end with.
  filter->Answer(SCMP_ACT_ALLOW, "ioctl", SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffff'ff00, 0));
  for (const unsigned request : {0x3000'0001u, 0x3000'0002u}) {
    filter->Answer(SCMP_ACT_ALLOW, "ioctl", SCMP_A1(SCMP_CMP_EQ, request));
  }
}

int LoadFilter(Role role, bool drives_devices) {
  Filter filter;
  filter.Answer(SCMP_ACT_ALLOW, kAllowed);
  filter.Answer(SCMP_ACT_KILL_PROCESS, kKilled);
  filter.Answer(SCMP_ACT_ERRNO(EPERM), kRefused);

  // Not prctl as such: it could undo the promise to die with the parent.
  for (const int option : {PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP}) {
    filter.Answer(SCMP_ACT_ALLOW, "prctl", SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(option)));
  }
  // "Is this a terminal?" and the like; everything else of ioctl is ENOSYS, but for a driver.
  for (const unsigned long request : {TCGETS, TIOCGWINSZ, FIONREAD, FIOCLEX}) {
    filter.Answer(SCMP_ACT_ALLOW, "ioctl", SCMP_A1(SCMP_CMP_EQ, request));
  }
  if (drives_devices) AllowDriversRequests(&filter);
  if (role == Role::kBuilder) {
    filter.Answer(SCMP_ACT_ALLOW, kAllowedToBuild);
    filter.Answer(SCMP_ACT_ALLOW, "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, kNewNamespaces, 0));
    filter.Answer(SCMP_ACT_ERRNO(EPERM), "recvmsg");
  } else {
    filter.Answer(SCMP_ACT_ALLOW, kAllowedToExecute);
    filter.Answer(SCMP_ACT_ERRNO(EPERM), kRefusedToExecute);
    filter.Answer(SCMP_ACT_KILL_PROCESS, "execve");
    filter.Answer(SCMP_ACT_KILL_PROCESS, "execveat");
    filter.Answer(SCMP_ACT_ALLOW, "clone",
                  SCMP_A0(SCMP_CMP_MASKED_EQ, kNewNamespaces | CLONE_THREAD, CLONE_THREAD));
    // Limits may be read, not set.
    filter.Answer(SCMP_ACT_ALLOW, "prlimit64", SCMP_A2(SCMP_CMP_EQ, 0));
  }
  return filter.Load();
}

}  // namespace

Status Lock(Role role, const LockOptions& options) {
  int error = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno;
  if (error == 0) error = LoadFilter(role, options.drives_devices);
  // libseccomp tells of failure in several ways; whether a filter holds is asked of the kernel.
  if (error == 0 && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2 /* SECCOMP_MODE_FILTER */) error = -EINVAL;
  if (error == 0 || options.best_effort) return OkStatus();
  Error out = ErrnoError("the system call filter could not be put on all threads", -error);
  out.code = Code::kFailedPrecondition;
  out.scope = Scope::kNode;
  out.message += "; use a kernel with CONFIG_SECCOMP_FILTER, or best effort to run without";
  return out;
}

}  // namespace tulle::sandbox
