// What may be asked, what a state may become, and the limits of both. Pure functions on the resources.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tulle/base/result.h"
#include "tulle/control/model/resources.h"

namespace tulle::control {

inline constexpr std::size_t kMaxNameBytes = 63;
inline constexpr std::size_t kMaxLabels = 32;
inline constexpr std::size_t kMaxRequestIdBytes = 64;
inline constexpr std::size_t kMaxProgramBytes = 256;
inline constexpr std::size_t kMaxMessageBytes = 512;
inline constexpr std::size_t kMaxSelectorTerms = 16;  // gpu_types, vendors
inline constexpr std::uint32_t kMaxVGpusPerClaim = 64;
inline constexpr std::size_t kMaxGpusPerNode = 64;
inline constexpr std::size_t kMaxVGpusPerNode = 4096;
inline constexpr std::size_t kGrantKeyBytes = 32;
inline constexpr WallMicros kMaxDrainMicros = WallMicros{30} * 24 * 3600 * 1'000'000;
inline constexpr WallMicros kMaxApiTokenMicros = WallMicros{366} * 24 * 3600 * 1'000'000;
inline constexpr std::size_t kMaxDescriptionBytes = 256;
inline constexpr WallMicros kMaxInvitationMicros = WallMicros{30} * 24 * 3600 * 1'000'000;
inline constexpr std::int32_t kMaxPriority = 1000;  // and, below 0, the least
inline constexpr std::uint32_t kMaxTenantWeight = 1000;
inline constexpr std::uint64_t kDefaultMemoryBytes = std::uint64_t{1} << 30;
inline constexpr std::uint32_t kDefaultComputePercent = 25;
// A vGPU smaller than this cannot hold a program's binaries and arguments.
inline constexpr std::uint64_t kMinMemoryBytes = std::uint64_t{1} << 20;
inline constexpr std::int64_t kMaxDurationMicros = std::int64_t{365} * 24 * 3600 * 1'000'000;
inline constexpr char kAnyValue[] = "*";  // in a toleration
// More than any GPU has; so that the sum over a claim's vGPUs is a number, too.
inline constexpr std::uint64_t kMaxMemoryBytes = std::uint64_t{1} << 50;
// What a vGPU's programs may move: less than a few of the network's packets each 10 ms cannot be held; more
// no network has.
inline constexpr std::uint64_t kMinNetworkBytesPerS = 1u << 20;
inline constexpr std::uint64_t kMaxNetworkBytesPerS = std::uint64_t{1} << 40;
// The label that each node has: its own name.
inline constexpr std::string_view kNodeLabel = "tulle/node";

// 1 to 63 of a-z, 0-9 and '-', not '-' at either end.
bool IsResourceName(std::string_view name);

// Each returns kInvalidArgument with a message that starts with the field's path below `path`.
Status CheckName(std::string_view name, std::string_view path);
Status CheckLabels(const Labels& labels, std::string_view path);
// A spec as the user wrote it, before WithDefaults.
Status CheckClaimSpec(const ClaimSpec& spec);
Status CheckTenantSpec(const TenantSpec& spec);

// The spec with each field that was left open filled in. Memory stays 0 for kDedicated: all that the GPU has.
ClaimSpec WithDefaults(ClaimSpec spec);

TenantSpec WithDefaults(TenantSpec spec);

// Whether the node takes vGPUs, in a word: "", "cordoned", "draining" (it still has some), "drained".
const char* SchedulingOf(const Node& node);

// "2026-01-31T12:00:00Z".
std::string FormatUtc(WallMicros time_us);

// What a role lets one do.
enum class Permission {
  kUse,         // to have claims, and all that goes with them
  kReadAll,     // to see what other tenants have
  kOperate,     // to cordon nodes, let nodes join, end others' claims, read the audit log
  kAdminister,  // to set tenants, and let users join
};
bool MayDo(TenantRole role, Permission permission);

// The percentage of such a GPU that a claim's vGPU needs there: 1 to 100; nothing: it cannot have so much of
// it, or what it has is not known. Precondition: the spec has its defaults.
std::optional<std::uint32_t> ShareOn(const GpuDescription& gpu, const ClaimSpec& spec);

// "1.5 TFLOPS", "43.2 GFLOPS": three digits, or all before the point.
std::string FormatFlops(std::uint64_t flops);

// Compute that a vGPU of this spec keeps from others: none for kBestEffort.
std::uint32_t ReservedComputePercent(PerformanceLevel level, std::uint32_t compute_percent);

// Whether a resource in state `from` may go to `to`. Staying is not a transition.
bool MayBecome(ClaimPhase from, ClaimPhase to);
bool MayBecome(VGpuPhase from, VGpuPhase to);
bool MayBecome(NodeState from, NodeState to);

inline bool IsFinal(ClaimPhase phase) {
  return phase == ClaimPhase::kReleased || phase == ClaimPhase::kFailed;
}

// Sets the condition of that type. Returns whether anything changed; the transition time moves with the
// status only.
bool SetCondition(std::vector<Condition>* conditions, std::string_view type, bool status,
                  std::string_view reason, std::string_view message, WallMicros now_us);

}  // namespace tulle::control
