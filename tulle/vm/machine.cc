#include "tulle/vm/machine.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>

#include "tulle/base/check.h"
#include "tulle/vm/guest_abi.h"
#include "tulle/vm/shares.h"

namespace tulle::vm {
namespace {

constexpr char kKvmDevice[] = "/dev/kvm";
constexpr char kInstallQemu[] = "apt-get install qemu-system-x86";
// QEMU opens what others look at, too: a descriptor for each file that the program has open.
constexpr std::uint64_t kOpenFiles = 4096;
constexpr std::size_t kMaxConsoleBytes = 4096;
constexpr std::uint64_t kPageBytes = 4096;
constexpr char kOwnProc[] = "own /proc";  // by which QEMU reaches its descriptors

Error Missing(const std::string& what, const std::string& fix) {
  return Error{.code = Code::kFailedPrecondition, .message = what + "; fix: " + fix, .scope = Scope::kNode};
}

bool IsThere(const std::string& path, int how) { return access(path.c_str(), how) == 0; }

// "6.1.0-57-amd64" of "/boot/vmlinuz-6.1.0-57-amd64", whose modules are there; the newest by its text's
// parts.
std::string NewestKernel() {
  const std::string prefix = "vmlinuz-";
  std::string best;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/boot", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const std::string version = name.substr(prefix.size());
    if (!IsThere("/lib/modules/" + version + "/kernel/fs/9p", R_OK)) continue;
    if (best.empty() || strverscmp(best.c_str(), version.c_str()) < 0) best = version;
  }
  return best;
}

// What the kernel lacks without modules, those that others need first. Some versions have fewer of them.
struct Driver {
  const char* name;
  bool needed;
};
constexpr Driver kDrivers[] = {{"virtio_ring", false},
                               {"virtio", false},
                               {"virtio_pci_legacy_dev", false},
                               {"virtio_pci_modern_dev", false},
                               {"virtio_pci", true},
                               {"virtio_console", true},
                               {"netfs", false},
                               {"fscache", false},
                               {"9pnet", false},
                               {"9pnet_virtio", true},
                               {"9p", true}};

Result<std::vector<std::string>> FindDrivers(const std::string& modules) {
  std::map<std::string, std::string> files;  // paths by name
  std::error_code error;
  for (auto at = std::filesystem::recursive_directory_iterator(modules, error);
       !error && at != std::filesystem::recursive_directory_iterator(); at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (const std::size_t end = name.find(".ko"); end != std::string::npos)
      files[name.substr(0, end)] = at->path().string();
  }
  if (error) return Missing(modules + ": " + error.message(), "name a folder of modules that can be read");
  std::ifstream file(modules + "/modules.builtin");
  const std::string built_in((std::istreambuf_iterator<char>(file)), {});
  std::vector<std::string> drivers;
  for (const Driver& driver : kDrivers) {
    const auto found = files.find(driver.name);
    if (found != files.end() && !found->second.ends_with(".ko"))
      return Missing(found->second + " is compressed", "use a kernel whose modules are not, as Debian 12's");
    if (found != files.end()) {
      drivers.push_back(found->second);
    } else if (driver.needed && built_in.find("/" + std::string(driver.name) + ".ko") == std::string::npos) {
      return Missing(modules + " has no " + driver.name, "use a kernel with it, as of linux-image-amd64");
    }
  }
  return drivers;
}

// A machine's own memory lies below this much and, as far as it is more, from 4 GiB on; what is shared lies
// behind that, in one piece. Both in whole GiB, as QEMU likes it.
constexpr std::uint64_t kLowBytes = 2ull << 30, kHighAddress = 4ull << 30, kStepBytes = 1ull << 30;

// The kernel that maps shared memory for the program needs an entry of 8 bytes for each of its pages.
std::uint64_t OwnBytes(const MachineSpec& spec) {
  std::uint64_t bytes = kMachineBytes + spec.driver_bytes;
  for (const std::uint64_t shared : spec.shared_bytes) bytes += shared / kPageBytes * 8;
  return (bytes + kStepBytes - 1) / kStepBytes * kStepBytes;
}

std::string FdPath(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

}  // namespace

Result<Settings> Complete(Settings settings) {
  if (!IsThere(settings.qemu, X_OK)) return Missing(settings.qemu + " is not there", kInstallQemu);
  if (settings.accelerator == Accelerator::kKvm && !IsThere(kKvmDevice, R_OK | W_OK)) {
    return Missing(
        std::string(kKvmDevice) + ": " + std::strerror(errno),
        "enable virtualization in the firmware (or of the machine that this one is in), load kvm_intel or "
        "kvm_amd, and let whom the node runs as read and write it (group kvm)");
  }
  if (settings.kernel.empty()) {
    const std::string version = NewestKernel();
    if (version.empty()) {
      return Missing(
          "there is no Linux kernel for virtual machines: no /boot/vmlinuz-* that can be read with 9p among "
          "its modules in /lib/modules",
          "apt-get install linux-image-amd64 (that of clouds lacks 9p), or unpack that package anywhere and "
          "name what is in it by --vm-kernel and --vm-modules");
    }
    settings.kernel = "/boot/vmlinuz-" + version;
    settings.modules = "/lib/modules/" + version;
  }
  if (settings.modules.empty())
    return Missing("no modules are named for " + settings.kernel, "name their folder by --vm-modules");
  if (settings.init.empty()) {
    std::error_code error;
    settings.init =
        (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "tulle-guest").string();
  }
  for (const std::string* path : {&settings.kernel, &settings.modules, &settings.init}) {
    if (!IsThere(*path, R_OK))
      return Missing(*path + ": " + std::strerror(errno), "name one that can be read");
  }
  TULLE_ASSIGN_OR_RETURN(settings.drivers, FindDrivers(settings.modules));
  return settings;
}

std::uint64_t SharedAddress(const MachineSpec& spec) {
  return kHighAddress + OwnBytes(spec) - std::min(OwnBytes(spec), kLowBytes);
}

void Specify(const Settings& settings, const MachineSpec& machine, const Program& program,
             sandbox::ChildSpec* spec) {
  const bool kvm = settings.accelerator == Accelerator::kKvm;
  const std::uint64_t own_bytes = OwnBytes(machine);
  const std::uint64_t shared_bytes =
      std::accumulate(machine.shared_bytes.begin(), machine.shared_bytes.end(), std::uint64_t{0});
  std::string kernel = "quiet panic=-1 console=ttyS0 random.trust_cpu=on numa=off";
  if (shared_bytes != 0)  // no memory of the kernel's
    kernel += " memmap=" + std::to_string(shared_bytes) + "$" + std::to_string(SharedAddress(machine));
  std::vector<std::string>& arguments = spec->argv;
  arguments = {
      "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
      // What a QEMU that was taken over may not do, besides what its jail does not let it.
      "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-machine",
      "q35,hpet=off,usb=off,sata=off,smbus=off,vmport=off,max-ram-below-4g=" +
          std::to_string(std::min(own_bytes, kLowBytes)),
      "-accel", kvm ? "kvm" : "tcg,thread=multi", "-cpu", kvm ? "host" : "max", "-smp",
      std::to_string(machine.processors), "-m", std::to_string((own_bytes + shared_bytes) >> 10) + "K",
      "-object", "memory-backend-ram,id=own,size=" + std::to_string(own_bytes), "-numa", "node,memdev=own",
      "-kernel", FdPath(machine.kernel_fd), "-initrd", FdPath(machine.initramfs_fd), "-append", kernel,
      // Standard input is /dev/null.
      "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-device",
      "isa-debug-exit,iobase=" + std::to_string(kExitPort) + ",iosize=1"};
  const auto add = [&](const char* option, const std::string& value) {
    arguments.emplace_back(option);
    arguments.push_back(value);
  };
  for (std::size_t i = 0; i < machine.shared_bytes.size(); ++i) {
    TULLE_CHECK(machine.shared_bytes[i] % kSharedStepBytes == 0);
    const std::string id = "shared" + std::to_string(i);
    add("-object", "memory-backend-file,id=" + id +
                       ",share=on,mem-path=" + FdPath(machine.first_shared_fd + static_cast<int>(i)) +
                       ",size=" + std::to_string(machine.shared_bytes[i]));
    add("-numa", "node,memdev=" + id);
  }
  if (machine.bell_fd >= 0) {
    add("-device", "virtio-serial-pci,max_ports=2");
    add("-chardev", "socket,id=bell,fd=" + std::to_string(machine.bell_fd));
    add("-device", std::string("virtserialport,chardev=bell,name=") + kBellName);
  }
  if (!program.file.empty()) {
    const Shares shares = SharesOf(program);
    for (std::size_t i = 0; i < shares.folders.size(); ++i) {
      const std::string id = kShareTag + std::to_string(i);
      add("-fsdev", "local,id=" + id + ",path=" + shares.folders[i] +
                        ",security_model=none,readonly=on,multidevs=remap");
      add("-device", "virtio-9p-pci,fsdev=" + id + ",mount_tag=" + id);
    }
  }
  spec->binary = settings.qemu;
  spec->open_files = std::max(spec->open_files, kOpenFiles);
  spec->device_nodes.clear();
  if (kvm) spec->device_nodes.emplace_back(kKvmDevice);
}

std::string EndText(const sandbox::ExitStatus& qemu) {
  if (qemu.signal != 0) return "'s virtual machine " + qemu.Text();
  if (qemu.exit_code % 2 == 0 || qemu.exit_code < 0)
    return "'s virtual machine ended without its program (QEMU " + qemu.Text() + ")";
  const unsigned how = static_cast<unsigned>(qemu.exit_code) / 2;
  // QEMU's own way to say that it could not start is 1, which would be signal 0.
  if (how == 0) return "'s virtual machine could not start (QEMU " + qemu.Text() + ")";
  sandbox::ExitStatus program;
  if (how < kExited) {
    program.signal = static_cast<int>(how);
  } else {
    program.exit_code = static_cast<int>(how - kExited);
  }
  return " " + program.Text();
}

Result<std::chrono::milliseconds> TryMachine(sandbox::Launcher& launcher, const Settings& settings,
                                             const Program& program, unsigned processors,
                                             std::chrono::milliseconds patience) {
  for (const sandbox::Layer& layer : launcher.layers()) {
    if (!layer.available && (layer.required || layer.name == kOwnProc))
      return Missing("QEMU has no jail here: \"" + layer.name + "\" is missing, " + layer.problem, layer.fix);
  }
  const UniqueFd kernel(open(settings.kernel.c_str(), O_RDONLY | O_CLOEXEC));
  if (!kernel.valid()) return ErrnoError(settings.kernel, errno);
  TULLE_ASSIGN_OR_RETURN(const auto initramfs, MakeInitramfs(settings, program));
  TULLE_ASSIGN_OR_RETURN(const auto shared, SharedMemory::Create("tulle trial", kSharedStepBytes));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("a pipe for a console", errno);
  const UniqueFd console(ends[0]);
  UniqueFd console_of_child(ends[1]);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoError("a pair of sockets", errno);
  const UniqueFd bell(ends[0]);
  UniqueFd bell_of_child(ends[1]);

  sandbox::ChildSpec spec;
  spec.fds = {-1,           console_of_child.get(), console_of_child.get(), shared.fd(), bell_of_child.get(),
              kernel.get(), initramfs.fd()};
  spec.read_only_paths = {program.file};
  Specify(settings,
          {.processors = processors,
           .shared_bytes = {shared.size_bytes()},
           .bell_fd = 4,
           .kernel_fd = 5,
           .initramfs_fd = 6},
          program, &spec);
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);
  };
  TULLE_ASSIGN_OR_RETURN(const auto child, launcher.Start(spec));
  console_of_child.reset();
  bell_of_child.reset();
  std::string said;
  for (;;) {
    const auto left = patience - passed();
    pollfd readable{console.get(), POLLIN, 0};
    const int ready = poll(&readable, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      return Error{.code = Code::kFailedPrecondition,
                   .message = "a virtual machine did not start within " + std::to_string(patience.count()) +
                              " ms; it last said: " + said,
                   .scope = Scope::kNode};
    }
    char bytes[1024];
    const ssize_t size = read(console.get(), bytes, sizeof bytes);
    if (size <= 0) break;  // it has ended
    said.append(bytes, static_cast<std::size_t>(size));
    if (said.size() > kMaxConsoleBytes) said.erase(0, said.size() - kMaxConsoleBytes);
  }
  pollfd ended{child->pidfd(), POLLIN, 0};
  std::optional<sandbox::ExitStatus> exit;
  while (!(exit = child->TryWait()).has_value()) poll(&ended, 1, -1);
  if (exit->exit_code != static_cast<int>(2 * kExited + 1)) {
    return Error{.code = Code::kFailedPrecondition,
                 .message = "the program" + EndText(*exit) + "; it last said: " + said,
                 .scope = Scope::kNode};
  }
  return passed();
}

}  // namespace tulle::vm
