#include "tulle/sim/control_sim.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <iterator>

#include "tulle/control/model/rules.h"
#include "tulle/control/placement/rehearsal.h"

namespace tulle::sim {

using namespace control;  // NOLINT: this is its stage
using namespace std::chrono_literals;

namespace {

constexpr WallMicros kDrainSlackUs = 10'000'000;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr char kAdmin[] = "root";
constexpr int kSeconds = 3600;
constexpr std::uint64_t kMinFaults = 100;
constexpr int kCalmSeconds = 400;
constexpr int kQuietSeconds = 100;

}  // namespace

const char* Name(Fault fault) {
  constexpr const char* kNames[kFaults] = {
      "link breaks",  "partition",           "node dies",      "node leaves",  "vGPU fails",    "GPU goes",
      "report again", "crash before commit", "crash after it", "store stalls", "clock forward", "clock back"};
  return kNames[static_cast<std::size_t>(fault)];
}

const char* Name(Met met) {
  constexpr const char* kNames[kMets] = {"waiting", "starting", "bound", "ended", "going"};
  return kNames[static_cast<std::size_t>(met)];
}

// A node daemon: obeys commands late, loses its link, restarts, leaves. Never breaks the protocol.
struct ControlSim::SimNode {
  struct Running {
    CreateVGpu what;
    std::set<std::string> grants;
    std::vector<SessionReport> attached;
    bool failed = false;
    std::uint64_t used_bytes = 0;  // by its programs: more than it may, where it had more before
    std::uint64_t memory_bytes() const { return std::max(what.memory_bytes, used_bytes); }
  };
  std::string name;
  std::vector<std::uint64_t> gpu_memory;
  std::set<std::uint32_t> gone;  // GPUs that it does not have now
  std::map<std::string, Running> running;
  std::optional<LinkId> link;
  std::deque<NodeCommand> inbox;
  std::uint64_t done = 0;  // commands of this link
  Instant beat;
  bool partitioned = false;  // what either end sends is lost
  bool left = false;
};

template <typename C>
auto& ControlSim::Pick(C& container) {
  auto it = container.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(random_.Below(container.size())));
  return *it;
}

ControlSim::ControlSim(std::uint64_t seed, double most_nodes)
    : seed_(seed),
      random_(seed),
      core_random_(seed + 1'000'000),
      now_{.mono = {1'000'000'000}, .wall_us = 1'700'000'000'000'000} {
  options_.admins = {kAdmin};
  options_.heartbeat_interval = std::chrono::seconds(Between(2, 10));
  options_.heartbeat_timeout = 4 * options_.heartbeat_interval;
  options_.node_lost_after = std::chrono::seconds(Between(30, 600));
  options_.node_forget_after =
      Chance(2) ? std::chrono::minutes(Between(5, 60)) : std::chrono::minutes(60 * 24 * 365);
  options_.rehearse_after_claims = Between(10, 200);
  options_.rehearsal_interval = std::chrono::minutes(Between(1, 20));
  options_.remembered_claims = Between(10, 200);
  options_.max_set_aside = Chance(4) ? Between(0, 3) : 256;
  if (Chance(2)) options_.max_claims_per_tenant = Between(5, 60);
  // As many small meshes as large ones, on a scale of orders of magnitude.
  const double scale = static_cast<double>(random_.Below(1'000)) / 1'000;
  const auto count = static_cast<std::size_t>(3 * std::pow(most_nodes / 3, scale * scale));
  for (std::size_t i = 0; i < count; ++i) {
    SimNode& node = nodes_.emplace_back();
    node.name = "n" + std::to_string(i);
    const std::uint64_t gpus = Between(1, Chance(4) ? 8 : 3);
    for (std::uint64_t g = 0; g < gpus; ++g) node.gpu_memory.push_back(Between(2, 16) * kGiB);
  }
  for (std::uint64_t i = 0, n = Between(1, 5); i < n; ++i) tenants_.push_back("t" + std::to_string(i));
  Restart();
}

ControlSim::~ControlSim() = default;

std::size_t ControlSim::nodes() const { return nodes_.size(); }

void ControlSim::Breach(const std::string& what) {
  if (!breach_) breach_ = "seed " + std::to_string(seed_) + ": " + what;
}

std::optional<std::string> ControlSim::Run() {
  const std::size_t look_every = 1 + nodes_.size() / 20;
  std::size_t seconds = 0;
  while (!breach_ && (seconds < kSeconds || faults_ < kMinFaults)) {
    Second();
    if (++seconds % look_every == 0) CheckState();
  }
  if (!breach_) Settle(kCalmSeconds);
  CheckState();
  if (!breach_) CheckConverged();
  if (!breach_) CheckStarvation();
  if (!breach_) CheckNothingIsLeft();
  return breach_;
}

// ---- time and events

void ControlSim::Second() {
  for (std::uint64_t i = 0, n = random_.Below(2 + nodes_.size() / 100); i < n && !quiet_; ++i) Act();
  if (!calm_ && Chance(25)) Inject();
  if (Chance(20) && rehearsal_) {
    const StartRehearsal what = *std::exchange(rehearsal_, std::nullopt);
    Do(Rehearsed{std::make_shared<const Outlook>(
        Rehearse(what.nodes, what.demands, {.rounds = 1, .runs = 1, .most_arrivals = 100}))});
  }
  for (SimNode& node : nodes_) {
    if (!node.link) {
      if (!node.left && Chance(calm_ ? 2 : 10)) Connect(node);
      continue;
    }
    for (int i = 0; i < 5 && !node.inbox.empty() && node.link && !(Chance(3) && !calm_); ++i) Obey(node);
    for (auto& [uid, vgpu] : node.running) {
      if (Chance(5))
        vgpu.used_bytes =
            random_.Below(std::max(vgpu.what.memory_bytes, Chance(2) ? vgpu.used_bytes : 0) + 1);
    }
    if (node.link && !node.partitioned && !node.running.empty() && Chance(20)) Attach(node);
    if (node.link && now_.mono >= node.beat) {
      node.beat = now_.mono + options_.heartbeat_interval;
      NodeHeartbeat heartbeat{.link = *node.link, .done = node.done};
      for (const auto& [uid, vgpu] : node.running) {
        if (!Chance(3)) continue;
        heartbeat.vgpus[uid] = {.memory_used_bytes = vgpu.used_bytes,
                                .compute_used_percent = static_cast<float>(random_.Below(101)),
                                .compute_throttled_percent = Chance(4) ? 50.0f : 0.0f};
      }
      if (!node.partitioned) Do(heartbeat);
    }
  }
  Move(1s);
  while (core_->NextTick() && *core_->NextTick() <= now_.mono) Do(Tick{});
}

// A program attaches to one of its vGPUs, or goes.
void ControlSim::Attach(SimNode& node) {
  auto& [uid, vgpu] = Pick(node.running);
  if (vgpu.attached.empty() || Chance(2)) {
    char id[33];
    std::snprintf(id, sizeof id, "%032llx", static_cast<unsigned long long>(random_.Below(~0ull)));
    vgpu.attached.push_back({.id = id, .program = "p", .process_id = 1, .channel = "tls"});
  } else {
    vgpu.attached.erase(vgpu.attached.begin());
  }
  Do(ReportVGpu{*node.link, ReportOf(node, uid)});
}

void ControlSim::Move(Duration by) {
  now_.mono = now_.mono + by;
  now_.wall_us += std::chrono::duration_cast<std::chrono::microseconds>(by).count();
  const double seconds = std::chrono::duration<double>(by).count();
  for (const auto& [uid, resource] : watched_) {
    if (const auto* tenant = std::get_if<Tenant>(&resource)) {
      gpu_seconds_[tenant->metadata.name] += seconds * tenant->status.compute_percent / 100;
    }
  }
}

void ControlSim::Do(const Event& event) {
  Actions actions = core_->Handle(event, now_);
  const bool crash = !calm_ && Chance(4'000 + 40 * nodes_.size());
  if (crash && Chance(2)) {
    Note(Fault::kCrashBeforeCommit, nullptr);
    return Restart();
  }
  for (Write& write : actions.writes) {
    if (write.record) {
      store_.insert_or_assign({write.kind, write.uid}, std::move(*write.record));
    } else {
      store_.erase({write.kind, write.uid});
    }
  }
  for (const Change& change : actions.changes) CheckChange(change);
  if (crash) {
    Note(Fault::kCrashAfterCommit, nullptr);
    return Restart();
  }
  for (Effect& effect : actions.effects) {
    if (auto* send = std::get_if<SendToNode>(&effect)) {
      for (SimNode& node : nodes_) {
        if (node.link == send->link && !node.partitioned) node.inbox.push_back(std::move(send->command));
      }
    } else if (auto* close = std::get_if<CloseLink>(&effect)) {
      for (SimNode& node : nodes_) {
        if (node.link == close->link && !node.partitioned) Disconnect(node);
      }
    } else if (auto* end = std::get_if<EndHold>(&effect)) {
      holds_.erase(end->hold);
    } else if (auto* rehearsal = std::get_if<StartRehearsal>(&effect)) {
      Expect(!rehearsal_, "two rehearsals at a time");
      rehearsal_ = std::move(*rehearsal);
    } else if (auto* reply = std::get_if<Reply>(&effect)) {
      if (reply->call == probe_) probe_succeeded_ = reply->body.ok();
      const auto call = calls_.find(reply->call);
      if (call == calls_.end()) continue;
      const auto [key, deletes] = call->second;
      calls_.erase(call);
      if (!reply->body.ok()) continue;
      const Claim& claim = std::get<Claim>(reply->body.value());
      acknowledged_[key] = {.uid = claim.metadata.uid, .deleted = deletes};
    }
  }
}

// The controller dies and another takes over: links and holds break, calls are lost.
void ControlSim::Restart() {
  core_ = std::make_unique<Core>(options_, core_random_, ++epoch_ << 40);
  std::vector<Record> records;
  for (const auto& [key, record] : store_) records.push_back(record);
  const Status status = core_->Load(std::move(records), now_);
  if (!status.ok()) return Breach("the store cannot be loaded: " + status.error().message);
  holds_.clear();
  calls_.clear();
  rehearsal_.reset();
  for (SimNode& node : nodes_) Disconnect(node);
  // Watchers list again.
  watched_.clear();
  last_version_ = core_->resource_version();
  const auto watch = [this](const auto& page) {
    for (const auto& resource : page.resources) watched_.emplace(resource.metadata.uid, resource);
  };
  constexpr std::size_t kAll = 1'000'000;
  watch(core_->List<Node>("", "", kAll));
  watch(core_->List<Gpu>("", "", kAll));
  watch(core_->List<Tenant>("", "", kAll));
  watch(core_->ListAll<Claim>({}, kAll));
  watch(core_->ListAll<VGpu>({}, kAll));
  watch(core_->ListAll<Instance>({}, kAll));
  watch(core_->ListAll<Session>({}, kAll));
}

// ---- faults

void ControlSim::Note(Fault fault, const SimNode* node) {
  ++faults_;
  auto& met = coverage_[static_cast<std::size_t>(fault)];
  std::array<bool, kMets> is{};
  for (const auto& [key, record] : store_) {
    if (const auto* claim = std::get_if<ClaimRecord>(&record)) {
      const ClaimStatus& status = claim->claim.status;
      is[static_cast<std::size_t>(Met::kWaiting)] |=
          status.phase == ClaimPhase::kPending && status.branch == AllocationBranch::kWait;
      is[static_cast<std::size_t>(Met::kEnded)] |= IsFinal(status.phase);
    } else if (const auto* vgpu = std::get_if<VGpuRecord>(&record)) {
      if (node != nullptr && vgpu->vgpu.status.node != node->name) continue;
      is[static_cast<std::size_t>(Met::kStarting)] |= vgpu->vgpu.status.phase == VGpuPhase::kCreating;
      is[static_cast<std::size_t>(Met::kBound)] |= vgpu->vgpu.status.phase == VGpuPhase::kReady;
      is[static_cast<std::size_t>(Met::kGoing)] |= vgpu->vgpu.status.phase == VGpuPhase::kDeleting;
    }
  }
  for (std::size_t i = 0; i < kMets; ++i) met[i] += is[i];
}

void ControlSim::Inject() {
  // Of nodes rather those that have something to do, or on which something runs.
  SimNode* node = &Pick(nodes_);
  const bool busy = Chance(2);
  for (int i = 0; i < 20 && (busy ? node->inbox.empty() : node->running.empty()); ++i) node = &Pick(nodes_);
  switch (random_.Below(15)) {
    case 0:
      Note(Fault::kLinkBreaks, node);
      if (const auto link = node->link; link && !node->partitioned) {
        Disconnect(*node);
        Do(LinkClosed{*link});
      }
      break;
    case 1:
    case 2:
      // Or its end.
      if (!node->partitioned) Note(Fault::kPartition, node);
      node->partitioned = !node->partitioned;
      // By its end each has lost some of what the other sent, and starts anew.
      if (!node->partitioned) {
        if (const auto link = node->link) {
          Disconnect(*node);
          Do(LinkClosed{*link});
        }
      }
      break;
    case 3: {
      Note(Fault::kNodeDies, node);
      const auto link = node->link;
      Disconnect(*node);
      node->running.clear();
      if (link && !node->partitioned) Do(LinkClosed{*link});
      break;
    }
    case 4:
    case 14:
      if (node->link && !node->partitioned && !Chance(4)) {
        Note(Fault::kNodeLeaves, node);
        node->running.clear();
        node->left = true;
        Do(NodeLeaving{*node->link, "bye"});
      } else {
        for (SimNode& other : nodes_) other.left = other.left && !Chance(2);
      }
      break;
    case 5:
    case 6:
      if (!node->running.empty()) {
        Note(Fault::kVGpuFails, node);
        auto& [uid, vgpu] = Pick(node->running);
        vgpu.failed = true;
        if (node->link && !node->partitioned) Do(ReportVGpu{*node->link, ReportOf(*node, uid)});
      }
      break;
    case 7:
      if (node->gpu_memory.size() > 1 && Chance(2)) {
        // Its daemon starts again without that GPU, or with it.
        Note(Fault::kGpuGoes, node);
        const auto index = static_cast<std::uint32_t>(random_.Below(node->gpu_memory.size()));
        if (node->gone.erase(index) == 0) node->gone.insert(index);
        const auto link = node->link;
        Disconnect(*node);
        std::erase_if(node->running, [&](const auto& entry) { return entry.second.what.gpu_index == index; });
        if (link && !node->partitioned) Do(LinkClosed{*link});
      }
      break;
    case 8:
      if (node->link && !node->partitioned && !node->running.empty()) {
        Note(Fault::kReportAgain, node);
        Do(ReportVGpu{*node->link, ReportOf(*node, Pick(node->running).first)});
      }
      break;
    case 9:
      Note(Chance(2) ? Fault::kCrashBeforeCommit : Fault::kCrashAfterCommit, nullptr);
      Restart();
      break;
    case 10:
    case 11:
      // Nothing is handled meanwhile.
      Note(Fault::kStoreStalls, nullptr);
      Move(std::chrono::seconds(Between(1, 60)));
      break;
    case 12:
      Note(Fault::kClockForward, nullptr);
      clock_jumped_ = true;
      now_.wall_us += static_cast<WallMicros>(Between(1, 7 * 24 * 3600)) * 1'000'000;
      break;
    default:
      Note(Fault::kClockBack, nullptr);
      clock_jumped_ = true;
      now_.wall_us -= static_cast<WallMicros>(Between(1, 24 * 3600)) * 1'000'000;
      break;
  }
}

// ---- nodes

VGpuReport ControlSim::ReportOf(const SimNode& node, const std::string& uid) const {
  const auto it = node.running.find(uid);
  if (it == node.running.end()) return {.uid = uid, .state = ReportedState::kDeleted};
  VGpuReport report{.uid = uid, .state = it->second.failed ? ReportedState::kFailed : ReportedState::kReady};
  report.grant_ids.assign(it->second.grants.begin(), it->second.grants.end());
  report.compute_percent = it->second.what.compute_percent;
  report.network_bytes_per_s = it->second.what.network_bytes_per_s;
  report.memory_bytes = it->second.memory_bytes();
  report.attached = it->second.attached;
  report.sessions = static_cast<std::uint32_t>(report.attached.size());
  return report;
}

void ControlSim::Disconnect(SimNode& node) {
  node.inbox.clear();
  node.done = 0;
  node.link.reset();
}

void ControlSim::Connect(SimNode& node) {
  if (node.partitioned) return;
  Disconnect(node);
  node.link = LinkId{++ids_};
  node.beat = now_.mono + options_.heartbeat_interval;
  RegisterNode event{.link = *node.link, .name = node.name, .endpoint = node.name + ":1"};
  for (std::uint32_t i = 0; i < node.gpu_memory.size(); ++i) {
    if (node.gone.contains(i)) continue;
    event.gpus.push_back(
        {.index = i,
         .description = {.type = "sim",
                         .apis = {DeviceApi::kOpenCl},
                         .memory_bytes = node.gpu_memory[i],
                         .compute_units = i % 2 == 0 ? 16u : 8u,
                         .isolations = i % 2 == 0 ? std::vector{Isolation::kProcess, Isolation::kVm}
                                                  : std::vector<Isolation>()},
         .allocatable_memory_bytes = node.gpu_memory[i],
         .allocatable_spill_bytes = i % 2 == 0 ? node.gpu_memory[i] / 2 : 0});
  }
  for (const auto& [uid, vgpu] : node.running) event.vgpus.push_back(ReportOf(node, uid));
  Do(event);
}

// The node works off one command.
void ControlSim::Obey(SimNode& node) {
  if (node.partitioned) return;
  const NodeCommand command = std::move(node.inbox.front());
  node.inbox.pop_front();
  ++node.done;
  std::string uid;
  if (const auto* create = std::get_if<CreateVGpu>(&command)) {
    uid = create->uid;
    SimNode::Running& vgpu =
        node.running.try_emplace(uid, SimNode::Running{.what = *create, .failed = !calm_ && Chance(15)})
            .first->second;
    vgpu.grants.clear();
    for (const Grant& grant : create->grants) vgpu.grants.insert(grant.id);
  } else if (const auto* resize = std::get_if<ResizeVGpu>(&command)) {
    uid = resize->uid;
    if (const auto it = node.running.find(uid); it != node.running.end()) {
      if (Chance(2))
        it->second.used_bytes = it->second.memory_bytes();  // all that it may have, at the last moment
      it->second.what.compute_percent = resize->compute_percent;
      it->second.what.network_bytes_per_s = resize->network_bytes_per_s;
      it->second.what.memory_bytes = resize->memory_bytes;
    }
  } else if (const auto* remove = std::get_if<DeleteVGpu>(&command)) {
    uid = remove->uid;
    node.running.erase(uid);
  } else if (const auto* add = std::get_if<AddGrant>(&command)) {
    uid = add->vgpu_uid;
    if (const auto it = node.running.find(uid); it != node.running.end())
      it->second.grants.insert(add->grant.id);
  } else if (const auto* revoke = std::get_if<RevokeGrant>(&command)) {
    uid = revoke->vgpu_uid;
    if (const auto it = node.running.find(uid); it != node.running.end())
      it->second.grants.erase(revoke->grant_id);
  } else {
    return;
  }
  Do(ReportVGpu{*node.link, ReportOf(node, uid)});
}

// ---- users

void ControlSim::Act() {
  const std::string tenant = Pick(tenants_);
  const std::string name = "c" + std::to_string(random_.Below(20 + nodes_.size()));
  switch (random_.Below(18)) {
    case 16:
    case 17: {
      // Other memory, rather less, for what runs.
      SimNode& node = Pick(nodes_);
      if (node.running.empty()) break;
      const CreateVGpu& what = Pick(node.running).second.what;
      const auto vgpu = core_->Get<VGpu>(what.tenant, what.name);
      if (!vgpu) break;
      Do(ResizeClaim{.call = NextCall(),
                     .caller = what.tenant,
                     .tenant = what.tenant,
                     .name = vgpu->spec.claim,
                     .memory_bytes = Between(1, 1 + 3 * (vgpu->spec.memory_bytes >> 28)) * 128 * kMiB});
      break;
    }
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: Create(tenant); break;
    case 5:
    case 6: {
      const CallId call = NextCall();
      calls_[call] = {{tenant, name}, true};
      Do(DeleteClaim{call, tenant, tenant, name});
      break;
    }
    case 7:
    case 8: {
      const HoldId hold{++ids_};
      holds_.insert(hold);
      Do(OpenHold{hold, tenant, name, Chance(2) ? "host" : "", "p", "addr"});
      break;
    }
    case 9:
    case 10:
      if (!holds_.empty()) {
        const HoldId hold = Pick(holds_);
        holds_.erase(hold);
        Do(CloseHold{hold});
      }
      break;
    case 11:
    case 12: Do(AttachClaim{NextCall(), tenant, name}); break;
    case 13:
      if (Chance(3)) {
        Do(DetachClaim{NextCall(), tenant, name});
        // And at once anew: a node that is away meanwhile learns of both when it is back.
        if (Chance(2)) Do(AttachClaim{NextCall(), tenant, name});
      }
      break;
    case 14:
      if (Chance(2)) {
        const auto share = static_cast<std::uint32_t>(random_.Below(110));
        Do(ResizeClaim{NextCall(), tenant, tenant, name, share,
                       Chance(2) ? static_cast<std::uint32_t>(random_.Below(share + 1)) : 0});
        break;
      }
      if (!calm_) SetTenant(tenant);
      break;
    default:
      if (Chance(5)) Do(CordonNode{NextCall(), kAdmin, Pick(nodes_).name, !calm_ && Chance(2)});
      if (Chance(5) && !calm_)
        Do(DrainNode{NextCall(), kAdmin, Pick(nodes_).name, std::chrono::seconds(Between(0, 600))});
      if (Chance(5) && !calm_) {
        Do(TaintNode{NextCall(), kAdmin, Pick(nodes_).name, Chance(2) ? Labels{{"taint", "x"}} : Labels()});
      }
      break;
  }
}

void ControlSim::Create(const std::string& tenant) {
  const auto level = static_cast<PerformanceLevel>(random_.Below(5));
  const bool dedicated = level == PerformanceLevel::kDedicated;
  ClaimSpec spec{.memory_bytes = Between(1, Chance(3) ? 64 : 12) * 128 * kMiB,
                 .compute_percent = dedicated ? 0 : static_cast<std::uint32_t>(random_.Below(101)),
                 .performance_level = level,
                 .count = static_cast<std::uint32_t>(random_.Below(4)),
                 .no_wait = Chance(6),
                 .release_when_unheld = Chance(3),
                 .priority = Chance(3) ? static_cast<std::int32_t>(random_.Below(21)) - 10 : 0,
                 .topology = Chance(3) ? static_cast<Topology>(random_.Below(4)) : Topology::kUnspecified,
                 .duration_us = Chance(5) ? static_cast<std::int64_t>(Between(1, 1'000)) * 1'000'000 : 0};
  if (Chance(4)) spec.tolerations["taint"] = "*";
  const bool may_be_elastic = !dedicated && level != PerformanceLevel::kBestEffort;
  if (may_be_elastic && Chance(2))
    spec.min_compute_percent = static_cast<std::uint32_t>(Between(1, WithDefaults(spec).compute_percent));
  if (may_be_elastic && spec.min_compute_percent == 0 && Chance(4)) {
    spec.compute_percent = 0;
    spec.compute_units = static_cast<std::uint32_t>(Between(1, 20));
  }
  if (Chance(8)) spec.isolation = Isolation::kVm;
  if (Chance(8)) spec.spill_bytes = std::uint64_t{Between(1, 4'096)} << 20;
  const std::string name = "c" + std::to_string(random_.Below(20 + nodes_.size()));
  const CallId call = NextCall();
  calls_[call] = {{tenant, name}, false};
  Do(CreateClaim{call, tenant, name, {}, spec, Chance(2) ? "r" + std::to_string(random_.Below(100)) : ""});
}

void ControlSim::SetTenant(const std::string& tenant) {
  if (!Chance(4)) return;
  TenantSpec spec{.weight = static_cast<std::uint32_t>(Between(1, 5)), .suspended = !calm_ && Chance(20)};
  const std::uint64_t size = nodes_.size();
  if (Chance(2)) spec.quota.memory_bytes = Between(1, 20 * size) * kGiB;
  if (Chance(3)) spec.quota.compute_percent = static_cast<std::uint32_t>(Between(50, 200 * size));
  if (Chance(3)) spec.quota.vgpus = static_cast<std::uint32_t>(Between(1, 3 * size));
  if (Chance(4)) spec.quota.claims = static_cast<std::uint32_t>(Between(1, 30));
  Do(UpdateTenant{NextCall(), kAdmin, tenant, {}, spec});
}

// ---- checkers

namespace {

constexpr std::size_t kAll = 1'000'000;

template <typename R>
std::vector<R> All(const Core& core) {
  if constexpr (std::is_same_v<R, Claim> || std::is_same_v<R, VGpu> || std::is_same_v<R, Instance> ||
                std::is_same_v<R, Session>) {
    return core.ListAll<R>({}, kAll).resources;
  } else {
    return core.List<R>("", "", kAll).resources;
  }
}

// A resource without what may change unseen: heartbeats, telemetry, loads, and shares of a mesh that grows or
// shrinks.
Resource Visible(Resource resource) {
  if (auto* node = std::get_if<Node>(&resource)) {
    node->status.last_heartbeat_us = 0;
    node->status.telemetry = {};
  }
  if (auto* vgpu = std::get_if<VGpu>(&resource)) vgpu->status.usage = {};
  if (auto* tenant = std::get_if<Tenant>(&resource)) tenant->status.dominant_share = 0;
  return resource;
}

}  // namespace

void ControlSim::CheckChange(const Change& change) {
  std::visit(
      [&](const auto& resource) {
        const Metadata& metadata = resource.metadata;
        Expect(metadata.resource_version > last_version_, "versions do not grow at " + metadata.name);
        last_version_ = metadata.resource_version;
        const auto seen = watched_.find(metadata.uid);
        Expect((seen == watched_.end()) == (change.type == ChangeType::kAdded),
               "a watcher is told of " + metadata.name + " in the wrong way");
        if constexpr (std::is_same_v<std::decay_t<decltype(resource)>, Claim>) {
          const bool ended = IsFinal(resource.status.phase);
          Expect(ended || !ended_.contains(metadata.uid), "claim " + metadata.name + " has come back");
          Expect(ended || change.type != ChangeType::kDeleted, "claim " + metadata.name + " has vanished");
          if (ended) ended_.insert(metadata.uid);
        }
        if constexpr (std::is_same_v<std::decay_t<decltype(resource)>, Tenant>) {
          // A quota may have been lowered below what the tenant has; then it gets nothing more.
          const TenantStatus had =
              seen == watched_.end() ? TenantStatus() : std::get<Tenant>(seen->second).status;
          const TenantStatus& has = resource.status;
          const Quota& quota = resource.spec.quota;
          const auto exceeds = [](std::uint64_t before, std::uint64_t now, auto limit) {
            return now > before && limit && now > *limit;
          };
          Expect(!exceeds(had.memory_bytes, has.memory_bytes, quota.memory_bytes) &&
                     !exceeds(had.compute_percent, has.compute_percent, quota.compute_percent) &&
                     !exceeds(had.vgpus, has.vgpus, quota.vgpus) &&
                     !exceeds(had.claims, has.claims, quota.claims),
                 "tenant " + metadata.name + " has got more than its quota");
        }
        if (change.type == ChangeType::kDeleted) {
          watched_.erase(metadata.uid);
        } else {
          watched_.insert_or_assign(metadata.uid, resource);
        }
      },
      change.resource);
}

void ControlSim::CheckState() {
  if (breach_) return;
  std::map<std::string, std::vector<VGpu>> by_gpu;
  std::map<Key, std::vector<VGpu>> by_claim;
  // A controller that has just started sees to what is overdue a moment later.
  std::set<std::string> drained;
  for (const Node& node : All<Node>(*core_)) {
    const WallMicros drain_us = node.spec.drain_time_us;
    if (drain_us != 0 && drain_us + kDrainSlackUs < now_.wall_us && !clock_jumped_)
      drained.insert(node.metadata.name);
  }
  for (const VGpu& vgpu : All<VGpu>(*core_)) {
    Expect(vgpu.spec.compute_percent <= vgpu.spec.wanted_compute_percent,
           "vGPU " + vgpu.metadata.name + " has more than it wants");
    if (const auto claim = core_->Get<Claim>(vgpu.metadata.tenant, vgpu.spec.claim);
        claim && vgpu.status.phase != VGpuPhase::kDeleting) {
      Expect(
          !IsElastic(claim->spec) || (vgpu.spec.wanted_compute_percent >= claim->spec.min_compute_percent &&
                                      vgpu.spec.wanted_compute_percent <= claim->spec.compute_percent),
          "vGPU " + vgpu.metadata.name + " wants what its claim does not ask for");
      const std::uint32_t least = IsElastic(claim->spec) ? claim->spec.min_compute_percent
                                                         : std::max(claim->spec.compute_percent, 1u);
      Expect(vgpu.spec.compute_percent >= least,
             "vGPU " + vgpu.metadata.name + " has " + std::to_string(vgpu.spec.compute_percent) +
                 "%, less than its least, " + std::to_string(least) + "%");
    }
    Expect(vgpu.status.phase == VGpuPhase::kDeleting || !drained.contains(vgpu.status.node),
           "a drained node has vGPU " + vgpu.metadata.name);
    by_gpu[vgpu.spec.gpu].push_back(vgpu);
    if (vgpu.status.phase != VGpuPhase::kDeleting)
      by_claim[{vgpu.metadata.tenant, vgpu.spec.claim}].push_back(vgpu);
    Expect(vgpu.status.phase != VGpuPhase::kFailed, "a failed vGPU is left: " + vgpu.metadata.name);
  }
  for (const Gpu& gpu : All<Gpu>(*core_)) {
    const std::string& name = gpu.metadata.name;
    std::uint64_t memory = 0, spill = 0;
    std::uint32_t compute = 0;
    bool dedicated = false;
    for (const VGpu& vgpu : by_gpu[name]) {
      memory += vgpu.spec.memory_bytes;
      spill += vgpu.spec.spill_bytes;
      compute += ReservedComputePercent(vgpu.spec.performance_level, vgpu.spec.compute_percent);
      dedicated |= vgpu.spec.performance_level == PerformanceLevel::kDedicated;
    }
    const std::vector<Isolation>& offered = gpu.spec.description.isolations;
    for (const VGpu& vgpu : by_gpu[name]) {
      Expect(vgpu.spec.isolation != Isolation::kVm || std::ranges::count(offered, Isolation::kVm) != 0,
             "vGPU " + vgpu.metadata.name + " is where there are no virtual machines");
    }
    // What has less than before may hold on to more for a while.
    Expect(memory <= gpu.status.allocated_memory_bytes && compute == gpu.status.allocated_compute_percent &&
               spill == gpu.status.allocated_spill_bytes && by_gpu[name].size() == gpu.status.vgpus,
           "GPU " + name + " is counted wrongly");
    Expect(gpu.status.allocated_memory_bytes <= gpu.status.allocatable_memory_bytes,
           "the memory of GPU " + name + " is promised twice");
    Expect(spill <= gpu.status.allocatable_spill_bytes,
           "more is promised for GPU " + name + " to spill than there is");
    Expect(compute <= 100, "the compute of GPU " + name + " is promised twice");
    Expect(!dedicated || by_gpu[name].size() == 1, "GPU " + name + " is not dedicated");
    by_gpu.erase(name);
  }
  for (const auto& [gpu, vgpus] : by_gpu) Expect(vgpus.empty(), "vGPUs of no GPU: " + gpu);
  // What really runs on the nodes fits, too.
  for (const SimNode& node : nodes_) {
    std::map<std::uint32_t, std::pair<std::uint64_t, std::uint32_t>> used;
    for (const auto& [uid, vgpu] : node.running) {
      auto& [memory, compute] = used[vgpu.what.gpu_index];
      memory += vgpu.memory_bytes();
      compute += ReservedComputePercent(vgpu.what.performance_level, vgpu.what.compute_percent);
      Expect(memory <= node.gpu_memory[vgpu.what.gpu_index] && compute <= 100,
             "node " + node.name + " runs too much: " + std::to_string(memory) + " of " +
                 std::to_string(node.gpu_memory[vgpu.what.gpu_index]) + " bytes, " + std::to_string(compute) +
                 "% of GPU " + std::to_string(vgpu.what.gpu_index));
    }
  }
  std::map<std::string, std::size_t> live;
  for (const Claim& claim : All<Claim>(*core_)) {
    const Key key{claim.metadata.tenant, claim.metadata.name};
    const std::size_t vgpus = by_claim[key].size();
    const std::string what = "claim " + key.first + "/" + key.second;
    Expect(vgpus == claim.status.vgpus.size(), what + " lists other vGPUs than it has");
    if (IsFinal(claim.status.phase)) {
      Expect(vgpus == 0, what + " has ended, and its vGPUs have not");
    } else if (claim.status.phase == ClaimPhase::kBound) {
      Expect(vgpus == claim.spec.count, what + " is bound without all of its vGPUs");
    } else {
      Expect(vgpus == 0 || vgpus == claim.spec.count, what + " has neither all of its vGPUs nor none");
      Expect((vgpus == 0) == (claim.status.branch == AllocationBranch::kWait),
             what + " does not say whether it waits");
    }
    std::set<std::string> gpus, on;
    for (const VGpu& vgpu : by_claim[key]) gpus.insert(vgpu.spec.gpu), on.insert(vgpu.status.node);
    Expect(vgpus == 0 || claim.spec.topology != Topology::kSameGpu || gpus.size() == 1,
           what + " is not on one GPU");
    Expect(vgpus == 0 || claim.spec.topology != Topology::kSameNode || on.size() == 1,
           what + " is not on one node");
    Expect(claim.spec.topology != Topology::kDistinctNodes || on.size() == vgpus,
           what + " has two vGPUs on a node");
    live[key.first] += !IsFinal(claim.status.phase);
    by_claim.erase(key);
  }
  for (const auto& [key, vgpus] : by_claim) Expect(vgpus.empty(), "vGPUs of no claim: " + key.second);
  for (const auto& [tenant, count] : live) {
    Expect(count <= options_.max_claims_per_tenant, tenant + " has more claims than it may");
  }
  // What was acknowledged is there, until it has ended.
  for (const auto& [key, acknowledged] : acknowledged_) {
    if (ended_.contains(acknowledged.uid)) continue;
    const std::optional<Claim> claim = core_->Get<Claim>(key.first, acknowledged.uid);
    Expect(claim.has_value(), "claim " + key.second + " was acknowledged and is lost");
    Expect(!claim || !acknowledged.deleted || IsFinal(claim->status.phase),
           "the end of claim " + key.second + " was acknowledged and is lost");
  }
  CheckTenants();
  CheckWatchers();
}

void ControlSim::CheckTenants() {
  std::map<std::string, TenantStatus> has;
  for (const VGpu& vgpu : All<VGpu>(*core_)) {
    if (vgpu.status.phase == VGpuPhase::kDeleting) continue;
    TenantStatus& status = has[vgpu.metadata.tenant];
    status.memory_bytes += vgpu.spec.memory_bytes;
    status.compute_percent += ReservedComputePercent(vgpu.spec.performance_level, vgpu.spec.compute_percent);
    ++status.vgpus;
  }
  for (const Claim& claim : All<Claim>(*core_)) {
    TenantStatus& status = has[claim.metadata.tenant];
    status.claims += !IsFinal(claim.status.phase);
    status.waiting_claims += !IsFinal(claim.status.phase) && claim.status.vgpus.empty();
  }
  for (const Tenant& tenant : All<Tenant>(*core_)) {
    const std::string& name = tenant.metadata.name;
    const TenantStatus& is = has[name];
    Expect(is.memory_bytes == tenant.status.memory_bytes &&
               is.compute_percent == tenant.status.compute_percent && is.vgpus == tenant.status.vgpus &&
               is.claims == tenant.status.claims && is.waiting_claims == tenant.status.waiting_claims,
           "tenant " + name + " is counted wrongly");
    Expect(!tenant.spec.suspended || is.claims == 0, "tenant " + name + " is suspended and has claims");
  }
  for (const TenantUsage& of : core_->UsageSince(std::nullopt, 0, now_)) {
    const Usage& usage = of.usage;
    Expect(usage.gpu_seconds >= 0 && usage.vgpu_seconds >= 0, "negative usage of " + of.tenant);
    // What was while no controller ran is told by a clock that may have jumped.
    const double expected = gpu_seconds_[of.tenant];
    Expect(clock_jumped_ || std::abs(usage.gpu_seconds - expected) <= 1e-6 * expected + 1e-3,
           "tenant " + of.tenant + " is charged for other than it had");
  }
}

void ControlSim::CheckWatchers() {
  const auto check = [this](const auto& resources) {
    for (const auto& resource : resources) {
      const auto it = watched_.find(resource.metadata.uid);
      Expect(it != watched_.end() && Visible(it->second) == Visible(resource),
             "a watcher does not know how it is with " + resource.metadata.name);
    }
    return resources.size();
  };
  std::size_t count = 0;
  count += check(All<Claim>(*core_)) + check(All<VGpu>(*core_)) + check(All<Gpu>(*core_)) +
           check(All<Node>(*core_));
  count += check(All<Tenant>(*core_)) + check(All<Instance>(*core_)) + check(All<Session>(*core_));
  Expect(count == watched_.size(), "a watcher knows what is not there");
}

// Faults stop: every node connects and obeys.
void ControlSim::Settle(int seconds) {
  calm_ = true;
  for (SimNode& node : nodes_) {
    if (std::exchange(node.partitioned, false)) {
      if (const auto link = node.link) {
        Disconnect(node);
        Do(LinkClosed{*link});
      }
    }
    if (node.left) Connect(node);
    node.left = false;
    for (auto& [uid, vgpu] : node.running) {
      if (vgpu.failed && node.link) Do(ReportVGpu{*node.link, ReportOf(node, uid)});
    }
  }
  for (const std::string& tenant : tenants_) Do(UpdateTenant{NextCall(), kAdmin, tenant, {}, {}});
  for (const SimNode& node : nodes_) {
    Do(CordonNode{NextCall(), kAdmin, node.name, false});
    Do(TaintNode{NextCall(), kAdmin, node.name, {}});
  }
  for (const Gpu& gpu : All<Gpu>(*core_)) Do(CordonGpu{NextCall(), kAdmin, gpu.metadata.name, false});
  for (int i = 0; i < seconds; ++i) {
    // What users have done at last is worked off, too.
    quiet_ = i > seconds - kQuietSeconds;
    Second();
  }
  quiet_ = false;
  // And what has run out in the last second; what one node reports can be a command to another.
  for (bool obeyed = true; obeyed;) {
    obeyed = false;
    for (SimNode& node : nodes_) {
      for (; node.link && !node.inbox.empty(); obeyed = true) Obey(node);
    }
  }
}

void ControlSim::CheckConverged() {
  std::map<std::string, std::set<std::string>> should;
  for (const VGpu& vgpu : All<VGpu>(*core_)) {
    Expect(vgpu.status.phase == VGpuPhase::kReady,
           "vGPU " + vgpu.metadata.name + " is " + Name(vgpu.status.phase) + " for ever");
    should[vgpu.status.node].insert(vgpu.metadata.uid);
  }
  for (const SimNode& node : nodes_) {
    Expect(node.link.has_value(), "node " + node.name + " does not come back");
    std::set<std::string> runs;
    for (const auto& [uid, vgpu] : node.running) {
      runs.insert(uid);
      Expect(!vgpu.failed, "a failed vGPU is still on node " + node.name);
      const auto stored = store_.find({Kind::kVGpu, uid});
      if (stored == store_.end()) continue;  // said below
      std::set<std::string> grants;
      for (const Grant& grant : std::get<VGpuRecord>(stored->second).grants) grants.insert(grant.id);
      Expect(vgpu.what.compute_percent == std::get<VGpuRecord>(stored->second).vgpu.spec.compute_percent,
             "a vGPU on node " + node.name + " has another share than it should");
      std::set<std::string> attached, listed;
      for (const SessionReport& session : vgpu.attached) attached.insert(session.id);
      for (const Session& session : All<Session>(*core_)) {
        if (session.spec.vgpu == std::get<VGpuRecord>(stored->second).vgpu.metadata.name &&
            session.metadata.tenant == vgpu.what.tenant) {
          listed.insert(session.metadata.uid);
        }
      }
      Expect(attached == listed,
             "the sessions of a vGPU on node " + node.name + " are not those that there are");
      Expect(vgpu.grants == grants, "a vGPU on node " + node.name + " takes other grants than it should");
    }
    Expect(runs == should[node.name], "node " + node.name + " does not run what it should");
  }
  bool waits = false;
  for (const Claim& claim : All<Claim>(*core_)) {
    const std::string what = "claim " + claim.metadata.tenant + "/" + claim.metadata.name;
    Expect(!claim.spec.release_when_unheld || claim.status.holders > 0 || IsFinal(claim.status.phase),
           what + " is held by nobody and kept");
    if (claim.status.phase != ClaimPhase::kPending) continue;
    Expect(claim.status.vgpus.empty(), what + " was never bound");
    const Condition* placed = FindCondition(claim.status.conditions, "Placed");
    Expect(placed != nullptr && !placed->status && !placed->message.empty(),
           what + " does not say why it waits");
    waits = true;
    // Another claim like it is refused as well, so it waits with reason.
    ClaimSpec spec = claim.spec;
    spec.no_wait = true;
    spec.release_when_unheld = false;
    probe_ = NextCall();
    Do(CreateClaim{probe_, kAdmin, "", {}, spec, ""});
    Expect(!probe_succeeded_, what + " waits for nothing");
    if (breach_) return;
  }
  // GPUs may be set aside for what waits.
  for (const VGpu& vgpu : All<VGpu>(*core_)) {
    const Gpu gpu = *core_->Get<Gpu>("", vgpu.spec.gpu);
    Expect(waits || vgpu.spec.compute_percent == vgpu.spec.wanted_compute_percent ||
               gpu.status.allocated_compute_percent >= gpu.status.allocatable_compute_percent,
           "vGPU " + vgpu.metadata.name + " does not get what is free");
  }
}

// Smaller claims come all the time; one that needs a whole GPU must get it nevertheless.
void ControlSim::CheckStarvation() {
  if (options_.max_set_aside < 256 || nodes_.size() > 50) return;
  Do(UpdateTenant{NextCall(), kAdmin, "elephant", {}, {}});
  const ClaimSpec whole{.performance_level = PerformanceLevel::kDedicated};
  Do(CreateClaim{NextCall(), "elephant", "elephant", {}, whole, ""});
  const auto is_served = [this] { return !core_->Get<Claim>("elephant", "elephant")->status.vgpus.empty(); };
  std::uint64_t mice = 0;
  for (int i = 0; i < 4 * kSeconds && !breach_ && !is_served(); ++i) {
    const ClaimSpec small{.memory_bytes = 512 * kMiB, .compute_percent = 5};
    Do(CreateClaim{NextCall(), "mouse", "m" + std::to_string(mice++), {}, small, ""});
    const std::vector<VGpu> vgpus = All<VGpu>(*core_);
    if (!vgpus.empty()) {
      const VGpu& one = vgpus[random_.Below(vgpus.size())];
      Do(DeleteClaim{NextCall(), kAdmin, one.metadata.tenant, one.spec.claim});
    }
    Second();
  }
  Expect(breach_ || is_served(), "a large claim starves");
  CheckState();
}

// Once all claims have been given back, each GPU can be had as a whole.
void ControlSim::CheckNothingIsLeft() {
  for (const Claim& claim : All<Claim>(*core_)) {
    if (!IsFinal(claim.status.phase))
      Do(DeleteClaim{NextCall(), kAdmin, claim.metadata.tenant, claim.metadata.name});
  }
  quiet_ = true;
  for (int i = 0; i < kQuietSeconds; ++i) Second();
  const std::size_t gpus = std::min(All<Gpu>(*core_).size(), options_.max_claims_per_tenant);
  for (std::size_t i = 0; i < gpus && !breach_; ++i) {
    probe_ = NextCall();
    Do(CreateClaim{
        probe_, kAdmin, "", {}, {.performance_level = PerformanceLevel::kDedicated, .no_wait = true}, ""});
    Expect(probe_succeeded_, "a GPU is not free although all claims have been given back");
  }
  CheckState();
}

}  // namespace tulle::sim
