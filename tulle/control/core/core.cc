#include "tulle/control/core/core.h"

#include <type_traits>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::size_t kUidBytes = 16;

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
    : options_(options), random_(random), version_(first_version), fleet_(MakeBalancedFit()) {
  TULLE_CHECK(options.claim_retention > Duration::zero());  // a call that ends a claim answers with it
}

Actions Core::Handle(const Event& event, const Now& now) {
  now_ = now;
  std::visit([this](const auto& e) { On(e); }, event);
  // What is given back in the first round, which was kept for a claim, is for others in the second.
  for (int round = 0; round < 2 && std::exchange(room_changed_, false); ++round) PlaceWaiting();
  Grow();
  Flush();
  return std::exchange(actions_, {});
}

std::optional<Instant> Core::NextTick() const {
  return wakeups_.empty() ? std::nullopt : std::optional(wakeups_.begin()->first);
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
  if constexpr (std::is_same_v<State, NodeRecord>) fleet_.RemoveNode(state.metadata().name);
  if constexpr (std::is_same_v<State, GpuState>) {
    fleet_.RemoveGpu(state.gpu);
    capacity_memory_bytes_ -= state.counted_memory_bytes;
    capacity_compute_percent_ -= state.counted_compute_percent;
  }
  if constexpr (std::is_same_v<State, ClaimState>) {
    const Metadata& metadata = state.metadata();
    StopWaiting(state);
    if (!state.record.request_id.empty()) requests_.erase({metadata.tenant, state.record.request_id});
    TenantState& tenant = TenantOf(metadata);
    if (state.erase_at) {
      const EndedClaims::value_type key(*state.erase_at, metadata.create_time_us, uid);
      tenant.ended.erase(key);
      ended_claims_.erase(key);
    }
    --tenant.records;
    Touch(Kind::kTenant, tenant.metadata().uid, false);
  }
  if (state.announced) {
    state.model().metadata.resource_version = ++version_;
    actions_.changes.push_back({ChangeType::kDeleted, state.model()});
    if (kind != Kind::kInstance && kind != Kind::kSession)
      actions_.writes.push_back({kind, uid, std::nullopt});
  }
  touched_.erase({kind, uid});
  table.Erase(uid);
}

// For the other files of the core.
template void Core::Remove(Table<ClaimState>&, Kind, const std::string&);
template void Core::Remove(Table<VGpuState>&, Kind, const std::string&);
template void Core::Remove(Table<GpuState>&, Kind, const std::string&);
template void Core::Remove(Table<NodeRecord>&, Kind, const std::string&);
template void Core::Remove(Table<InstanceState>&, Kind, const std::string&);
template void Core::Remove(Table<TenantState>&, Kind, const std::string&);
template void Core::Remove(Table<SessionState>&, Kind, const std::string&);

template <typename State>
void Core::FlushTouched(Table<State>& table, Kind kind) {
  for (auto it = touched_.lower_bound({kind, ""}); it != touched_.end() && it->first.first == kind; ++it) {
    State& state = *table.Find(it->first.second);
    state.model().metadata.resource_version = ++version_;
    const ChangeType type = std::exchange(state.announced, true) ? ChangeType::kModified : ChangeType::kAdded;
    actions_.changes.push_back({type, state.model()});
    if constexpr (!std::is_same_v<State, InstanceState> && !std::is_same_v<State, SessionState>) {
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
  for (const auto& [key, touched] : touched_) {
    if (key.first != Kind::kTenant) continue;
    TenantState& tenant = *tenants_.Find(key.second);
    TenantStatus& status = tenant.tenant.status;
    status.claims = static_cast<std::uint32_t>(tenant.records - tenant.ended.size());
    status.waiting_claims = static_cast<std::uint32_t>(tenant.waiting.size());
    status.dominant_share = static_cast<float>(DominantShare(tenant));
  }
  for (const auto& [uid, hour] : std::exchange(touched_usage_, {})) {
    const TenantState* tenant = tenants_.Find(uid);
    if (tenant == nullptr) continue;
    actions_.writes.push_back(
        {Kind::kUsage, UsageKey(tenant->metadata().name, hour), tenant->usage.at(hour)});
  }
  FlushTouched(tenants_, Kind::kTenant);
  FlushTouched(nodes_, Kind::kNode);
  FlushTouched(gpus_, Kind::kGpu);
  FlushTouched(claims_, Kind::kClaim);
  FlushTouched(vgpus_, Kind::kVGpu);
  FlushTouched(instances_, Kind::kInstance);
  FlushTouched(sessions_, Kind::kSession);
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
    Answer(call, kind == Kind::kClaim    ? ReplyBody(claims_.Find(uid)->model())
                 : kind == Kind::kGpu    ? ReplyBody(gpus_.Find(uid)->model())
                 : kind == Kind::kTenant ? ReplyBody(tenants_.Find(uid)->model())
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

template <>
const auto& Core::TableOf<Session>() const {
  return sessions_;
}
template <>
const auto& Core::TableOf<Tenant>() const {
  return tenants_;
}

template <typename R>
std::optional<R> Core::Get(const std::string& tenant, const std::string& name) const {
  const auto* state = TableOf<R>().Find(tenant, name);
  return state == nullptr ? std::nullopt : std::optional<R>(state->model());
}

std::optional<VGpu> Core::FindVGpu(const std::string& uid) const {
  const VGpuState* state = vgpus_.Find(uid);
  return state == nullptr ? std::nullopt : std::optional<VGpu>(state->model());
}

std::optional<ClaimExplanation> Core::Explain(const std::string& tenant, const std::string& claim,
                                              std::size_t most_nodes, const Now& now) const {
  const ClaimState* state = claims_.Find(tenant, claim);
  if (state == nullptr) return std::nullopt;
  ClaimExplanation explanation{.claim = state->model(),
                               .policy = fleet_.policy_name(),
                               .waiting_claims = static_cast<std::uint32_t>(waiting_claims_)};
  explanation.waiting_position = WaitingPosition(*state);
  if (const auto wait = ExpectedWait(*state, now)) {
    explanation.expected_wait_us = std::chrono::duration_cast<std::chrono::microseconds>(*wait).count();
  }
  explanation.nodes = fleet_.Judge(state->model().spec, most_nodes, &explanation.more_nodes);
  return explanation;
}

namespace {

// Adds what Table::Visit shows to a page, until it is full.
template <typename R>
auto Into(Page<R>* page, std::size_t limit, bool live_only) {
  return [=](const auto& state) {
    if constexpr (std::is_same_v<R, Claim>) {
      if (live_only && IsFinal(state.model().status.phase)) return true;
    }
    page->more = page->resources.size() == limit;
    if (!page->more) page->resources.push_back(state.model());
    return !page->more;
  };
}

}  // namespace

template <typename R>
Page<R> Core::List(const std::string& tenant, const std::string& after, std::size_t limit,
                   bool live_only) const {
  Page<R> page;
  TableOf<R>().Visit(tenant, after, Into(&page, limit, live_only));
  return page;
}

template <typename R>
Page<R> Core::ListAll(const std::pair<std::string, std::string>& after, std::size_t limit,
                      bool live_only) const {
  Page<R> page;
  TableOf<R>().VisitAll(after, Into(&page, limit, live_only));
  return page;
}

template std::optional<Claim> Core::Get<Claim>(const std::string&, const std::string&) const;
template std::optional<VGpu> Core::Get<VGpu>(const std::string&, const std::string&) const;
template std::optional<Gpu> Core::Get<Gpu>(const std::string&, const std::string&) const;
template std::optional<Node> Core::Get<Node>(const std::string&, const std::string&) const;
template std::optional<Instance> Core::Get<Instance>(const std::string&, const std::string&) const;
template std::optional<Session> Core::Get<Session>(const std::string&, const std::string&) const;
template std::optional<Tenant> Core::Get<Tenant>(const std::string&, const std::string&) const;
template Page<Claim> Core::List<Claim>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<VGpu> Core::List<VGpu>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Gpu> Core::List<Gpu>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Node> Core::List<Node>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Instance> Core::List<Instance>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Session> Core::List<Session>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Tenant> Core::List<Tenant>(const std::string&, const std::string&, std::size_t, bool) const;
template Page<Claim> Core::ListAll<Claim>(const std::pair<std::string, std::string>&, std::size_t,
                                          bool) const;
template Page<VGpu> Core::ListAll<VGpu>(const std::pair<std::string, std::string>&, std::size_t, bool) const;
template Page<Session> Core::ListAll<Session>(const std::pair<std::string, std::string>&, std::size_t,
                                              bool) const;
template Page<Instance> Core::ListAll<Instance>(const std::pair<std::string, std::string>&, std::size_t,
                                                bool) const;

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
  stats.rehearsals = rehearsals_;
  stats.placement_learnt = placement_learnt_;
  return stats;
}

}  // namespace tulle::control
