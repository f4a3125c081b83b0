// The core among nodes, users and stores that fail in every order: by seed, with the invariants checked after
// each step and convergence at the end. Reproduce a failure with TULLE_SIM_SEED=<seed>.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <numeric>

#include "tulle/control/core/core.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/rehearsal.h"

namespace tulle::control {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// A node daemon: obeys commands late, loses its link, restarts, leaves. Never breaks the protocol.
struct SimNode {
  struct Running {
    CreateVGpu what;
    std::set<std::string> grants;
    bool failed = false;
  };
  std::string name;
  std::vector<std::uint64_t> gpu_memory;
  std::map<std::string, Running> running;
  std::optional<LinkId> link;
  std::deque<NodeCommand> inbox;
  bool left = false;

  VGpuReport ReportOf(const std::string& uid) const {
    const auto it = running.find(uid);
    if (it == running.end()) return {.uid = uid, .state = ReportedState::kDeleted};
    VGpuReport report{.uid = uid,
                      .state = it->second.failed ? ReportedState::kFailed : ReportedState::kReady};
    report.grant_ids.assign(it->second.grants.begin(), it->second.grants.end());
    return report;
  }
  std::uint64_t UsedMemory(std::uint32_t gpu) const {
    std::uint64_t used = 0;
    for (const auto& [uid, vgpu] : running) used += vgpu.what.gpu_index == gpu ? vgpu.what.memory_bytes : 0;
    return used;
  }
  std::uint32_t UsedCompute(std::uint32_t gpu) const {
    std::uint32_t used = 0;
    for (const auto& [uid, vgpu] : running) {
      if (vgpu.what.gpu_index == gpu)
        used += ReservedComputePercent(vgpu.what.performance_level, vgpu.what.compute_percent);
    }
    return used;
  }
};

class Simulation {
 public:
  explicit Simulation(std::uint64_t seed) : random_(seed), core_random_(seed + 1'000'000) {
    options_.node_forget_after = std::chrono::hours(24 * 365);
    options_.rehearse_after_claims = 1 + random_.Below(20);
    options_.rehearsal_interval = std::chrono::seconds(1 + random_.Below(60));
    options_.remembered_claims = 1 + random_.Below(100);
    if (Chance(2)) options_.max_claims_per_tenant = 1 + random_.Below(30);  // there are 40 names
    for (std::uint64_t i = 0, n = 1 + random_.Below(5); i < n; ++i) {
      SimNode& node = nodes_.emplace_back();
      node.name = "n" + std::to_string(i);
      for (std::uint64_t g = 0, gpus = 1 + random_.Below(3); g < gpus; ++g)
        node.gpu_memory.push_back((2 + random_.Below(15)) * kGiB);
    }
    Restart();
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      Step();
      CheckInvariants();
    }
    Settle();
    CheckInvariants();
    CheckConverged();
  }

 private:
  bool Chance(std::uint64_t one_in) { return random_.Below(one_in) == 0; }
  template <typename C>
  auto& Pick(C& container) {
    auto it = container.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(random_.Below(container.size())));
    return *it;
  }

  void Step() {
    switch (random_.Below(16)) {
      case 0:
      case 1:
      case 2: Create(); break;
      case 3:
        if (!claims_.empty()) Do(DeleteClaim{NextCall(), "t", "t", Pick(claims_)});
        break;
      case 4:
        if (!claims_.empty()) {
          const HoldId hold{++ids_};
          holds_.insert(hold);
          Do(OpenHold{hold, "t", Pick(claims_), Chance(2) ? "host" : "", "p", "addr"});
        }
        break;
      case 5:
        if (!holds_.empty()) {
          const HoldId hold = Pick(holds_);
          holds_.erase(hold);
          Do(CloseHold{hold});
        }
        break;
      case 6:
        if (!claims_.empty()) Do(AttachClaim{NextCall(), "t", Pick(claims_)});
        break;
      case 7:
        if (!claims_.empty() && Chance(3)) Do(DetachClaim{NextCall(), "t", Pick(claims_)});
        break;
      case 8: Disturb(Pick(nodes_)); break;
      case 9:
        if (Chance(12)) {
          Restart();
        } else if (rehearsal_) {
          const StartRehearsal what = *std::exchange(rehearsal_, std::nullopt);
          Do(Rehearsed{std::make_shared<const Outlook>(
              Rehearse(what.nodes, what.demands, {.rounds = 1, .runs = 1, .most_arrivals = 200}))});
        }
        break;
      case 10: Advance(std::chrono::milliseconds(random_.Below(Chance(10) ? 120'000 : 3'000))); break;
      default: Obey(Pick(nodes_)); break;
    }
  }

  void Create() {
    const auto level = static_cast<PerformanceLevel>(random_.Below(5));
    ClaimSpec spec{.memory_bytes = (1 + random_.Below(64)) * 128 * kMiB,
                   .compute_percent = level == PerformanceLevel::kDedicated
                                          ? 0
                                          : static_cast<std::uint32_t>(random_.Below(101)),
                   .performance_level = level,
                   .count = static_cast<std::uint32_t>(random_.Below(4)),
                   .no_wait = Chance(6),
                   .release_when_unheld = Chance(3)};
    const std::string name = "c" + std::to_string(random_.Below(40));
    claims_.insert(name);
    Do(CreateClaim{
        NextCall(), "t", name, {}, spec, Chance(2) ? "r" + std::to_string(random_.Below(100)) : ""});
  }

  // One fault, or the mending of one.
  void Disturb(SimNode& node) {
    switch (random_.Below(6)) {
      case 0: Disconnect(node); break;
      case 1:
        Disconnect(node);
        node.running.clear();  // the daemon died with all its workers
        break;
      case 2:
        if (!node.running.empty()) {
          auto& [uid, vgpu] = Pick(node.running);
          vgpu.failed = true;
          if (node.link) Do(ReportVGpu{*node.link, node.ReportOf(uid)});
        }
        break;
      case 3:
        if (node.link && Chance(4)) {
          node.running.clear();
          node.left = true;
          Do(NodeLeaving{*node.link, "bye"});
        }
        break;
      default: Connect(node); break;
    }
  }

  void Disconnect(SimNode& node) {
    node.inbox.clear();
    if (const auto link = std::exchange(node.link, std::nullopt)) Do(LinkClosed{*link});
  }

  void Connect(SimNode& node) {
    if (node.link && !Chance(5)) return;
    node.inbox.clear();
    node.left = false;
    node.link = LinkId{++ids_};
    RegisterNode event{.link = *node.link, .name = node.name, .endpoint = node.name + ":1"};
    for (std::uint32_t i = 0; i < node.gpu_memory.size(); ++i) {
      event.gpus.push_back(
          {.index = i,
           .description = {.type = "sim", .apis = {DeviceApi::kOpenCl}, .memory_bytes = node.gpu_memory[i]},
           .allocatable_memory_bytes = node.gpu_memory[i]});
    }
    for (const auto& [uid, vgpu] : node.running) event.vgpus.push_back(node.ReportOf(uid));
    Do(event);
  }

  // The node works off one command.
  void Obey(SimNode& node) {
    if (!node.link || node.inbox.empty()) return;
    const NodeCommand command = std::move(node.inbox.front());
    node.inbox.pop_front();
    std::string uid;
    if (const auto* create = std::get_if<CreateVGpu>(&command)) {
      uid = create->uid;
      SimNode::Running& vgpu =
          node.running.try_emplace(uid, SimNode::Running{.what = *create, .failed = Chance(10)})
              .first->second;
      vgpu.grants.clear();
      for (const Grant& grant : create->grants) vgpu.grants.insert(grant.id);
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
    Do(ReportVGpu{*node.link, node.ReportOf(uid)});
  }

  // The controller dies and another takes over: links and holds break, calls are lost.
  void Restart() {
    core_ = std::make_unique<Core>(options_, core_random_, ++epoch_ << 40);
    std::vector<Record> records;
    for (const auto& [key, record] : store_) records.push_back(record);
    const Status status = core_->Load(std::move(records), now_);
    ASSERT_TRUE(status.ok()) << status.error().message;
    holds_.clear();
    rehearsal_.reset();
    for (SimNode& node : nodes_) {
      node.link.reset();
      node.inbox.clear();
    }
  }

  void Do(const Event& event) {
    Actions actions = core_->Handle(event, now_);
    const bool crash = faults_ && Chance(400);
    if (crash && Chance(2)) return Restart();  // before the commit
    for (Write& write : actions.writes) {
      if (write.record) {
        store_.insert_or_assign({write.kind, write.uid}, std::move(*write.record));
      } else {
        store_.erase({write.kind, write.uid});
      }
    }
    if (crash) return Restart();  // after it
    for (const Change& change : actions.changes) {
      const std::uint64_t version =
          std::visit([](const auto& r) { return r.metadata.resource_version; }, change.resource);
      EXPECT_LE(version, core_->resource_version());
    }
    for (Effect& effect : actions.effects) {
      if (auto* send = std::get_if<SendToNode>(&effect)) {
        for (SimNode& node : nodes_) {
          if (node.link == send->link) node.inbox.push_back(std::move(send->command));
        }
      } else if (auto* close = std::get_if<CloseLink>(&effect)) {
        for (SimNode& node : nodes_) {
          if (node.link == close->link) node.link.reset(), node.inbox.clear();
        }
      } else if (auto* end = std::get_if<EndHold>(&effect)) {
        holds_.erase(end->hold);
      } else if (auto* rehearsal = std::get_if<StartRehearsal>(&effect)) {
        EXPECT_FALSE(rehearsal_) << "one at a time";
        rehearsal_ = std::move(*rehearsal);
      }
    }
  }

  CallId NextCall() { return CallId{++ids_}; }

  void Advance(Duration by) {
    const Instant end = now_.mono + by;
    while (now_.mono < end) {
      Instant next = std::min(end, now_.mono + Duration(1s));
      if (core_->NextTick()) next = std::min(next, std::max(now_.mono, *core_->NextTick()));
      now_.wall_us += std::chrono::duration_cast<std::chrono::microseconds>(next - now_.mono).count();
      now_.mono = next;
      for (SimNode& node : nodes_) {
        if (node.link && !(faults_ && Chance(200))) Do(NodeHeartbeat{.link = *node.link});
      }
      if (core_->NextTick() && *core_->NextTick() <= now_.mono) Do(Tick{});
    }
  }

  // Faults stop: every node connects and obeys.
  void Settle() {
    faults_ = false;
    for (int round = 0; round < 300; ++round) {
      for (SimNode& node : nodes_) {
        for (auto& [uid, vgpu] : node.running) {
          if (vgpu.failed && node.link) Do(ReportVGpu{*node.link, node.ReportOf(uid)});
        }
        if (!node.link && !node.left) Connect(node);
        while (node.link && !node.inbox.empty()) Obey(node);
      }
      Advance(1s);
    }
  }

  template <typename R>
  std::vector<R> All(const std::string& tenant) {
    return core_->List<R>(tenant, "", 100'000).resources;
  }

  void CheckInvariants() {
    std::map<std::string, std::vector<VGpu>> by_gpu, by_claim;
    for (const VGpu& vgpu : All<VGpu>("t")) {
      by_gpu[vgpu.spec.gpu].push_back(vgpu);
      if (vgpu.status.phase != VGpuPhase::kDeleting) by_claim[vgpu.spec.claim].push_back(vgpu);
      ASSERT_NE(vgpu.status.phase, VGpuPhase::kFailed) << "a failed vGPU is dealt with at once";
    }
    for (const Gpu& gpu : All<Gpu>("")) {
      std::uint64_t memory = 0;
      std::uint32_t compute = 0;
      bool dedicated = false;
      for (const VGpu& vgpu : by_gpu[gpu.metadata.name]) {
        memory += vgpu.spec.memory_bytes;
        compute += ReservedComputePercent(vgpu.spec.performance_level, vgpu.spec.compute_percent);
        dedicated |= vgpu.spec.performance_level == PerformanceLevel::kDedicated;
      }
      ASSERT_EQ(memory, gpu.status.allocated_memory_bytes);
      ASSERT_EQ(compute, gpu.status.allocated_compute_percent);
      ASSERT_LE(memory, gpu.status.allocatable_memory_bytes) << "over-committed " << gpu.metadata.name;
      ASSERT_LE(compute, 100u) << "over-committed " << gpu.metadata.name;
      ASSERT_TRUE(!dedicated || by_gpu[gpu.metadata.name].size() == 1)
          << gpu.metadata.name << " is not dedicated";
    }
    const std::vector<Claim> claims = All<Claim>("t");
    ASSERT_LE(claims.size(), options_.max_claims_per_tenant);
    for (const Claim& claim : claims) {
      const std::size_t vgpus = by_claim[claim.metadata.name].size();
      ASSERT_EQ(vgpus, claim.status.vgpus.size());
      if (IsFinal(claim.status.phase)) {
        ASSERT_EQ(vgpus, 0u);
      } else if (claim.status.phase == ClaimPhase::kBound) {
        ASSERT_EQ(vgpus, claim.spec.count);
      } else {
        ASSERT_TRUE(vgpus == 0 || vgpus == claim.spec.count) << "neither all nor none";
      }
      by_claim.erase(claim.metadata.name);
    }
    for (const auto& [claim, vgpus] : by_claim) ASSERT_TRUE(vgpus.empty()) << "vGPUs of no claim: " << claim;
    // What really runs on the nodes fits too.
    for (const SimNode& node : nodes_) {
      for (std::uint32_t gpu = 0; gpu < node.gpu_memory.size(); ++gpu) {
        ASSERT_LE(node.UsedMemory(gpu), node.gpu_memory[gpu]) << node.name;
        ASSERT_LE(node.UsedCompute(gpu), 100u) << node.name;
      }
    }
  }

  void CheckConverged() {
    std::map<std::string, std::set<std::string>> should;
    for (const VGpu& vgpu : All<VGpu>("t")) {
      EXPECT_EQ(vgpu.status.phase, VGpuPhase::kReady) << vgpu.metadata.name;
      should[vgpu.status.node].insert(vgpu.metadata.uid);
    }
    for (const SimNode& node : nodes_) {
      std::set<std::string> runs;
      for (const auto& [uid, vgpu] : node.running) {
        runs.insert(uid);
        EXPECT_FALSE(vgpu.failed);
        const auto& record = std::get<VGpuRecord>(store_.at({Kind::kVGpu, uid}));
        std::set<std::string> grants;
        for (const Grant& grant : record.grants) grants.insert(grant.id);
        EXPECT_EQ(vgpu.grants, grants);
      }
      EXPECT_EQ(runs, should[node.name]) << node.name;
    }
    for (const Claim& claim : All<Claim>("t")) {
      EXPECT_FALSE(claim.status.phase == ClaimPhase::kPending && !claim.status.vgpus.empty())
          << "never became BOUND";
      if (claim.status.phase != ClaimPhase::kPending) continue;
      // Another claim like it is refused as well, so it waits with reason.
      ClaimSpec spec = claim.spec;
      spec.no_wait = true;
      const CallId call = NextCall();
      const Actions actions = core_->Handle(CreateClaim{call, "t", "", {}, spec, ""}, now_);
      EXPECT_FALSE(std::get<Reply>(actions.effects.back()).body.ok())
          << claim.metadata.name << " waits for nothing";
    }
    for (const Claim& claim : All<Claim>("t")) {
      EXPECT_TRUE(!claim.spec.release_when_unheld || claim.status.holders > 0 || IsFinal(claim.status.phase))
          << "leaked";
    }
  }

  CoreOptions options_;
  std::optional<StartRehearsal> rehearsal_;  // under way
  SeededRandom random_;
  SeededRandom core_random_;
  Now now_{.mono = {1'000'000'000}, .wall_us = 1'700'000'000'000'000};
  std::uint64_t epoch_ = 0;
  std::uint64_t ids_ = 0;
  bool faults_ = true;
  std::unique_ptr<Core> core_;
  std::map<std::pair<Kind, std::string>, Record> store_;
  std::deque<SimNode> nodes_;
  std::set<std::string> claims_;
  std::set<HoldId> holds_;
};

TEST(CoreSimulation, KeepsItsInvariantsAndConverges) {
  const char* one = std::getenv("TULLE_SIM_SEED");
  const char* many = std::getenv("TULLE_SIM_SEEDS");
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const std::uint64_t count = one != nullptr ? 1 : many != nullptr ? std::strtoull(many, nullptr, 10) : 100;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    Simulation(seed).Run(1000);
    ASSERT_FALSE(HasFailure()) << "reproduce with TULLE_SIM_SEED=" << seed;
  }
}

}  // namespace
}  // namespace tulle::control
