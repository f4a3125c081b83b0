// The resources of the mesh as plain structs: what the core decides on and what the client library returns.
// The .proto files of control/api say the same to the outside and document each field;
// tulle/control/api/map.h converts. Values: no ownership, no threads.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tulle/base/secret.h"

namespace tulle::control {

using Labels = std::map<std::string, std::string>;

// Wall-clock time in microseconds since 1970; 0 when not set.
using WallMicros = std::int64_t;

struct Metadata {
  std::string name;
  std::string uid;  // 32 hexadecimal digits
  std::uint64_t resource_version = 0;
  WallMicros create_time_us = 0;
  std::string tenant;  // empty for nodes and GPUs
  Labels labels;
  friend bool operator==(const Metadata&, const Metadata&) = default;
};

struct Condition {
  std::string type;
  bool status = false;
  std::string reason;   // for programs, one word
  std::string message;  // for people
  WallMicros last_transition_us = 0;
  friend bool operator==(const Condition&, const Condition&) = default;
};

// Enumerators have the numbers of their protobuf twins.
enum class DeviceApi { kUnspecified = 0, kOpenCl = 1, kCuda = 2 };
enum class PerformanceLevel {
  kUnspecified = 0,
  kBestEffort = 1,
  kBurst = 2,
  kGuaranteed = 3,
  kDedicated = 4
};
enum class ClaimPhase { kPending = 1, kBound = 2, kReleased = 3, kFailed = 4 };
enum class AllocationBranch { kUnspecified = 0, kCreateSlice = 3, kShrinkNeighbours = 5, kWait = 8 };
enum class Topology { kUnspecified = 0, kSameGpu = 1, kSameNode = 2, kDistinctNodes = 3 };
enum class Isolation { kUnspecified = 0, kProcess = 1, kVm = 2 };
enum class VGpuPhase { kCreating = 1, kReady = 2, kFailed = 3, kDeleting = 4 };
enum class NodeState { kReady = 1, kNotReady = 2, kLeft = 3 };

struct ClaimSpec {
  std::vector<std::string> gpu_types;
  std::vector<std::string> vendors;
  DeviceApi api = DeviceApi::kUnspecified;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  PerformanceLevel performance_level = PerformanceLevel::kUnspecified;
  std::uint32_t count = 0;
  Labels node_selector;
  bool no_wait = false;
  bool release_when_unheld = false;
  std::int32_t priority = 0;
  Topology topology = Topology::kUnspecified;
  Labels tolerations;
  std::int64_t duration_us = 0;           // 0: as long as it likes
  std::uint32_t min_compute_percent = 0;  // 0: compute_percent
  // In place of compute_percent, which is 0 then: each vGPU has as much of its GPU as this takes. 0: not
  // asked for.
  std::uint32_t compute_units = 0;
  std::uint64_t fp32_flops = 0;
  std::uint64_t memory_bandwidth = 0;     // bytes per second
  std::uint64_t network_bytes_per_s = 0;  // of each vGPU; 0: nothing is promised
  std::uint64_t spill_bytes = 0;          // of each vGPU, beyond memory_bytes
  Isolation isolation = Isolation::kUnspecified;
  friend auto operator<=>(const ClaimSpec&, const ClaimSpec&) = default;
  friend bool operator==(const ClaimSpec&, const ClaimSpec&) = default;
};

// Whether it may have less compute than it asks for.
inline bool IsElastic(const ClaimSpec& spec) {
  return spec.min_compute_percent != 0 && spec.min_compute_percent < spec.compute_percent;
}

// Whether the share of a GPU that it asks for depends on the GPU.
inline bool NeedsByGpu(const ClaimSpec& spec) {
  return spec.compute_units != 0 || spec.fp32_flops != 0 || spec.memory_bandwidth != 0;
}

struct ClaimStatus {
  ClaimPhase phase = ClaimPhase::kPending;
  std::vector<std::string> vgpus;
  std::vector<Condition> conditions;
  std::uint32_t holders = 0;
  AllocationBranch branch = AllocationBranch::kUnspecified;
  std::string placed_by;
  friend bool operator==(const ClaimStatus&, const ClaimStatus&) = default;
};

struct Claim {
  Metadata metadata;
  ClaimSpec spec;
  ClaimStatus status;
  friend bool operator==(const Claim&, const Claim&) = default;
};

// What a node has for one more vGPU like a claim's.
struct NodeVerdict {
  std::string node;
  std::uint32_t room = 0;
  std::string gpu;  // empty when there is no room
  float score = 0;  // by the policy, higher is better
  std::string message;
  friend bool operator==(const NodeVerdict&, const NodeVerdict&) = default;
};

// Why a claim is where it is, or what it waits for.
struct ClaimExplanation {
  Claim claim;
  std::string policy;
  std::uint32_t waiting_position = 0;  // in the order of tries, from 1; 0: it does not wait
  std::uint32_t waiting_claims = 0;
  std::vector<NodeVerdict> nodes;  // the best first
  std::uint32_t more_nodes = 0;
  std::optional<std::int64_t> expected_wait_us;
  friend bool operator==(const ClaimExplanation&, const ClaimExplanation&) = default;
};

struct VGpuSpec {
  std::string claim;
  std::string gpu;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  PerformanceLevel performance_level = PerformanceLevel::kUnspecified;
  std::uint32_t wanted_compute_percent = 0;  // that its claim asks for; of a range, what its load asks for
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t spill_bytes = 0;
  Isolation isolation = Isolation::kUnspecified;
  friend bool operator==(const VGpuSpec&, const VGpuSpec&) = default;
};

// What a vGPU's programs have and use, as its node told last.
struct VGpuUsage {
  std::uint64_t memory_used_bytes = 0;
  float compute_used_percent = 0;
  float compute_share_percent = 0;
  float compute_throttled_percent = 0;
  std::uint64_t network_used_bytes_per_s = 0;
  std::uint64_t network_share_bytes_per_s = 0;  // 0: as much as they like
  float network_throttled_percent = 0;
  std::uint64_t spilled_bytes = 0;
  std::uint64_t spill_bytes_per_s = 0;
  float spill_wait_percent = 0;
  friend bool operator==(const VGpuUsage&, const VGpuUsage&) = default;
};

struct VGpuStatus {
  VGpuPhase phase = VGpuPhase::kCreating;
  std::string node;
  std::string endpoint;
  std::uint32_t sessions = 0;
  std::string message;
  VGpuUsage usage = {};
  friend bool operator==(const VGpuStatus&, const VGpuStatus&) = default;
};

struct VGpu {
  Metadata metadata;
  VGpuSpec spec;
  VGpuStatus status;
  friend bool operator==(const VGpu&, const VGpu&) = default;
};

enum class ComputeSharing { kUnspecified = 0, kAtOnce = 1, kByTurns = 2 };

struct GpuDescription {
  std::string type;
  std::string vendor;
  std::vector<DeviceApi> apis;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_units = 0;
  std::uint32_t clock_mhz = 0;
  std::uint64_t bandwidth_bytes_per_s = 0;
  std::uint64_t fp32_flops = 0;
  std::string driver;
  ComputeSharing compute_sharing = ComputeSharing::kUnspecified;
  std::vector<Isolation> isolations;
  friend bool operator==(const GpuDescription&, const GpuDescription&) = default;
};

struct GpuSpec {
  std::string node;
  std::uint32_t index = 0;
  GpuDescription description;
  bool cordoned = false;
  friend bool operator==(const GpuSpec&, const GpuSpec&) = default;
};

struct GpuStatus {
  std::uint64_t allocatable_memory_bytes = 0;
  std::uint32_t allocatable_compute_percent = 0;
  std::uint64_t allocated_memory_bytes = 0;
  std::uint32_t allocated_compute_percent = 0;
  std::uint64_t allocatable_network_bytes_per_s = 0;
  std::uint64_t allocated_network_bytes_per_s = 0;
  std::uint64_t allocatable_spill_bytes = 0;
  std::uint64_t allocated_spill_bytes = 0;
  std::uint32_t vgpus = 0;
  bool schedulable = false;
  std::string message;
  friend bool operator==(const GpuStatus&, const GpuStatus&) = default;
};

struct Gpu {
  Metadata metadata;
  GpuSpec spec;
  GpuStatus status;
  friend bool operator==(const Gpu&, const Gpu&) = default;
};

struct NodeTelemetry {
  std::uint32_t cpus = 0;
  float cpu_percent = 0;
  std::uint64_t memory_total_bytes = 0;
  std::uint64_t memory_available_bytes = 0;
  std::uint64_t network_received_bytes = 0;
  std::uint64_t network_sent_bytes = 0;
  std::uint32_t sessions = 0;
  friend bool operator==(const NodeTelemetry&, const NodeTelemetry&) = default;
};

struct NodeSpec {
  bool cordoned = false;
  Labels taints;
  WallMicros drain_time_us = 0;  // when what it still has is given up; 0: it is not drained
  friend bool operator==(const NodeSpec&, const NodeSpec&) = default;
};

struct NodeStatus {
  NodeState state = NodeState::kNotReady;
  std::string endpoint;
  std::string local_endpoint;  // for programs on the node's own host; may be empty
  std::string version;
  WallMicros last_heartbeat_us = 0;
  NodeTelemetry telemetry;
  std::uint32_t gpus = 0;
  std::uint32_t vgpus = 0;
  std::string message;
  friend bool operator==(const NodeStatus&, const NodeStatus&) = default;
};

struct Node {
  Metadata metadata;
  NodeSpec spec;
  NodeStatus status;
  friend bool operator==(const Node&, const Node&) = default;
};

struct SessionSpec {
  std::string vgpu;
  std::string claim;
  friend bool operator==(const SessionSpec&, const SessionSpec&) = default;
};

struct SessionStatus {
  std::string node;
  std::string program;
  std::uint32_t process_id = 0;
  std::string channel;
  friend bool operator==(const SessionStatus&, const SessionStatus&) = default;
};

struct Session {
  Metadata metadata;
  SessionSpec spec;
  SessionStatus status;
  friend bool operator==(const Session&, const Session&) = default;
};

struct InstanceStatus {
  std::string address;
  std::vector<std::string> claims;
  WallMicros last_seen_us = 0;
  friend bool operator==(const InstanceStatus&, const InstanceStatus&) = default;
};

struct Instance {
  Metadata metadata;
  InstanceStatus status;
  friend bool operator==(const Instance&, const Instance&) = default;
};

enum class TenantRole { kUnspecified = 0, kAdmin = 1, kOperator = 2, kMember = 3, kViewer = 4 };

// What a tenant may have at once; what is not set is not limited.
struct Quota {
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint32_t> compute_percent;
  std::optional<std::uint32_t> vgpus;
  std::optional<std::uint32_t> claims;
  friend bool operator==(const Quota&, const Quota&) = default;
};

struct TenantSpec {
  TenantRole role = TenantRole::kUnspecified;
  Quota quota;
  std::uint32_t weight = 0;
  bool suspended = false;
  friend bool operator==(const TenantSpec&, const TenantSpec&) = default;
};

struct TenantStatus {
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  std::uint32_t vgpus = 0;
  std::uint32_t claims = 0;
  std::uint32_t waiting_claims = 0;
  float dominant_share = 0;
  friend bool operator==(const TenantStatus&, const TenantStatus&) = default;
};

struct Tenant {
  Metadata metadata;
  TenantSpec spec;
  TenantStatus status;
  friend bool operator==(const Tenant&, const Tenant&) = default;
};

// What vGPUs have had over a time.
struct Usage {
  double gpu_seconds = 0;  // of reserved compute
  double memory_gib_seconds = 0;
  double vgpu_seconds = 0;
  friend bool operator==(const Usage&, const Usage&) = default;
};
struct TenantUsage {
  std::string tenant;
  Usage usage;
  friend bool operator==(const TenantUsage&, const TenantUsage&) = default;
};

// A call that changed something, or was to.
struct AuditEntry {
  WallMicros time_us = 0;
  std::string caller;
  std::string address;
  std::string method;
  std::string request;
  std::string code;
  std::string message;
  friend bool operator==(const AuditEntry&, const AuditEntry&) = default;
};

// The kinds of resources, with the numbers of their protobuf twins; those from 100 on have none, as nobody
// watches them.
enum class Kind {
  kUnspecified = 0,
  kClaim = 1,
  kVGpu = 2,
  kGpu = 3,
  kNode = 4,
  kInstance = 5,
  kTenant = 6,
  kSession = 7,
  kInvitation = 100,
  kUsage = 101,
  kRevocation = 102,
  kApiToken = 103
};

// A step of a resource's life.
struct ResourceEvent {
  WallMicros time_us = 0;
  Kind kind = Kind::kUnspecified;
  std::string tenant;
  std::string name;
  std::string uid;
  std::string reason;
  std::string message;
  friend bool operator==(const ResourceEvent&, const ResourceEvent&) = default;
};

// A one-time invitation into the mesh. The secret itself is with its bearer only.
enum class JoinRole { kUnspecified = 0, kNode = 1, kUser = 2 };
struct Invitation {
  std::string id;  // 16 hexadecimal digits
  JoinRole role = JoinRole::kUnspecified;
  std::string name;  // of the node or user; a node's may be empty: the bearer chooses one that is free
  std::string secret_digest;  // SHA-256 of the secret, 64 hexadecimal digits
  WallMicros expire_time_us = 0;
  friend bool operator==(const Invitation&, const Invitation&) = default;
};

// A secret by which its bearer calls the API as a tenant. The secret itself is with its bearer only.
struct ApiToken {
  std::string id;  // 16 hexadecimal digits
  std::string tenant;
  std::string description;    // for people
  std::string secret_digest;  // SHA-256 of the secret, 64 hexadecimal digits
  WallMicros create_time_us = 0;
  WallMicros expire_time_us = 0;
  friend bool operator==(const ApiToken&, const ApiToken&) = default;
};

// Certificates of that identity are not valid any more if they were issued before.
struct Revocation {
  std::string identity;  // "tulle://user/bob"
  WallMicros before_us = 0;
  friend bool operator==(const Revocation&, const Revocation&) = default;
};

// What lets programs attach to one vGPU of a claim.
struct AttachedVGpu {
  std::string vgpu;
  std::string vgpu_uid;
  std::vector<std::string> endpoints;  // in the order to try them: local, then host:port
  std::string grant_id;                // 32 hexadecimal digits
  Secret grant_key;                    // 32 bytes
  GpuDescription device;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  PerformanceLevel performance_level = PerformanceLevel::kUnspecified;
};

// The words of the API: "PENDING", "BURST", "OPENCL", ...
const char* Name(DeviceApi api);
const char* Name(ComputeSharing sharing);
const char* Name(Isolation isolation);
const char* Name(PerformanceLevel level);
const char* Name(ClaimPhase phase);
const char* Name(AllocationBranch branch);
const char* Name(Topology topology);
const char* Name(VGpuPhase phase);
const char* Name(NodeState state);
const char* Name(TenantRole role);

// "best-effort", "burst", "guaranteed", "dedicated" (any case, '_' for '-'). False for anything else.
bool ParsePerformanceLevel(std::string_view text, PerformanceLevel* level);
// "process", "vm"; likewise.
bool ParseIsolation(std::string_view text, Isolation* isolation);

// "same-gpu", "same-node", "distinct-nodes" (any case). False for anything else.
bool ParseTopology(std::string_view text, Topology* topology);

// "admin", "operator", "member", "viewer" (any case). False for anything else.
bool ParseTenantRole(std::string_view text, TenantRole* role);

// The condition of that type, or null.
const Condition* FindCondition(const std::vector<Condition>& conditions, std::string_view type);

}  // namespace tulle::control
