// The contract of a GPU backend: checked commands in, completions out. It speaks the wire's own message
// structs, so a remoted call is declared once and a decorator (isolated/) can pass commands on as bytes.
//
// A backend serves one session. It is given only commands whose limits and handles have been checked, in
// the session's order; it never sees a peer's memory. An object whose creation failed may still be named by
// what was sent before the failure was known, and by DestroyObject: such commands fail with the API's
// invalid-object status (destroying it succeeds), and nothing else happens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/frame.h"
#include "tulle/wire/schema/exec.h"

namespace tulle::gpu {

// One command as a backend gets it. Views are valid during Submit only, except where said.
struct Command {
  std::uint16_t opcode = 0;   // of kCommands with Place::kDevice, or of kExecCommands
  bool wants_status = false;  // answer StatusReply though the row has no reply
  std::uint64_t sequence = 0;
  ByteView body;
  MutableByteView payload;  // bytes brought (Payload), or room for the bytes wanted (Wanted); valid until
                            // PayloadDone(sequence), or the reply to the command
  MutableByteView memory;   // CreateBuffer, CreateSvm, CreateImage (packed pixels): memory (shared, page-
                            // aligned, zeroed) of the size that the object must live in, valid until that is
                            // destroyed; empty: the backend allocates, or it lies in a buffer. DestroyObject
  // of such a one is answered (the worker always asks, wants_status) when no command
  // can touch that memory any more: it is used again from then on
  int memory_fd = -1;  // of `memory` where others have it, too, as a file of at least that size (in whole
                       // granules of CUDA's); to be mapped, and not kept. Read-only where the memory is
  // There is no memory for what it uses: it fails with CL_MEM_OBJECT_ALLOCATION_FAILURE, and nothing of it
  // happens. Commands of OpenCL that are enqueued, and those that bring a buffer's or image's first bytes.
  bool lacks_memory = false;
};

// Where a backend reports. Thread-safe: drivers call from their own threads. Never blocks for long; the
// views are copied before the call returns.
class Completions {
 public:
  virtual ~Completions() = default;
  // The answer to a command; `payload_bytes` of the command's `payload` room have been filled.
  virtual void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body,
                     std::uint64_t payload_bytes) = 0;
  // EventsCompleted, CommandFailed, KernelOutput.
  virtual void Notice(std::uint16_t opcode, ByteView body) = 0;
  // The payload that the command brought is no longer needed. Exactly once for each command that brought any.
  virtual void PayloadDone(std::uint64_t sequence) = 0;
};

template <wire::Message M>
void SendReply(Completions& completions, std::uint16_t opcode, std::uint64_t sequence, const M& message,
               std::uint64_t payload_bytes = 0) {
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  completions.Reply(opcode, sequence, body, payload_bytes);
}
template <wire::Message M>
void SendNotice(Completions& completions, const M& message) {
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  completions.Notice(wire::kOpcodeOf<M>, body);
}

class Backend {
 public:
  virtual ~Backend() = default;  // waits until no completion is under way

  // Starts one command. Called by one thread; returns without waiting for the device. What fails is
  // reported: in the reply if there is one; as the event's status if there is an event; and always as
  // CommandFailed when the command had no reply and wants_status was not set. A command that fails only when
  // it runs (what it waited for failed) says so in its reply and its event alone, as drivers do.
  //
  // Reports of one command come in this order: reply or PayloadDone, then its event; a Finish is answered
  // behind all of these of the commands before it. To wait for an event that is known to have failed fails
  // with CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST. A user event that is destroyed before it was set
  // counts as failed. SetKernelArg of a kind that the argument is not (a value for a buffer, ...) fails with
  // CL_INVALID_ARG_VALUE, and a kernel whose buffer was destroyed with CL_INVALID_KERNEL_ARGS.
  virtual void Submit(const Command& command) = 0;

  // Commands submitted so far need not wait for more to come (end of a batch).
  virtual void Flush() = 0;

  // All payloads will lie in this memory, which stays. Called before any command, or never.
  virtual void UsePayloadMemory(MutableByteView) {}
};

// DeviceInfo::cuda_device of devices in whose place the software device runs CUDA.
inline constexpr char kSoftwareCuda[] = "software";

// One GPU as a probe found it.
struct DeviceInfo {
  std::uint32_t index = 0;  // position in the probe; stable while the host's drivers are
  std::string api;          // that it was found by: "OPENCL", "CUDA"
  std::string name;         // as the vendor has it
  std::string vendor;
  std::string platform;  // of the native driver
  std::string driver_version;
  std::string type;         // "CPU", "GPU", "ACCELERATOR"
  std::string pci_address;  // "0000:65:00.0"; empty: it has none, or its driver does not tell
  // What sessions of CUDA run on: the PCI address of a GPU, kSoftwareCuda, or nothing: there can be none.
  std::string cuda_device;
  std::uint64_t memory_bytes = 0;
  std::uint64_t max_allocation_bytes = 0;
  std::uint32_t compute_units = 0;
  std::uint32_t clock_mhz = 0;
  std::uint64_t memory_bandwidth_bytes_per_s = 0;  // measured; 0: not measured
  std::uint64_t fp32_flops = 0;                    // single-precision operations per second, likewise
  bool protects_memory = false;                    // kernels cannot reach the host process's memory
  // What binaries depend on (driver, its compiler, the instruction set): equal texts, exchangeable binaries.
  std::string compiler;
};

// Compiles away from running programs. One thread uses it.
struct CompileOutput {
  std::int32_t status = 0;  // of clBuildProgram
  std::string log;
  ByteVector binary;
};
class Compiler {
 public:
  virtual ~Compiler() = default;
  virtual CompileOutput Compile(wire::opencl::ProgramKind kind, ByteView text,
                                const std::string& options) = 0;
  // Whether a copy of this process, made while nothing compiles, can go on with this compiler (as fork makes
  // one: with no other thread). Drivers of devices that are not in the CPU cannot: both would hold the
  // device.
  virtual bool SurvivesCopies() const { return false; }
};

// A vendor's driver, loaded into this process: what an executor, a builder and a probe open. The factory
// functions of the implementations return one.
class Driver {
 public:
  virtual ~Driver() = default;
  virtual Result<std::vector<DeviceInfo>> Probe(bool measure_bandwidth) = 0;
  // `completions` must outlive the backend.
  virtual Result<std::unique_ptr<Backend>> OpenDevice(std::uint32_t index, Completions* completions) = 0;
  virtual Result<std::unique_ptr<Compiler>> OpenCompiler(std::uint32_t index) = 0;
};

}  // namespace tulle::gpu
