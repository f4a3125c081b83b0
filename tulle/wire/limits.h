// Every bound of the data-plane language, each with its reason. A peer that goes over one ends its session.
#pragma once

#include <cstdint>

namespace tulle::wire {

// A body holds structs, names and build logs; bulk data travels as payload. The largest one is the reply
// to a build: its log plus the description of its kernels.
inline constexpr std::uint32_t kMaxBodyBytes = 4u << 20;

// A payload is one piece of a transfer. Small enough that a worker can stage a few of each session, large
// enough that the cost of a frame disappears (a 4 MiB copy takes about 1 ms at loopback speed).
inline constexpr std::uint64_t kMaxPayloadBytes = 4u << 20;

// Commands that a worker takes, each waiting for its answer, before it has to have answered one. More wait in
// the connection, and what comes behind them with them.
inline constexpr std::uint32_t kCommandsUnderWay = 4096;

// Bytes that a client may have under way, not acknowledged. Covers 30 ms of round trip at 1 GB/s.
inline constexpr std::uint64_t kMaxWindowBytes = 32u << 20;

// Objects alive in one session (events are the many). A worker's table costs 32 B an entry.
inline constexpr std::uint32_t kMaxObjects = 1u << 20;

// Longest wait list: PoCL and vendors' drivers are exercised to a few thousand.
inline constexpr std::uint32_t kMaxWaitList = 4096;

// Of one buffer at once: what the backend keeps of each is small.
inline constexpr std::uint64_t kMaxMappings = 1u << 16;

// Source, binary or IL of one program.
inline constexpr std::uint64_t kMaxProgramBytes = 64u << 20;
inline constexpr std::uint32_t kMaxBuildOptionsBytes = 64u << 10;
inline constexpr std::uint32_t kMaxBuildLogBytes = 1u << 20;  // longer logs are cut, and say so
inline constexpr std::uint32_t kMaxKernelsInProgram = 4096;
inline constexpr std::uint32_t kMaxNameBytes = 1024;
inline constexpr std::uint32_t kMaxTypeNameBytes = 256;

// OpenCL demands at least 1024 bytes for all arguments of a kernel; devices offer up to 4352 (NVIDIA).
inline constexpr std::uint32_t kMaxArgBytes = 4352;
inline constexpr std::uint32_t kMaxKernelArgs = 1024;
inline constexpr std::uint32_t kMaxFillPatternBytes = 128;  // sizeof(cl_double16), the largest there is

inline constexpr std::uint32_t kFillColorBytes = 16;  // sizeof(cl_float4), cl_int4, cl_uint4

// The orders and types of OpenCL make fewer than 200 formats; vendors add some.
inline constexpr std::uint32_t kMaxImageFormats = 1024;

// Allocations of shared virtual memory of one process. Each is a mapping of its own in the process that runs
// kernels, of which Linux gives it 65,530 (vm.max_map_count), and drivers need some.
inline constexpr std::uint32_t kMaxSvmAllocations = 32'768;

// Devices of one context: the vGPU's own and parts of it. Parts are of a compute unit at least, of which the
// largest GPUs have a few hundred.
inline constexpr std::uint32_t kMaxContextDevices = 1024;
inline constexpr std::uint32_t kMaxPartitionProperties =
    kMaxContextDevices + 8;  // a count for each, and the rest

inline constexpr std::uint32_t kMaxDeviceInfos = 512;
inline constexpr std::uint32_t kMaxInfoBytes = 16u << 10;  // the extension list is the longest

// Completions that one notice carries.
inline constexpr std::uint32_t kMaxEventsPerNotice = 256;

inline constexpr std::uint32_t kMaxReasonBytes = 512;

// What a client shows to go on with a session: 128 bits cannot be guessed.
inline constexpr std::uint32_t kResumeTokenBytes = 16;

// What names exported memory: whoever has it may ask for the memory. 128 bits of it cannot be guessed.
inline constexpr std::uint32_t kMaxExportTokenBytes = 128;
// A tenant, as the control plane names it.
inline constexpr std::uint32_t kMaxTenantBytes = 64;
// Exports of one vGPU, and of one session those that it has opened. Each holds a descriptor in the node.
inline constexpr std::uint32_t kMaxExports = 256;

// What one notice carries of what kernels print: what a pipe holds.
inline constexpr std::uint32_t kMaxKernelOutputBytes = 64u << 10;

}  // namespace tulle::wire
