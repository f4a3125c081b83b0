// Children that really try what they must not be able to do. This program is also those children: with
// "--attempt=NAME" it makes one attempt, inside the jail, and says what came of it; with
// "--without-namespaces" it looks for a jail where there can be none.
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <thread>

#include "tulle/sandbox/launcher.h"
#include "tulle/sandbox/lock.h"

namespace tulle::sandbox {
namespace {

// --- the jailed side ---

// What an attempt prints: "ok" when it worked, else the error.
std::string Outcome(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return file ? text.str() : "";
}

std::string OpenForWriting(const char* path) {
  return Outcome(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
}

std::string TryConnect() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) return Outcome(fd);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(80);
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  return Outcome(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address));
}

std::string TryFork() {
  const pid_t pid = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (pid == 0) _exit(0);
  if (pid > 0) waitpid(pid, nullptr, 0);
  return Outcome(pid);
}

std::string TryTool() {
  const pid_t pid = fork();
  if (pid == 0) {
    execl("/usr/bin/env", "env", nullptr);
    _exit(99);
  }
  if (pid < 0) return Outcome(pid);
  int status = 0;
  waitpid(pid, &status, 0);
  return status == 0 ? "ok" : "failed";
}

std::string OpenDescriptors() {
  std::string list;
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) list += (list.empty() ? "" : " ") + std::to_string(fd);
  }
  return list;
}

std::string Capabilities() {
  std::istringstream status(ReadAll("/proc/self/status"));
  std::string line, all;
  while (std::getline(status, line)) {
    if (line.rfind("Cap", 0) == 0) all += line.substr(line.find_first_not_of("\t", line.find('\t'))) + " ";
  }
  return all;
}

int CountProcesses() {
  int count = 0;
  DIR* proc = opendir("/proc");
  if (proc == nullptr) return -1;
  while (const dirent* entry = readdir(proc)) count += isdigit(entry->d_name[0]) ? 1 : 0;
  closedir(proc);
  return count;
}

std::string Threads() {
  std::string outcome = "failed";
  std::thread thread([&] { outcome = "ok"; });
  thread.join();
  return outcome;
}

using Attempt = std::function<std::string(const std::string& argument)>;
const std::map<std::string, Attempt>& Attempts() {
  static const std::map<std::string, Attempt> attempts = {
      {"read", [](const std::string& path) { return Outcome(open(path.c_str(), O_RDONLY | O_CLOEXEC)); }},
      {"write", [](const std::string& path) { return OpenForWriting(path.c_str()); }},
      {"append", [](const std::string& path) { return Outcome(open(path.c_str(), O_WRONLY | O_APPEND)); }},
      {"rename_in_tmp",
       [](const std::string&) {
         mkdir("/tmp/a", 0755);
         mkdir("/tmp/b", 0755);
         OpenForWriting("/tmp/a/x");
         return Outcome(rename("/tmp/a/x", "/tmp/b/y"));
       }},
      {"fill_tmp",
       [](const std::string& mebibytes) {
         const int fd = open("/tmp/big", O_WRONLY | O_CREAT, 0644);
         const std::string block(1 << 20, 'x');
         for (int i = 0; i < std::stoi(mebibytes); ++i) {
           if (write(fd, block.data(), block.size()) < 0) return Outcome(-1);
         }
         return std::string("ok");
       }},
      {"session",
       [](const std::string&) {
         const bool same = getsid(0) == 0 && getpgid(0) == getpid();  // 0: a session from outside
         return std::string(same ? "the parent's, in a process group of its own" : "its own");
       }},
      {"exec", [](const std::string&) { return Outcome(execl("/usr/bin/env", "env", nullptr)); }},
      {"tool", [](const std::string&) { return TryTool(); }},
      {"fork", [](const std::string&) { return TryFork(); }},
      {"thread", [](const std::string&) { return Threads(); }},
      {"socket", [](const std::string&) { return Outcome(socket(AF_INET, SOCK_STREAM, 0)); }},
      {"unix_socket", [](const std::string&) { return Outcome(socket(AF_UNIX, SOCK_STREAM, 0)); }},
      {"connect", [](const std::string&) { return TryConnect(); }},
      {"ptrace", [](const std::string& pid) { return Outcome(ptrace(PTRACE_ATTACH, std::stoi(pid), 0, 0)); }},
      {"vm_read",
       [](const std::string& pid) {
         char byte;
         iovec local = {&byte, 1}, remote = {&byte, 1};
         return Outcome(process_vm_readv(std::stoi(pid), &local, 1, &remote, 1, 0));
       }},
      {"mount", [](const std::string&) { return Outcome(mount("tmpfs", "/tmp", "tmpfs", 0, nullptr)); }},
      {"unshare", [](const std::string&) { return Outcome(unshare(CLONE_NEWUSER)); }},
      {"setuid", [](const std::string&) { return Outcome(setuid(0)); }},
      {"bpf", [](const std::string&) { return Outcome(syscall(SYS_bpf, 0, nullptr, 0)); }},
      {"io_uring", [](const std::string&) { return Outcome(syscall(SYS_io_uring_setup, 4, nullptr)); }},
      {"keyctl", [](const std::string&) { return Outcome(syscall(SYS_keyctl, 0, -3, 0)); }},
      {"userfaultfd", [](const std::string&) { return Outcome(syscall(SYS_userfaultfd, 0)); }},
      {"clone3", [](const std::string&) { return Outcome(syscall(SYS_clone3, nullptr, 0)); }},
      {"forget_parent", [](const std::string&) { return Outcome(prctl(PR_SET_PDEATHSIG, 0)); }},
      {"raise_limit",
       [](const std::string&) {
         const rlimit limit = {1 << 20, 1 << 20};
         return Outcome(setrlimit(RLIMIT_NOFILE, &limit));
       }},
      {"kill", [](const std::string& pid) { return Outcome(kill(std::stoi(pid), SIGKILL)); }},
      {"abort", [](const std::string&) -> std::string { abort(); }},
      {"crash",
       [](const std::string&) {
         // A real fault: as the first process of its namespace it would ignore a signal that is only sent.
         const volatile char* page =
             static_cast<char*>(mmap(nullptr, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
         return std::string(1, *page);
       }},
      {"wait", [](const std::string&) { return Outcome(pause()); }},
      {"spin",
       [](const std::string&) {
         while (true) {
         }
         return std::string();
       }},
      {"request",
       [](const std::string& number) {
         return Outcome(
             ioctl(open("/dev/null", O_RDWR | O_CLOEXEC), std::stoul(number, nullptr, 16), nullptr));
       }},
      {"descriptors", [](const std::string&) { return OpenDescriptors(); }},
      {"capabilities", [](const std::string&) { return Capabilities(); }},
      {"processes", [](const std::string&) { return std::to_string(CountProcesses()); }},
      {"ids", [](const std::string&) { return std::to_string(getuid()) + " " + std::to_string(getpid()); }},
      {"environment",
       [](const std::string&) {
         std::string all;
         for (char** e = environ; *e != nullptr; ++e) all += std::string(*e) + ";";
         return all;
       }},
      {"interfaces", [](const std::string&) { return ReadAll("/proc/net/dev"); }},
      {"host_name",
       [](const std::string&) {
         char name[65] = {};
         gethostname(name, sizeof name);
         return std::string(name);
       }},
  };
  return attempts;
}

// argv: "--attempt=NAME", the argument, and "none", "executor", "driver" (an executor with a device) or
// "builder": what to lock first.
int RunAttempt(const std::string& name, const std::string& argument, const std::string& lock) {
  // A thread that was there before the filter must be under it too.
  int start[2], done[2];
  if (pipe(start) != 0 || pipe(done) != 0) return 3;
  std::string outcome;
  std::thread earlier([&] {
    char byte;
    if (read(start[0], &byte, 1) != 1) return;
    outcome = Attempts().at(name)(argument);
    if (write(done[1], "x", 1) != 1) abort();
  });
  if (lock != "none") {
    const Status status =
        Lock(lock == "builder" ? Role::kBuilder : Role::kExecutor, {.drives_devices = lock == "driver"});
    if (!status.ok()) return 4;
  }
  char byte;
  if (name == "descriptors") {
    for (int fd : {start[0], start[1], done[0], done[1]}) close(fd);
    earlier.join();
    outcome = Attempts().at(name)(argument);
  } else {
    if (write(start[1], "x", 1) != 1 || read(done[0], &byte, 1) != 1) return 5;
    earlier.join();
  }
  if (write(1, outcome.data(), outcome.size()) < 0) return 6;
  return 0;
}

// Where no user namespace can be made.
int RunWithoutNamespaces() {
  const auto refused = Launcher::Create({});
  if (refused.ok()) return 2;
  for (const char* part : {"namespaces", "private root", "max_user_namespaces="}) {
    if (refused.error().message.find(part) == std::string::npos) return 3;
  }
  auto launcher = Launcher::Create({.best_effort = true});
  if (!launcher.ok()) return 4;
  ChildSpec spec;
  spec.binary = "/bin/true";
  spec.argv = {"true"};
  auto child = (*launcher)->Start(spec);
  if (!child.ok()) return 5;
  pollfd ended = {(*child)->pidfd(), POLLIN, 0};
  poll(&ended, 1, 10'000);
  const auto exit = (*child)->TryWait();
  return exit.has_value() && exit->exit_code == 0 ? 0 : 6;
}

// --- the outer side ---

struct Ran {
  ExitStatus exit;
  std::string output;
};

// The parameter: whether the child goes on as a copy of this process (ChildSpec::entry) instead of running it
// anew.
class Jail : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto launcher = Launcher::Create({});
    ASSERT_TRUE(launcher.ok()) << launcher.error().message;
    launcher_ = std::move(launcher).value();
  }

  // False in a container that hides parts of /proc: no mount of another one is allowed then.
  bool HasOwnProc() const {
    return std::ranges::any_of(
        launcher_->layers(), [](const Layer& layer) { return layer.name == "own /proc" && layer.available; });
  }

  static ChildSpec Spec(const std::string& attempt, const std::string& argument, const std::string& lock) {
    ChildSpec spec;
    spec.argv = {"sandbox_test", "--attempt=" + attempt, argument, lock};
    spec.environment = {"ONLY=this"};
    if (GetParam()) {
      spec.entry = [=] {
        clearenv();
        putenv(const_cast<char*>("ONLY=this"));
        return RunAttempt(attempt, argument, lock);
      };
    }
    return spec;
  }

  Ran Run(const std::string& attempt, const std::string& argument = "",
          const std::string& lock = "executor") {
    return Run(Spec(attempt, argument, lock));
  }
  Ran Run(ChildSpec spec) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    UniqueFd read_end(fds[0]), write_end(fds[1]);
    // What a sanitizer has to say is no part of the outcome.
    if (spec.fds.empty()) spec.fds = {-1, write_end.get(), STDERR_FILENO};
    Ran ran;
    auto child = launcher_->Start(spec);
    if (!child.ok()) {
      ADD_FAILURE() << child.error().message;
      return ran;
    }
    write_end.reset();
    char buffer[4096];
    ssize_t got;
    while ((got = read(read_end.get(), buffer, sizeof buffer)) > 0)
      ran.output.append(buffer, static_cast<std::size_t>(got));
    pollfd ended = {(*child)->pidfd(), POLLIN, 0};
    EXPECT_EQ(poll(&ended, 1, 10'000), 1);
    const auto exit = (*child)->TryWait();
    EXPECT_TRUE(exit.has_value());
    if (exit.has_value()) ran.exit = *exit;
    return ran;
  }

  std::unique_ptr<Launcher> launcher_;
};

TEST_P(Jail, DevicesAreThoseThatAreGiven) {
  ChildSpec spec = Spec("read", "/dev/full", "none");
  EXPECT_EQ(Run(spec).output, "ENOENT");
  spec.device_nodes = {"/dev/full", "/dev/there-is-none", "/etc/passwd"};
  EXPECT_EQ(Run(spec).output, "ok");
  spec = Spec("read", "/etc/passwd", "none");
  spec.device_nodes = {"/etc/passwd", "/dev/../etc/passwd"};
  EXPECT_EQ(Run(spec).output, "ENOENT") << "not below /dev";
}

TEST_P(Jail, OnlyWhoHasADeviceMayAskDrivers) {
  // NVIDIA's, its unified memory's, the direct rendering manager's, AMD's: all mean nothing to /dev/null.
  for (const char* request : {"c00846d6", "25", "30000001", "c0106446", "80084b01"}) {
    EXPECT_EQ(Run("request", request, "executor").output, "ENOSYS") << request;
    EXPECT_EQ(Run("request", request, "driver").output, "ENOTTY") << request;
  }
  // To type on a terminal's behalf (TIOCSTI) is no driver's.
  EXPECT_EQ(Run("request", "5412", "driver").output, "ENOSYS");
}

TEST_P(Jail, EveryLayerIsTried) {
  for (const Layer& layer : launcher_->layers()) {
    EXPECT_FALSE(layer.name.empty());
    EXPECT_FALSE(layer.purpose.empty());
    EXPECT_EQ(layer.available, layer.problem.empty()) << layer.name;
    EXPECT_EQ(layer.available, layer.fix.empty()) << layer.name;
  }
}

TEST_P(Jail, SeesNothingOfTheHost) {
  // A file of the host, in a place that exists in the jail too.
  char path[] = "/tmp/tulle-sandbox-test-XXXXXX";
  const UniqueFd file(mkstemp(path));
  ASSERT_TRUE(file.valid());
  chmod(path, 0666);
  for (const std::string lock : {"none", "executor", "builder"}) {
    EXPECT_EQ(Run("read", path, lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/etc/passwd", lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/etc/shadow", lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/root/.bashrc", lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/home", lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/dev/kvm", lock).output, "ENOENT");
    EXPECT_EQ(Run("read", "/proc/" + std::to_string(getpid()) + "/maps", lock).output, "ENOENT");
    EXPECT_EQ(Run("processes", "", lock).output, HasOwnProc() ? "1" : "0");
    EXPECT_EQ(Run("host_name", "", lock).output, "jail");
    EXPECT_EQ(Run("ids", "", lock).output, "1000 1");
  }
  unlink(path);
  if (!HasOwnProc()) return;
  const std::string interfaces = Run("interfaces", "", "none").output;
  EXPECT_NE(interfaces.find("lo:"), std::string::npos);
  EXPECT_EQ(std::count(interfaces.begin(), interfaces.end(), ':'), 1) << interfaces;
}

TEST_P(Jail, SeesWhatDriversNeed) {
  EXPECT_EQ(Run("read", "/usr/lib/os-release").output, "ok");
  EXPECT_EQ(Run("read", "/lib64/ld-linux-x86-64.so.2").output, "ok");
  EXPECT_EQ(Run("read", "/etc/ld.so.cache").output, "ok");
  EXPECT_EQ(Run("read", "/sys/devices/system/cpu/online").output, "ok");
  EXPECT_EQ(Run("read", "/proc/cpuinfo").output, "ok");
  EXPECT_EQ(Run("read", "/dev/urandom").output, "ok");
  EXPECT_EQ(Run("append", "/dev/null").output, "ok");
  EXPECT_EQ(Run("thread").output, "ok");
}

// A session of its own would be a scheduling group of its own; jail.cc says why it must not be.
TEST_P(Jail, StaysInItsParentsSession) {
  EXPECT_EQ(Run("session").output, "the parent's, in a process group of its own");
  EXPECT_EQ(Run("read", "/dev/tty").output, "ENOENT");
}

TEST_P(Jail, WritesOnlyItsOwnTmp) {
  for (const std::string lock : {"none", "executor", "builder"}) {
    EXPECT_EQ(Run("write", "/tmp/x", lock).output, "ok");
    EXPECT_EQ(Run("rename_in_tmp", "", lock).output, "ok");
    for (const char* path :
         {"/usr/x", "/usr/bin/env", "/x", "/etc/ld.so.cache", "/dev/x", "/sys/devices/system/x",
          "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj"}) {
      const std::string outcome = Run("write", path, lock).output;
      EXPECT_TRUE(outcome == "EROFS" || outcome == "EACCES" || outcome == "ENOENT")
          << path << ": " << outcome;
    }
  }
  ChildSpec spec = Spec("fill_tmp", "8", "executor");
  spec.tmp_bytes = 4 << 20;
  EXPECT_EQ(Run(spec).output, "ENOSPC");
}

TEST_P(Jail, HasNoNetworkEvenWithoutTheFilter) {
  EXPECT_EQ(Run("connect", "", "none").output, "ENETUNREACH");
  for (const std::string lock : {"executor", "builder"}) {
    EXPECT_EQ(Run("socket", "", lock).output, "EPERM");
    EXPECT_EQ(Run("unix_socket", "", lock).output, "EPERM");
    EXPECT_EQ(Run("connect", "", lock).output, "EPERM");
  }
}

TEST_P(Jail, ReachesNoProcessOutside) {
  const std::string me = std::to_string(getpid());
  EXPECT_EQ(Run("kill", me, "none").output, "ESRCH");
  EXPECT_EQ(Run("ptrace", me, "none").output, "ESRCH");
  EXPECT_EQ(Run("vm_read", me, "none").output, "ESRCH");
  EXPECT_EQ(Run("kill", me, "builder").output, "ESRCH");
  EXPECT_EQ(Run("kill", me, "executor").output, "ENOSYS");
}

TEST_P(Jail, OnlyABuilderStartsProcesses) {
  EXPECT_EQ(Run("tool", "", "builder").output.find("ONLY=this\nok"), 0u);
  EXPECT_EQ(Run("fork", "", "builder").output, "ok");
  EXPECT_EQ(Run("fork", "", "executor").output, "ENOSYS");
  EXPECT_EQ(Run("exec", "", "executor").exit.signal, SIGSYS);
  EXPECT_EQ(Run("clone3", "", "executor").output, "ENOSYS");
}

TEST_P(Jail, ExploitsAreKilled) {
  for (const std::string lock : {"executor", "builder"}) {
    for (const char* attempt :
         {"ptrace", "vm_read", "mount", "unshare", "setuid", "bpf", "io_uring", "keyctl", "userfaultfd"}) {
      const Ran ran = Run(attempt, "1", lock);
      EXPECT_EQ(ran.exit.signal, SIGSYS)
          << attempt << " as " << lock << ": " << ran.output << ran.exit.Text();
      EXPECT_NE(ran.exit.Text().find("sandbox"), std::string::npos);
    }
    EXPECT_EQ(Run("forget_parent", "", lock).output, "ENOSYS");
  }
  EXPECT_EQ(Run("raise_limit", "", "none").output, "EPERM");
}

TEST_P(Jail, HasNoPrivilegesAndNothingInherited) {
  EXPECT_EQ(Run("capabilities", "", "none").output,
            !HasOwnProc()
                ? ""
                : "0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 ");
  EXPECT_EQ(Run("environment", "", "none").output, "ONLY=this;");
  const int stray = open("/etc/passwd", O_RDONLY);  // not close-on-exec on purpose
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  ChildSpec spec = Spec("descriptors", "", "none");
  // Positions that clash with the parent's own numbers, and a number far above.
  const int high = fcntl(stray, F_DUPFD_CLOEXEC, 90);
  UniqueFd pipe_read(fds[0]), pipe_write(fds[1]);
  spec.fds = {high, fds[1], -1, stray, fds[1], high};
  auto child = launcher_->Start(spec);
  ASSERT_TRUE(child.ok()) << child.error().message;
  pipe_write.reset();
  char buffer[256] = {};
  EXPECT_GT(read(fds[0], buffer, sizeof buffer), 0);
  EXPECT_STREQ(buffer, "0 1 2 3 4 5");
  close(stray);
  close(high);
}

TEST_P(Jail, CrashesAreTold) {
  for (const std::string attempt : {"crash", "abort"}) {
    const Ran ran = Run(attempt);
    // The first process of a namespace ignores the signal that abort() sends, and ends with the next thing it
    // tries.
    EXPECT_TRUE(ran.exit.signal == SIGSEGV || (attempt == "abort" && ran.exit.signal != 0))
        << ran.exit.Text();
  }
}

TEST_P(Jail, DiesWithItsLauncherAndWhenTold) {
  auto first = launcher_->Start(Spec("wait", "", "executor"));
  auto second = launcher_->Start(Spec("wait", "", "builder"));
  ASSERT_TRUE(first.ok() && second.ok());
  (*first)->Kill();
  pollfd ended = {(*first)->pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 10'000), 1);
  EXPECT_EQ((*first)->TryWait()->signal, SIGKILL);
  EXPECT_EQ((*first)->TryWait()->signal, SIGKILL);  // asked again, told again
  EXPECT_FALSE((*second)->TryWait().has_value());
  launcher_.reset();
  ended = {(*second)->pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 10'000), 1);
  EXPECT_EQ((*second)->TryWait()->signal, SIGKILL);
}

// The child is a copy of one thread of many, and must not wait for the others.
TEST_P(Jail, StartsFromAProgramWithManyThreads) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop)
        std::string(100, 'x').swap(*std::make_unique<std::string>());  // takes the allocator's locks
    });
  }
  ChildSpec spec = Spec("ids", "", "executor");
  spec.entry = nullptr;  // which may not start from one
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Run(spec).output, "1000 1");
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST_P(Jail, DiesWithItsParent) {
  // A process between, that starts a child and is killed.
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  launcher_.reset();  // no thread of it may be inside a lock while forking
  const pid_t between = fork();
  if (between == 0) {
    auto launcher = Launcher::Create({});
    if (!launcher.ok()) _exit(1);
    ChildSpec spec = Spec("spin", "", "executor");
    spec.fds = {-1, fds[1], -1};  // holds the pipe open as long as it lives
    auto child = (*launcher)->Start(spec);
    if (!child.ok()) _exit(1);
    if (write(fds[1], "started", 7) != 7) _exit(1);
    pause();
  }
  UniqueFd read_end(fds[0]);
  close(fds[1]);
  char buffer[16];
  ASSERT_EQ(read(read_end.get(), buffer, sizeof buffer), 7);
  kill(between, SIGKILL);
  waitpid(between, nullptr, 0);
  pollfd hangup = {read_end.get(), POLLIN, 0};
  ASSERT_EQ(poll(&hangup, 1, 10'000), 1);
  EXPECT_EQ(read(read_end.get(), buffer, sizeof buffer), 0);
}

TEST_P(Jail, IsInItsControlGroupFromTheStart) {
  const auto base = ControlGroup::MakeBase({.name = "tulle-test", .parent = ""});
  if (!base.ok()) GTEST_SKIP() << base.error().message;
  const auto group = base->Make("jailed");
  ASSERT_TRUE(group.ok() && group->LimitMemory(64u << 20).ok());
  ChildSpec spec = Spec("fill_tmp", "256", "executor");
  spec.tmp_bytes = 512u << 20;
  spec.control_group = &*group;
  EXPECT_EQ(Run(spec).exit.signal, SIGKILL);
  EXPECT_EQ(group->Usage().memory_kills, 1u);

  auto removed = base->Make("removed");
  ASSERT_TRUE(removed.ok());
  const auto copy = ControlGroup::Open(removed->Text());
  ASSERT_TRUE(copy.ok() && removed->Remove());
  spec.control_group = &*copy;
  const auto none = launcher_->Start(spec);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.error().message.find("entering a control group"), std::string::npos) << none.error().message;
}

// Where the host has no memory left, its kernel chooses who is ended by this.
TEST_P(Jail, IsEndedBeforeOthers) {
  auto child = launcher_->Start(Spec("wait", "", "executor"));
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(ReadAll(("/proc/" + std::to_string((*child)->pid()) + "/oom_score_adj").c_str()), "500\n");
  EXPECT_EQ(Run("append", "/proc/self/oom_score_adj", "none").output, HasOwnProc() ? "EROFS" : "ENOENT");
}

TEST_P(Jail, CpuTimeIsCounted) {
  ChildSpec spec = Spec("spin", "", "executor");
  spec.cpu_seconds = 1;
  auto child = launcher_->Start(spec);
  ASSERT_TRUE(child.ok());
  pollfd ended = {(*child)->pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 30'000), 1);
  const auto exit = (*child)->TryWait();
  EXPECT_NE(exit->signal, 0);  // SIGXCPU, or SIGKILL: pid 1 of a namespace does not get the former
  // The kernel enforces the limit by counting ticks and reports the time exactly: they differ by a few.
  EXPECT_GE(exit->cpu_time_ns, 500'000'000u);
  EXPECT_EQ((*child)->CpuTimeNs(), exit->cpu_time_ns);
}

TEST_P(Jail, WhatIsFrozenDoesNothing) {
  auto child = launcher_->Start(Spec("spin", "", "executor"));
  ASSERT_TRUE(child.ok());
  while ((*child)->CpuTimeNs() < 20'000'000) std::this_thread::yield();
  (*child)->Freeze(true);
  // The signal may take a moment to reach a processor.
  std::uint64_t before = 0, after = 0;
  do {
    before = (*child)->CpuTimeNs();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    after = (*child)->CpuTimeNs();
  } while (before != after);
  EXPECT_FALSE((*child)->TryWait().has_value());
  (*child)->Freeze(false);
  while ((*child)->CpuTimeNs() < after + 20'000'000) std::this_thread::yield();
  (*child)->Freeze(true);
  (*child)->Kill();  // all the same
  pollfd ended = {(*child)->pidfd(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 30'000), 1);
}

TEST_P(Jail, FailuresNameTheStep) {
  ChildSpec spec = Spec("wait", "", "executor");
  spec.entry = nullptr;
  spec.binary = "/nonexistent";
  auto child = launcher_->Start(spec);
  ASSERT_FALSE(child.ok());
  EXPECT_NE(child.error().message.find("/nonexistent"), std::string::npos) << child.error().message;
}

std::string WayText(const testing::TestParamInfo<bool>& way) { return way.param ? "Copy" : "Binary"; }
INSTANTIATE_TEST_SUITE_P(Ways, Jail, testing::Bool(), WayText);

// On a host without user namespaces: refused with the layer's name and fix; started when best effort is asked
// for.
TEST(MissingLayer, IsNamedUnlessBestEffort) {
  // Cloned into a namespace and then executed anew (see main), because unshare() refuses a process with
  // threads, and a sanitizer has one. Until then there is nothing but system calls.
  const pid_t pid =
      static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (pid == 0) {
    const int limit = open("/proc/sys/user/max_user_namespaces", O_WRONLY | O_CLOEXEC);
    if (limit < 0 || write(limit, "0", 1) != 1) _exit(77);
    execl("/proc/self/exe", "sandbox_test", "--without-namespaces", nullptr);
    _exit(errno == EACCES ? 78 : 1);
  }
  if (pid < 0) GTEST_SKIP() << "user namespaces are not allowed here: " << std::strerror(errno);
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "their limit cannot be changed here";
  if (WIFEXITED(status) && WEXITSTATUS(status) == 78) GTEST_SKIP() << "others may not run this binary";
  EXPECT_EQ(status, 0);
}

// In a container that hides parts of /proc there is no own one, and everything else as usual.
TEST(HiddenProc, IsDoneWithout) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const pid_t pid = fork();
  if (pid == 0) {
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) != 0 ||
        mount("tmpfs", "/proc/tty", "tmpfs", 0, nullptr) != 0) {
      _exit(77);
    }
    execl("/proc/self/exe", "sandbox_test", "--gtest_filter=*Jail.*/Binary", "--gtest_brief=1", nullptr);
    _exit(1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "mounts are not allowed here";
  EXPECT_EQ(status, 0);
}

// All of the above again as a user without privileges, when this runs as root.
TEST(Unprivileged, TheSameHolds) {
  if (geteuid() != 0) GTEST_SKIP() << "is not root already";
  const pid_t pid = fork();
  if (pid == 0) {
    if (setgroups(0, nullptr) != 0 || setresgid(12345, 12345, 12345) != 0 ||
        setresuid(12345, 12345, 12345) != 0) {
      _exit(1);
    }
    // A change of id makes a process's /proc unreadable to itself; exec undoes that.
    execl("/proc/self/exe", "sandbox_test", "--gtest_filter=*Jail.*/Binary", "--gtest_brief=1", nullptr);
    _exit(errno == EACCES ? 77 : 1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "others may not run this binary";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace tulle::sandbox

// In a sanitizer's build, too, a crash in the jail is to reach the kernel. Said here, because without /proc a
// sanitizer does not find its options in the environment. It asks before it is ready for instrumented code.
#define TULLE_SANITIZER_ASKS \
  extern "C" __attribute__((visibility("default"), no_sanitize("thread", "address")))
TULLE_SANITIZER_ASKS const char* __asan_default_options() { return getpid() == 1 ? "handle_segv=0" : ""; }
TULLE_SANITIZER_ASKS const char* __tsan_default_options() { return getpid() == 1 ? "handle_segv=0" : ""; }

int main(int argc, char** argv) {
  const std::string prefix = "--attempt=";
  if (argc == 4 && std::string(argv[1]).rfind(prefix, 0) == 0) {
    const int code = tulle::sandbox::RunAttempt(std::string(argv[1]).substr(prefix.size()), argv[2], argv[3]);
    // Past every handler: a leak checker would look with calls that are not allowed in there.
    syscall(SYS_exit_group, code);
  }
  if (argc == 2 && std::strcmp(argv[1], "--without-namespaces") == 0) {
    return tulle::sandbox::RunWithoutNamespaces();
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
