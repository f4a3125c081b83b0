// vGPUs whose share of compute changes while they run, as there is room.
#include <algorithm>
#include <map>
#include <utility>

#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"
#include "tulle/control/placement/repack.h"

namespace tulle::control {

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
  if (const NodeRecord* node = NodeOf(vgpu))
    Command(*node, ResizeVGpu{.uid = model.metadata.uid, .compute_percent = compute_percent});
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
