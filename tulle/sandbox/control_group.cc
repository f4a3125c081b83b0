#include "tulle/sandbox/control_group.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "tulle/base/unique_fd.h"

namespace tulle::sandbox {
namespace {

namespace fs = std::filesystem;

// In which processors are given and taken, where one gets at least the kernel's least part of it: short, so
// that who is held up is not for long.
constexpr double kPeriodUs = 10'000, kLeastQuotaUs = 1'000, kLongestPeriodUs = 1'000'000;
// Version 1 counts weights in these, version 2 in hundreds.
constexpr unsigned kSharesOfWeight100 = 1024, kLeastShares = 2, kMostShares = 1u << 18;

Status Write(const std::string& path, const std::string& text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()))
    return OkStatus();
  return ErrnoError("writing " + text + " to " + path, errno);
}

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// Of a file of lines "NAME NUMBER"; 0: it has no such.
std::uint64_t NumberOf(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string key;
  for (std::uint64_t value = 0; file >> key >> value;) {
    if (key == name) return value;
  }
  return 0;
}

// Whether one of the words of a text is this; commas or space are between them.
bool HasWord(std::string text, std::string_view word) {
  std::ranges::replace(text, ',', ' ');
  std::istringstream words(text);
  for (std::string is; words >> is;) {
    if (is == word) return true;
  }
  return false;
}

std::vector<std::string> FoldersIn(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.is_directory(error)) names.push_back(entry.path().filename().string());
  }
  return names;
}

bool RemoveTree(const std::string& path) {
  bool all = true;
  for (const std::string& name : FoldersIn(path)) all &= RemoveTree(path + "/" + name);
  return (rmdir(path.c_str()) == 0 || errno == ENOENT) && all;
}

// Groups whose names are `prefix` and the number of a process that is gone.
void RemoveLeft(const std::string& path, const std::string& prefix) {
  for (const std::string& name : FoldersIn(path)) {
    if (!name.starts_with(prefix)) continue;
    const int pid = std::atoi(name.c_str() + prefix.size());
    if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) RemoveTree(path + "/" + name);
  }
}

// A mounted tree of groups (proc(5), /proc/PID/mountinfo).
struct Tree {
  std::string root;  // the group that is seen at `at`
  std::string at;
  bool version2 = false;
  std::string controllers;  // of version 1, among other options
};

std::vector<Tree> Trees() {
  std::vector<Tree> trees;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == line.npos) continue;
    std::istringstream mount(line.substr(0, dash)), system(line.substr(dash + 3));
    std::string id, parent, device, root, at, type, source, options;
    mount >> id >> parent >> device >> root >> at;
    system >> type >> source >> options;
    if (type == "cgroup2" || type == "cgroup") trees.push_back({root, at, type == "cgroup2", options});
  }
  return trees;
}

// Where this process is in the tree of a controller of version 1, or in that of version 2 (cgroups(7),
// /proc/PID/cgroup).
std::string OwnGroup(const Tree& tree, const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (tree.version2 ? controllers.empty() : HasWord(controllers, controller))
      return line.substr(second + 1);
  }
  return "";
}

// Nullopt: it is not below what is mounted.
std::optional<std::string> FolderOf(const Tree& tree, const std::string& group) {
  const std::string root = tree.root == "/" ? "" : tree.root;
  const std::string path = fs::path(group).lexically_normal().string();
  if (!path.starts_with('/') || path.starts_with("/..") || !path.starts_with(root)) return std::nullopt;
  if (path.size() > root.size() && path[root.size()] != '/') return std::nullopt;
  std::string folder = tree.at + path.substr(root.size());
  while (folder.ends_with('/')) folder.pop_back();
  return folder;
}

std::string PidNamespace() {
  struct stat is = {};
  (void)stat("/proc/self/ns/pid", &is);
  return std::to_string(is.st_ino);
}

Error Unavailable(std::string why) { return {Code::kFailedPrecondition, std::move(why)}; }

// Whether a service's or scope's group is given by systemd to what runs in it, as that tells by attributes of
// the folder; it takes others back.
bool IsDelegated(const std::string& folder) {
  for (const char* attribute : {"trusted.delegate", "user.delegate"}) {
    char value = '0';
    if (getxattr(folder.c_str(), attribute, &value, 1) == 1 && value == '1') return true;
  }
  return false;
}

// Of a group of version 2 that others are to be made in. Its processes, if it has any, must be this one
// alone, which then goes to `self`.
Status Prepare(const std::string& folder, const std::string& self) {
  // The root of all has no such file, and may have processes.
  if (!Exists(folder + "/cgroup.type")) return OkStatus();
  if ((folder.ends_with(".service") || folder.ends_with(".scope")) && !IsDelegated(folder))
    return Unavailable(folder + " is systemd's; fix: write Delegate=yes into that unit");
  const std::string processes = Read(folder + "/cgroup.procs");
  if (processes.empty()) return OkStatus();
  if (processes != std::to_string(getpid()) + "\n") {
    return Unavailable(
        "other processes are in " + folder +
        ", and in version 2 only a group without processes can have others in it; fix: run this "
        "as a service of its own with Delegate=yes, or name an empty group (--cgroup)");
  }
  if (mkdir(self.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError(self, errno);
  Status moved = Write(self + "/cgroup.procs", std::to_string(getpid()));
  if (!moved.ok()) rmdir(self.c_str());
  return moved;
}

// Whether this process may move its children there.
Status TryChild(const ControlGroup& group) {
  const pid_t child = fork();
  if (child < 0) return ErrnoError("fork", errno);
  if (child == 0) {
    for (;;) pause();
  }
  const Status entered = group.Enter(child);
  kill(child, SIGKILL);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return entered.ok() ? OkStatus()
                      : Status(Unavailable("children cannot be moved to " + group.Text() + ": " +
                                           entered.error().message));
}

}  // namespace

ControlGroup::ControlGroup(ControlGroup&& other) noexcept : folders_(std::exchange(other.folders_, {})) {}

ControlGroup& ControlGroup::operator=(ControlGroup&& other) noexcept {
  if (this == &other) return *this;
  RemoveOurs();
  folders_ = std::exchange(other.folders_, {});
  return *this;
}

ControlGroup::~ControlGroup() { RemoveOurs(); }

void ControlGroup::RemoveOurs() {
  for (const Folder& folder : folders_) {
    if (folder.ours) RemoveTree(folder.path);
  }
}

const ControlGroup::Folder* ControlGroup::With(bool Folder::*controller) const {
  const auto found = std::ranges::find_if(folders_, [&](const Folder& folder) { return folder.*controller; });
  return found == folders_.end() ? nullptr : &*found;
}

std::string ControlGroup::Text() const {
  std::string text;
  for (const Folder& folder : folders_) {
    text += text.empty() ? "" : ";";
    text += folder.memory ? folder.cpu ? "memory,cpu:" : "memory:" : "cpu:";
    text += folder.path;
  }
  return text;
}

Result<ControlGroup> ControlGroup::Open(std::string_view text) {
  ControlGroup group;
  std::istringstream parts{std::string(text)};
  for (std::string part; std::getline(parts, part, ';');) {
    const std::size_t colon = part.find(':');
    const std::string controllers = part.substr(0, colon);
    Folder folder{.path = colon == part.npos ? "" : part.substr(colon + 1),
                  .memory = HasWord(controllers, "memory"),
                  .cpu = HasWord(controllers, "cpu")};
    folder.version2 = Exists(folder.path + "/cgroup.controllers");
    if (!Exists(folder.path + "/cgroup.procs") || (!folder.memory && !folder.cpu)) {
      return Error{
          Code::kInvalidArgument,
          part + " is no control group; write CONTROLLERS:FOLDER, such as memory,cpu:/sys/fs/cgroup/a"};
    }
    group.folders_.push_back(std::move(folder));
  }
  if (!group.exists()) return Error{Code::kInvalidArgument, "no control group is named"};
  return group;
}

Result<std::vector<ControlGroup::Folder>> ControlGroup::Parents(const BaseOptions& options) {
  const std::vector<Tree> trees = Trees();
  std::string missing;
  std::vector<Folder> folders;
  const auto folder_of = [&](const Tree& tree, const std::string& controller) {
    return FolderOf(tree, options.parent.empty() ? OwnGroup(tree, controller) : options.parent);
  };
  const auto find = [&](const std::string& controller) -> std::optional<Folder> {
    for (const Tree& tree : trees) {
      const auto path = folder_of(tree, controller);
      if (!path.has_value()) continue;
      if (!options.parent.empty() &&
          HasWord(tree.version2 ? Read(tree.at + "/cgroup.controllers") : tree.controllers, controller) &&
          !Exists(*path)) {
        missing = *path;
        continue;
      }
      if (HasWord(tree.version2 ? Read(*path + "/cgroup.controllers") : tree.controllers, controller))
        return Folder{.path = *path, .version2 = tree.version2};
    }
    return std::nullopt;
  };
  const std::pair<const char*, bool Folder::*> controllers[] = {{"memory", &Folder::memory},
                                                                {"cpu", &Folder::cpu}};
  for (const auto& [controller, member] : controllers) {
    if (!(member == &Folder::memory ? options.memory : options.cpu)) continue;
    const auto found = find(controller);
    if (!found.has_value() && !missing.empty())
      return Unavailable("there is no control group " + missing +
                         "; fix: make it, and leave it without processes");
    if (!found.has_value()) {
      return Unavailable(std::string("there is no control group here with the ") + controller +
                         " controller; fix: mount /sys/fs/cgroup, boot without cgroup_disable=" + controller +
                         ", and let a container have its control groups");
    }
    auto same = std::ranges::find(folders, found->path, &Folder::path);
    if (same == folders.end()) same = folders.insert(folders.end(), *found);
    (*same).*member = true;
  }
  return folders;
}

Result<ControlGroup> ControlGroup::MakeBase(const BaseOptions& options) {
  ControlGroup parent;
  TULLE_ASSIGN_OR_RETURN(parent.folders_, Parents(options));
  // Numbers are those of a namespace.
  const std::string prefix = options.name + "-" + PidNamespace() + "-",
                    name = prefix + std::to_string(getpid());
  for (const Folder& folder : parent.folders_) {
    if (access(folder.path.c_str(), W_OK | X_OK) != 0) {
      return Unavailable("this user may not make control groups in " + folder.path +
                         "; fix: run it as root, or as a service with Delegate=yes");
    }
    RemoveLeft(folder.path, prefix);
    if (folder.version2) TULLE_RETURN_IF_ERROR(Prepare(folder.path, folder.path + "/" + name + ".self"));
  }
  auto base = parent.Make(name);
  if (!base.ok()) return Unavailable(base.error().message);
  for (const Folder& folder : base->folders_) {
    // Before Linux 5.11 a group did not count those in it unless told so.
    if (!folder.version2 && folder.memory) (void)Write(folder.path + "/memory.use_hierarchy", "1");
  }
  TULLE_RETURN_IF_ERROR(TryChild(*base));
  if (options.cpu) {
    // In version 1 no group may be promised more than those above it.
    TULLE_ASSIGN_OR_RETURN(const ControlGroup trial, base->Make("trial"));
    const unsigned processors = std::max(std::thread::hardware_concurrency(), 1u);
    if (const Status shared = trial.ShareCpus(1, processors); !shared.ok()) {
      return Unavailable("a group cannot be given all " + std::to_string(processors) +
                         " processors: " + shared.error().message +
                         "; fix: let the container, if this is one, have all of them");
    }
  }
  return base;
}

Result<ControlGroup> ControlGroup::Make(const std::string& name) const {
  if (name.empty() || name.starts_with('.') || name.find_first_of("/;\n") != name.npos)
    return Error{Code::kInvalidArgument, "\"" + name + "\" cannot be the name of a control group"};
  ControlGroup made;
  for (Folder folder : folders_) {
    if (folder.version2) {
      const std::string enabled = folder.path + "/cgroup.subtree_control";
      if (folder.memory) TULLE_RETURN_IF_ERROR(Write(enabled, "+memory"));
      if (folder.cpu) TULLE_RETURN_IF_ERROR(Write(enabled, "+cpu"));
    }
    folder.path += "/" + name;
    folder.ours = mkdir(folder.path.c_str(), 0755) == 0;
    if (!folder.ours && errno != EEXIST) return ErrnoError("making the control group " + folder.path, errno);
    made.folders_.push_back(std::move(folder));
  }
  return made;
}

std::vector<ControlGroup> ControlGroup::Below() const {
  std::vector<ControlGroup> below;
  if (!exists()) return below;
  for (const std::string& name : FoldersIn(folders_.front().path)) {
    ControlGroup group;
    group.folders_ = folders_;
    for (Folder& folder : group.folders_) {
      folder.path += "/" + name;
      folder.ours = false;
    }
    below.push_back(std::move(group));
  }
  return below;
}

Status ControlGroup::Enter(pid_t pid) const {
  for (const Folder& folder : folders_)
    TULLE_RETURN_IF_ERROR(Write(folder.path + "/cgroup.procs", std::to_string(pid)));
  return OkStatus();
}

Status ControlGroup::LimitMemory(std::uint64_t bytes) const {
  const Folder* const folder = With(&Folder::memory);
  if (folder == nullptr) return Unavailable("the control group has no memory controller");
  const std::string limit = std::to_string(bytes);
  if (folder->version2) {
    (void)Write(folder->path + "/memory.swap.max", "0");
    return Write(folder->path + "/memory.max", limit);
  }
  (void)Write(folder->path + "/memory.swappiness", "0");
  // The sum of memory and swap, which not all kernels count, may not be less than memory: so it is set first
  // where that is raised.
  const std::string memory = folder->path + "/memory.limit_in_bytes";
  const std::string with_swap = folder->path + "/memory.memsw.limit_in_bytes";
  if (!Exists(with_swap)) return Write(memory, limit);
  if (Write(with_swap, limit).ok()) return Write(memory, limit);
  TULLE_RETURN_IF_ERROR(Write(memory, limit));
  return Write(with_swap, limit);
}

Status ControlGroup::ShareCpus(unsigned weight, double most) const {
  const Folder* const folder = With(&Folder::cpu);
  if (folder == nullptr) return Unavailable("the control group has no cpu controller");
  weight = std::clamp(weight, 1u, 10'000u);
  // As long as it takes for the kernel's least.
  const double period_us =
      most == 0 ? kPeriodUs : std::clamp(kLeastQuotaUs / most, kPeriodUs, kLongestPeriodUs);
  const std::string period = std::to_string(std::lround(period_us));
  const std::string quota =
      std::to_string(std::max(std::lround(most * period_us), std::lround(kLeastQuotaUs)));
  if (folder->version2) {
    TULLE_RETURN_IF_ERROR(Write(folder->path + "/cpu.weight", std::to_string(weight)));
    return Write(folder->path + "/cpu.max", (most == 0 ? "max" : quota) + " " + period);
  }
  const unsigned shares = std::clamp(weight * kSharesOfWeight100 / 100, kLeastShares, kMostShares);
  TULLE_RETURN_IF_ERROR(Write(folder->path + "/cpu.shares", std::to_string(shares)));
  // Neither alone may come to more than the other allows.
  TULLE_RETURN_IF_ERROR(Write(folder->path + "/cpu.cfs_quota_us", "-1"));
  if (most == 0) return OkStatus();
  TULLE_RETURN_IF_ERROR(Write(folder->path + "/cpu.cfs_period_us", period));
  return Write(folder->path + "/cpu.cfs_quota_us", quota);
}

ControlGroupUsage ControlGroup::Usage() const {
  ControlGroupUsage usage;
  if (const Folder* const memory = With(&Folder::memory); memory != nullptr) {
    const std::string path = memory->path + "/memory.";
    std::ifstream(path + (memory->version2 ? "current" : "usage_in_bytes")) >> usage.memory_bytes;
    usage.memory_kills = NumberOf(path + (memory->version2 ? "events" : "oom_control"), "oom_kill");
  }
  if (const Folder* const cpu = With(&Folder::cpu); cpu != nullptr) {
    const std::string path = cpu->path + "/cpu.stat";
    usage.throttled_ns =
        cpu->version2 ? NumberOf(path, "throttled_usec") * 1'000u : NumberOf(path, "throttled_time");
  }
  return usage;
}

bool ControlGroup::Remove() {
  bool all = true;
  for (Folder& folder : folders_) {
    if (!RemoveTree(folder.path)) {
      all = false;
    } else {
      folder.ours = false;  // another of its name is not this one
    }
  }
  return all;
}

}  // namespace tulle::sandbox
