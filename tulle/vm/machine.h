// Virtual machines in which one program runs: QEMU with a Linux kernel, and in it what the caller names,
// which sees memory that it shares with the host, the system's folders of the host (read-only), and nothing
// else. There is no disk, no network and no host's device.
//
// Only how one is put together is here: QEMU is a child of the sandbox like any other, so that who breaks out
// of the machine is in a jail. The machine ends with its program, and QEMU with the machine.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/base/shared_memory.h"
#include "tulle/base/unique_fd.h"
#include "tulle/sandbox/launcher.h"

namespace tulle::vm {

enum class Accelerator {
  kKvm,       // the processor's own
  kEmulated,  // QEMU's translator: some 15 times slower, and no wall that was built as one. For tests.
};

// How machines are made on this host.
struct Settings {
  Accelerator accelerator = Accelerator::kKvm;
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  std::string kernel;   // a Linux image as of /boot; empty: the newest there whose modules are there, too
  std::string modules;  // its modules, as of /lib/modules/VERSION; empty: those
  std::string init;     // tulle-guest; empty: beside this program
  std::vector<std::string> drivers;  // files of `modules`, those first that others need; Complete finds them
};

// Fills in what is empty, and sees that all is there. kFailedPrecondition names what is missing, with its
// fix.
Result<Settings> Complete(Settings settings);

// What a machine has of the host's memory for its kernel and a driver: as much as they use, and no more than
// this.
inline constexpr std::uint64_t kMachineBytes = 1ull << 30;

inline constexpr std::uint64_t kSharedStepBytes = 8192;  // QEMU's: it rounds the sum

struct MachineSpec {
  unsigned processors = 1;
  std::uint64_t driver_bytes = 0;  // that a driver may use beyond what kMachineBytes has for it
  // Descriptors in QEMU of memory that is shared, from `first_shared_fd` on, and sizes, multiples of
  // kSharedStepBytes. The machine has them one behind the other, from SharedAddress on.
  int first_shared_fd = 3;
  std::vector<std::uint64_t> shared_bytes;
  int bell_fd = -1;  // in QEMU: a stream socket
  int kernel_fd = -1, initramfs_fd = -1;
};

// The physical address at which the first of what is shared begins, in the machine.
std::uint64_t SharedAddress(const MachineSpec& spec);

struct Program {
  std::string file;  // empty: there is none, and the machine ends at once
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::vector<std::string> folders;  // of the jail, that it sees besides the system's
};

// What QEMU is to be started as, in a jail: its binary, arguments and limits. `spec->fds` has the descriptors
// already.
void Specify(const Settings& settings, const MachineSpec& machine, const Program& program,
             sandbox::ChildSpec* spec);

// The file system from which the machine starts: tulle-guest, drivers, and what it is to run.
// kInvalidArgument: the program's texts are too long, or one of them is empty.
Result<SharedMemory> MakeInitramfs(const Settings& settings, const Program& program);

// " was killed by signal 11 (Segmentation fault)": how the program in the machine ended, by how QEMU did.
std::string EndText(const sandbox::ExitStatus& qemu);

// Starts a machine as for a session, with this program, which is to end without an error; how long all that
// took. kFailedPrecondition says why it did not work, in the machine's or QEMU's own words.
Result<std::chrono::milliseconds> TryMachine(sandbox::Launcher& launcher, const Settings& settings,
                                             const Program& program, unsigned processors,
                                             std::chrono::milliseconds patience);

}  // namespace tulle::vm
