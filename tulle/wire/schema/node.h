// Messages between a node and the workers that it supervises: one packet each over a SOCK_SEQPACKET socket,
// file descriptors beside them. Same host and same build, so there is no version; the codec is the wire's.
#pragma once

#include <array>

#include "tulle/wire/row.h"
#include "tulle/wire/schema/exports.h"

namespace tulle::wire::node {

inline constexpr U32 kMaxIdBytes = 64;  // vGPU, grant and tenant ids
inline constexpr U32 kKeyBytes = 32;
inline constexpr U32 kMaxCompilerBytes = 512;
inline constexpr U32 kBuildKeyBytes = 32;
inline constexpr U32 kMaxPciAddressBytes = 32;

// Node to worker, first: which vGPU this worker is.
struct AssignVGpu {
  Str<kMaxIdBytes> vgpu;
  Str<kMaxIdBytes> tenant;
  U32 device_index = 0;     // as the probe numbered the GPUs
  U64 memory_bytes = 0;     // quota of the vGPU, over all of its sessions
  U32 compute_percent = 0;  // share of the GPU, 1 to 100
  // What binaries for the device depend on: equal texts, exchangeable binaries. Empty: not known.
  Str<kMaxCompilerBytes> compiler;
  U8 has_opencl = 0;  // programs of OpenCL run on it
  Str<kMaxPciAddressBytes>
      cuda_device;  // gpu::DeviceInfo, as the next; empty: programs of CUDA do not run on it
  Str<kMaxPciAddressBytes> pci_address;
  U64 device_memory_bytes = 0;  // that the vGPU may come to have
  U64 spill_bytes = 0;          // that its programs may allocate beyond memory_bytes
  U64 spill_memory_bytes = 0;   // of what is not on the device, kept in the worker's memory, and in its file
  U64 spill_file_bytes = 0;
  U8 in_machine = 0;  // 1: each executor in a virtual machine of its own
  TULLE_MESSAGE(AssignVGpu, vgpu, tenant, device_index, memory_bytes, compute_percent, compiler, has_opencl,
                cuda_device, pci_address, device_memory_bytes, spill_bytes, spill_memory_bytes,
                spill_file_bytes, in_machine)
};

// Node to worker: another quota, from now on.
struct ResizeMemory {
  U64 memory_bytes = 0;
  TULLE_MESSAGE(ResizeMemory, memory_bytes)
};

// Whoever proves this key may open sessions until it is revoked.
struct AddGrant {
  Str<kMaxIdBytes> grant;
  Bytes<kKeyBytes> key;  // exactly kKeyBytes
  TULLE_MESSAGE(AddGrant, grant, key)
};

// Ends the grant and every session that it opened.
struct RevokeGrant {
  Str<kMaxIdBytes> grant;
  TULLE_MESSAGE(RevokeGrant, grant)
};

// A connection whose ClientHello names this vGPU; its socket is the packet's one descriptor, unread.
struct AdoptConnection {
  TULLE_EMPTY_MESSAGE(AdoptConnection)
};

// End all sessions (they are told), then exit.
struct Shutdown {
  TULLE_EMPTY_MESSAGE(Shutdown)
};

// Worker to node, once: ready to adopt connections, or why not.
struct WorkerReady {
  I32 status = 0;  // 0: ready
  Str<kMaxReasonBytes> message;
  TULLE_MESSAGE(WorkerReady, status, message)
};

// Worker to node: at most ten a second, when something changed. Totals since the worker started.
struct WorkerStats {
  U32 sessions = 0;
  U64 memory_used_bytes = 0;  // of the device
  U64 commands_total = 0;
  U64 received_bytes_total = 0;
  U64 sent_bytes_total = 0;
  U64 device_time_ns_total = 0;  // CPU time of the executors on the CPU device
  U32 executor_crashes_total = 0;
  U32 refused_sessions_total = 0;
  // Memory that is not on the device now: in the worker's memory, and in a file.
  U64 spilled_memory_bytes = 0, spilled_file_bytes = 0;
  U64 spill_out_bytes_total = 0;  // from the device
  U64 spill_in_bytes_total = 0;   // back to it
  U64 spill_wait_ns_total = 0;    // of commands for what they use, of all sessions together
  TULLE_MESSAGE(WorkerStats, sessions, memory_used_bytes, commands_total, received_bytes_total,
                sent_bytes_total, device_time_ns_total, executor_crashes_total, refused_sessions_total,
                spilled_memory_bytes, spilled_file_bytes, spill_out_bytes_total, spill_in_bytes_total,
                spill_wait_ns_total)
};

// A command's latency is counted at the first of these that it does not exceed, or behind the last.
inline constexpr std::array<U64, 13> kLatencyBoundsNs = {
    10'000,     30'000,      100'000,     300'000,       1'000'000,     3'000'000,     10'000'000,
    30'000'000, 100'000'000, 300'000'000, 1'000'000'000, 3'000'000'000, 10'000'000'000};
inline constexpr U32 kLatencyCounts = kLatencyBoundsNs.size() + 1;

// Worker to node, behind a WorkerStats: of one kind of the client's commands, when it changed. Totals since
// the worker started, of all sessions.
struct CommandStats {
  U32 opcode = 0;
  U64 count = 0;
  U64 bytes = 0;             // of the commands with what they brought
  U64 latency_ns_total = 0;  // from arrival to answer; where there is none, until the driver had it
  List<U64, kLatencyCounts> latencies;
  TULLE_MESSAGE(CommandStats, opcode, count, bytes, latency_ns_total, latencies)
};

// Worker to node: a program has attached; and it is gone.
struct SessionOpened {
  Str<kMaxIdBytes> session;
  Str<kMaxNameBytes> program;  // as it says itself, like process_id
  U32 process_id = 0;
  Str<kMaxIdBytes> channel;  // "tls", "tcp" or "local"
  TULLE_MESSAGE(SessionOpened, session, program, process_id, channel)
};
struct SessionEnded {
  Str<kMaxIdBytes> session;
  TULLE_MESSAGE(SessionEnded, session)
};

// Worker to node: has the mesh built this for the vGPU's tenant? The packet's descriptor is a pipe, into
// which the node writes the KeptBuild; or nothing, and closes it.
struct FindBuild {
  Bytes<kBuildKeyBytes> key;  // of exactly that size
  TULLE_MESSAGE(FindBuild, key)
};

// Worker to node: it is built now; the packet's descriptor is a file with the KeptBuild.
struct KeepBuild {
  Bytes<kBuildKeyBytes> key;  // of exactly that size
  TULLE_MESSAGE(KeepBuild, key)
};

// Memory that programs lend to each other (exports.h). The node keeps what was offered; tokens are made by
// the owner's worker.

// Worker to node, with the memory's descriptor (read-only, if it may only be read), and a packet socket for
// the ExportAnswer. `tenant`: whose vGPUs may open it.
struct OfferExport {
  Str<kMaxExportTokenBytes> token;
  Str<kMaxIdBytes> tenant;
  U64 size_bytes = 0;
  U8 writable = 0;
  TULLE_MESSAGE(OfferExport, token, tenant, size_bytes, writable)
};
// Worker to node, with a packet socket for the ExportAnswer: a session, which has a number among this
// worker's, wants it. Beside an answer of kOk lies the descriptor.
struct TakeExport {
  Str<kMaxExportTokenBytes> token;
  U64 session = 0;
  TULLE_MESSAGE(TakeExport, token, session)
};
// Worker to node: the session has ended, whether it had got it or not.
struct CloseExport {
  Str<kMaxExportTokenBytes> token;
  U64 session = 0;
  TULLE_MESSAGE(CloseExport, token, session)
};
// Worker to node: its owner has no object of it any more.
struct ReleaseExport {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ReleaseExport, token)
};
// Worker to node, from its owner, with a packet socket for the ExportAnswer, which comes when nobody has it
// any more; or without.
struct WithdrawExport {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(WithdrawExport, token)
};
// Node to worker: sessions that have taken it shall end.
struct ExportWithdrawn {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ExportWithdrawn, token)
};
// Node to the owner's worker: nobody has it any more, nor can have it.
struct ExportUnused {
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ExportUnused, token)
};

inline constexpr auto kNodeCommands = std::tuple{
    Row<0x8001, AssignVGpu>{Mode::kOneWay, Place::kWorker},
    Row<0x8002, AddGrant>{Mode::kOneWay, Place::kWorker},
    Row<0x8003, RevokeGrant>{Mode::kOneWay, Place::kWorker},
    Row<0x8004, AdoptConnection>{Mode::kOneWay, Place::kWorker},
    Row<0x8005, Shutdown>{Mode::kOneWay, Place::kWorker},
    Row<0x8006, ExportWithdrawn>{Mode::kOneWay, Place::kWorker},
    Row<0x8007, ExportUnused>{Mode::kOneWay, Place::kWorker},
    Row<0x8008, ResizeMemory>{Mode::kOneWay, Place::kWorker},
    Row<0x8011, WorkerReady>{Mode::kNotice, Place::kWorker},
    Row<0x8012, WorkerStats>{Mode::kNotice, Place::kWorker},
    Row<0x8013, CommandStats>{Mode::kNotice, Place::kWorker},
    Row<0x8014, FindBuild>{Mode::kNotice, Place::kWorker},
    Row<0x8015, KeepBuild>{Mode::kNotice, Place::kWorker},
    Row<0x8016, SessionOpened>{Mode::kNotice, Place::kWorker},
    Row<0x8017, SessionEnded>{Mode::kNotice, Place::kWorker},
    Row<0x8018, OfferExport>{Mode::kNotice, Place::kWorker},
    Row<0x8019, TakeExport>{Mode::kNotice, Place::kWorker},
    Row<0x801a, CloseExport>{Mode::kNotice, Place::kWorker},
    Row<0x801b, ReleaseExport>{Mode::kNotice, Place::kWorker},
    Row<0x801c, WithdrawExport>{Mode::kNotice, Place::kWorker},
};
static_assert(WellFormed(kNodeCommands));

// On the socket that came with the question.
struct ExportAnswer {
  Enum<ExportStatus> status;
  U64 size_bytes = 0;
  U8 writable = 0;
  TULLE_MESSAGE(ExportAnswer, status, size_bytes, writable)
};

// A build that succeeded, as the mesh keeps it: of the same tulle release, as the release is part of its key.
struct KeptBuild {
  Str<kMaxBuildLogBytes> log;
  Bytes<static_cast<U32>(kMaxPayloadBytes)> binary;
  TULLE_MESSAGE(KeptBuild, log, binary)
};
// More is not kept: with its request's head it fits a message between node and controller.
inline constexpr std::size_t kMaxKeptBuildBytes = (4u << 20) - 4096;

}  // namespace tulle::wire::node
