// How a claim gets its vGPUs, keeps them and ends: placing, starting, failing, timers.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "tulle/base/check.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

namespace {

constexpr char kLeastMissing[] = "least-missing";  // the rule by which neighbours shrink
constexpr Duration kMaxRetryBackoff = std::chrono::seconds(30);
// At all GPUs in one round of placing, for some to set aside: in a large mesh each takes a millisecond.
constexpr std::size_t kMostLooks = 4;

}  // namespace

void Core::Bind(ClaimState& claim, const Placed& placed) {
  Claim& model = claim.model();
  for (const Resized& shrunk : placed.shrunk) Resize(*vgpus_.Find(shrunk.vgpu_uid), shrunk.compute_percent);
  const std::vector<Slot>& slots = placed.slots;
  StopWaiting(claim);
  claim.retry_at.reset();
  claim.start_until = now_.mono + options_.start_timeout;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    GpuState& gpu = *gpus_.Find(slots[i].gpu_uid);
    Metadata metadata{.uid = NewUid(), .create_time_us = now_.wall_us, .tenant = model.metadata.tenant};
    // A vGPU of an earlier try may still be going under the plain name.
    const std::string stem = model.metadata.name.substr(0, kMaxNameBytes - 12) + "-" + std::to_string(i);
    metadata.name = stem;
    for (int again = 2; vgpus_.HasName(metadata.tenant, metadata.name); ++again) {
      metadata.name = stem + "-" + std::to_string(again);
    }
    VGpuState& vgpu = vgpus_.Insert(
        {.record = {
             .vgpu = {.metadata = metadata,
                      .spec = {.claim = model.metadata.name,
                               .gpu = gpu.metadata().name,
                               .memory_bytes = slots[i].memory_bytes,
                               .compute_percent = slots[i].compute_percent,
                               .performance_level = model.spec.performance_level,
                               .wanted_compute_percent = NeedsByGpu(model.spec) ? slots[i].compute_percent
                                                                                : model.spec.compute_percent,
                               .network_bytes_per_s = model.spec.network_bytes_per_s,
                               .spill_bytes = model.spec.spill_bytes,
                               .isolation = model.spec.isolation},
                      .status = {.node = gpu.gpu.spec.node,
                                 .endpoint = nodes_.Find(gpu.node_uid)->node.status.endpoint}},
             .claim_uid = model.metadata.uid,
             .gpu_uid = gpu.metadata().uid,
             .grants = {NewGrant()}}});
    claim.vgpu_uids.push_back(metadata.uid);
    model.status.vgpus.push_back(metadata.name);
    gpu.vgpus.insert(metadata.uid);
    Charge(vgpu.model(), +1);
    Recount(gpu);
    Touch(Kind::kVGpu, metadata.uid, true);
    SendCreate(vgpu);
  }
  const bool shrunk = !placed.shrunk.empty();
  model.status.branch = shrunk ? AllocationBranch::kShrinkNeighbours : AllocationBranch::kCreateSlice;
  model.status.placed_by = shrunk ? kLeastMissing : fleet_.policy_name();
  SetCondition(&model.status.conditions, kPlaced, true, "Placed", "", now_.wall_us);
  SetCondition(&model.status.conditions, kReady, false, "Starting", "its vGPUs start", now_.wall_us);
  Touch(Kind::kClaim, model.metadata.uid, true);
  CheckTimers(claim);
}

void Core::SetWaiting(ClaimState& claim, const std::string& reason, const std::string& message) {
  Claim& model = claim.model();
  StartWaiting(claim);
  model.status.branch = AllocationBranch::kWait;
  model.status.placed_by.clear();
  if (SetCondition(&model.status.conditions, kPlaced, false, reason, message, now_.wall_us)) {
    Touch(Kind::kClaim, model.metadata.uid, false);
  }
}

Core::WaitingKey Core::KeyOf(const ClaimState& claim) {
  return {-claim.model().spec.priority, claim.metadata().create_time_us, claim.metadata().uid};
}

void Core::StartWaiting(ClaimState& claim) {
  TenantState& tenant = TenantOf(claim.metadata());
  if (!tenant.waiting.insert(KeyOf(claim)).second) return;
  claim.impatient_at = now_.mono + options_.patience;
  ++waiting_claims_;
  waiting_tenants_.insert(tenant.metadata().uid);
  Touch(Kind::kTenant, tenant.metadata().uid, false);
}

void Core::GiveBackSetAside(ClaimState& claim) {
  if (claim.set_aside.empty()) return;
  may_grow_on_.insert(claim.set_aside.begin(), claim.set_aside.end());
  fleet_.Open(std::exchange(claim.set_aside, {}));
  set_aside_for_.erase(claim.metadata().uid);
  room_changed_ = true;
}

void Core::StopWaiting(ClaimState& claim) {
  claim.impatient_at.reset();
  GiveBackSetAside(claim);
  TenantState& tenant = TenantOf(claim.metadata());
  if (tenant.waiting.erase(KeyOf(claim)) == 0) return;
  --waiting_claims_;
  if (tenant.waiting.empty()) waiting_tenants_.erase(tenant.metadata().uid);
  Touch(Kind::kTenant, tenant.metadata().uid, false);
}

Placement Core::PlaceFor(const TenantState& tenant, const ClaimSpec& spec,
                         const std::set<std::string>& avoid_gpus) {
  const TenantStatus& has = tenant.tenant.status;
  const std::optional<std::uint32_t>& quota = tenant.tenant.spec.quota.compute_percent;
  if (IsElastic(spec) && quota && has.compute_percent + spec.count * spec.compute_percent > *quota) {
    // As much as the quota has left.
    ClaimSpec smaller = spec;
    const std::uint32_t left = *quota - std::min(has.compute_percent, *quota);
    smaller.compute_percent = std::max(left / spec.count, spec.min_compute_percent);
    return PlaceFor(tenant, smaller, avoid_gpus);
  }
  if (auto over = OverQuota(tenant, has, spec)) return *std::move(over);
  Placement placement = fleet_.Place(spec, avoid_gpus);
  const auto* placed = std::get_if<Placed>(&placement);
  if (placed == nullptr || (spec.performance_level != PerformanceLevel::kDedicated && !NeedsByGpu(spec)))
    return placement;
  // What it takes of these GPUs is known only now.
  std::uint64_t memory_bytes = 0, compute = 0;
  for (const Slot& slot : placed->slots) {
    memory_bytes += slot.memory_bytes;
    compute += slot.compute_percent;
  }
  if (auto over = OverQuota(tenant, has, spec, memory_bytes, compute)) return *std::move(over);
  return placement;
}

struct Core::PlacingRound {
  // What had no place a moment ago has none now: placing others only takes room.
  std::map<ClaimSpec, NoFit> without_place;
  std::map<std::string, double> planned;  // by the tenant's uid: what is set aside for it, of the mesh
  std::optional<double> most, second;     // shares by weight of the two tenants that have most
  std::string richest;                    // the uid of the first of them
  std::size_t looked = 0;                 // through all GPUs, for some to set aside
};

void Core::PlaceWaiting() {
  // Tenants that have claims left to try, the least share first: share by weight, when the next claim was
  // made, uid.
  std::set<std::tuple<double, WallMicros, std::string>> order;
  std::map<std::string, WaitingKey> tried;  // by the tenant's uid: its last one
  const auto enqueue = [&](const TenantState& tenant) {
    const auto last = tried.find(tenant.metadata().uid);
    const auto next = last == tried.end() ? tenant.waiting.begin() : tenant.waiting.upper_bound(last->second);
    if (next == tenant.waiting.end()) return;
    order.emplace(DominantShare(tenant) / tenant.tenant.spec.weight, std::get<WallMicros>(*next),
                  tenant.metadata().uid);
  };
  for (const std::string& uid : waiting_tenants_) enqueue(*tenants_.Find(uid));
  // Whose turn comes earlier may have what is kept for a later one.
  for (const std::string& uid : set_aside_for_) fleet_.Open(claims_.Find(uid)->set_aside);
  PlacingRound round;
  while (!order.empty()) {
    const std::string tenant_uid = std::get<std::string>(order.extract(order.begin()).value());
    const TenantState& tenant = *tenants_.Find(tenant_uid);
    const auto last = tried.find(tenant_uid);
    const auto next = last == tried.end() ? tenant.waiting.begin() : tenant.waiting.upper_bound(last->second);
    const WaitingKey key = *next;
    tried[tenant_uid] = key;
    ClaimState& claim = *claims_.Find(std::get<std::string>(key));
    if (!claim.retry_at || *claim.retry_at <= now_.mono) TryWaiting(round, tenant, claim);
    fleet_.Close(claim.set_aside);
    enqueue(tenant);
  }
}

void Core::TryWaiting(PlacingRound& round, const TenantState& tenant, ClaimState& claim) {
  const ClaimSpec& spec = claim.model().spec;
  const auto known = round.without_place.find(spec);
  if (known == round.without_place.end()) {
    Placement placement = PlaceFor(tenant, spec, claim.avoid_gpus);
    if (const auto* placed = std::get_if<Placed>(&placement)) return Bind(claim, *placed);
    const NoFit& no_fit = std::get<NoFit>(placement);
    SetWaiting(claim, no_fit.reason, no_fit.message);
    // That is one tenant's matter, and nothing is to be kept for it.
    if (no_fit.reason == kQuotaExceeded) return GiveBackSetAside(claim);
    round.without_place.emplace(spec, no_fit);
  } else {
    SetWaiting(claim, known->second.reason, known->second.message);
  }
  if (!MayHaveSetAside(round, tenant, claim)) return GiveBackSetAside(claim);
  if (!claim.set_aside.empty() || set_aside_for_.size() >= options_.max_set_aside ||
      round.looked >= kMostLooks) {
    return;
  }
  ++round.looked;
  claim.set_aside = fleet_.SetAside(spec);
  if (!claim.set_aside.empty()) set_aside_for_.insert(claim.metadata().uid);
}

bool Core::MayHaveSetAside(PlacingRound& round, const TenantState& tenant, const ClaimState& claim) const {
  if (IsDue(claim.impatient_at, now_.mono)) return true;
  if (!round.most) {
    round.most = round.second = 0;
    tenants_.ForEach([&](const TenantState& other) {
      const double share = DominantShare(other) / other.tenant.spec.weight;
      if (share > *round.most) {
        round.second = std::exchange(*round.most, share);
        round.richest = other.metadata().uid;
      } else if (share > *round.second) {
        round.second = share;
      }
    });
  }
  const ClaimSpec& spec = claim.model().spec;
  TenantStatus with = tenant.tenant.status;
  with.memory_bytes += spec.count * spec.memory_bytes;
  with.compute_percent += spec.count * ReservedComputePercent(spec.performance_level, spec.compute_percent);
  double& planned = round.planned[tenant.metadata().uid];
  const double adds = std::max(DominantShare(with) - DominantShare(tenant), 0.0);
  const double others = round.richest == tenant.metadata().uid ? *round.second : *round.most;
  if ((DominantShare(tenant) + planned + adds) / tenant.tenant.spec.weight > others) return false;
  planned += adds;
  return true;
}

void Core::Reconcile(ClaimState& claim) {
  Claim& model = claim.model();
  if (IsFinal(model.status.phase) || claim.vgpu_uids.empty()) return;
  bool all_ready = true;
  for (const std::string& uid : claim.vgpu_uids) {
    const VGpu& vgpu = vgpus_.Find(uid)->model();
    if (vgpu.status.phase == VGpuPhase::kFailed) {
      const std::string message =
          "vGPU " + vgpu.metadata.name + " on node " + vgpu.status.node + ": " + vgpu.status.message;
      if (model.status.phase == ClaimPhase::kPending) return StartFailed(claim, message);
      return End(claim, ClaimPhase::kFailed, "VGpuFailed", message);
    }
    all_ready &= vgpu.status.phase == VGpuPhase::kReady;
  }
  if (all_ready) {
    claim.start_until.reset();
    claim.avoid_gpus.clear();
    bool changed = SetCondition(&model.status.conditions, kReady, true, "Ready", "", now_.wall_us);
    if (model.status.phase == ClaimPhase::kPending) {
      model.status.phase = ClaimPhase::kBound;
      if (model.spec.duration_us != 0)
        claim.ends_at = now_.mono + std::chrono::microseconds(model.spec.duration_us);
      changed = true;
    }
    if (changed) Touch(Kind::kClaim, model.metadata.uid, true);
    AnswerAttaches(claim);
  } else if (!claim.start_until) {
    claim.start_until = now_.mono + options_.start_timeout;
    SetCondition(&model.status.conditions, kReady, false, "Restarting", "its vGPUs are made anew",
                 now_.wall_us);
    Touch(Kind::kClaim, model.metadata.uid, true);
  }
  CheckTimers(claim);
}

void Core::StartFailed(ClaimState& claim, const std::string& message) {
  Claim& model = claim.model();
  ++claim.record.attempts;
  if (model.spec.no_wait || claim.record.attempts >= options_.start_attempts) {
    return End(claim, ClaimPhase::kFailed, "StartFailed",
               message + " (try " + std::to_string(claim.record.attempts) + ", no more are made)");
  }
  for (const std::string& uid : std::exchange(claim.vgpu_uids, {})) {
    VGpuState& vgpu = *vgpus_.Find(uid);
    if (vgpu.model().status.phase != VGpuPhase::kReady) claim.avoid_gpus.insert(vgpu.record.gpu_uid);
    BeginDelete(vgpu);
  }
  model.status.vgpus.clear();
  UpdateDraining(claim);
  claim.start_until.reset();
  const Duration backoff =
      std::min(options_.retry_backoff * (1 << std::min(claim.record.attempts - 1, 10u)), kMaxRetryBackoff);
  claim.retry_at = now_.mono + backoff;
  SetWaiting(claim, "StartFailed", message + "; tried again in " + Seconds(backoff));
  SetCondition(&model.status.conditions, kReady, false, "StartFailed", message, now_.wall_us);
  Touch(Kind::kClaim, model.metadata.uid, true);
  CheckTimers(claim);
}

void Core::End(ClaimState& claim, ClaimPhase phase, const std::string& reason, const std::string& message) {
  Claim& model = claim.model();
  TULLE_CHECK(MayBecome(model.status.phase, phase));
  if (model.status.phase == ClaimPhase::kBound) {
    const double seconds = static_cast<double>(now_.wall_us - PlacedAt(model)) / 1e6;
    const int size = seconds < 1 ? 0 : std::ilogb(seconds);
    ++lifetimes_[std::min(static_cast<std::size_t>(size), lifetimes_.size() - 1)];
  }
  model.status.phase = phase;
  SetCondition(&model.status.conditions, kReady, false, reason, Cut(message, kMaxMessageBytes), now_.wall_us);
  StopWaiting(claim);
  for (const std::string& uid : std::exchange(claim.vgpu_uids, {})) BeginDelete(*vgpus_.Find(uid));
  model.status.vgpus.clear();
  model.status.holders = 0;
  claim.start_until.reset();
  claim.retry_at.reset();
  claim.unheld_until.reset();
  claim.ends_at.reset();
  SetEnded(claim);
  for (const auto& [call, until] : std::exchange(claim.attaches, {})) {
    Answer(call, Refusal(Code::kFailedPrecondition,
                         "claim " + model.metadata.name + " is " + Name(phase) + ": " + message));
  }
  Touch(Kind::kClaim, model.metadata.uid, true);
  CheckTimers(claim);
}

void Core::AnswerAttaches(ClaimState& claim) {
  if (claim.attaches.empty()) return;
  std::vector<AttachedVGpu> attached;
  for (const std::string& uid : claim.vgpu_uids) {
    const VGpuState& vgpu = *vgpus_.Find(uid);
    const VGpu& model = vgpu.model();
    const NodeRecord* node = NodeOf(vgpu);
    if (model.status.phase != VGpuPhase::kReady || node == nullptr || node->node.status.endpoint.empty() ||
        vgpu.record.grants.empty() || !vgpu.accepted.contains(vgpu.record.grants.front().id)) {
      return;
    }
    std::vector<std::string> endpoints = {node->node.status.endpoint};
    if (!node->node.status.local_endpoint.empty()) {
      endpoints.insert(endpoints.begin(), node->node.status.local_endpoint);
    }
    attached.push_back({.vgpu = model.metadata.name,
                        .vgpu_uid = uid,
                        .endpoints = std::move(endpoints),
                        .grant_id = vgpu.record.grants.front().id,
                        .grant_key = vgpu.record.grants.front().key,
                        .device = gpus_.Find(vgpu.record.gpu_uid)->gpu.spec.description,
                        .memory_bytes = model.spec.memory_bytes,
                        .compute_percent = model.spec.compute_percent,
                        .performance_level = model.spec.performance_level});
  }
  for (const auto& [call, until] : std::exchange(claim.attaches, {})) Answer(call, ReplyBody(attached));
}

void Core::CheckTimers(ClaimState& claim) {
  const std::string uid = claim.metadata().uid;
  if (IsDue(claim.erase_at, now_.mono)) return Remove(claims_, Kind::kClaim, uid);
  if (IsDue(claim.unheld_until, now_.mono)) {
    return End(claim, ClaimPhase::kReleased, "Unheld",
               "nobody has held it for " + Seconds(options_.hold_grace));
  }
  if (IsDue(claim.ends_at, now_.mono)) {
    return End(
        claim, ClaimPhase::kReleased, "DurationOver",
        "its duration, " + Seconds(std::chrono::microseconds(claim.model().spec.duration_us)) + ", is over");
  }
  if (IsDue(claim.start_until, now_.mono)) {
    const std::string message = "its vGPUs did not start within " + Seconds(options_.start_timeout);
    if (claim.model().status.phase == ClaimPhase::kPending) return StartFailed(claim, message);
    return End(claim, ClaimPhase::kFailed, "StartFailed", message);
  }
  if (IsDue(claim.retry_at, now_.mono)) {
    claim.retry_at.reset();
    room_changed_ = true;
  }
  const bool is_impatient = IsDue(claim.impatient_at, now_.mono);
  if (is_impatient && claim.set_aside.empty()) room_changed_ = true;
  std::erase_if(claim.attaches, [&](const std::pair<CallId, Instant>& attach) {
    if (attach.second > now_.mono) return false;
    std::string message = "claim " + claim.metadata().name + ": ";
    for (const std::string& vgpu_uid : claim.vgpu_uids) {
      const VGpuState& vgpu = *vgpus_.Find(vgpu_uid);
      const GpuState& gpu = *gpus_.Find(vgpu.record.gpu_uid);
      const NodeStatus& node = nodes_.Find(gpu.node_uid)->node.status;
      if (node.state != NodeState::kReady) {
        message += "node " + gpu.gpu.spec.node + " is " + Name(node.state) + "; ";
      } else if (vgpu.record.grants.empty() || !vgpu.accepted.contains(vgpu.record.grants.front().id)) {
        message += "vGPU " + vgpu.metadata().name + " on node " + gpu.gpu.spec.node +
                   " has not confirmed its grant; ";
      }
    }
    Answer(attach.first,
           Error{.code = Code::kUnavailable, .message = message + "try again", .retry = Retry::kSame});
    return true;
  });
  std::optional<Instant> next;
  for (const auto& at :
       {claim.erase_at, claim.unheld_until, claim.start_until, claim.retry_at, claim.ends_at})
    KeepEarliest(&next, at);
  if (!is_impatient) KeepEarliest(&next, claim.impatient_at);
  for (const auto& [call, until] : claim.attaches) KeepEarliest(&next, until);
  Arm(uid, next);
}

}  // namespace tulle::control
