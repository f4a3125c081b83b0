#include "tulle/control/core/core.h"

#include <algorithm>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::size_t kUidBytes = 16;
constexpr Duration kMaxRetryBackoff = std::chrono::seconds(30);
constexpr char kPlaced[] = "Placed";
constexpr char kReady[] = "Ready";
constexpr char kHeld[] = "Held";

Error Refusal(Code code, std::string message) { return Error{.code = code, .message = std::move(message)}; }

std::string Cut(const std::string& text, std::size_t bytes) { return text.substr(0, bytes); }

std::string Seconds(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(duration).count()) + " s";
}

void KeepEarliest(std::optional<Instant>* earliest, const std::optional<Instant>& other) {
  if (other && (!*earliest || *other < **earliest)) *earliest = other;
}

bool IsDue(const std::optional<Instant>& at, Instant now) { return at && *at <= now; }

template <typename State>
Record RecordOf(const State& state) {
  if constexpr (requires { state.record; }) {
    return state.record;
  } else {
    return state.model();
  }
}

}  // namespace

Core::Core(const CoreOptions& options, Random& random, std::uint64_t first_version)
    : options_(options), random_(random), version_(first_version) {
  TULLE_CHECK(options.claim_retention > Duration::zero());  // a call that ends a claim answers with it
}

Status Core::Load(std::vector<Record> records, const Now& now) {
  now_ = now;
  const auto corrupt = [](const std::string& what) {
    return Refusal(Code::kDataLoss, "the store contradicts itself: " + what);
  };
  // In the order of dependence: nodes, their GPUs, claims, their vGPUs.
  std::stable_sort(records.begin(), records.end(), [](const Record& a, const Record& b) {
    constexpr int kOrder[] = {2, 3, 1, 0};  // by index in Record
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
      CheckTimers(state);
    } else if (auto* gpu = std::get_if<Gpu>(&record)) {
      NodeRecord* node = nodes_.Find("", gpu->spec.node);
      if (node == nullptr || !is_new(gpus_, gpu->metadata)) return corrupt("GPU " + gpu->metadata.name);
      node->gpus[gpu->spec.index] = gpu->metadata.uid;
      ++node->node.status.gpus;
      Recount(gpus_.Insert({.gpu = std::move(*gpu), .node_uid = node->node.metadata.uid}));
    } else if (auto* claim = std::get_if<ClaimRecord>(&record)) {
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
      vgpus_.Insert({.record = std::move(*vgpu)});
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
      waiting_.emplace(model.metadata.create_time_us, model.metadata.uid);
    }
    const bool starting =
        std::any_of(claim.vgpu_uids.begin(), claim.vgpu_uids.end(), [this](const std::string& uid) {
          return vgpus_.Find(uid)->model().status.phase == VGpuPhase::kCreating;
        });
    if (starting) claim.start_until = now.mono + options_.start_timeout;
    SetCondition(&model.status.conditions, kHeld, false, "ControllerStarted",
                 "not held since the controller started", now.wall_us);
    CheckTimers(claim);
  });
  // What was true of a resource at its old version may not be so now: each gets a new one.
  const auto renew = [this](auto& state) {
    state.announced = true;
    state.model().metadata.resource_version = ++version_;
  };
  nodes_.ForEach(renew);
  gpus_.ForEach(renew);
  claims_.ForEach(renew);
  vgpus_.ForEach(renew);
  touched_.clear();
  return status;
}

Actions Core::Handle(const Event& event, const Now& now) {
  now_ = now;
  std::visit([this](const auto& e) { On(e); }, event);
  if (std::exchange(room_changed_, false)) PlaceWaiting();
  Flush();
  return std::exchange(actions_, {});
}

std::optional<Instant> Core::NextTick() const {
  return wakeups_.empty() ? std::nullopt : std::optional(wakeups_.begin()->first);
}

// ---- claims

Core::ClaimState& Core::InsertClaim(ClaimRecord record) {
  ClaimState& claim = claims_.Insert({.record = std::move(record)});
  const Metadata& metadata = claim.metadata();
  ++tenants_[metadata.tenant].records;
  if (!claim.record.request_id.empty()) {
    requests_[{metadata.tenant, claim.record.request_id}] = metadata.uid;
  }
  return claim;
}

void Core::SetEnded(ClaimState& claim) {
  const Metadata& metadata = claim.metadata();
  claim.erase_at = now_.mono + options_.claim_retention;
  const EndedClaims::value_type key(*claim.erase_at, metadata.create_time_us, metadata.uid);
  tenants_[metadata.tenant].ended.insert(key);
  ended_claims_.insert(key);
}

Status Core::CheckClaimLimits(const std::string& tenant) const {
  if (const auto it = tenants_.find(tenant); it != tenants_.end()) {
    const std::size_t live = it->second.records - it->second.ended.size();
    if (live >= options_.max_claims_per_tenant) {
      return Refusal(Code::kResourceExhausted,
                     "you have " + std::to_string(live) + " claims that have not ended, at most " +
                         std::to_string(options_.max_claims_per_tenant) +
                         " are allowed; release some with `tulle delete claim NAME`, or raise the "
                         "controller's --max-claims-per-tenant");
    }
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

void Core::MakeRoomForClaim(const std::string& tenant) {
  const auto remove_oldest = [this](const EndedClaims& ended) {
    Remove(claims_, Kind::kClaim, std::string(std::get<std::string>(*ended.begin())));
  };
  for (auto it = tenants_.find(tenant);
       it != tenants_.end() && it->second.records >= options_.max_claims_per_tenant;
       it = tenants_.find(tenant)) {
    remove_oldest(it->second.ended);
  }
  while (claims_.size() >= options_.max_claims) remove_oldest(ended_claims_);
}

Result<Core::ClaimState*> Core::FindClaim(const std::string& tenant, const std::string& name) {
  if (ClaimState* claim = claims_.Find(tenant, name)) return claim;
  return Refusal(Code::kNotFound,
                 "there is no claim \"" + Cut(name, kMaxNameBytes) + "\"; see `tulle get claims`");
}

void Core::On(const CreateClaim& event) {
  const auto check = [&event]() -> Status {
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
  if (Status status = CheckClaimLimits(event.tenant); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  std::vector<GpuState*> order;
  Placement placement = TryPlace(spec, {}, &order);
  if (const auto* no_fit = std::get_if<NoFit>(&placement); no_fit != nullptr && spec.no_wait) {
    return Answer(event.call, Refusal(Code::kResourceExhausted, no_fit->message));
  }
  if (namesake != nullptr) Remove(claims_, Kind::kClaim, std::string(namesake->metadata().uid));
  MakeRoomForClaim(event.tenant);

  Metadata metadata{.name = event.name,
                    .uid = NewUid(),
                    .create_time_us = now_.wall_us,
                    .tenant = event.tenant,
                    .labels = event.labels};
  while (metadata.name.empty() || claims_.HasName(event.tenant, metadata.name)) {
    metadata.name = "claim-" + NewUid().substr(0, 6);
  }
  ClaimState& claim =
      InsertClaim({.claim = {.metadata = metadata, .spec = std::move(spec)}, .request_id = event.request_id});
  if (claim.model().spec.release_when_unheld) claim.unheld_until = now_.mono + options_.hold_grace;
  if (auto* no_fit = std::get_if<NoFit>(&placement)) {
    SetWaiting(claim, no_fit->reason, no_fit->message);
  } else {
    Bind(claim, std::get<std::vector<Slot>>(placement), order);
  }
  Touch(Kind::kClaim, metadata.uid, true);
  CheckTimers(claim);
  AnswerWith(event.call, Kind::kClaim, metadata.uid);
}

void Core::On(const DeleteClaim& event) {
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  if (IsFinal(claim.model().status.phase)) {
    Answer(event.call, ReplyBody(claim.model()));
    Remove(claims_, Kind::kClaim, std::string(claim.metadata().uid));
    return;
  }
  End(claim, ClaimPhase::kReleased, "Deleted", "deleted by its user");
  AnswerWith(event.call, Kind::kClaim, claim.metadata().uid);
}

void Core::On(const AttachClaim& event) {
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
    if (const NodeRecord* node = NodeOf(vgpu); node != nullptr) {
      Command(*node, AddGrant{.vgpu_uid = uid, .grant = vgpu.record.grants.back()});
    }
    Touch(Kind::kVGpu, uid, true);
  }
  claim.attaches.emplace_back(event.call, now_.mono + options_.attach_wait);
  AnswerAttaches(claim);
  CheckTimers(claim);
}

void Core::On(const DetachClaim& event) {
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  for (const std::string& uid : claim.vgpu_uids) {
    VGpuState& vgpu = *vgpus_.Find(uid);
    const NodeRecord* node = NodeOf(vgpu);
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

void Core::On(const OpenHold& event) {
  const auto refuse = [&](Error error) { actions_.effects.push_back(EndHold{event.hold, std::move(error)}); };
  if (!event.instance.empty()) {
    if (Status status = CheckName(event.instance, "instance"); !status.ok())
      return refuse(std::move(status).error());
  }
  if (event.program.size() > kMaxProgramBytes) {
    return refuse(Refusal(Code::kInvalidArgument, "program: " + std::to_string(event.program.size()) +
                                                      " bytes, at most " + std::to_string(kMaxProgramBytes)));
  }
  auto found = FindClaim(event.tenant, event.claim);
  if (!found.ok()) return refuse(std::move(found).error());
  ClaimState& claim = **found;
  Claim& model = claim.model();
  if (IsFinal(model.status.phase)) {
    actions_.effects.push_back(UpdateHold{event.hold, model});
    actions_.effects.push_back(EndHold{event.hold, OkStatus()});
    return;
  }
  InstanceState* instance = nullptr;
  if (!event.instance.empty()) {
    instance = instances_.Find(event.tenant, event.instance);
    if (instance == nullptr && instances_.size() < options_.max_instances) {
      instance = &instances_.Insert({.instance = {.metadata = {.name = event.instance,
                                                               .uid = NewUid(),
                                                               .create_time_us = now_.wall_us,
                                                               .tenant = event.tenant}}});
    }
  }
  claim.holds.insert(event.hold);
  claim.unheld_until.reset();
  holds_[event.hold] = {.claim_uid = model.metadata.uid,
                        .instance_uid = instance == nullptr ? "" : instance->metadata().uid};
  model.status.holders = static_cast<std::uint32_t>(claim.holds.size());
  SetCondition(&model.status.conditions, kHeld, true, "Held",
               event.program + (event.instance.empty() ? "" : " on " + event.instance), now_.wall_us);
  Touch(Kind::kClaim, model.metadata.uid, false);
  if (instance != nullptr) {
    instance->holds[event.hold] = model.metadata.name;
    instance->erase_at.reset();
    instance->instance.status.address = event.address;
    CheckTimers(*instance);
    Touch(Kind::kInstance, instance->metadata().uid, false);
  }
}

void Core::On(const CloseHold& event) {
  const auto it = holds_.find(event.hold);
  if (it == holds_.end()) return;
  const HoldState hold = std::move(it->second);
  holds_.erase(it);
  LeaveInstance(event.hold, hold.instance_uid);
  ClaimState* claim = claims_.Find(hold.claim_uid);
  if (claim == nullptr) return;
  Claim& model = claim->model();
  claim->holds.erase(event.hold);
  model.status.holders = static_cast<std::uint32_t>(claim->holds.size());
  if (claim->holds.empty()) {
    SetCondition(&model.status.conditions, kHeld, false, "Unheld",
                 model.spec.release_when_unheld
                     ? "released unless held again within " + Seconds(options_.hold_grace)
                     : "",
                 now_.wall_us);
    if (model.spec.release_when_unheld) claim->unheld_until = now_.mono + options_.hold_grace;
  }
  Touch(Kind::kClaim, model.metadata.uid, false);
  CheckTimers(*claim);
}

Placement Core::TryPlace(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus,
                         std::vector<GpuState*>* order) {
  std::vector<PlacementGpu> gpus;
  std::vector<std::size_t> avoid;
  gpus.reserve(gpus_.size());
  gpus_.ForEach([&](GpuState& gpu) {
    const NodeRecord& node = *nodes_.Find(gpu.node_uid);
    if (avoid_gpus.contains(gpu.metadata().uid)) avoid.push_back(gpus.size());
    gpus.push_back({.gpu = &gpu.gpu, .node_labels = &node.metadata().labels});
    if (node.node.status.state != NodeState::kReady) {
      gpus.back().closed_because = Name(node.node.status.state);
    } else if (node.node.spec.cordoned) {
      gpus.back().closed_because = "cordoned";
    }
    order->push_back(&gpu);
  });
  return Place(gpus, spec, avoid);
}

void Core::Bind(ClaimState& claim, const std::vector<Slot>& slots, const std::vector<GpuState*>& order) {
  Claim& model = claim.model();
  waiting_.erase({model.metadata.create_time_us, model.metadata.uid});
  claim.retry_at.reset();
  claim.start_until = now_.mono + options_.start_timeout;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    GpuState& gpu = *order[slots[i].gpu];
    Metadata metadata{.uid = NewUid(), .create_time_us = now_.wall_us, .tenant = model.metadata.tenant};
    // A vGPU of an earlier try may still be going under the plain name.
    const std::string stem = model.metadata.name.substr(0, kMaxNameBytes - 12) + "-" + std::to_string(i);
    metadata.name = stem;
    for (int again = 2; vgpus_.HasName(metadata.tenant, metadata.name); ++again) {
      metadata.name = stem + "-" + std::to_string(again);
    }
    VGpuState& vgpu = vgpus_.Insert(
        {.record = {.vgpu = {.metadata = metadata,
                             .spec = {.claim = model.metadata.name,
                                      .gpu = gpu.metadata().name,
                                      .memory_bytes = slots[i].memory_bytes,
                                      .compute_percent = model.spec.compute_percent,
                                      .performance_level = model.spec.performance_level},
                             .status = {.node = gpu.gpu.spec.node,
                                        .endpoint = nodes_.Find(gpu.node_uid)->node.status.endpoint}},
                    .claim_uid = model.metadata.uid,
                    .gpu_uid = gpu.metadata().uid,
                    .grants = {NewGrant()}}});
    claim.vgpu_uids.push_back(metadata.uid);
    model.status.vgpus.push_back(metadata.name);
    gpu.vgpus.insert(metadata.uid);
    Recount(gpu);
    Touch(Kind::kVGpu, metadata.uid, true);
    SendCreate(vgpu);
  }
  SetCondition(&model.status.conditions, kPlaced, true, "Placed", "", now_.wall_us);
  SetCondition(&model.status.conditions, kReady, false, "Starting", "its vGPUs start", now_.wall_us);
  Touch(Kind::kClaim, model.metadata.uid, true);
  CheckTimers(claim);
}

void Core::SetWaiting(ClaimState& claim, const std::string& reason, const std::string& message) {
  Claim& model = claim.model();
  waiting_.emplace(model.metadata.create_time_us, model.metadata.uid);
  if (SetCondition(&model.status.conditions, kPlaced, false, reason, message, now_.wall_us)) {
    Touch(Kind::kClaim, model.metadata.uid, false);
  }
}

void Core::PlaceWaiting() {
  for (const auto& [created, uid] : std::set(waiting_)) {
    ClaimState& claim = *claims_.Find(uid);
    if (claim.retry_at && *claim.retry_at > now_.mono) continue;
    std::vector<GpuState*> order;
    Placement placement = TryPlace(claim.model().spec, claim.avoid_gpus, &order);
    if (auto* no_fit = std::get_if<NoFit>(&placement)) {
      SetWaiting(claim, no_fit->reason, no_fit->message);
    } else {
      Bind(claim, std::get<std::vector<Slot>>(placement), order);
    }
  }
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
  model.status.phase = phase;
  SetCondition(&model.status.conditions, kReady, false, reason, Cut(message, kMaxMessageBytes), now_.wall_us);
  waiting_.erase({model.metadata.create_time_us, model.metadata.uid});
  for (const std::string& uid : std::exchange(claim.vgpu_uids, {})) BeginDelete(*vgpus_.Find(uid));
  model.status.vgpus.clear();
  model.status.holders = 0;
  claim.start_until.reset();
  claim.retry_at.reset();
  claim.unheld_until.reset();
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
    attached.push_back({.vgpu = model.metadata.name,
                        .vgpu_uid = uid,
                        .endpoints = {node->node.status.endpoint},
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
  if (IsDue(claim.start_until, now_.mono)) {
    const std::string message = "its vGPUs did not start within " + Seconds(options_.start_timeout);
    if (claim.model().status.phase == ClaimPhase::kPending) return StartFailed(claim, message);
    return End(claim, ClaimPhase::kFailed, "StartFailed", message);
  }
  if (IsDue(claim.retry_at, now_.mono)) {
    claim.retry_at.reset();
    room_changed_ = true;
  }
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
  for (const auto& at : {claim.erase_at, claim.unheld_until, claim.start_until, claim.retry_at})
    KeepEarliest(&next, at);
  for (const auto& [call, until] : claim.attaches) KeepEarliest(&next, until);
  Arm(uid, next);
}

// ---- vGPUs

void Core::SetPhase(VGpuState& vgpu, VGpuPhase phase) {
  VGpuStatus& status = vgpu.model().status;
  if (status.phase == phase) return;
  TULLE_CHECK(MayBecome(status.phase, phase));
  status.phase = phase;
  if (phase != VGpuPhase::kReady) {
    status.sessions = 0;
    vgpu.accepted.clear();
  }
  Touch(Kind::kVGpu, vgpu.metadata().uid, true);
}

void Core::BeginDelete(VGpuState& vgpu) {
  SetPhase(vgpu, VGpuPhase::kDeleting);
  vgpu.record.grants.clear();
  if (const NodeRecord* node = NodeOf(vgpu); node != nullptr)
    Command(*node, DeleteVGpu{.uid = vgpu.metadata().uid});
}

void Core::EraseVGpu(const std::string& uid) {
  const VGpuState* vgpu = vgpus_.Find(uid);
  GpuState& gpu = *gpus_.Find(vgpu->record.gpu_uid);
  gpu.vgpus.erase(uid);
  Recount(gpu);
  Remove(vgpus_, Kind::kVGpu, uid);
  room_changed_ = true;
}

void Core::ApplyReport(VGpuState& vgpu, const VGpuReport& report) {
  VGpuStatus& status = vgpu.model().status;
  const std::string uid = vgpu.metadata().uid;
  if (status.phase == VGpuPhase::kDeleting) {
    if (report.state == ReportedState::kDeleted) EraseVGpu(uid);
    return;
  }
  switch (report.state) {
    case ReportedState::kCreating: SetPhase(vgpu, VGpuPhase::kCreating); break;
    case ReportedState::kReady:
      SetPhase(vgpu, VGpuPhase::kReady);
      vgpu.accepted.clear();
      vgpu.accepted.insert(report.grant_ids.begin(), report.grant_ids.end());
      if (status.sessions != report.sessions) {
        status.sessions = report.sessions;
        Touch(Kind::kVGpu, uid, false);
      }
      break;
    case ReportedState::kFailed:
      Fail(vgpu, "Failed", report.message.empty() ? "failed" : Cut(report.message, kMaxMessageBytes));
      break;
    case ReportedState::kDeleted: Fail(vgpu, "Ended", "ended on its node without being asked to"); break;
  }
  if (ClaimState* claim = claims_.Find(vgpu.record.claim_uid)) Reconcile(*claim);
  // Its node holds nothing of it any more, so nothing needs to be waited for.
  if (report.state == ReportedState::kDeleted && vgpus_.Find(uid) != nullptr) EraseVGpu(uid);
}

void Core::Fail(VGpuState& vgpu, const std::string& reason, const std::string& message) {
  vgpu.model().status.message = reason == "Failed" ? message : reason + ": " + message;
  SetPhase(vgpu, VGpuPhase::kFailed);
}

void Core::SendCreate(const VGpuState& vgpu) {
  const NodeRecord* node = NodeOf(vgpu);
  if (node == nullptr) return;
  const VGpu& model = vgpu.model();
  Command(*node, CreateVGpu{.uid = model.metadata.uid,
                            .name = model.metadata.name,
                            .tenant = model.metadata.tenant,
                            .gpu_index = gpus_.Find(vgpu.record.gpu_uid)->gpu.spec.index,
                            .memory_bytes = model.spec.memory_bytes,
                            .compute_percent = model.spec.compute_percent,
                            .performance_level = model.spec.performance_level,
                            .grants = vgpu.record.grants});
}

void Core::Recount(GpuState& gpu) {
  GpuStatus& status = gpu.gpu.status;
  status.allocated_memory_bytes = 0;
  status.allocated_compute_percent = 0;
  status.vgpus = static_cast<std::uint32_t>(gpu.vgpus.size());
  for (const std::string& uid : gpu.vgpus) {
    const VGpuSpec& spec = vgpus_.Find(uid)->model().spec;
    status.allocated_memory_bytes += spec.memory_bytes;
    status.allocated_compute_percent += ReservedComputePercent(spec.performance_level, spec.compute_percent);
  }
  NodeRecord& node = *nodes_.Find(gpu.node_uid);
  status.schedulable = node.node.status.state == NodeState::kReady && !node.node.spec.cordoned;
  node.node.status.vgpus = 0;
  for (const auto& [index, gpu_uid] : node.gpus) {
    if (const GpuState* other = gpus_.Find(gpu_uid)) node.node.status.vgpus += other->gpu.status.vgpus;
  }
  Touch(Kind::kGpu, gpu.metadata().uid, false);
  Touch(Kind::kNode, node.metadata().uid, false);
}

// ---- nodes

Core::NodeRecord* Core::NodeOfLink(LinkId link) {
  const auto it = node_of_link_.find(link);
  return it == node_of_link_.end() ? nullptr : nodes_.Find(it->second);
}

// The vGPU's node when it is in touch, or null.
Core::NodeRecord* Core::NodeOf(const VGpuState& vgpu) {
  NodeRecord* node = nodes_.Find(gpus_.Find(vgpu.record.gpu_uid)->node_uid);
  return node->link ? node : nullptr;
}

void Core::Command(const NodeRecord& node, NodeCommand command) {
  TULLE_CHECK(node.link.has_value());
  actions_.effects.push_back(SendToNode{*node.link, std::move(command)});
}

void Core::On(const RegisterNode& event) {
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(CheckName(event.name, "name"));
    TULLE_RETURN_IF_ERROR(CheckLabels(event.labels, "labels"));
    const auto invalid = [](const std::string& what) { return Refusal(Code::kInvalidArgument, what); };
    if (event.endpoint.empty() || event.endpoint.size() > kMaxMessageBytes)
      return invalid("data_endpoint: must have 1 to 512 bytes");
    if (event.version.size() > kMaxNameBytes) return invalid("version: must have at most 63 bytes");
    if (event.gpus.size() > kMaxGpusPerNode) {
      return invalid("gpus: " + std::to_string(event.gpus.size()) + ", at most " +
                     std::to_string(kMaxGpusPerNode));
    }
    if (event.vgpus.size() > kMaxVGpusPerNode) {
      return invalid("vgpus: " + std::to_string(event.vgpus.size()) + ", at most " +
                     std::to_string(kMaxVGpusPerNode));
    }
    std::set<std::uint32_t> indices;
    for (const InventoryGpu& gpu : event.gpus) {
      const std::string path = "gpus[" + std::to_string(gpu.index) + "]";
      if (!indices.insert(gpu.index).second) return invalid(path + ".index: twice");
      const GpuDescription& is = gpu.description;
      if (is.type.size() > kMaxMessageBytes || is.vendor.size() > kMaxMessageBytes ||
          is.driver.size() > kMaxMessageBytes) {
        return invalid(path + ".description: texts have at most 512 bytes");
      }
      if (gpu.allocatable_memory_bytes > is.memory_bytes) {
        return invalid(path + ".allocatable_memory_bytes: " + FormatSize(gpu.allocatable_memory_bytes) +
                       " is more than it has, " + FormatSize(is.memory_bytes));
      }
      if (gpu.allocatable_compute_percent > 100) {
        return invalid(path + ".allocatable_compute_percent: " +
                       std::to_string(gpu.allocatable_compute_percent) + " is more than 100");
      }
    }
    if (nodes_.Find("", event.name) == nullptr && nodes_.size() >= options_.max_nodes) {
      return Refusal(Code::kResourceExhausted,
                     "the mesh has " + std::to_string(nodes_.size()) + " nodes, its limit");
    }
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) {
    actions_.effects.push_back(CloseLink{event.link, std::move(status)});
    return;
  }
  NodeRecord* node = nodes_.Find("", event.name);
  if (node == nullptr) {
    node = &nodes_.Insert(
        {.node = {.metadata = {.name = event.name, .uid = NewUid(), .create_time_us = now_.wall_us}}});
  }
  if (node->link && *node->link != event.link) {
    actions_.effects.push_back(
        CloseLink{*node->link, Refusal(Code::kAborted, "node " + event.name + " has connected anew")});
    node_of_link_.erase(*node->link);
  }
  const std::string uid = node->metadata().uid;
  node_of_link_[event.link] = uid;
  node->link = event.link;
  node->heard = now_.mono;
  node->lost_at.reset();
  node->forget_at.reset();
  Node& model = node->node;
  model.metadata.labels = event.labels;
  model.metadata.labels[std::string(kNodeLabel)] = event.name;
  model.status.state = NodeState::kReady;
  model.status.message.clear();
  model.status.endpoint = event.endpoint;
  model.status.version = event.version;
  model.status.telemetry = event.telemetry;
  model.status.last_heartbeat_us = now_.wall_us;
  Touch(Kind::kNode, uid, true);
  Command(*node, NodeRegistered{.node_uid = uid, .heartbeat_interval = options_.heartbeat_interval});
  UpdateInventory(*node, event);
  ReconcileVGpus(*node, event.vgpus);
  room_changed_ = true;
  CheckTimers(*node);
}

void Core::UpdateInventory(NodeRecord& node, const RegisterNode& event) {
  std::set<std::uint32_t> present;
  for (const InventoryGpu& item : event.gpus) {
    present.insert(item.index);
    GpuState* gpu = node.gpus.contains(item.index) ? gpus_.Find(node.gpus[item.index]) : nullptr;
    if (gpu == nullptr) {
      Metadata metadata{.name = event.name.substr(0, kMaxNameBytes - 11) + "-" + std::to_string(item.index),
                        .uid = NewUid(),
                        .create_time_us = now_.wall_us};
      // Only a name that had to be cut can meet another's.
      while (gpus_.HasName("", metadata.name)) metadata.name = "gpu-" + NewUid();
      gpu = &gpus_.Insert({.gpu = {.metadata = metadata, .spec = {.node = event.name, .index = item.index}},
                           .node_uid = node.metadata().uid});
      node.gpus[item.index] = metadata.uid;
    }
    gpu->gpu.spec.description = item.description;
    gpu->gpu.status.allocatable_memory_bytes = item.allocatable_memory_bytes;
    gpu->gpu.status.allocatable_compute_percent = item.allocatable_compute_percent;
    Recount(*gpu);
    Touch(Kind::kGpu, gpu->metadata().uid, true);
    for (const std::string& uid : gpu->vgpus) {
      VGpuStatus& status = vgpus_.Find(uid)->model().status;
      if (std::exchange(status.endpoint, event.endpoint) != event.endpoint) Touch(Kind::kVGpu, uid, true);
    }
  }
  for (const auto& [index, uid] : std::map(node.gpus)) {
    if (present.contains(index)) continue;
    GiveUp(*gpus_.Find(uid), "GpuGone", "its GPU is no longer in node " + event.name, true);
    EraseGpu(node, index);
  }
  node.node.status.gpus = static_cast<std::uint32_t>(node.gpus.size());
}

void Core::ReconcileVGpus(NodeRecord& node, const std::vector<VGpuReport>& reports) {
  std::map<std::string, const VGpuReport*> reported;
  for (const VGpuReport& report : reports) reported[report.uid] = &report;

  std::vector<std::string> known;
  for (const auto& [index, gpu_uid] : node.gpus) {
    const GpuState& gpu = *gpus_.Find(gpu_uid);
    known.insert(known.end(), gpu.vgpus.begin(), gpu.vgpus.end());
  }
  for (const std::string& uid : known) {
    VGpuState* vgpu = vgpus_.Find(uid);
    if (vgpu == nullptr) continue;  // went with an earlier one's claim
    const auto it = reported.find(uid);
    if (it == reported.end()) {
      if (vgpu->model().status.phase == VGpuPhase::kDeleting) {
        EraseVGpu(uid);
        continue;
      }
      // The node has restarted, or never heard of it: it is made (anew).
      SetPhase(*vgpu, VGpuPhase::kCreating);
      SendCreate(*vgpu);
      Reconcile(*claims_.Find(vgpu->record.claim_uid));
      continue;
    }
    const VGpuReport& report = *it->second;
    if (vgpu->model().status.phase == VGpuPhase::kDeleting && report.state != ReportedState::kDeleted) {
      Command(node, DeleteVGpu{.uid = uid});
      continue;
    }
    std::set<std::string> extra(report.grant_ids.begin(), report.grant_ids.end());
    for (const Grant& grant : vgpu->record.grants) {
      if (extra.erase(grant.id) == 0) Command(node, AddGrant{.vgpu_uid = uid, .grant = grant});
    }
    for (const std::string& id : extra) Command(node, RevokeGrant{.vgpu_uid = uid, .grant_id = id});
    ApplyReport(*vgpu, report);
  }
  for (const auto& [uid, report] : reported) {
    const bool is_known = std::find(known.begin(), known.end(), uid) != known.end();
    if (!is_known && report->state != ReportedState::kDeleted) Command(node, DeleteVGpu{.uid = uid});
  }
}

void Core::On(const NodeHeartbeat& event) {
  NodeRecord* node = NodeOfLink(event.link);
  if (node == nullptr) return;
  node->heard = now_.mono;
  node->node.status.telemetry = event.telemetry;
  node->node.status.last_heartbeat_us = now_.wall_us;
}

void Core::On(const ReportVGpu& event) {
  NodeRecord* node = NodeOfLink(event.link);
  if (node == nullptr) return;
  VGpuState* vgpu = vgpus_.Find(event.report.uid);
  if (vgpu != nullptr && gpus_.Find(vgpu->record.gpu_uid)->node_uid == node->metadata().uid) {
    return ApplyReport(*vgpu, event.report);
  }
  if (event.report.state != ReportedState::kDeleted) Command(*node, DeleteVGpu{.uid = event.report.uid});
}

void Core::On(const NodeLeaving& event) {
  NodeRecord* node = NodeOfLink(event.link);
  if (node == nullptr) return;
  Node& model = node->node;
  const std::string name = model.metadata.name;
  model.status.state = NodeState::kLeft;
  model.status.message = Cut(event.reason, kMaxMessageBytes);
  node_of_link_.erase(event.link);
  node->link.reset();
  for (const auto& [index, uid] : std::map(node->gpus)) {
    GiveUp(*gpus_.Find(uid), "NodeLeft", "node " + name + " has left the mesh", true);
    EraseGpu(*node, index);
  }
  model.status.gpus = model.status.vgpus = 0;
  node->forget_at = now_.mono + options_.node_forget_after;
  Touch(Kind::kNode, model.metadata.uid, true);
  actions_.effects.push_back(CloseLink{event.link, OkStatus()});
  room_changed_ = true;
  CheckTimers(*node);
}

void Core::On(const LinkClosed& event) {
  if (NodeRecord* node = NodeOfLink(event.link)) OutOfTouch(*node, "its connection to the controller broke");
}

void Core::OutOfTouch(NodeRecord& node, const std::string& message) {
  node_of_link_.erase(*node.link);
  node.link.reset();
  node.node.status.state = NodeState::kNotReady;
  node.node.status.message = message;
  node.lost_at = now_.mono + options_.node_lost_after;
  for (const auto& [index, uid] : node.gpus) Recount(*gpus_.Find(uid));
  Touch(Kind::kNode, node.metadata().uid, false);
  CheckTimers(node);
}

void Core::GiveUp(GpuState& gpu, const std::string& reason, const std::string& message, bool forget) {
  for (const std::string& uid : std::set(gpu.vgpus)) {
    VGpuState* vgpu = vgpus_.Find(uid);
    if (vgpu == nullptr) continue;
    if (vgpu->model().status.phase != VGpuPhase::kDeleting) {
      Fail(*vgpu, reason, message);
      Reconcile(*claims_.Find(vgpu->record.claim_uid));
    }
    if (forget) EraseVGpu(uid);
  }
}

void Core::EraseGpu(NodeRecord& node, std::uint32_t index) {
  const std::string uid = node.gpus.at(index);
  node.gpus.erase(index);
  Remove(gpus_, Kind::kGpu, uid);
}

void Core::CheckTimers(NodeRecord& node) {
  const std::string uid = node.metadata().uid;
  const std::string name = node.metadata().name;
  if (node.link && node.heard + options_.heartbeat_timeout <= now_.mono) {
    const std::string message = "no heartbeat for " + Seconds(options_.heartbeat_timeout);
    actions_.effects.push_back(CloseLink{*node.link, Refusal(Code::kDeadlineExceeded, message)});
    return OutOfTouch(node, message);
  }
  if (IsDue(node.lost_at, now_.mono)) {
    node.lost_at.reset();
    node.forget_at = now_.mono + options_.node_forget_after;
    for (const auto& [index, gpu_uid] : node.gpus) {
      GiveUp(*gpus_.Find(gpu_uid), "NodeLost",
             "node " + name + " has been out of touch for " + Seconds(options_.node_lost_after), false);
    }
  }
  if (IsDue(node.forget_at, now_.mono)) {
    for (const auto& [index, gpu_uid] : std::map(node.gpus)) {
      GiveUp(*gpus_.Find(gpu_uid), "NodeLost", "node " + name + " did not come back", true);
      EraseGpu(node, index);
    }
    return Remove(nodes_, Kind::kNode, uid);
  }
  std::optional<Instant> next;
  if (node.link) next = node.heard + options_.heartbeat_timeout;
  KeepEarliest(&next, node.lost_at);
  KeepEarliest(&next, node.forget_at);
  Arm(uid, next);
}

void Core::On(const CordonNode& event) {
  NodeRecord* node = nodes_.Find("", event.name);
  if (node == nullptr) {
    return Answer(event.call,
                  Refusal(Code::kNotFound, "there is no node \"" + Cut(event.name, kMaxNameBytes) +
                                               "\"; see `tulle get nodes`"));
  }
  node->node.spec.cordoned = event.cordoned;
  for (const auto& [index, uid] : node->gpus) Recount(*gpus_.Find(uid));
  Touch(Kind::kNode, node->metadata().uid, true);
  room_changed_ = true;
  AnswerWith(event.call, Kind::kNode, node->metadata().uid);
}

// ---- instances

void Core::LeaveInstance(HoldId hold, const std::string& instance_uid) {
  InstanceState* instance = instances_.Find(instance_uid);
  if (instance == nullptr) return;
  instance->holds.erase(hold);
  if (instance->holds.empty()) instance->erase_at = now_.mono + options_.instance_retention;
  Touch(Kind::kInstance, instance_uid, false);
  CheckTimers(*instance);
}

void Core::CheckTimers(InstanceState& instance) {
  const std::string uid = instance.metadata().uid;
  if (IsDue(instance.erase_at, now_.mono)) return Remove(instances_, Kind::kInstance, uid);
  Arm(uid, instance.erase_at);
}

// ---- time

void Core::On(const Tick&) {
  while (!wakeups_.empty() && wakeups_.begin()->first <= now_.mono) {
    const std::string uid = wakeups_.begin()->second;
    wakeups_.erase(wakeups_.begin());
    armed_.erase(uid);
    if (ClaimState* claim = claims_.Find(uid)) {
      CheckTimers(*claim);
    } else if (NodeRecord* node = nodes_.Find(uid)) {
      CheckTimers(*node);
    } else if (InstanceState* instance = instances_.Find(uid)) {
      CheckTimers(*instance);
    }
  }
}

void Core::Arm(const std::string& uid, std::optional<Instant> at) {
  if (!at) return;
  const auto it = armed_.find(uid);
  if (it != armed_.end()) {
    if (it->second <= *at) return;
    wakeups_.erase({it->second, uid});
  }
  armed_[uid] = *at;
  wakeups_.emplace(*at, uid);
}

// ---- bookkeeping

std::string Core::NewUid() {
  std::byte bytes[kUidBytes];
  random_.Fill(bytes);
  return ToHex(bytes);
}

Grant Core::NewGrant() {
  Grant grant{.id = NewUid(), .key = Secret::OfSize(kGrantKeyBytes)};
  random_.Fill(grant.key.Mutable());
  return grant;
}

void Core::Answer(CallId call, Result<ReplyBody> body) {
  actions_.effects.push_back(Reply{call, std::move(body)});
}

// Answered when the event has been worked off, so that the caller sees the resource's new version.
void Core::AnswerWith(CallId call, Kind kind, const std::string& uid) {
  answers_.emplace_back(call, kind, uid);
}

void Core::Touch(Kind kind, const std::string& uid, bool durable) {
  touched_[{kind, uid}].durable |= durable;
}

template <typename State>
void Core::Remove(Table<State>& table, Kind kind, const std::string& uid) {
  State& state = *table.Find(uid);
  if constexpr (std::is_same_v<State, ClaimState>) {
    const Metadata& metadata = state.metadata();
    waiting_.erase({metadata.create_time_us, uid});
    if (!state.record.request_id.empty()) requests_.erase({metadata.tenant, state.record.request_id});
    const auto tenant = tenants_.find(metadata.tenant);
    if (state.erase_at) {
      const EndedClaims::value_type key(*state.erase_at, metadata.create_time_us, uid);
      tenant->second.ended.erase(key);
      ended_claims_.erase(key);
    }
    if (--tenant->second.records == 0) tenants_.erase(tenant);
  }
  if (state.announced) {
    state.model().metadata.resource_version = ++version_;
    actions_.changes.push_back({ChangeType::kDeleted, state.model()});
    if (kind != Kind::kInstance) actions_.writes.push_back({kind, uid, std::nullopt});
  }
  touched_.erase({kind, uid});
  table.Erase(uid);
}

template <typename State>
void Core::FlushTouched(Table<State>& table, Kind kind) {
  for (auto it = touched_.lower_bound({kind, ""}); it != touched_.end() && it->first.first == kind; ++it) {
    State& state = *table.Find(it->first.second);
    state.model().metadata.resource_version = ++version_;
    const ChangeType type = std::exchange(state.announced, true) ? ChangeType::kModified : ChangeType::kAdded;
    actions_.changes.push_back({type, state.model()});
    if constexpr (!std::is_same_v<State, InstanceState>) {
      if (it->second.durable || type == ChangeType::kAdded)
        actions_.writes.push_back({kind, it->first.second, RecordOf(state)});
    }
  }
}

void Core::Flush() {
  for (auto& [key, touched] : touched_) {
    if (key.first != Kind::kInstance) continue;
    InstanceState& instance = *instances_.Find(key.second);
    std::set<std::string> names;
    for (const auto& [hold, claim] : instance.holds) names.insert(claim);
    instance.instance.status.claims.assign(names.begin(), names.end());
    instance.instance.status.last_seen_us = now_.wall_us;
  }
  FlushTouched(nodes_, Kind::kNode);
  FlushTouched(gpus_, Kind::kGpu);
  FlushTouched(claims_, Kind::kClaim);
  FlushTouched(vgpus_, Kind::kVGpu);
  FlushTouched(instances_, Kind::kInstance);
  for (const auto& [key, touched] : touched_) {
    if (key.first != Kind::kClaim) continue;
    ClaimState& claim = *claims_.Find(key.second);
    for (const HoldId hold : claim.holds) actions_.effects.push_back(UpdateHold{hold, claim.model()});
    if (!IsFinal(claim.model().status.phase)) continue;
    for (const HoldId hold : std::exchange(claim.holds, {})) {
      actions_.effects.push_back(EndHold{hold, OkStatus()});
      const std::string instance_uid = holds_.at(hold).instance_uid;
      holds_.erase(hold);
      ended_holds_.emplace_back(hold, instance_uid);
    }
  }
  touched_.clear();
  for (const auto& [call, kind, uid] : std::exchange(answers_, {})) {
    Answer(call, kind == Kind::kClaim ? ReplyBody(claims_.Find(uid)->model())
                                      : ReplyBody(nodes_.Find(uid)->model()));
  }
  if (!ended_holds_.empty()) {
    for (const auto& [hold, instance_uid] : std::exchange(ended_holds_, {}))
      LeaveInstance(hold, instance_uid);
    Flush();
  }
}

// ---- reading

template <>
const auto& Core::TableOf<Claim>() const {
  return claims_;
}
template <>
const auto& Core::TableOf<VGpu>() const {
  return vgpus_;
}
template <>
const auto& Core::TableOf<Gpu>() const {
  return gpus_;
}
template <>
const auto& Core::TableOf<Node>() const {
  return nodes_;
}
template <>
const auto& Core::TableOf<Instance>() const {
  return instances_;
}

template <typename R>
std::optional<R> Core::Get(const std::string& tenant, const std::string& name) const {
  const auto* state = TableOf<R>().Find(tenant, name);
  return state == nullptr ? std::nullopt : std::optional<R>(state->model());
}

template <typename R>
Page<R> Core::List(const std::string& tenant, const std::string& after, std::size_t limit,
                   bool live_only) const {
  Page<R> page;
  TableOf<R>().Visit(tenant, after, [&](const auto& state) {
    if constexpr (std::is_same_v<R, Claim>) {
      if (live_only && IsFinal(state.model().status.phase)) return true;
    }
    page.more = page.resources.size() == limit;
    if (!page.more) page.resources.push_back(state.model());
    return !page.more;
  });
  return page;
}

template std::optional<Claim> Core::Get<Claim>(const std::string&, const std::string&) const;
template std::optional<VGpu> Core::Get<VGpu>(const std::string&, const std::string&) const;
template std::optional<Gpu> Core::Get<Gpu>(const std::string&, const std::string&) const;
template std::optional<Node> Core::Get<Node>(const std::string&, const std::string&) const;
template std::optional<Instance> Core::Get<Instance>(const std::string&, const std::string&) const;
template Page<Claim> Core::List<Claim>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<VGpu> Core::List<VGpu>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Gpu> Core::List<Gpu>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Node> Core::List<Node>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Instance> Core::List<Instance>(const std::string&, const std::string&, std::size_t, bool) const;

CoreStats Core::Stats() const {
  CoreStats stats;
  claims_.ForEach([&](const ClaimState& claim) { ++stats.claims[claim.model().status.phase]; });
  vgpus_.ForEach([&](const VGpuState& vgpu) {
    ++stats.vgpus[vgpu.model().status.phase];
    stats.sessions += vgpu.model().status.sessions;
  });
  nodes_.ForEach([&](const NodeRecord& node) { ++stats.nodes[node.node.status.state]; });
  gpus_.ForEach([&](const GpuState& gpu) {
    stats.allocatable_memory_bytes += gpu.gpu.status.allocatable_memory_bytes;
    stats.allocated_memory_bytes += gpu.gpu.status.allocated_memory_bytes;
  });
  stats.gpus = gpus_.size();
  stats.instances = instances_.size();
  return stats;
}

}  // namespace tulle::control
