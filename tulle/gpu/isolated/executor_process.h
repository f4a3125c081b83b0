// The worker's half of a backend in another process: a sandboxed executor, the memory it shares with the
// worker, and the two rings through which commands go and replies come.
//
// One thread (the session's) owns an ExecutorProcess and calls everything on it; CpuTimeNs, CpuWaitNs and
// Freeze may be called by any. Nothing here blocks. What the executor writes is hostile: it is copied, then
// checked, and what does not answer a command under way, or is not a well-formed message, kills the executor.
// Bounds: the rings (kRingBytes each), the staging and arena sizes given, kMaxInFlight commands that wait for
// an answer.
//
// The loop of a session, in short:
//   while (executor.TryReceive(&r) == Receive::kGot) ...;          // replies first
//   ... executor.Submit(s); ... executor.Flush();                  // a batch of commands
//   if (executor.SpinForReplies()) continue;                       // a reply is often microseconds away
//   if (executor.PrepareToSleep()) poll({socket, executor.wake_fd(), executor.death_fd()});
//   executor.Awake();
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/result.h"
#include "tulle/gpu/isolated/host_memory.h"
#include "tulle/gpu/isolated/staging.h"
#include "tulle/sandbox/launcher.h"
#include "tulle/vm/machine.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu::isolated {

// Commands that wait for an answer or hold staging. Each costs the worker some 100 B.
inline constexpr std::size_t kMaxInFlight = 1u << 16;
static_assert(kMaxInFlight >= wire::kCommandsUnderWay);

struct ExecutorOptions {
  std::string binary = "/proc/self/exe";
  std::vector<std::string> argv;  // {"tulle-worker", "--role=executor", ...}: must end in RunExecutor()
  std::vector<std::string> environment;  // added to what drivers need anyway
  std::vector<std::string>
      read_only_paths;                    // seen in the jail besides the system's folders: a driver in /opt
  std::vector<std::string> device_nodes;  // of the GPU (DeviceNodesOf)
  std::uint32_t device_index = 0;         // of Driver::Probe
  std::uint64_t arena_bytes = 0;          // device memory; sparse: costs what is touched
  std::uint64_t staging_bytes = 256ull << 20;  // payloads under way; sparse too
  std::uint64_t tmp_bytes = 256ull << 20;      // the executor's /tmp: drivers unpack binaries there
  // Set: it runs in a virtual machine of its own, in that jail. Then memory of others cannot be mapped, there
  // are no device nodes in it, and its /tmp is of the machine's memory.
  std::optional<vm::Settings> machine;
  unsigned processors = 1;  // of the machine
  std::chrono::seconds ready_within{
      120};                        // else the machine is ended: much more than any takes, also emulated
  std::uint64_t driver_bytes = 0;  // of memory that its driver has for itself, beside what is shared
  // Of which it may have its part; null: it may have as much as there is.
  std::shared_ptr<HostMemory> host_memory;
};

// One command. `body` has been checked (Decode, limits, handles, quota) by the caller.
struct Submission {
  std::uint16_t opcode = 0;    // of kCommands with Place::kDevice, or exec::LoadProgram
  std::uint16_t flags = 0;     // wire::FrameFlag: kWantStatus asks for a StatusReply
  std::uint64_t sequence = 0;  // names the command in its answers; not in use by another under way
  ByteView body;               // copied
  StagingBlock payload;  // the bytes that it brings, or room for those that it wants; moved from on success
  std::optional<Range> memory;  // CreateBuffer: where in the arena
  bool lacks_memory = false;    // as Command has it
};

struct Received {
  enum class Kind {
    kReady,        // the device is open and the sandbox locked (commands may be submitted before)
    kReply,        // `body` is a well-formed Reply of the row `opcode` (StatusReply where it has none), with
                   // `payload`
    kNotice,       // `body` is a well-formed EventsCompleted, CommandFailed or KernelOutput; handles are not
                   // checked
    kPayloadDone,  // the staging block that command `sequence` brought is free again
  };
  Kind kind = Kind::kReady;
  std::uint16_t opcode = 0;
  std::uint64_t sequence = 0;  // the command's; 0 in a notice
  ByteView body;               // valid until the next TryReceive
  StagingBlock payload;  // the reply's bytes, exactly as many as its body announces; the caller's to keep
};

enum class Receive {
  kGot,
  kNothing,
  kDead,  // the executor has ended, broke the protocol (and was killed), or could not start: see end_reason()
};

class ExecutorProcess {
 public:
  // Returns as soon as the process runs; opening the device goes on (Received::Kind::kReady tells its end).
  // `launcher` must outlive it.
  static Result<std::unique_ptr<ExecutorProcess>> Start(sandbox::Launcher& launcher,
                                                        const ExecutorOptions& options);
  ~ExecutorProcess();  // kills; every StagingBlock must have been given back
  ExecutorProcess(const ExecutorProcess&) = delete;
  ExecutorProcess& operator=(const ExecutorProcess&) = delete;

  // --- memory ---
  // Room for a buffer, page-aligned, reads as zero; nullopt: no free range is large enough. The range goes
  // into Submission::memory of its CreateBuffer.
  std::optional<Range> AllocateMemory(std::uint64_t size_bytes);
  // The range may go to another buffer, and reads as zero again. Only after the executor has let go of it:
  // send DestroyObject with kWantStatus, and free when its StatusReply comes.
  void FreeMemory(const Range& range);
  // Memory that is not of the arena, as such a range: for Submission::memory, and to be freed likewise.
  // The descriptor stays the caller's. Nullopt: the executor has much of such to look at, has ended, or is in
  // a virtual machine.
  std::optional<Range> MapMemory(int fd, std::uint64_t size_bytes, bool writable);
  // The bytes of the device's memory as kernels see them; a stranger writes to them at any time.
  MutableByteView memory(const Range& range);
  // Copies of it, to and from this process. What is written is about to be used by commands submitted next.
  void ReadMemory(const Range& range, MutableByteView bytes);
  void WriteMemory(const Range& range, ByteView bytes);
  // Whole pages of it take no memory any more, until they are used again; they read as zero.
  void DropMemory(const Range& range);
  // All of it, for another process to map.
  int memory_fd() const;
  // Room for a payload; nullopt: staging is full until a reply or kPayloadDone gives some back.
  std::optional<StagingBlock> AllocateStaging(std::uint64_t size_bytes);

  // --- commands ---
  // False when there is no room now (ring or commands under way): take replies, and try again when
  // wake_fd() says so. On false nothing has happened and `submission` is unchanged.
  bool Submit(Submission& submission);
  // The commands submitted so far shall be seen: wakes the executor if it sleeps. End of each batch.
  void Flush();

  // --- replies ---
  Receive TryReceive(Received* received);
  // Looks for replies for some microseconds, as long as that has paid off lately. True: TryReceive has
  // something.
  bool SpinForReplies();
  // True: nothing is there, and wake_fd() will be readable when something is (a reply; room after Submit
  // returned false; the executor's end). False: take replies, or submit again, now.
  bool PrepareToSleep();
  // After poll(), whatever it said.
  void Awake();
  int wake_fd() const;
  int death_fd()
      const;  // readable when the executor has ended; TryReceive then says kDead after the last reply

  // --- life ---
  void Kill();
  // It does nothing until it is let go on; replies that it has written can be taken. Thread-safe.
  void Freeze(bool frozen);
  // For a person: "the executor was killed by signal 11 (Segmentation fault)", with the last lines it
  // printed. Empty while it lives.
  const std::string& end_reason() const;
  std::uint64_t CpuTimeNs() const;  // all of its threads, in nanoseconds; thread-safe
  std::uint64_t CpuWaitNs() const;  // sandbox::Child; thread-safe
  pid_t pid() const;

 private:
  class Impl;
  explicit ExecutorProcess(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tulle::gpu::isolated
