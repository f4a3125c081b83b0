// What goes into the core and what comes out. Plain values: an event is what somebody asked or what happened,
// an action is what the program around the core has to do about it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"
#include "tulle/control/model/resources.h"
#include "tulle/control/placement/outlook.h"
#include "tulle/control/placement/room.h"
#include "tulle/control/placement/workload.h"

namespace tulle::control {

// Given out by the program around the core, never used twice in its life.
enum class CallId : std::uint64_t {};
enum class HoldId : std::uint64_t {};
enum class LinkId : std::uint64_t {};  // one stream of a node

struct Now {
  Instant mono;            // for durations
  WallMicros wall_us = 0;  // for people
};

struct Grant {
  std::string id;  // 32 hexadecimal digits
  Secret key;      // kGrantKeyBytes
};

// ---- events

struct CreateClaim {
  CallId call;
  std::string tenant;
  std::string name;  // may be empty
  Labels labels;
  ClaimSpec spec;
  std::string request_id;  // may be empty
};
struct DeleteClaim {
  CallId call;
  std::string caller;
  std::string tenant;  // whose claim
  std::string name;
};
struct AttachClaim {
  CallId call;
  std::string tenant;
  std::string name;
};
// Another share for each of its vGPUs; as of ClaimSpec, 0: as it is.
struct ResizeClaim {
  CallId call;
  std::string caller;
  std::string tenant;
  std::string name;
  std::uint32_t compute_percent = 0;
  std::uint32_t min_compute_percent = 0;
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t memory_bytes = 0;
};
struct DetachClaim {
  CallId call;
  std::string tenant;
  std::string name;
};
struct DrainNode {
  CallId call;
  std::string caller;
  std::string name;
  Duration grace{};
};
struct CordonNode {
  CallId call;
  std::string caller;
  std::string name;
  bool cordoned = false;
};
// `invitation` is whole but for its time of expiry, which is `lifetime` from now.
struct CreateInvitation {
  CallId call;
  std::string caller;
  Invitation invitation;
  Duration lifetime{};
};
// Answered with the invitation, its name filled in, which is gone then.
struct RedeemInvitation {
  CallId call;
  std::string id;
  std::string secret_digest;
  std::string name;                        // that the bearer asks for; empty: the invitation's
  bool name_is_default = false;            // the invitation's name overrules it
  JoinRole role = JoinRole::kUnspecified;  // that the invitation must be for
};
struct CordonGpu {
  CallId call;
  std::string caller;
  std::string name;
  bool cordoned = false;
};
struct TaintNode {
  CallId call;
  std::string caller;
  std::string name;
  Labels taints;
};
struct UpdateTenant {
  CallId call;
  std::string caller;
  std::string name;
  Labels labels;
  TenantSpec spec;
  std::uint64_t resource_version = 0;  // that the tenant must have; 0: any
};
struct DeleteTenant {
  CallId call;
  std::string caller;
  std::string name;
};
// `token` is whole but for its times; it expires `lifetime` from now. Answered with it.
struct CreateApiToken {
  CallId call;
  ApiToken token;
  Duration lifetime{};
};
// Answered with what it was.
struct DeleteApiToken {
  CallId call;
  std::string caller;
  std::string tenant;
  std::string id;
};
// All certificates and API tokens that the node or user has so far are void. Answered with nothing.
struct RevokeCertificates {
  CallId call;
  std::string caller;
  JoinRole role = JoinRole::kUnspecified;
  std::string name;
};
struct OpenHold {
  HoldId hold;
  std::string tenant;
  std::string claim;
  std::string instance;  // may be empty
  std::string program;
  std::string address;
  std::string api_token = {};  // the id of the one it calls by; empty: by a certificate
};
struct CloseHold {
  HoldId hold;
};

enum class ReportedState { kCreating = 1, kReady = 2, kFailed = 3, kDeleted = 4 };
struct SessionReport {
  std::string id;
  std::string program;
  std::uint32_t process_id = 0;
  std::string channel;
};
struct VGpuReport {
  std::string uid;
  ReportedState state = ReportedState::kCreating;
  std::string message;
  std::vector<std::string> grant_ids;
  std::uint32_t sessions = 0;
  std::uint32_t compute_percent = 0;  // 0: by a node that does not tell
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t memory_bytes = 0;  // 0: by a node that does not tell
  std::vector<SessionReport> attached;
};
struct InventoryGpu {
  std::uint32_t index = 0;
  GpuDescription description;
  std::uint64_t allocatable_memory_bytes = 0;
  std::uint32_t allocatable_compute_percent = 100;
  std::uint64_t allocatable_network_bytes_per_s = 0;
  std::uint64_t allocatable_spill_bytes = 0;
};
struct RegisterNode {
  LinkId link;
  std::string name;
  std::string endpoint;
  std::string local_endpoint;  // empty: none
  std::string version;
  Labels labels;
  std::vector<InventoryGpu> gpus;
  std::vector<VGpuReport> vgpus;
  NodeTelemetry telemetry;
};
struct NodeHeartbeat {
  LinkId link;
  NodeTelemetry telemetry;
  std::map<std::string, VGpuUsage> vgpus = {};  // by uid
  // How many commands of this link the node had carried out when it told this; none: it does not say.
  std::optional<std::uint64_t> done = std::nullopt;
};
struct ReportVGpu {
  LinkId link;
  VGpuReport report;
};
struct NodeLeaving {
  LinkId link;
  std::string reason;
};
struct LinkClosed {
  LinkId link;
};
// What a StartRehearsal has come to.
struct Rehearsed {
  std::shared_ptr<const Outlook> outlook;
};
// Time has passed.
struct Tick {};

using Event =
    std::variant<CreateClaim, DeleteClaim, ResizeClaim, AttachClaim, DetachClaim, DrainNode, CordonNode,
                 CordonGpu, TaintNode, UpdateTenant, DeleteTenant, CreateInvitation, RedeemInvitation,
                 RevokeCertificates, CreateApiToken, DeleteApiToken, OpenHold, CloseHold, RegisterNode,
                 NodeHeartbeat, ReportVGpu, NodeLeaving, LinkClosed, Rehearsed, Tick>;

// ---- what is kept in the store

struct ClaimRecord {
  Claim claim;
  std::string request_id;
  std::uint32_t attempts = 0;  // failed tries to start its vGPUs
};
struct VGpuRecord {
  VGpu vgpu;
  std::string claim_uid;
  std::string gpu_uid;
  std::vector<Grant> grants;
};
// Of one tenant in one hour.
struct UsageRecord {
  std::string tenant;
  WallMicros hour_us = 0;   // when it begins
  WallMicros until_us = 0;  // it counts what was until then
  Usage usage;
};
using Record =
    std::variant<ClaimRecord, VGpuRecord, Gpu, Node, Invitation, Tenant, UsageRecord, Revocation, ApiToken>;

// ---- actions

// Put `record` in the store, or remove what is there under kind and uid.
struct Write {
  Kind kind;
  std::string uid;
  std::optional<Record> record;
};

using Resource = std::variant<Claim, VGpu, Gpu, Node, Instance, Tenant, Session>;  // in the order of Kind
enum class ChangeType { kAdded = 1, kModified = 2, kDeleted = 3 };
// For watchers.
struct Change {
  ChangeType type;
  Resource resource;
};

using ReplyBody =
    std::variant<std::monostate, Claim, Node, Gpu, Tenant, std::vector<AttachedVGpu>, Invitation, ApiToken>;
struct Reply {
  CallId call;
  Result<ReplyBody> body;
};
struct UpdateHold {
  HoldId hold;
  Claim claim;
};
struct EndHold {
  HoldId hold;
  Status status;
};

struct NodeRegistered {
  std::string node_uid;
  Duration heartbeat_interval{};
};
struct CreateVGpu {
  std::string uid;
  std::string name;
  std::string tenant;
  std::uint32_t gpu_index = 0;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  PerformanceLevel performance_level = PerformanceLevel::kUnspecified;
  std::vector<Grant> grants;
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t spill_bytes = 0;
  Isolation isolation = Isolation::kUnspecified;
};
struct ResizeVGpu {
  std::string uid;
  std::uint32_t compute_percent = 0;
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t memory_bytes = 0;
  friend bool operator==(const ResizeVGpu&, const ResizeVGpu&) = default;
};
struct DeleteVGpu {
  std::string uid;
};
struct AddGrant {
  std::string vgpu_uid;
  Grant grant;
};
struct RevokeGrant {
  std::string vgpu_uid;
  std::string grant_id;
};
using NodeCommand = std::variant<NodeRegistered, CreateVGpu, ResizeVGpu, DeleteVGpu, AddGrant, RevokeGrant>;
struct SendToNode {
  LinkId link;
  NodeCommand command;
};
// No further event of this link is listened to.
struct CloseLink {
  LinkId link;
  Status status;
};

// To be rehearsed with these (placement/rehearsal.h), elsewhere, as it takes seconds; then Rehearsed is to be
// handled. The next one comes after that.
struct StartRehearsal {
  std::vector<NodeRoom> nodes;
  std::vector<WeightedDemand> demands;
};

using Effect = std::variant<Reply, UpdateHold, EndHold, SendToNode, CloseLink, StartRehearsal>;

// To be done in this order: all writes in one transaction, then changes, then effects. When the writes fail,
// nothing else may be done, and the core is lost: load a new one from the store.
struct Actions {
  std::vector<Write> writes;
  std::vector<Change> changes;
  std::vector<Effect> effects;
};

}  // namespace tulle::control
