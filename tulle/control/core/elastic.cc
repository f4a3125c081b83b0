// vGPUs whose share of compute changes while they run, by their load and as there is room.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/repack.h"

namespace tulle::control {
namespace {

// Of the time that commands wait for memory: from so much on for so long a vGPU thrashes, and below so much
// it does not any more.
constexpr float kThrashPercent = 50, kCalmSpillPercent = 20;
constexpr Duration kThrashTime = std::chrono::seconds(10);

}  // namespace

std::vector<ElasticVGpu> Core::ElasticOf(const GpuState& gpu) const {
  std::vector<ElasticVGpu> elastic;
  for (const std::string& uid : gpu.vgpus) {
    const VGpuState& vgpu = *vgpus_.Find(uid);
    const VGpuPhase phase = vgpu.model().status.phase;
    if (phase != VGpuPhase::kCreating && phase != VGpuPhase::kReady) continue;
    const ClaimState* claim = claims_.Find(vgpu.record.claim_uid);
    if (claim == nullptr || !IsElastic(claim->model().spec)) continue;
    elastic.push_back({uid, vgpu.model().spec.compute_percent, claim->model().spec.min_compute_percent});
  }
  return elastic;
}

void Core::Resize(VGpuState& vgpu, std::uint32_t compute_percent) {
  VGpu& model = vgpu.model();
  if (model.spec.compute_percent == compute_percent) return;
  Charge(model, -1);
  model.spec.compute_percent = compute_percent;
  Charge(model, +1);
  Recount(*gpus_.Find(vgpu.record.gpu_uid));
  Touch(Kind::kVGpu, model.metadata.uid, true);
  if (NodeRecord* node = NodeOf(vgpu)) Command(*node, SizeOf(model));
}

void Core::FollowLoad(VGpuState& vgpu) {
  const ClaimState* claim = claims_.Find(vgpu.record.claim_uid);
  VGpu& model = vgpu.model();
  if (claim == nullptr || !IsElastic(claim->model().spec) || model.status.phase != VGpuPhase::kReady) return;
  const ClaimSpec& spec = claim->model().spec;
  const VGpuUsage& usage = model.status.usage;
  const std::uint32_t had = model.spec.wanted_compute_percent;
  const std::uint32_t wants = vgpu.load.Follow({usage.compute_used_percent, usage.compute_throttled_percent},
                                               {spec.min_compute_percent, spec.compute_percent}, had,
                                               model.spec.compute_percent, options_.calm, now_.mono);
  if (wants == had) return;
  const LoadSize::Load& why = vgpu.load.decisive();
  const std::string used = std::to_string(static_cast<int>(std::lround(why.used_percent))) + "% of the GPU";
  model.status.message =
      "wants " + std::to_string(wants) + "% of compute instead of " + std::to_string(had) +
      "%: its programs " +
      (wants < had
           ? "used at most " + used + " in the last " +
                 std::to_string(options_.calm / std::chrono::seconds(1)) + " s"
           : "use " + used + " and wait for their share in " +
                 std::to_string(static_cast<int>(std::lround(why.throttled_percent))) + "% of the time");
  model.spec.wanted_compute_percent = wants;
  Touch(Kind::kVGpu, model.metadata.uid, true);
  Resize(vgpu, std::min(model.spec.compute_percent, wants));
  may_grow_on_.insert(vgpu.record.gpu_uid);
}

void Core::FollowSpill(VGpuState& vgpu) {
  VGpu& model = vgpu.model();
  if (model.spec.spill_bytes == 0) return;
  const float waits = model.status.usage.spill_wait_percent;
  const bool thrashes = waits >= (vgpu.thrashes ? kCalmSpillPercent : kThrashPercent);
  if (thrashes == vgpu.thrashes || vgpu.thrashes_since == Instant{}) {
    vgpu.thrashes_since = now_.mono;
    return;
  }
  if (now_.mono - vgpu.thrashes_since < kThrashTime) return;
  vgpu.thrashes = thrashes;
  vgpu.thrashes_since = now_.mono;
  model.status.message = thrashes
                             ? kThrashes + std::string("its programs use more memory at a time than the ") +
                                   FormatSize(model.spec.memory_bytes) + " that it has, and wait for it in " +
                                   std::to_string(static_cast<int>(std::lround(waits))) +
                                   "% of the time; give it more (tulle resize), or use less at a time"
                             : "does not thrash any more: its programs wait for memory in " +
                                   std::to_string(static_cast<int>(std::lround(waits))) + "% of the time";
  Touch(Kind::kVGpu, model.metadata.uid, true);
}

void Core::HoldMemory(VGpuState& vgpu, std::uint64_t had_bytes) {
  vgpu.held_memory_bytes = std::max(vgpu.held_memory_bytes, had_bytes);
  // So long after the node has done it, the vGPU's worker has told what its programs had taken before.
  vgpu.held_until = now_.mono + options_.heartbeat_timeout;
  Recount(*gpus_.Find(vgpu.record.gpu_uid));
}

void Core::LetMemoryGo(VGpuState& vgpu) {
  const std::uint64_t used_bytes = vgpu.model().status.usage.memory_used_bytes;
  if (vgpu.held_memory_bytes <= used_bytes || now_.mono < vgpu.held_until) return;
  vgpu.held_memory_bytes = used_bytes > vgpu.model().spec.memory_bytes ? used_bytes : 0;
  Recount(*gpus_.Find(vgpu.record.gpu_uid));
  room_changed_ = true;
}

ResizeVGpu Core::SizeOf(const VGpu& vgpu) {
  return {.uid = vgpu.metadata.uid,
          .compute_percent = vgpu.spec.compute_percent,
          .network_bytes_per_s = vgpu.spec.network_bytes_per_s,
          .memory_bytes = vgpu.spec.memory_bytes};
}

void Core::On(const ResizeClaim& event) {
  const Permission needed = event.caller == event.tenant ? Permission::kUse : Permission::kOperate;
  if (Status status = Authorize(event.caller, needed); !status.ok())
    return Answer(event.call, std::move(status).error());
  auto found = FindClaim(event.tenant, event.name);
  if (!found.ok()) return Answer(event.call, std::move(found).error());
  ClaimState& claim = **found;
  ClaimSpec spec = claim.model().spec;
  const bool compute = event.compute_percent != 0 || event.min_compute_percent != 0;
  if (compute) {
    spec.compute_percent = event.compute_percent;
    spec.min_compute_percent = event.min_compute_percent;
  }
  if (event.network_bytes_per_s != 0) spec.network_bytes_per_s = event.network_bytes_per_s;
  if (event.memory_bytes != 0) spec.memory_bytes = event.memory_bytes;
  std::vector<std::pair<VGpuState*, std::uint32_t>> sizes;    // less first, so that all fits at all times
  std::vector<std::pair<VGpuState*, std::uint32_t>> shrinks;  // of neighbours, before these
  const auto check = [&]() -> Status {
    const std::string name = "claim " + claim.metadata().name;
    if (claim.model().status.phase != ClaimPhase::kBound) {
      return Refusal(Code::kFailedPrecondition,
                     name + " is " + Name(claim.model().status.phase) + ", not BOUND");
    }
    if (compute && spec.performance_level != PerformanceLevel::kBurst &&
        spec.performance_level != PerformanceLevel::kGuaranteed) {
      return Refusal(Code::kFailedPrecondition,
                     name + " is " + Name(spec.performance_level) +
                         ": only BURST and GUARANTEED vGPUs have a share of compute");
    }
    if (compute && NeedsByGpu(spec)) {
      return Refusal(Code::kFailedPrecondition,
                     name + " asks for so much of a GPU, not for a percentage: delete it and make another");
    }
    if (event.memory_bytes != 0 && spec.performance_level == PerformanceLevel::kDedicated) {
      return Refusal(Code::kFailedPrecondition,
                     name + " is DEDICATED: its vGPUs have all of their GPUs' memory");
    }
    // What programs have beyond it would be more than the node keeps for them.
    const std::uint64_t has_bytes = claim.model().spec.memory_bytes;
    if (spec.spill_bytes != 0 && event.memory_bytes != 0 && event.memory_bytes < has_bytes) {
      return Refusal(Code::kFailedPrecondition, name + " spills, and cannot have less memory than now, " +
                                                    FormatSize(has_bytes) + "; make another claim");
    }
    if (event.compute_percent == 0 &&
        (compute || (event.network_bytes_per_s == 0 && event.memory_bytes == 0)))
      return Refusal(Code::kInvalidArgument, "compute_percent: must be 1 to 100");
    TULLE_RETURN_IF_ERROR(CheckClaimSpec(spec));
    const std::uint32_t least = IsElastic(spec) ? spec.min_compute_percent : spec.compute_percent;
    std::map<std::string, std::int64_t> more, more_network, more_memory;  // by GPU
    std::int64_t all_more = 0, all_more_memory = 0;
    for (const std::string& uid : claim.vgpu_uids) {
      VGpuState& vgpu = *vgpus_.Find(uid);
      const std::uint32_t has = vgpu.model().spec.compute_percent;
      const std::uint32_t size = compute ? std::clamp(has, least, spec.compute_percent) : has;
      const VGpu& model = vgpu.model();
      if (event.memory_bytes != 0 && event.memory_bytes < model.status.usage.memory_used_bytes) {
        return Refusal(Code::kFailedPrecondition,
                       name + " cannot have " + FormatSize(event.memory_bytes) + " each: programs use " +
                           FormatSize(model.status.usage.memory_used_bytes) + " of vGPU " +
                           model.metadata.name + "; end some of them, or ask for more");
      }
      if (event.memory_bytes != 0) {
        const auto more_than = [&](std::uint64_t bytes) {
          return static_cast<std::int64_t>(event.memory_bytes) - static_cast<std::int64_t>(bytes);
        };
        more_memory[vgpu.record.gpu_uid] += std::max<std::int64_t>(more_than(vgpu.memory_bytes()), 0);
        all_more_memory += more_than(model.spec.memory_bytes);
      }
      more_network[vgpu.record.gpu_uid] += static_cast<std::int64_t>(spec.network_bytes_per_s) -
                                           static_cast<std::int64_t>(vgpu.model().spec.network_bytes_per_s);
      sizes.insert(size < has ? sizes.begin() : sizes.end(), {&vgpu, size});
      more[vgpu.record.gpu_uid] += std::int64_t{size} - has;
      all_more += std::int64_t{size} - has;
    }
    for (const auto& [uid, needed_more] : more) {
      const Gpu& gpu = gpus_.Find(uid)->gpu;
      const std::int64_t left = std::int64_t{gpu.status.allocatable_compute_percent} -
                                std::int64_t{gpu.status.allocated_compute_percent};
      if (needed_more <= 0 || needed_more <= left) continue;
      // Neighbours with a range give it up, as for a new claim.
      std::vector<ElasticVGpu> neighbours = ElasticOf(*gpus_.Find(uid));
      std::erase_if(neighbours, [&](const ElasticVGpu& vgpu) {
        return std::ranges::find(claim.vgpu_uids, vgpu.uid) != claim.vgpu_uids.end();
      });
      std::vector<std::int32_t> can;
      for (const ElasticVGpu& vgpu : neighbours)
        can.push_back(static_cast<std::int32_t>(vgpu.compute_percent - vgpu.least_percent));
      const auto missing = static_cast<std::int32_t>(needed_more - left);
      const std::int32_t all = std::accumulate(can.begin(), can.end(), 0);
      if (missing > all) {
        return Refusal(Code::kResourceExhausted,
                       name + " would need " + std::to_string(needed_more) + "% more of GPU " +
                           gpu.metadata.name + ", which has " +
                           std::to_string(std::max<std::int64_t>(left, 0)) + "% left" +
                           (all == 0 ? "" : " and " + std::to_string(all) + "% that others could give up") +
                           "; ask for less, or make another claim");
      }
      const std::vector<std::int32_t> given = GiveAlike(missing, can);
      for (std::size_t i = 0; i < given.size(); ++i) {
        if (given[i] == 0) continue;
        shrinks.emplace_back(vgpus_.Find(neighbours[i].uid),
                             neighbours[i].compute_percent - static_cast<std::uint32_t>(given[i]));
      }
    }
    for (const auto& [uid, needed_more] : more_network) {
      const Gpu& gpu = gpus_.Find(uid)->gpu;
      const std::int64_t left = static_cast<std::int64_t>(gpu.status.allocatable_network_bytes_per_s) -
                                static_cast<std::int64_t>(gpu.status.allocated_network_bytes_per_s);
      if (needed_more <= 0 || needed_more <= left) continue;
      return Refusal(Code::kResourceExhausted,
                     name + " would need " + FormatSize(static_cast<std::uint64_t>(needed_more)) +
                         "/s more of the network of GPU " + gpu.metadata.name + ", which has " +
                         FormatSize(static_cast<std::uint64_t>(std::max<std::int64_t>(left, 0))) +
                         "/s left to promise; ask for less, or make another claim");
    }
    for (const auto& [uid, needed_more] : more_memory) {
      const Gpu& gpu = gpus_.Find(uid)->gpu;
      // After a restart of this controller nobody knows what vGPUs hold on to before their node has told.
      if (needed_more > 0 && !nodes_.Find(gpus_.Find(uid)->node_uid)->link) {
        return Refusal(Code::kUnavailable, name + " cannot have more memory while node " + gpu.spec.node +
                                               " is out of touch; try again when it is ready");
      }
      const std::int64_t left = static_cast<std::int64_t>(gpu.status.allocatable_memory_bytes) -
                                static_cast<std::int64_t>(gpu.status.allocated_memory_bytes);
      if (needed_more <= 0 || needed_more <= left) continue;
      return Refusal(Code::kResourceExhausted,
                     name + " would need " + FormatSize(static_cast<std::uint64_t>(needed_more)) +
                         " more of the memory of GPU " + gpu.metadata.name + ", which has " +
                         FormatSize(static_cast<std::uint64_t>(std::max<std::int64_t>(left, 0))) +
                         " left; ask for less, or make another claim");
    }
    const Tenant& tenant = TenantOf(claim.metadata()).tenant;
    if (const auto& memory = tenant.spec.quota.memory_bytes;
        memory && all_more_memory > 0 &&
        tenant.status.memory_bytes + static_cast<std::uint64_t>(all_more_memory) > *memory) {
      return Refusal(Code::kResourceExhausted,
                     "it would be " + FormatSize(static_cast<std::uint64_t>(all_more_memory)) +
                         " more, you have " + FormatSize(tenant.status.memory_bytes) +
                         ", and your quota is " + FormatSize(*memory));
    }
    const auto& quota = tenant.spec.quota.compute_percent;
    if (quota && all_more > 0 && tenant.status.compute_percent + all_more > *quota) {
      return Refusal(Code::kResourceExhausted, "it would be " + std::to_string(all_more) +
                                                   "% of a GPU more, you have " +
                                                   std::to_string(tenant.status.compute_percent) +
                                                   "%, and your quota is " + std::to_string(*quota) + "%");
    }
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());
  claim.model().spec = spec;
  Touch(Kind::kClaim, claim.metadata().uid, true);
  for (const auto& [vgpu, size] : shrinks) Resize(*vgpu, size);
  for (const auto& [vgpu, size] : sizes) {
    VGpuSpec& its = vgpu->model().spec;
    if (compute) {
      its.wanted_compute_percent = spec.compute_percent;
      vgpu->model().status.message.clear();
      vgpu->load = LoadSize();
    }
    Touch(Kind::kVGpu, vgpu->metadata().uid, true);
    const ResizeVGpu before = SizeOf(vgpu->model());
    Charge(vgpu->model(), -1);
    its.network_bytes_per_s = spec.network_bytes_per_s;
    if (event.memory_bytes != 0) its.memory_bytes = event.memory_bytes;
    Charge(vgpu->model(), +1);
    if (before.memory_bytes > its.memory_bytes) HoldMemory(*vgpu, before.memory_bytes);
    if (its.compute_percent == size) {
      Recount(*gpus_.Find(vgpu->record.gpu_uid));  // its least may be another, too
      NodeRecord* node = NodeOf(*vgpu);
      if (node != nullptr && SizeOf(vgpu->model()) != before) Command(*node, SizeOf(vgpu->model()));
    }
    Resize(*vgpu, size);
    may_grow_on_.insert(vgpu->record.gpu_uid);
  }
  AnswerWith(event.call, Kind::kClaim, claim.metadata().uid);
}

void Core::Grow() {
  for (const std::string& gpu_uid : std::exchange(may_grow_on_, {})) {
    const GpuState* gpu = gpus_.Find(gpu_uid);
    if (gpu == nullptr || !fleet_.IsOpen(gpu->gpu)) continue;
    const GpuStatus& status = gpu->gpu.status;
    if (status.allocated_compute_percent >= status.allocatable_compute_percent) continue;
    const std::uint32_t free = status.allocatable_compute_percent - status.allocated_compute_percent;
    std::vector<std::string> uids;
    std::vector<std::int32_t> wanted;
    std::map<std::string, std::uint32_t> left;  // of the tenants' quotas
    for (const ElasticVGpu& elastic : ElasticOf(*gpu)) {
      const VGpu& vgpu = vgpus_.Find(elastic.uid)->model();
      const TenantState& tenant = TenantOf(vgpu.metadata);
      std::uint32_t more = vgpu.spec.wanted_compute_percent - elastic.compute_percent;
      if (const auto& quota = tenant.tenant.spec.quota.compute_percent) {
        const std::uint32_t has = tenant.tenant.status.compute_percent;
        std::uint32_t& of_quota =
            left.emplace(vgpu.metadata.tenant, *quota - std::min(has, *quota)).first->second;
        more = std::min(more, of_quota);
        of_quota -= more;
      }
      if (more == 0) continue;
      uids.push_back(elastic.uid);
      wanted.push_back(static_cast<std::int32_t>(more));
    }
    const std::vector<std::int32_t> given = GiveAlike(static_cast<std::int32_t>(free), wanted);
    // No tenant has less than before, so nothing that waits for a quota has a place now.
    const bool room_changed = room_changed_;
    for (std::size_t i = 0; i < uids.size(); ++i) {
      VGpuState& vgpu = *vgpus_.Find(uids[i]);
      Resize(vgpu, vgpu.model().spec.compute_percent + static_cast<std::uint32_t>(given[i]));
    }
    room_changed_ = room_changed;
  }
  may_grow_on_.clear();
}

}  // namespace tulle::control
