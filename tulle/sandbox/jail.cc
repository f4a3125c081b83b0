#include "tulle/sandbox/jail.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "tulle/sandbox/system_folders.h"

namespace tulle::sandbox {

namespace {

constexpr const char* kSystemFiles[] = {"/etc/ld.so.cache", "/etc/OpenCL", "/etc/alternatives",
                                        "/sys/devices/system"};  // the CPUs, for hwloc
constexpr const char* kDevices[] = {"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"};
// Instead of an own /proc.
constexpr const char* kProcFiles[] = {"/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version"};

constexpr std::size_t kMaxFds = 32;

constexpr char kOld[] = "/old";
constexpr char kNew[] = "/new";

int MountSetattr(const char* path, unsigned flags, std::uint64_t set) {
  struct mount_attr attributes = {};
  attributes.attr_set = set;
  return static_cast<int>(syscall(SYS_mount_setattr, -1, path, flags, &attributes, sizeof attributes));
}

int SetLimit(__rlimit_resource resource, std::uint64_t value) {
  const struct rlimit limit = {value, value};
  if (setrlimit(resource, &limit) == 0) return 0;
  // The hard limit is lower already: that is at least as strict.
  struct rlimit current = {};
  if (getrlimit(resource, &current) != 0 || current.rlim_max > value) return -1;
  const struct rlimit lowered = {current.rlim_max, current.rlim_max};
  return setrlimit(resource, &lowered);
}

}  // namespace

// The system, as far as a driver needs it. What is a link on the host (merged /usr) is one in the jail.
const std::vector<std::string>& SystemFolders() {
  static const std::vector<std::string> folders = {"/usr",   "/bin",   "/sbin",  "/lib",
                                                   "/lib32", "/lib64", "/libx32"};
  return folders;
}

const char* StepText(Step step) {
  switch (step) {
    case Step::kClone: return "making namespaces (clone)";
    case Step::kMapIds: return "mapping the jail's user id";
    case Step::kControlGroup: return "entering a control group";
    case Step::kParentDied: return "noticing the parent's end";
    case Step::kIdentity: return "taking the jail's user id";
    case Step::kMountTmpfs: return "mounting a tmpfs";
    case Step::kPivot: return "changing the root (pivot_root)";
    case Step::kBind: return "binding a system folder read-only";
    case Step::kDevices: return "binding /dev/null and its like";
    case Step::kProc: return "mounting the jail's own /proc";
    case Step::kReadOnly: return "making the root read-only (mount_setattr, Linux 5.12)";
    case Step::kHostname: return "setting the jail's host name";
    case Step::kDescriptors: return "passing descriptors (close_range, Linux 5.9)";
    case Step::kLimits: return "setting resource limits";
    case Step::kCapabilities: return "dropping capabilities";
    case Step::kNoNewPrivileges: return "forbidding new privileges";
    case Step::kExec: return "running the binary";
  }
  return "an unknown step";
}

Plan::Plan(const ChildSpec& spec, const JailMode& mode, int binary_fd)
    : spec_(spec), mode_(mode), binary_fd_(binary_fd) {
  TULLE_CHECK(spec.fds.size() <= kMaxFds);
  std::set<std::string> folders;
  const auto add_parents = [&](const std::filesystem::path& path) {
    for (auto p = path.parent_path(); p != p.root_path(); p = p.parent_path())
      folders.insert(kNew + p.string());
  };
  const auto add_bind = [&](const std::string& path) {
    std::error_code error;
    const auto status = std::filesystem::symlink_status(path, error);
    if (error || status.type() == std::filesystem::file_type::not_found) return;
    add_parents(path);
    if (std::filesystem::is_symlink(status)) {
      links_.emplace_back(std::filesystem::read_symlink(path, error).string(), kNew + path);
      return;
    }
    const bool folder = std::filesystem::is_directory(status);
    if (folder) folders.insert(kNew + path);
    binds_.push_back({kOld + path, kNew + path, folder});
  };
  for (const std::string& path : SystemFolders()) add_bind(path);
  for (const char* path : kSystemFiles) add_bind(path);
  for (const auto& path : spec.read_only_paths) {
    const std::string normal = std::filesystem::path(path).lexically_normal().string();
    const bool there = std::any_of(binds_.begin(), binds_.end(), [&](const Mount& bind) {
      const std::string bound = bind.target.substr(sizeof kNew - 1);
      return normal == bound || normal.starts_with(bound + "/");
    });
    if (!there) add_bind(normal);
  }
  if (!mode.own_proc) {
    for (const char* path : kProcFiles) add_bind(path);
  }
  const auto add_device = [&](const std::string& path) {
    add_parents(path);
    devices_.push_back({kOld + path, kNew + path, false});
  };
  for (const char* path : kDevices) add_device(path);
  for (const auto& given : spec.device_nodes) {
    const std::string path = std::filesystem::path(given).lexically_normal().string();
    std::error_code error;
    if (path.starts_with("/dev/") && std::filesystem::exists(path, error)) add_device(path);
  }
  for (const char* path : {"/dev", "/tmp", "/proc"}) folders.insert(std::string(kNew) + path);
  folders_.assign(folders.begin(), folders.end());  // a set: parents sort before what is below them
  tmp_options_ = "mode=0700,nr_inodes=16384,size=" + std::to_string(spec.tmp_bytes);

  // execve() takes char* for history's sake and changes nothing.
  for (const auto& argument : spec.argv) argv_.push_back(const_cast<char*>(argument.c_str()));
  argv_.push_back(nullptr);
  for (const auto& variable : spec.environment) environment_.push_back(const_cast<char*>(variable.c_str()));
  environment_.push_back(nullptr);
}

bool Plan::BuildRoot(Failure* failure) const {
  const auto fail = [&](Step step) {
    *failure = {step, errno};
    return false;
  };
  // First a workplace with the host's root below it (so that no mount hides what is still to be bound) ...
  if (mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) != 0) return fail(Step::kMountTmpfs);
  if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=0755") != 0) {
    return fail(Step::kMountTmpfs);
  }
  if (mkdir("/tmp/old", 0755) != 0 || mkdir("/tmp/new", 0755) != 0) return fail(Step::kMountTmpfs);
  if (syscall(SYS_pivot_root, "/tmp", "/tmp/old") != 0 || chdir("/") != 0) return fail(Step::kPivot);
  // ... then the jail's root, filled from there ...
  if (mount("tmpfs", kNew, "tmpfs", MS_NOSUID | MS_NODEV, "size=256k,mode=0755") != 0)
    return fail(Step::kMountTmpfs);
  for (const auto& folder : folders_) {
    if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) return fail(Step::kBind);
  }
  for (const auto& [text, path] : links_) {
    if (symlink(text.c_str(), path.c_str()) != 0) return fail(Step::kBind);
  }
  for (const auto& bind : binds_) {
    if (!bind.folder && mknod(bind.target.c_str(), S_IFREG | 0444, 0) != 0) return fail(Step::kBind);
    // Recursive: what is mounted below it on the host was chosen to be there, and cannot be left out.
    if (mount(bind.source.c_str(), bind.target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0) {
      return fail(Step::kBind);
    }
    if (MountSetattr(bind.target.c_str(), AT_RECURSIVE,
                     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV) != 0) {
      return fail(Step::kReadOnly);
    }
  }
  for (const auto& device : devices_) {
    if (mknod(device.target.c_str(), S_IFREG | 0444, 0) != 0 ||
        mount(device.source.c_str(), device.target.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      return fail(Step::kDevices);
    }
  }
  if (mode_.own_proc &&
      mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, nullptr) != 0) {
    return fail(Step::kProc);
  }
  // Not noexec: drivers load the kernels that they unpack there.
  if (mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, tmp_options_.c_str()) != 0) {
    return fail(Step::kMountTmpfs);
  }
  if (MountSetattr(kNew, 0, MOUNT_ATTR_RDONLY) != 0) return fail(Step::kReadOnly);
  // ... and everything else goes.
  if (chdir(kNew) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
      chdir("/tmp") != 0) {
    return fail(Step::kPivot);
  }
  return true;
}

bool Plan::SetLimits() const {
  if (SetLimit(RLIMIT_CORE, 0) != 0) return false;
  // In its own user namespace the count starts at zero; outside one it would count the whole user.
  if (mode_.namespaces && spec_.tasks != 0 && SetLimit(RLIMIT_NPROC, spec_.tasks) != 0) return false;
  if (spec_.address_space_bytes != 0 && SetLimit(RLIMIT_AS, spec_.address_space_bytes) != 0) return false;
  if (spec_.cpu_seconds != 0 && SetLimit(RLIMIT_CPU, spec_.cpu_seconds) != 0) return false;
  if (spec_.file_bytes != 0 && SetLimit(RLIMIT_FSIZE, spec_.file_bytes) != 0) return false;
  return SetLimit(RLIMIT_NOFILE, spec_.open_files) == 0;
}

// Writing is possible below /tmp and to devices only, whatever the mounts say. Best done before exec: it
// binds the calling thread and its children, and threads of drivers exist by the time of Lock().
void Plan::RestrictWithLandlock() const {
  struct landlock_ruleset_attr attributes = {};
  attributes.handled_access_fs =
      LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
      LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
      LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
      LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER;
  const int ruleset =
      static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0));
  if (ruleset < 0) return;
  const auto allow = [&](const char* path, std::uint64_t access) {
    struct landlock_path_beneath_attr rule = {};
    rule.allowed_access = access;
    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0) return;
    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(rule.parent_fd);
  };
  allow("/tmp", attributes.handled_access_fs);
  allow("/dev", LANDLOCK_ACCESS_FS_WRITE_FILE);
  syscall(SYS_landlock_restrict_self, ruleset, 0);
  close(ruleset);
}

void Plan::Enter(unsigned id, int go_fd, int report_fd) const {
  const Failure failure = TryEnter(id, go_fd, &report_fd);
  [[maybe_unused]] const ssize_t written = write(report_fd, &failure, sizeof failure);
  _exit(127);
}

// Returns on failure only; *report_fd is then where the report's descriptor is by now.
Failure Plan::TryEnter(unsigned id, int go_fd, int* report_fd) const {
  const auto fail = [](Step step) { return Failure{step, errno}; };

  // Out of reach of the terminal's signals. Not by a session of its own, which elsewhere would be the way:
  // the kernel schedules each session as a group (sched_autogroup), and groups whose tasks wake each other
  // many thousand times a second starve the others for seconds (seen with Linux 6.18). A jail without
  // namespaces sees /dev/tty, and does need one.
  if (mode_.namespaces) {
    setpgid(0, 0);
  } else {
    setsid();
  }
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  umask(0022);

  // The kernel's calls and not the library's, which make all threads of the process follow: the threads that
  // it knows are the parent's, and it would wait for them for ever. Supplementary groups can be dropped only
  // by who had the privilege to map ids.
  syscall(SYS_setgroups, 0, nullptr);
  const bool changed = syscall(SYS_setresgid, id, id, id) == 0 && syscall(SYS_setresuid, id, id, id) == 0;
  if (!changed && mode_.namespaces) return fail(Step::kIdentity);
  if (mode_.namespaces) {
    Failure failure;
    if (!BuildRoot(&failure)) return failure;
    if (sethostname("jail", 4) != 0) return fail(Step::kHostname);
  } else if (chdir("/") != 0) {
    return fail(Step::kPivot);
  }

  // Move everything that stays out of the way of the final numbers, then into place.
  const int count = static_cast<int>(spec_.fds.size());
  const int above = std::max(count + 3, 64);
  const int report = fcntl(*report_fd, F_DUPFD_CLOEXEC, above);
  const int binary = spec_.entry ? -1 : fcntl(binary_fd_, F_DUPFD_CLOEXEC, above);
  const int go = fcntl(go_fd, F_DUPFD_CLOEXEC, above);
  if ((binary < 0 && !spec_.entry) || report < 0 || go < 0) return fail(Step::kDescriptors);
  *report_fd = report;
  int moved[kMaxFds];
  for (int i = 0; i < count; ++i) {
    const int given = spec_.fds[static_cast<std::size_t>(i)];
    const int null = given < 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
    moved[i] = fcntl(given < 0 ? null : given, F_DUPFD_CLOEXEC, above);
    if (null >= 0) close(null);
    if (moved[i] < 0) return fail(Step::kDescriptors);
  }
  for (int i = 0; i < count; ++i) {
    if (dup2(moved[i], i) < 0) return fail(Step::kDescriptors);
  }
  if (dup3(report, count, O_CLOEXEC) < 0) return fail(Step::kDescriptors);
  *report_fd = count;
  if (dup3(go, count + 1, O_CLOEXEC) < 0 || (!spec_.entry && dup3(binary, count + 2, O_CLOEXEC) < 0) ||
      close_range(static_cast<unsigned>(count) + (spec_.entry ? 2 : 3), ~0u, 0) != 0) {
    return fail(Step::kDescriptors);
  }

  // Without a user id 0 in its namespace, exec would leave it no capability; that is not relied upon.
  for (int capability = 0; capability < 64; ++capability) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct no_capabilities[2] = {};
  if (syscall(SYS_capset, &header, no_capabilities) != 0) return fail(Step::kCapabilities);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail(Step::kNoNewPrivileges);
  if (mode_.namespaces && mode_.landlock) RestrictWithLandlock();
  if (!SetLimits()) return fail(Step::kLimits);

  // A change of user id clears it, so not earlier; the parent may be gone by now.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return fail(Step::kParentDied);
  struct pollfd parent = {count + 1, 0, 0};
  if (poll(&parent, 1, 0) != 0) return fail(Step::kParentDied);

  if (spec_.entry) {
    close_range(static_cast<unsigned>(count), ~0u, 0);
    _exit(spec_.entry());
  }
  execveat(count + 2, "", argv_.data(), environment_.data(), AT_EMPTY_PATH);
  return fail(Step::kExec);
}

}  // namespace tulle::sandbox
