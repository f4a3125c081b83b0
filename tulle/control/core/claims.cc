// What users ask of claims: to create, delete, attach and detach them, and how many they may have.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <utility>

#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

Core::ClaimState& Core::InsertClaim(ClaimRecord record) {
  ClaimState& claim = claims_.Insert({.record = std::move(record)});
  const Metadata& metadata = claim.metadata();
  TenantState& tenant = TenantOf(metadata);
  ++tenant.records;
  Touch(Kind::kTenant, tenant.metadata().uid, false);
  if (!claim.record.request_id.empty()) {
    requests_[{metadata.tenant, claim.record.request_id}] = metadata.uid;
  }
  return claim;
}

void Core::SetEnded(ClaimState& claim) {
  const Metadata& metadata = claim.metadata();
  claim.erase_at = now_.mono + options_.claim_retention;
  const EndedClaims::value_type key(*claim.erase_at, metadata.create_time_us, metadata.uid);
  TenantState& tenant = TenantOf(metadata);
  tenant.ended.insert(key);
  ended_claims_.insert(key);
  Touch(Kind::kTenant, tenant.metadata().uid, false);
}

std::size_t Core::MostClaimsOf(const TenantState& tenant) const {
  const std::size_t quota = tenant.tenant.spec.quota.claims.value_or(options_.max_claims_per_tenant);
  return std::min(quota, options_.max_claims_per_tenant);
}

Status Core::CheckClaimLimits(const TenantState& tenant) const {
  const std::size_t own = tenant.records - tenant.ended.size();
  if (own >= MostClaimsOf(tenant)) {
    const bool is_quota = MostClaimsOf(tenant) < options_.max_claims_per_tenant;
    return Refusal(Code::kResourceExhausted,
                   "you have " + std::to_string(own) + " claims that have not ended, at most " +
                       std::to_string(MostClaimsOf(tenant)) +
                       " are allowed; release some with `tulle delete claim NAME`, or " +
                       (is_quota ? "ask an administrator for a larger quota"
                                 : "raise the controller's --max-claims-per-tenant"));
  }
  const std::size_t live = claims_.size() - ended_claims_.size();
  if (live >= options_.max_claims) {
    return Refusal(Code::kResourceExhausted, "the mesh has " + std::to_string(live) +
                                                 " claims that have not ended, at most " +
                                                 std::to_string(options_.max_claims) +
                                                 " are allowed; release some with `tulle delete claim NAME`");
  }
  return OkStatus();
}

void Core::MakeRoomForClaim(const TenantState& tenant) {
  const auto remove_oldest = [this](const EndedClaims& ended) {
    Remove(claims_, Kind::kClaim, std::string(std::get<std::string>(*ended.begin())));
  };
  while (tenant.records >= options_.max_claims_per_tenant) remove_oldest(tenant.ended);
  while (claims_.size() >= options_.max_claims) remove_oldest(ended_claims_);
}

Result<Core::ClaimState*> Core::FindClaim(const std::string& tenant, const std::string& name) {
  if (ClaimState* claim = claims_.Find(tenant, name)) return claim;
  return Refusal(Code::kNotFound,
                 "there is no claim \"" + Cut(name, kMaxNameBytes) + "\"; see `tulle get claims`");
}

void Core::Remember(const ClaimSpec& spec) {
  recent_claims_.push_back(spec);
  if (recent_claims_.size() > options_.remembered_claims) recent_claims_.pop_front();
  ++claims_to_learn_;
  if (rehearsing_ || claims_to_learn_ < options_.rehearse_after_claims) return;
  if (rehearsed_at_ && now_.mono < *rehearsed_at_ + options_.rehearsal_interval) return;
  rehearsing_ = true;
  rehearsed_at_ = now_.mono;
  claims_to_learn_ = 0;
  StartRehearsal rehearsal{.nodes = fleet_.EmptyRooms()};
  for (const ClaimSpec& claim : recent_claims_) {
    const std::vector<ClaimSpec> variants = fleet_.Variants(claim);
    if (variants.empty()) continue;
    rehearsal.demands.push_back({fleet_.DemandOf(variants.front()), static_cast<double>(claim.count)});
  }
  actions_.effects.push_back(std::move(rehearsal));
}

void Core::On(const Rehearsed& event) {
  rehearsing_ = false;
  ++rehearsals_;
  placement_learnt_ = event.outlook->leftover.has_value();
  fleet_.Use(MakePredictive(event.outlook));
}

void Core::On(const CreateClaim& event) {
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(Authorize(event.tenant, Permission::kUse));
    if (!event.name.empty()) TULLE_RETURN_IF_ERROR(CheckName(event.name, "metadata.name"));
    TULLE_RETURN_IF_ERROR(CheckLabels(event.labels, "metadata.labels"));
    TULLE_RETURN_IF_ERROR(CheckClaimSpec(event.spec));
    if (event.request_id.size() > kMaxRequestIdBytes) {
      return Refusal(Code::kInvalidArgument, "request_id: " + std::to_string(event.request_id.size()) +
                                                 " bytes, at most " + std::to_string(kMaxRequestIdBytes));
    }
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());

  ClaimSpec spec = WithDefaults(event.spec);
  if (!event.request_id.empty()) {
    if (const auto it = requests_.find({event.tenant, event.request_id}); it != requests_.end()) {
      const Claim& claim = claims_.Find(it->second)->model();
      if (claim.spec == spec && (event.name.empty() || event.name == claim.metadata.name)) {
        return AnswerWith(event.call, Kind::kClaim, it->second);
      }
      return Answer(event.call,
                    Refusal(Code::kInvalidArgument, "request_id: was used for claim " + claim.metadata.name +
                                                        ", which asks for something else; use a new one"));
    }
  }
  const ClaimState* namesake = event.name.empty() ? nullptr : claims_.Find(event.tenant, event.name);
  if (namesake != nullptr && !IsFinal(namesake->model().status.phase)) {
    return Answer(event.call, Refusal(Code::kAlreadyExists, "there is a claim " + event.name + " already, " +
                                                                Name(namesake->model().status.phase) +
                                                                "; delete it with `tulle delete claim " +
                                                                event.name + "` or choose another name"));
  }
  auto found = TenantNamed(event.tenant);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  const TenantState& tenant = **found;
  if (Status status = CheckClaimLimits(tenant); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  ClaimSpec least = spec;
  if (IsElastic(spec)) least.compute_percent = spec.min_compute_percent;
  if (const auto never = OverQuota(tenant, {}, least)) {
    return Answer(event.call,
                  Refusal(Code::kResourceExhausted, never->message + ", whatever else you give back"));
  }
  const Placement placement = PlaceFor(tenant, spec, {});
  if (const auto* no_fit = std::get_if<NoFit>(&placement); no_fit != nullptr && spec.no_wait) {
    return Answer(event.call, Refusal(Code::kResourceExhausted, no_fit->message));
  }
  if (namesake != nullptr) Remove(claims_, Kind::kClaim, std::string(namesake->metadata().uid));
  MakeRoomForClaim(tenant);

  Metadata metadata{.name = event.name,
                    .uid = NewUid(),
                    .create_time_us = now_.wall_us,
                    .tenant = event.tenant,
                    .labels = event.labels};
  while (metadata.name.empty() || claims_.HasName(event.tenant, metadata.name)) {
    metadata.name = "claim-" + NewUid().substr(0, 6);
  }
  Remember(spec);
  ClaimState& claim =
      InsertClaim({.claim = {.metadata = metadata, .spec = std::move(spec)}, .request_id = event.request_id});
  if (claim.model().spec.release_when_unheld) claim.unheld_until = now_.mono + options_.hold_grace;
  if (const auto* no_fit = std::get_if<NoFit>(&placement)) {
    SetWaiting(claim, no_fit->reason, no_fit->message);
  } else {
    Bind(claim, std::get<Placed>(placement));
  }
  Touch(Kind::kClaim, metadata.uid, true);
  CheckTimers(claim);
  AnswerWith(event.call, Kind::kClaim, metadata.uid);
}

void Core::On(const DeleteClaim& event) {
  const Permission needed = event.caller == event.tenant ? Permission::kUse : Permission::kOperate;
  if (Status status = Authorize(event.caller, needed); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  if (IsFinal(claim.model().status.phase)) {
    Answer(event.call, ReplyBody(claim.model()));
    Remove(claims_, Kind::kClaim, std::string(claim.metadata().uid));
    return;
  }
  End(claim, ClaimPhase::kReleased, "Deleted",
      event.caller == event.tenant ? "deleted by its user" : "deleted by " + event.caller);
  AnswerWith(event.call, Kind::kClaim, claim.metadata().uid);
}

void Core::On(const AttachClaim& event) {
  if (Status status = Authorize(event.tenant, Permission::kUse); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  const Claim& model = claim.model();
  if (model.status.phase != ClaimPhase::kBound) {
    std::string message = "claim " + model.metadata.name + " is " + Name(model.status.phase) + ", not BOUND";
    for (const char* type : {kPlaced, kReady}) {
      const Condition* condition = FindCondition(model.status.conditions, type);
      if (condition != nullptr && !condition->status && !condition->message.empty()) {
        message += ": " + condition->message;
        break;
      }
    }
    return Answer(event.call, Refusal(Code::kFailedPrecondition, std::move(message)));
  }
  for (const std::string& uid : claim.vgpu_uids) {
    VGpuState& vgpu = *vgpus_.Find(uid);
    if (!vgpu.record.grants.empty()) continue;
    vgpu.record.grants.push_back(NewGrant());
    if (NodeRecord* node = NodeOf(vgpu); node != nullptr) {
      Command(*node, AddGrant{.vgpu_uid = uid, .grant = vgpu.record.grants.back()});
    }
    Touch(Kind::kVGpu, uid, true);
  }
  claim.attaches.emplace_back(event.call, now_.mono + options_.attach_wait);
  AnswerAttaches(claim);
  CheckTimers(claim);
}

void Core::On(const DetachClaim& event) {
  if (Status status = Authorize(event.tenant, Permission::kUse); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  for (const std::string& uid : claim.vgpu_uids) {
    VGpuState& vgpu = *vgpus_.Find(uid);
    NodeRecord* node = NodeOf(vgpu);
    for (const Grant& grant : vgpu.record.grants) {
      if (node != nullptr) Command(*node, RevokeGrant{.vgpu_uid = uid, .grant_id = grant.id});
    }
    vgpu.record.grants.clear();
    vgpu.accepted.clear();
    Touch(Kind::kVGpu, uid, true);
  }
  for (const auto& [call, until] : std::exchange(claim.attaches, {})) {
    Answer(call, Refusal(Code::kAborted,
                         "claim " + claim.metadata().name + " was detached meanwhile; attach again"));
  }
  Answer(event.call, ReplyBody());
}

}  // namespace tulle::control
