// tulle-guest: the first program in a virtual machine of `tulle/vm`. It loads drivers, mounts what the host
// shares, opens what the program is to have open, runs it as an ordinary user, and tells the machine's end
// how it ended. By then nothing of a tenant's has run: what is wrong here is the host's configuration, and
// said on the console.
//
// System calls and C's library only, with nothing to clean up: the machine's end is its own.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "tulle/vm/guest_abi.h"

namespace {

using namespace tulle::vm;

constexpr unsigned kUser = 1000;
constexpr char kNewRoot[] = "/new";  // what the program will see as /
constexpr int kMaxTexts = 256;
constexpr int kConsoleTries = 50;  // of 10 ms

[[noreturn]] void End(unsigned how) {
  fflush(stdout);
  // The console is slow, and stands still when the host takes no more of it.
  int waiting = 0;
  for (int tries = 0; tries < kConsoleTries && ioctl(STDOUT_FILENO, TIOCOUTQ, &waiting) == 0 && waiting > 0;
       ++tries)
    poll(nullptr, 0, 10);
  if (ioperm(kExitPort, 1, 1) == 0) {
    asm volatile("outb %0, %1" ::"a"(static_cast<unsigned char>(how)), "Nd"(kExitPort));
  }
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

[[noreturn]] void Fail(const char* what) {
  printf("tulle-guest: %s: %s\n", what, strerror(errno));
  End(kExited + kNotStarted);
}

void Mount(const char* what, const char* type, const char* at, unsigned long flags, const char* options) {
  if (mount(what, at, type, flags, options) != 0) Fail(at);
}

void LoadModules() {
  dirent** names = nullptr;
  const int count = scandir(
      kModulesFolder, &names, [](const dirent* entry) -> int { return entry->d_name[0] != '.'; }, alphasort);
  for (int i = 0; i < count; ++i) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", kModulesFolder, names[i]->d_name);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST) Fail(path);
    close(file);
  }
}

// The kernel tells of a driver's devices after the driver is there.
template <typename Ready>
void Await(const char* what, Ready ready) {
  for (int tries = 0; !ready(); ++tries) {
    if (tries == 3000) Fail(what);
    poll(nullptr, 0, 10);
  }
}

// Descriptor `wanted` of the program; it must be the lowest that is free, or taken by nothing that is needed.
void Keep(int fd, int wanted, const char* what) {
  if (fd < 0 || (fd != wanted && dup2(fd, wanted) < 0)) Fail(what);
  if (fd != wanted) close(fd);
  fcntl(wanted, F_SETFD, 0);
}

int OpenBell() {
  char path[300] = "";
  Await("the port to the host", [&] {
    dirent** names = nullptr;
    const int count = scandir("/sys/class/virtio-ports", &names, nullptr, alphasort);
    for (int i = 0; i < count; ++i) {
      char name_path[300], name[32] = "";
      snprintf(name_path, sizeof name_path, "/sys/class/virtio-ports/%s/name", names[i]->d_name);
      const int file = open(name_path, O_RDONLY | O_CLOEXEC);
      if (file < 0) continue;
      const ssize_t size = read(file, name, sizeof name - 1);
      close(file);
      if (size <= 0 || strncmp(name, kBellName, strlen(kBellName)) != 0) continue;
      snprintf(path, sizeof path, "/dev/%s", names[i]->d_name);
      return access(path, R_OK | W_OK) == 0;
    }
    return false;
  });
  const int bell = open(path, O_RDWR | O_NONBLOCK);
  if (bell < 0) Fail(path);
  // What is written before the host's end is known to be there would be lost.
  Await("the host at the port", [&] {
    pollfd state{bell, POLLOUT, 0};
    return poll(&state, 1, 0) >= 0 && (state.revents & POLLHUP) == 0;
  });
  return bell;
}

struct Command {
  char* file[2] = {};
  char* arguments[kMaxTexts] = {};
  char* environment[kMaxTexts] = {};
  char* shares[kMaxTexts] = {};
  char* links[kMaxTexts] = {};
};

// False: there is nothing to run.
bool ReadCommand(Command* command) {
  static char bytes[kMaxCommandBytes];
  const int file = open(kCommandPath, O_RDONLY | O_CLOEXEC);
  if (file < 0) Fail(kCommandPath);
  const ssize_t size = read(file, bytes, sizeof bytes);
  close(file);
  if (size < 0) Fail(kCommandPath);
  char* text = bytes;
  const auto read_list = [&](char** list, int most) {
    for (; text < bytes + size && *text != '\0'; text += strlen(text) + 1) {
      if (most-- <= 1) {
        errno = E2BIG;
        Fail(kCommandPath);
      }
      *list++ = text;
    }
    ++text;
  };
  read_list(command->file, 2);
  read_list(command->arguments, kMaxTexts);
  read_list(command->environment, kMaxTexts);
  read_list(command->shares, kMaxTexts);
  read_list(command->links, kMaxTexts);
  return size > 0;
}

// Below kNewRoot.
const char* InRoot(const char* path) {
  static char text[4096];
  if (snprintf(text, sizeof text, "%s%s", kNewRoot, path) >= static_cast<int>(sizeof text)) Fail(path);
  return text;
}

void MakeFolders(const char* path) {
  char text[4096];
  strcpy(text, InRoot(path));
  for (char* slash = text + sizeof kNewRoot; (slash = strchr(slash, '/')) != nullptr; *slash++ = '/') {
    *slash = '\0';
    mkdir(text, 0755);
  }
  if (mkdir(text, 0755) != 0 && errno != EEXIST) Fail(text);
}

// The root that the program sees: the host's folders, and what is the machine's own.
void MakeRoot(const Command& command) {
  Mount("tmpfs", "tmpfs", kNewRoot, MS_NOSUID | MS_NODEV, "mode=0755,size=1m");
  for (int i = 0; command.shares[i] != nullptr; ++i) {
    char tag[32];
    snprintf(tag, sizeof tag, "%s%d", kShareTag, i);
    MakeFolders(command.shares[i]);
    Mount(tag, "9p", InRoot(command.shares[i]), MS_RDONLY | MS_NODEV | MS_NOSUID,
          "trans=virtio,version=9p2000.L,msize=524288,cache=loose");
  }
  for (int i = 0; command.links[i] != nullptr && command.links[i + 1] != nullptr; i += 2) {
    if (symlink(command.links[i + 1], InRoot(command.links[i])) != 0) Fail(command.links[i]);
  }
  for (const char* folder : {"/dev", "/tmp", "/proc", "/sys/devices/system"}) MakeFolders(folder);
  Mount("tmpfs", "tmpfs", "/new/dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k");
  const struct {
    const char* path;
    unsigned minor;
  } nodes[] = {{"/new/dev/null", 3}, {"/new/dev/zero", 5}, {"/new/dev/random", 8}, {"/new/dev/urandom", 9}};
  umask(0);
  for (const auto& node : nodes) {
    if (mknod(node.path, S_IFCHR | 0666, makedev(1, node.minor)) != 0) Fail(node.path);
  }
  umask(0022);
  Mount("tmpfs", "tmpfs", "/new/tmp", MS_NOSUID | MS_NODEV, "mode=0700,uid=1000,gid=1000,size=50%");
  Mount("proc", "proc", "/new/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "");
  Mount("/sys/devices/system", "", "/new/sys/devices/system", MS_BIND, "");  // its processors
  Mount("", "", kNewRoot, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, "");
}

[[noreturn]] void Run(const Command& command) {
  if (chroot(kNewRoot) != 0 || chdir("/tmp") != 0) Fail(kNewRoot);
  if (syscall(SYS_setgroups, 0, nullptr) != 0 || setresgid(kUser, kUser, kUser) != 0 ||
      setresuid(kUser, kUser, kUser) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    Fail("becoming an ordinary user");
  }
  execve(command.file[0], command.arguments, command.environment);
  printf("tulle-guest: %s: %s\n", command.file[0], strerror(errno));
  fflush(stdout);
  _exit(static_cast<int>(kNotStarted));
}

}  // namespace

int main() {
  for (const char* folder : {"/proc", "/sys", "/dev", kNewRoot}) mkdir(folder, 0755);
  // Nobody could be told if there is no console. It is not to be waited for: who prints more than the host
  // takes loses it.
  (void)mount("devtmpfs", "/dev", "devtmpfs", 0, "");
  const int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK);
  for (int fd = 0; fd < kMemoryFd; ++fd) dup2(console, fd);
  close_range(kMemoryFd, ~0u, 0);
  Mount("proc", "proc", "/proc", 0, "");
  Mount("sysfs", "sysfs", "/sys", 0, "");

  static Command command;
  if (!ReadCommand(&command)) End(kExited);
  LoadModules();
  Keep(open("/dev/mem", O_RDWR), kMemoryFd, "/dev/mem");
  Keep(OpenBell(), kBellFd, "the port to the host");
  MakeRoot(command);
  fflush(stdout);
  const pid_t program = fork();
  if (program < 0) Fail("fork");
  if (program == 0) Run(command);
  int status = 0;
  for (;;) {
    const pid_t ended = wait(&status);
    if (ended == program) break;
    if (ended < 0 && errno != EINTR) Fail("wait");
  }
  if (WIFSIGNALED(status)) End(static_cast<unsigned>(WTERMSIG(status)));
  const unsigned code = static_cast<unsigned>(WEXITSTATUS(status));
  End(kExited + (code < kMaxCode ? code : kMaxCode));
}
