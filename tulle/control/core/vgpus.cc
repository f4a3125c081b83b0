// A vGPU's life, and what the vGPUs of a GPU take of it.
#include "tulle/control/core/core.h"

#include "tulle/base/check.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

void Core::SetPhase(VGpuState& vgpu, VGpuPhase phase) {
  VGpuStatus& status = vgpu.model().status;
  if (status.phase == phase) return;
  TULLE_CHECK(MayBecome(status.phase, phase));
  if (phase == VGpuPhase::kDeleting) Charge(vgpu.model(), -1);
  status.phase = phase;
  if (phase != VGpuPhase::kReady) {
    status.sessions = 0;
    SetSessions(vgpu, {});
    vgpu.accepted.clear();
  }
  Touch(Kind::kVGpu, vgpu.metadata().uid, true);
  if (phase != VGpuPhase::kFailed && phase != VGpuPhase::kDeleting) return;
  // It takes its room until it is gone, but makes no more for others.
  const ClaimState* claim = claims_.Find(vgpu.record.claim_uid);
  const GpuState& gpu = *gpus_.Find(vgpu.record.gpu_uid);
  if (claim != nullptr && IsElastic(claim->model().spec)) fleet_.SetGpu(gpu.gpu, ElasticOf(gpu));
}

void Core::BeginDelete(VGpuState& vgpu) {
  SetPhase(vgpu, VGpuPhase::kDeleting);
  vgpu.record.grants.clear();
  if (NodeRecord* node = NodeOf(vgpu); node != nullptr)
    Command(*node, DeleteVGpu{.uid = vgpu.metadata().uid});
}

void Core::EraseVGpu(const std::string& uid) {
  VGpuState* vgpu = vgpus_.Find(uid);
  if (vgpu->model().status.phase != VGpuPhase::kDeleting) Charge(vgpu->model(), -1);
  SetSessions(*vgpu, {});
  GpuState& gpu = *gpus_.Find(vgpu->record.gpu_uid);
  gpu.vgpus.erase(uid);
  Recount(gpu);
  Remove(vgpus_, Kind::kVGpu, uid);
  room_changed_ = true;
}

void Core::ApplyReport(VGpuState& vgpu, const VGpuReport& report) {
  VGpuStatus& status = vgpu.model().status;
  const std::string uid = vgpu.metadata().uid;
  if (status.phase == VGpuPhase::kCreating && report.state == ReportedState::kFailed) {
    GpuState& gpu = *gpus_.Find(vgpu.record.gpu_uid);
    if (++gpu.failed_starts >= options_.gpu_start_failures && !gpu.gpu.spec.cordoned) {
      SetCordoned(gpu, true,
                  std::to_string(gpu.failed_starts) + " vGPUs in a row did not start on it, the last one: " +
                      Cut(report.message, kMaxMessageBytes) + "; `tulle uncordon " + gpu.metadata().name +
                      "` once that is mended");
    }
  }
  if (status.phase == VGpuPhase::kDeleting) {
    if (report.state == ReportedState::kDeleted) EraseVGpu(uid);
    return;
  }
  switch (report.state) {
    case ReportedState::kCreating: SetPhase(vgpu, VGpuPhase::kCreating); break;
    case ReportedState::kReady:
      gpus_.Find(vgpu.record.gpu_uid)->failed_starts = 0;
      SetPhase(vgpu, VGpuPhase::kReady);
      vgpu.accepted.clear();
      vgpu.accepted.insert(report.grant_ids.begin(), report.grant_ids.end());
      if (status.sessions != report.sessions) {
        status.sessions = report.sessions;
        Touch(Kind::kVGpu, uid, false);
      }
      SetSessions(vgpu, report.attached);
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
  NodeRecord* node = NodeOf(vgpu);
  if (node == nullptr) return;
  const VGpu& model = vgpu.model();
  Command(*node, CreateVGpu{.uid = model.metadata.uid,
                            .name = model.metadata.name,
                            .tenant = model.metadata.tenant,
                            .gpu_index = gpus_.Find(vgpu.record.gpu_uid)->gpu.spec.index,
                            .memory_bytes = model.spec.memory_bytes,
                            .compute_percent = model.spec.compute_percent,
                            .performance_level = model.spec.performance_level,
                            .grants = vgpu.record.grants,
                            .network_bytes_per_s = model.spec.network_bytes_per_s,
                            .spill_bytes = model.spec.spill_bytes,
                            .isolation = model.spec.isolation});
}

void Core::SetCordoned(GpuState& gpu, bool cordoned, std::string why) {
  gpu.gpu.spec.cordoned = cordoned;
  gpu.gpu.status.message = std::move(why);
  gpu.failed_starts = 0;
  Recount(gpu);
  Touch(Kind::kGpu, gpu.metadata().uid, true);
  room_changed_ = true;
}

void Core::Recount(GpuState& gpu) {
  GpuStatus& status = gpu.gpu.status;
  status.allocated_memory_bytes = 0;
  status.allocated_compute_percent = 0;
  status.allocated_network_bytes_per_s = 0;
  status.allocated_spill_bytes = 0;
  status.vgpus = static_cast<std::uint32_t>(gpu.vgpus.size());
  for (const std::string& uid : gpu.vgpus) {
    const VGpuState& vgpu = *vgpus_.Find(uid);
    const VGpuSpec& spec = vgpu.model().spec;
    status.allocated_memory_bytes += vgpu.memory_bytes();
    status.allocated_compute_percent += ReservedComputePercent(spec.performance_level, spec.compute_percent);
    status.allocated_network_bytes_per_s += spec.network_bytes_per_s;
    status.allocated_spill_bytes += spec.spill_bytes;
  }
  capacity_memory_bytes_ += status.allocatable_memory_bytes - gpu.counted_memory_bytes;
  capacity_compute_percent_ += status.allocatable_compute_percent - gpu.counted_compute_percent;
  gpu.counted_memory_bytes = status.allocatable_memory_bytes;
  gpu.counted_compute_percent = status.allocatable_compute_percent;
  NodeRecord& node = *nodes_.Find(gpu.node_uid);
  status.schedulable =
      node.node.status.state == NodeState::kReady && !node.node.spec.cordoned && !gpu.gpu.spec.cordoned;
  node.node.status.vgpus = 0;
  for (const auto& [index, gpu_uid] : node.gpus) {
    if (const GpuState* other = gpus_.Find(gpu_uid)) node.node.status.vgpus += other->gpu.status.vgpus;
  }
  std::vector<ElasticVGpu> elastic = ElasticOf(gpu);
  for (const ElasticVGpu& vgpu : elastic) {
    const VGpuSpec& spec = vgpus_.Find(vgpu.uid)->model().spec;
    if (spec.compute_percent < spec.wanted_compute_percent) may_grow_on_.insert(gpu.metadata().uid);
  }
  fleet_.SetGpu(gpu.gpu, std::move(elastic));
  Touch(Kind::kGpu, gpu.metadata().uid, false);
  Touch(Kind::kNode, node.metadata().uid, false);
}

}  // namespace tulle::control
