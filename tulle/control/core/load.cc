// The state of an earlier core, from what it left in the store.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <iterator>
#include <variant>

#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

Status Core::Load(std::vector<Record> records, const Now& now) {
  now_ = now;
  const auto corrupt = [](const std::string& what) {
    return Refusal(Code::kDataLoss, "the store contradicts itself: " + what);
  };
  // In the order of dependence: nodes, their GPUs, claims, their vGPUs; tenants before what is theirs.
  std::stable_sort(records.begin(), records.end(), [](const Record& a, const Record& b) {
    constexpr int kOrder[] = {2, 3, 1, 0, 4, 0, 1, 4, 4};  // by index in Record
    static_assert(std::size(kOrder) == std::variant_size_v<Record>);
    return kOrder[a.index()] < kOrder[b.index()];
  });
  for (Record& record : records) {
    const auto is_new = [](auto& table, const Metadata& metadata) {
      return !metadata.uid.empty() && table.Find(metadata.uid) == nullptr &&
             !table.HasName(metadata.tenant, metadata.name);
    };
    if (auto* node = std::get_if<Node>(&record)) {
      if (!is_new(nodes_, node->metadata)) return corrupt("node " + node->metadata.name + " is there twice");
      node->status.gpus = node->status.vgpus = 0;
      node->status.telemetry = {};
      NodeRecord& state = nodes_.Insert({.node = std::move(*node)});
      if (state.node.status.state == NodeState::kLeft) {
        state.forget_at = now.mono + options_.node_forget_after;
      } else {
        state.node.status.state = NodeState::kNotReady;
        state.node.status.message = "the controller has started and waits for it";
        state.lost_at = now.mono + options_.node_lost_after;
      }
      if (const WallMicros drain_us = state.node.spec.drain_time_us; drain_us != 0) {
        // Not while this loads, when its GPUs are not there yet.
        state.drain_at =
            now.mono + std::chrono::microseconds(std::max(drain_us - now.wall_us, WallMicros{1}));
      }
      UpdateFleet(state);
      CheckTimers(state);
    } else if (auto* gpu = std::get_if<Gpu>(&record)) {
      NodeRecord* node = nodes_.Find("", gpu->spec.node);
      if (node == nullptr || !is_new(gpus_, gpu->metadata)) return corrupt("GPU " + gpu->metadata.name);
      node->gpus[gpu->spec.index] = gpu->metadata.uid;
      ++node->node.status.gpus;
      Recount(gpus_.Insert({.gpu = std::move(*gpu), .node_uid = node->node.metadata.uid}));
    } else if (auto* tenant = std::get_if<Tenant>(&record)) {
      if (!is_new(tenants_, tenant->metadata))
        return corrupt("tenant " + tenant->metadata.name + " is there twice");
      tenant->status = {};
      if (options_.admins.contains(tenant->metadata.name)) tenant->spec.role = TenantRole::kAdmin;
      tenants_.Insert({.tenant = std::move(*tenant), .accrued = now.mono});
    } else if (auto* usage = std::get_if<UsageRecord>(&record)) {
      const auto named = TenantNamed(usage->tenant);
      if (!named.ok()) return named.error();
      const WallMicros hour = usage->hour_us;
      (*named)->usage.emplace(hour, std::move(*usage));
    } else if (auto* claim = std::get_if<ClaimRecord>(&record)) {
      // In older stores a tenant is there by its claims only.
      if (const auto named = TenantNamed(claim->claim.metadata.tenant); !named.ok()) return named.error();
      if (!is_new(claims_, claim->claim.metadata))
        return corrupt("claim " + claim->claim.metadata.name + " is there twice");
      ClaimState& state = InsertClaim(std::move(*claim));
      Claim& model = state.model();
      model.status.holders = 0;
      model.status.vgpus.clear();
      if (IsFinal(model.status.phase)) {
        SetEnded(state);
      } else if (model.spec.release_when_unheld) {
        state.unheld_until = now.mono + options_.hold_grace;
      }
    } else if (auto* revocation = std::get_if<Revocation>(&record)) {
      revocations_.emplace(revocation->identity, *revocation);
    } else if (auto* token = std::get_if<ApiToken>(&record)) {
      std::pair key(token->tenant, token->id);
      if (!api_tokens_.emplace(std::move(key), std::move(*token)).second)
        return corrupt("an API token is there twice");
    } else if (auto* invitation = std::get_if<Invitation>(&record)) {
      const std::string id = invitation->id;
      if (!invitations_.emplace(id, std::move(*invitation)).second)
        return corrupt("token " + id + " is there twice");
    } else if (auto* vgpu = std::get_if<VGpuRecord>(&record)) {
      GpuState* gpu = gpus_.Find(vgpu->gpu_uid);
      if (gpu == nullptr || !is_new(vgpus_, vgpu->vgpu.metadata))
        return corrupt("vGPU " + vgpu->vgpu.metadata.name);
      vgpu->vgpu.status.sessions = 0;
      const std::string uid = vgpu->vgpu.metadata.uid;
      ClaimState* claim = claims_.Find(vgpu->claim_uid);
      if (vgpu->vgpu.status.phase != VGpuPhase::kDeleting) {
        if (claim == nullptr || IsFinal(claim->model().status.phase))
          return corrupt("vGPU " + uid + " without a claim");
        claim->vgpu_uids.push_back(uid);
      }
      gpu->vgpus.insert(uid);
      VGpuState& state = vgpus_.Insert({.record = std::move(*vgpu)});
      const VGpu& model = state.model();
      state.thrashes = model.status.message.starts_with(kThrashes);
      if (model.status.phase != VGpuPhase::kDeleting) {
        TenantStatus& has = TenantOf(model.metadata).tenant.status;
        has.memory_bytes += model.spec.memory_bytes;
        has.compute_percent +=
            ReservedComputePercent(model.spec.performance_level, model.spec.compute_percent);
        ++has.vgpus;
      }
      Recount(*gpu);
    }
  }
  Status status;
  claims_.ForEach([&](ClaimState& claim) {
    Claim& model = claim.model();
    const auto name_of = [this](const std::string& uid) { return vgpus_.Find(uid)->model().metadata.name; };
    std::sort(claim.vgpu_uids.begin(), claim.vgpu_uids.end(),
              [&](const std::string& a, const std::string& b) {
                return std::pair(name_of(a).size(), name_of(a)) <
                       std::pair(name_of(b).size(), name_of(b));  // x-2 before x-10
              });
    for (const std::string& uid : claim.vgpu_uids) model.status.vgpus.push_back(name_of(uid));
    if (!claim.vgpu_uids.empty() && claim.vgpu_uids.size() != model.spec.count) {
      status = corrupt("claim " + model.metadata.name + " has " + std::to_string(claim.vgpu_uids.size()) +
                       " of " + std::to_string(model.spec.count) + " vGPUs");
    }
    if (model.status.phase == ClaimPhase::kPending && claim.vgpu_uids.empty()) {
      StartWaiting(claim);
    }
    const bool starting =
        std::any_of(claim.vgpu_uids.begin(), claim.vgpu_uids.end(), [this](const std::string& uid) {
          return vgpus_.Find(uid)->model().status.phase == VGpuPhase::kCreating;
        });
    if (starting) claim.start_until = now.mono + options_.start_timeout;
    if (model.status.phase == ClaimPhase::kBound && model.spec.duration_us != 0) {
      // It was bound a moment after it was placed. Nothing ends while this loads: the first Tick sees to it.
      const WallMicros left_us = PlacedAt(model) + model.spec.duration_us - now.wall_us;
      claim.ends_at =
          now.mono + std::chrono::microseconds(std::clamp<WallMicros>(left_us, 1, model.spec.duration_us));
    }
    SetCondition(&model.status.conditions, kHeld, false, "ControllerStarted",
                 "not held since the controller started", now.wall_us);
    CheckTimers(claim);
  });
  // What the vGPUs that are there have had since the last controller counted.
  tenants_.ForEach([&](TenantState& tenant) {
    if (!tenant.usage.empty()) {
      const WallMicros missed_us =
          std::max(now.wall_us - tenant.usage.rbegin()->second.until_us, WallMicros{0});
      tenant.accrued = now.mono - std::chrono::microseconds(missed_us);
    }
    tenant.tenant.status.claims = static_cast<std::uint32_t>(tenant.records - tenant.ended.size());
    tenant.tenant.status.waiting_claims = static_cast<std::uint32_t>(tenant.waiting.size());
    tenant.tenant.status.dominant_share = static_cast<float>(DominantShare(tenant));
  });
  std::vector<const Claim*> claims;
  claims_.ForEach([&](const ClaimState& claim) { claims.push_back(&claim.model()); });
  std::sort(claims.begin(), claims.end(), [](const Claim* a, const Claim* b) {
    return std::pair(a->metadata.create_time_us, a->metadata.uid) <
           std::pair(b->metadata.create_time_us, b->metadata.uid);
  });
  const std::size_t skipped = claims.size() - std::min(claims.size(), options_.remembered_claims);
  for (std::size_t i = skipped; i < claims.size(); ++i) recent_claims_.push_back(claims[i]->spec);
  claims_to_learn_ = recent_claims_.size();
  // What was true of a resource at its old version may not be so now: each gets a new one.
  const auto renew = [this](auto& state) {
    state.announced = true;
    state.model().metadata.resource_version = ++version_;
  };
  tenants_.ForEach(renew);
  nodes_.ForEach(renew);
  gpus_.ForEach(renew);
  claims_.ForEach(renew);
  vgpus_.ForEach(renew);
  touched_.clear();
  return status;
}

}  // namespace tulle::control
