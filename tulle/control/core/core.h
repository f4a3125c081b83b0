// The controller's brain: (state, event, now) -> (state, actions). No clock, network, store or thread inside,
// so a test runs years of it in seconds. One strand owns it; nothing here is thread-safe.
//
// It is level-based. A claim (what was asked) leads to vGPUs (what shall be), a node's reports say what is,
// and each event ends with the difference being worked off. So messages may be repeated, and a node or the
// controller may go and come back: what a returning node still runs and the store still knows goes on
// undisturbed.
//
//   claim  PENDING -> BOUND -> RELEASED | FAILED     all of its vGPUs or none
//   vGPU   CREATING -> READY -> DELETING -> (gone)   what it takes of its GPU is free only once its node has
//                                                    confirmed the end
//   node   READY <-> NOT_READY, -> LEFT
//
// Waiting claims are tried again when something becomes free. The tenant with the least dominant share comes
// first (weighted; Ghodsi et al., Dominant Resource Fairness, NSDI 2011), of its claims the one of the
// highest priority, then the oldest; a smaller one may pass a larger one. So that this neither starves the
// larger one nor takes its tenant's share, GPUs are set aside for a claim that has waited for `patience`, or
// whose tenant would still not have more than others if it had it: there, what becomes free is kept for it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/core/events.h"
#include "tulle/control/core/load_size.h"
#include "tulle/control/core/table.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/fleet.h"

namespace tulle::control {

// All durations are positive.
struct CoreOptions {
  Duration hold_grace = std::chrono::seconds(10);  // how long a claim outlives its last holder
  Duration heartbeat_interval = std::chrono::seconds(2);
  Duration heartbeat_timeout = std::chrono::seconds(10);  // silence after which a node is out of touch
  Duration node_lost_after = std::chrono::minutes(5);     // out of touch for so long, its vGPUs are given up
  Duration node_forget_after = std::chrono::hours(24);    // LEFT or lost for so long, its record goes
  Duration start_timeout = std::chrono::seconds(60);      // of a claim's vGPUs, then another try
  Duration attach_wait = std::chrono::seconds(5);         // for nodes to confirm grants
  Duration claim_retention = std::chrono::minutes(10);    // of RELEASED and FAILED claims, to be read
  Duration instance_retention = std::chrono::hours(1);    // after its last hold
  Duration calm = std::chrono::seconds(60);               // of a load, before its vGPU has less compute
  Duration retry_backoff = std::chrono::seconds(1);       // after a failed start; doubles with each
  std::uint32_t gpu_start_failures = 3;                   // of vGPUs in a row, then their GPU is cordoned
  std::uint32_t start_attempts = 5;                       // then the claim is FAILED
  // Placement learns from the latest claims, once there are as many new ones, and not more often.
  Duration rehearsal_interval = std::chrono::minutes(5);
  std::size_t rehearse_after_claims = 64;
  std::size_t remembered_claims = 4'096;
  // Records, of about 2 KiB each. The oldest that have ended make room for new ones; live ones do not.
  std::size_t max_claims = 100'000;
  std::size_t max_claims_per_tenant = 1'000;  // so that one tenant cannot use up the others' part
  std::set<std::string> admins;               // tenants that are administrators whatever is said of them
  std::size_t max_tenants = 10'000;
  Duration patience = std::chrono::minutes(5);  // after which room is kept for a claim that waits
  std::size_t max_set_aside = 256;              // claims for which room is kept
  Duration usage_retention = std::chrono::hours(24 * 90);
  std::size_t max_instances = 100'000;
  std::size_t max_nodes = 20'000;
  std::size_t max_revocations = 10'000;
  std::size_t max_api_tokens_per_tenant = 100;
  std::size_t max_invitations = 1'000;  // that have not been used and have not expired
};

template <typename R>
struct Page {
  std::vector<R> resources;
  bool more = false;
};

struct CoreStats {
  std::map<ClaimPhase, std::size_t> claims;
  std::map<VGpuPhase, std::size_t> vgpus;
  std::map<NodeState, std::size_t> nodes;
  std::size_t gpus = 0;
  std::size_t instances = 0;
  std::uint64_t allocatable_memory_bytes = 0;
  std::uint64_t allocated_memory_bytes = 0;
  std::uint64_t sessions = 0;
  std::uint64_t rehearsals = 0;   // that placement goes or went by, since the controller started
  bool placement_learnt = false;  // the last one brought more than fragmentation gradient descent
};

class Core {
 public:
  // `random` makes uids, names and keys; it must outlive the core. `first_version`: resource versions start
  // above it.
  Core(const CoreOptions& options, Random& random, std::uint64_t first_version);

  // The state of an earlier core, from what its Writes left in the store. Called once, before any event.
  // Timers start anew from `now`; no node is in touch and no claim is held yet. Fails with kDataLoss when
  // records contradict each other.
  Status Load(std::vector<Record> records, const Now& now);

  Actions Handle(const Event& event, const Now& now);

  // When Handle(Tick) is next needed; nothing when only events can change something.
  std::optional<Instant> NextTick() const;

  // Whether `caller` may do that, and whether it may see what `tenant` has. kPermissionDenied with the
  // reason.
  Status Authorize(const std::string& caller, Permission permission) const;
  Status CheckRead(const std::string& caller, const std::string& tenant) const;

  // Reading. `R` is Claim, VGpu, Gpu, Node, Instance, Session or Tenant; `tenant` is empty for GPUs, nodes
  // and tenants.
  template <typename R>
  std::optional<R> Get(const std::string& tenant, const std::string& name) const;
  // Up to `limit` in the order of names, from the first after `after`. `live_only`: without ended claims.
  template <typename R>
  Page<R> List(const std::string& tenant, const std::string& after, std::size_t limit,
               bool live_only = false) const;
  // Of all tenants, in the order of tenants, then names; `after`: both of the last one.
  template <typename R>
  Page<R> ListAll(const std::pair<std::string, std::string>& after, std::size_t limit,
                  bool live_only = false) const;
  // In whole hours, from the one that `since_us` is in. `tenant`: nothing: all that have used something.
  std::vector<TenantUsage> UsageSince(const std::optional<std::string>& tenant, WallMicros since_us,
                                      const Now& now) const;
  // By time of creation; those that have expired are left out.
  std::vector<ApiToken> ApiTokensOf(const std::string& tenant, const Now& now) const;
  std::optional<VGpu> FindVGpu(const std::string& uid) const;
  // At most `most_nodes` verdicts. Nothing: there is no such claim.
  std::optional<ClaimExplanation> Explain(const std::string& tenant, const std::string& claim,
                                          std::size_t most_nodes, const Now& now) const;
  std::uint64_t resource_version() const { return version_; }
  CoreStats Stats() const;

 private:
  struct ClaimState {
    using Model = Claim;
    ClaimRecord record;
    std::vector<std::string> vgpu_uids;
    std::set<HoldId> holds;
    std::vector<std::pair<CallId, Instant>> attaches;  // waiting, each until when
    std::set<std::string> avoid_gpus;                  // where the last try failed
    std::optional<Instant> unheld_until, start_until, retry_at, erase_at, impatient_at, ends_at;
    std::vector<std::string> set_aside;  // uids of GPUs that are kept for it
    bool announced = false;
    Claim& model() { return record.claim; }
    const Claim& model() const { return record.claim; }
    const Metadata& metadata() const { return record.claim.metadata; }
  };
  struct VGpuState {
    using Model = VGpu;
    VGpuRecord record;
    std::set<std::string> accepted;  // grants that the node has confirmed
    std::set<std::string> sessions;  // uids
    bool announced = false;
    LoadSize load;  // of elastic ones
    // Of its GPU's memory, beyond what its spec says: what it had before it shrank, until its node has told
    // that the last command for its memory, the how manieth of the link is `held_by`, is done and until
    // `held_until`; from then on what programs still use, as the node tells.
    std::uint64_t held_memory_bytes = 0;
    std::uint64_t held_by = 0;
    std::uint64_t told_memory_bytes = 0;  // to the node, by this link
    Instant held_until{};
    bool thrashes = false;     // its programs use more memory at a time than it has
    Instant thrashes_since{};  // it is so, or it has not been otherwise
    std::uint64_t memory_bytes() const { return std::max(record.vgpu.spec.memory_bytes, held_memory_bytes); }
    VGpu& model() { return record.vgpu; }
    const VGpu& model() const { return record.vgpu; }
    const Metadata& metadata() const { return record.vgpu.metadata; }
  };
  struct GpuState {
    using Model = Gpu;
    Gpu gpu;
    std::string node_uid;
    std::set<std::string> vgpus;                                          // uids
    std::uint64_t counted_memory_bytes = 0, counted_compute_percent = 0;  // in capacity_
    std::uint32_t failed_starts = 0;                                      // in a row
    bool announced = false;
    Gpu& model() { return gpu; }
    const Gpu& model() const { return gpu; }
    const Metadata& metadata() const { return gpu.metadata; }
  };
  struct NodeRecord {
    using Model = Node;
    Node node;
    std::optional<LinkId> link;
    std::uint64_t commands = 0;  // that were sent by this link
    Instant heard;
    std::optional<Instant> lost_at, forget_at, drain_at;
    std::map<std::uint32_t, std::string> gpus;  // uids by index
    bool announced = false;
    Node& model() { return node; }
    const Node& model() const { return node; }
    const Metadata& metadata() const { return node.metadata; }
  };
  struct InstanceState {
    using Model = Instance;
    Instance instance;
    std::map<HoldId, std::string> holds;  // the claim's name
    std::optional<Instant> erase_at;
    bool announced = false;
    Instance& model() { return instance; }
    const Instance& model() const { return instance; }
    const Metadata& metadata() const { return instance.metadata; }
  };
  struct SessionState {
    using Model = Session;
    Session session;
    bool announced = false;
    Session& model() { return session; }
    const Session& model() const { return session; }
    const Metadata& metadata() const { return session.metadata; }
  };
  struct HoldState {
    std::string claim_uid;
    std::string instance_uid;  // may be empty
    std::string api_token;     // by which it is held; may be empty
  };
  struct Touched {
    bool durable = false;
  };
  // Of claims: when the record goes, when it was made, uid. In the order of their ends.
  using EndedClaims = std::set<std::tuple<Instant, WallMicros, std::string>>;
  // In the order in which a tenant's waiting claims are tried: -priority, when it was made, uid.
  using WaitingKey = std::tuple<std::int32_t, WallMicros, std::string>;
  static WaitingKey KeyOf(const ClaimState& claim);
  struct TenantState {
    using Model = Tenant;
    Tenant tenant;  // the status is up to date but for what Flush fills in
    std::size_t records = 0;
    EndedClaims ended;
    std::set<WaitingKey> waiting;
    std::map<WallMicros, UsageRecord> usage;  // by hour
    Instant accrued;                          // `usage` counts until then
    bool announced = false;
    Tenant& model() { return tenant; }
    const Tenant& model() const { return tenant; }
    const Metadata& metadata() const { return tenant.metadata; }
  };

  void On(const CreateClaim& event);
  void On(const DeleteClaim& event);
  void On(const ResizeClaim& event);
  void On(const AttachClaim& event);
  void On(const DetachClaim& event);
  void On(const DrainNode& event);
  void On(const CordonNode& event);
  void On(const CordonGpu& event);
  void On(const TaintNode& event);
  void On(const UpdateTenant& event);
  void On(const DeleteTenant& event);
  void On(const CreateInvitation& event);
  void On(const RedeemInvitation& event);
  void On(const RevokeCertificates& event);
  void On(const CreateApiToken& event);
  void On(const DeleteApiToken& event);
  void On(const OpenHold& event);
  void On(const CloseHold& event);
  void On(const RegisterNode& event);
  void On(const NodeHeartbeat& event);
  void On(const ReportVGpu& event);
  void On(const NodeLeaving& event);
  void On(const LinkClosed& event);
  void On(const Rehearsed& event);
  void On(const Tick& event);

  // Claims: claims.cc.
  ClaimState& InsertClaim(ClaimRecord record);
  void SetEnded(ClaimState& claim);
  // Whether the tenant may have one more live claim.
  Status CheckClaimLimits(const TenantState& tenant) const;
  std::size_t MostClaimsOf(const TenantState& tenant) const;
  // Precondition: CheckClaimLimits. The oldest ended claims go until there is room for one more record.
  void MakeRoomForClaim(const TenantState& tenant);
  Result<ClaimState*> FindClaim(const std::string& tenant, const std::string& name);
  // A claim was made: placement will learn from it.
  void Remember(const ClaimSpec& spec);

  // Tenants: tenants.cc.
  TenantRole RoleOf(const std::string& tenant) const;
  // Made if it is not there yet. kResourceExhausted when there may be no more.
  Result<TenantState*> TenantNamed(const std::string& name);
  TenantState& TenantOf(const Metadata& metadata) { return *tenants_.Find("", metadata.tenant); }
  // Of the whole mesh, 0 to 1.
  double DominantShare(const TenantState& tenant) const { return DominantShare(tenant.tenant.status); }
  double DominantShare(const TenantStatus& has) const;
  // What its quota has against so much more for it, beside what it has: nothing, or why it waits.
  // `memory_bytes` and `compute` (percent): of all vGPUs of such a claim, where the spec alone does not say
  // it.
  std::optional<NoFit> OverQuota(const TenantState& tenant, const TenantStatus& has,
                                 const ClaimSpec& spec) const;
  std::optional<NoFit> OverQuota(const TenantState& tenant, const TenantStatus& has, const ClaimSpec& spec,
                                 std::uint64_t memory_bytes, std::uint64_t compute) const;
  // A vGPU counts for its tenant from now on (+1), or no longer (-1).
  void Charge(const VGpu& vgpu, int sign);
  // Usage: usage.cc. What the tenant has had since the last time is added up.
  void Accrue(TenantState& tenant);

  // What becomes of them: reconcile.cc.
  // Where the claim's vGPUs go, if its tenant's quota allows for them.
  Placement PlaceFor(const TenantState& tenant, const ClaimSpec& spec,
                     const std::set<std::string>& avoid_gpus);
  void StartWaiting(ClaimState& claim);
  void StopWaiting(ClaimState& claim);
  void GiveBackSetAside(ClaimState& claim);
  // In the order in which waiting claims are tried, from 1; 0: it does not wait.
  std::uint32_t WaitingPosition(const ClaimState& claim) const;
  // All that wait, in that order.
  std::vector<const ClaimState*> WaitingClaims() const;
  // How long a claim that has its vGPUs may be expected to stay: expected_wait.cc.
  std::optional<Duration> ExpectedStay(const ClaimState& claim, const Now& now) const;
  std::optional<Duration> ExpectedWait(const ClaimState& claim, const Now& now) const;
  void Bind(ClaimState& claim, const Placed& placed);
  void SetWaiting(ClaimState& claim, const std::string& reason, const std::string& message);
  void PlaceWaiting();
  struct PlacingRound;
  void TryWaiting(PlacingRound& round, const TenantState& tenant, ClaimState& claim);
  // Whether room is to be kept for it.
  bool MayHaveSetAside(PlacingRound& round, const TenantState& tenant, const ClaimState& claim) const;
  // Works off the difference between the claim and its vGPUs.
  void Reconcile(ClaimState& claim);
  void StartFailed(ClaimState& claim, const std::string& message);
  void End(ClaimState& claim, ClaimPhase phase, const std::string& reason, const std::string& message);
  void AnswerAttaches(ClaimState& claim);
  void CheckTimers(ClaimState& claim);

  // vGPUs: vgpus.cc.
  void SetPhase(VGpuState& vgpu, VGpuPhase phase);
  void BeginDelete(VGpuState& vgpu);
  void EraseVGpu(const std::string& uid);
  void ApplyReport(VGpuState& vgpu, const VGpuReport& report);
  void Fail(VGpuState& vgpu, const std::string& reason, const std::string& message);
  void SendCreate(const VGpuState& vgpu);
  // After any change of what is on the GPU.
  void Recount(GpuState& gpu);
  // Sessions: sessions.cc.
  void SetSessions(VGpuState& vgpu, const std::vector<SessionReport>& attached);
  // Elastic vGPUs: elastic.cc.
  std::vector<ElasticVGpu> ElasticOf(const GpuState& gpu) const;
  void Resize(VGpuState& vgpu, std::uint32_t compute_percent);
  // Its node has told its load: an elastic one may want another share.
  void FollowLoad(VGpuState& vgpu);
  // Likewise: says so when commands wait for memory most of the time.
  void FollowSpill(VGpuState& vgpu);
  // It is to have less memory than the `had_bytes` that its programs may still take until its node knows.
  void HoldMemory(VGpuState& vgpu, std::uint64_t had_bytes);
  // Its node has told what its programs use.
  void LetMemoryGo(VGpuState& vgpu);
  // As its node is to have it.
  static ResizeVGpu SizeOf(const VGpu& vgpu);
  // Gives what is free on GPUs that have changed to vGPUs there that want more.
  void Grow();
  // Whether it takes new vGPUs, and if not, why.
  void SetCordoned(GpuState& gpu, bool cordoned, std::string why);

  // Nodes: nodes.cc.
  // After any change of whether it takes vGPUs, or of its labels.
  void UpdateFleet(const NodeRecord& node);
  // The node, if the caller may change it; else answers.
  NodeRecord* NodeToChange(CallId call, const std::string& caller, const std::string& name);
  // Whether there may be one more node.
  Status CheckNodeLimit() const;
  NodeRecord* NodeOfLink(LinkId link);
  NodeRecord* NodeOf(const VGpuState& vgpu);
  void Command(NodeRecord& node, NodeCommand command);
  void UpdateInventory(NodeRecord& node, const RegisterNode& event);
  void ReconcileVGpus(NodeRecord& node, const std::vector<VGpuReport>& reports);
  void OutOfTouch(NodeRecord& node, const std::string& message);
  // Each vGPU of `gpu` that is not going yet fails; with `forget`, no confirmation of their end is waited
  // for.
  void SetScheduling(NodeRecord& node, bool cordoned, WallMicros drain_time_us);
  void UpdateDraining(ClaimState& claim);
  void GiveUp(GpuState& gpu, const std::string& reason, const std::string& message, bool forget);
  void EraseGpu(NodeRecord& node, std::uint32_t index);
  void CheckTimers(NodeRecord& node);

  // API tokens: api_tokens.cc.
  // Those of the tenant for which that is true.
  template <typename F>
  void ForgetApiTokens(const std::string& tenant, F shall_go);
  void ForgetAllApiTokens(const std::string& tenant);
  // Streams that a user has open by that API token, or all.
  void EndHoldsOf(const std::string& tenant, const std::string& api_token, const Error& why);

  // Invitations: invitations.cc.
  void ForgetExpiredInvitations();
  void ExpectNode(const std::string& name);

  // Holds and instances: holds.cc.
  void LeaveInstance(HoldId hold, const std::string& instance_uid);
  void CheckTimers(InstanceState& instance);

  // Bookkeeping: core.cc.
  std::string NewUid();
  Grant NewGrant();
  void Answer(CallId call, Result<ReplyBody> body);
  void AnswerWith(CallId call, Kind kind, const std::string& uid);
  void Touch(Kind kind, const std::string& uid, bool durable);
  template <typename State>
  void Remove(Table<State>& table, Kind kind, const std::string& uid);
  template <typename State>
  void FlushTouched(Table<State>& table, Kind kind);
  void Flush();
  // Wakes the object at `at`, or earlier if it is to be woken earlier already.
  void Arm(const std::string& uid, std::optional<Instant> at);
  template <typename R>
  const auto& TableOf() const;

  const CoreOptions options_;
  Random& random_;
  std::uint64_t version_;
  Table<ClaimState> claims_;
  Table<VGpuState> vgpus_;
  Table<GpuState> gpus_;
  Table<NodeRecord> nodes_;
  Table<InstanceState> instances_;
  Table<SessionState> sessions_;
  Fleet fleet_;                          // of gpus_ and nodes_
  std::deque<ClaimSpec> recent_claims_;  // the oldest first
  std::size_t claims_to_learn_ = 0;      // since the last rehearsal began
  std::array<std::uint64_t, 32>
      lifetimes_{};  // of claims that were bound: how many of 2^i to 2^(i+1) seconds
  bool rehearsing_ = false;
  std::uint64_t rehearsals_ = 0;
  bool placement_learnt_ = false;
  std::optional<Instant> rehearsed_at_;  // when it began
  Table<TenantState> tenants_;
  EndedClaims ended_claims_;               // of all tenants
  std::size_t waiting_claims_ = 0;         // likewise
  std::set<std::string> waiting_tenants_;  // uids of those that have some
  std::set<std::string> set_aside_for_;    // uids of claims for which GPUs are kept
  std::uint64_t capacity_memory_bytes_ = 0, capacity_compute_percent_ = 0;  // of all GPUs
  std::map<LinkId, std::string> node_of_link_;
  std::map<HoldId, HoldState> holds_;
  std::map<std::string, Revocation> revocations_;                        // by identity
  std::map<std::string, Invitation> invitations_;                        // by id
  std::map<std::pair<std::string, std::string>, ApiToken> api_tokens_;   // by tenant and id
  std::map<std::pair<std::string, std::string>, std::string> requests_;  // (tenant, request id) to claim uid
  std::map<std::string, Instant> armed_;
  std::set<std::pair<Instant, std::string>> wakeups_;

  // Of the event in hand.
  Now now_;
  Actions actions_;
  std::map<std::pair<Kind, std::string>, Touched> touched_;
  std::vector<std::tuple<CallId, Kind, std::string>> answers_;
  std::vector<std::pair<HoldId, std::string>> ended_holds_;     // with the instance's uid
  std::set<std::pair<std::string, WallMicros>> touched_usage_;  // tenant's uid, hour
  std::set<std::string> may_grow_on_;  // uids of GPUs that have changed and have vGPUs that want more
  bool room_changed_ = false;
};

}  // namespace tulle::control
