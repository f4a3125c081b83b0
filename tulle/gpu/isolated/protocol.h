// What worker and executor (or builder) agree on beside the ring: descriptors, the layout of the shared
// memory, kinds of record. Same host and same build, so there is no version.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/gpu/isolated/ring.h"
#include "tulle/vm/machine.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu::isolated {

// Descriptors of an executor; 0 is /dev/null; 1 and 2 are kept for the exit reason,
// until the executor makes 1 what kernels print to (kernel_output.h).
inline constexpr int kRingsFd = 3;     // RingsHead, commands, replies
inline constexpr int kArenaFd = 4;     // the device's memory
inline constexpr int kStagingFd = 5;   // payloads
inline constexpr int kDoorbellFd = 6;  // a pipe: one byte wakes the worker
inline constexpr int kMemoriesFd = 7;  // a packet socket: memory of others, as MappedMemory

// An executor in a virtual machine has these pieces of memory one behind the other, from an address that it
// is told, and vm::kBellFd as its doorbell, which wakes both ways. Memory of others it has none.

// Memory that is not of the arena: a record that names a place from kFirstPlace on means it. What it is comes
// beforehand, in a packet with the memory's descriptor, which is read-only where the memory is.
struct MappedMemory {
  std::uint64_t place = 0;  // never used again
  std::uint64_t size_bytes = 0;
  std::uint64_t writable = 0;
};
inline constexpr std::uint64_t kFirstPlace = std::uint64_t{1} << 62;

// A build server has a packet socket, on which orders come; nothing is sent back there.
inline constexpr int kOrdersFd = 3;
inline constexpr char kFolderVariable[] = "TMPDIR";  // names the server's own folder
struct BuildOrder {  // with four descriptors: the builder's kRequestFd, kResultFd, its output, a socket for
                     // states
  std::uint32_t device_index = 0;
  std::uint32_t best_effort = 0;
  std::int64_t idle_seconds = 0;
  std::uint64_t address_space_bytes = 0;
  std::uint64_t cpu_seconds = 0;
  std::uint64_t tmp_bytes = 0;
};
// What comes back on the socket for states, which the worker closes to end the build.
struct BuildState {
  enum class Kind : std::uint32_t { kStarted, kNotStarted, kEnded };
  Kind kind = Kind::kStarted;
  std::int32_t exit_code = -1;  // kEnded: as sandbox::ExitStatus
  std::int32_t signal = 0;
  char reason[244] = {};  // kNotStarted: text, cut to what fits
};

// Descriptors of a builder; 1 and 2 are kept for the build log.
inline constexpr int kRequestFd = 3;  // a memfd: FrameHeader, exec::Compile, text
inline constexpr int kResultFd = 4;   // a memfd, empty: FrameHeader, exec::CompileReply, binary

enum class RecordKind : std::uint8_t {
  kCommand,      // worker to executor, as the next; all others the other way
  kUnmapMemory,  // the memory at this place is not used any more
  kPopulate,     // that in this range is about to be used
  kReady,        // the device is open, the sandbox locked
  kFailed,       // could not start; the body says why, as text
  kReply,
  kNotice,
  kPayloadDone,
};

// RecordHeader::flags.
inline constexpr std::uint8_t kWantsStatus = 1u << 0;  // commands
inline constexpr std::uint8_t kMoreFollows =
    1u << 1;  // the body goes on in the next record (from executors only)
inline constexpr std::uint8_t kLacksMemory = 1u << 2;  // commands; as Command has it

// The beginning of kRingsFd. The settings are written by the worker before the executor starts.
struct RingsHead {
  std::uint32_t device_index = 0;
  std::uint32_t best_effort = 0;
  std::uint32_t drives_devices = 0;  // sandbox::LockOptions
  std::uint64_t arena_bytes = 0, staging_bytes = 0;
  RingIndices commands;
  RingIndices replies;
};
inline constexpr std::uint64_t kRingsHeadBytes = vm::kSharedStepBytes;
static_assert(sizeof(RingsHead) <= kRingsHeadBytes);
inline constexpr std::uint64_t kCommandsOffset = kRingsHeadBytes;
inline constexpr std::uint64_t kRepliesOffset = kCommandsOffset + kRingBytes;
inline constexpr std::uint64_t kRingsFileBytes = kRepliesOffset + kRingBytes;
static_assert(kRingsFileBytes % vm::kSharedStepBytes == 0);

// The whole environment of a jailed process. `given` comes first, so that it wins.
inline std::vector<std::string> DriverEnvironment(const std::vector<std::string>& given) {
  std::vector<std::string> all = given;
  for (const char* variable : {
           "PATH=/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LC_ALL=C.UTF-8",
           // PoCL: a cache of its own, and kernels that fit any local size, so that an enqueue needs no
           // linker.
           "POCL_CACHE_DIR=/tmp/pocl", "POCL_WORK_GROUP_SPECIALIZATION=0",
           // OpenMP runtimes of drivers: sleep when idle.
           "OMP_WAIT_POLICY=passive",
#ifdef __SANITIZE_ADDRESS__
           "ASAN_OPTIONS=detect_leaks=0",  // looks for leaks with calls that end a jailed process
#endif
       }) {
    all.emplace_back(variable);
  }
  return all;
}

}  // namespace tulle::gpu::isolated
