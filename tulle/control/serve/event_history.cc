#include "tulle/control/serve/event_history.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "tulle/control/model/rules.h"
#include "tulle/control/serve/event_log.h"

namespace tulle::control {
namespace {

// Where a resource stands: it is told when the reason is another than before.
struct Step {
  std::string reason;
  std::string message;
};

Step StepOf(const Claim& claim) {
  const ClaimStatus& status = claim.status;
  const auto find = [&](const char* type) { return FindCondition(status.conditions, type); };
  const Condition* placed = find("Placed");
  const Condition* ready = find("Ready");
  if (status.phase == ClaimPhase::kPending && placed != nullptr && !placed->status) {
    return {placed->reason, placed->message};
  }
  if (status.phase == ClaimPhase::kPending || status.phase == ClaimPhase::kBound) {
    std::string on;
    for (const std::string& vgpu : status.vgpus) on += (on.empty() ? "" : ", ") + vgpu;
    const bool again = status.phase == ClaimPhase::kBound && ready != nullptr && !ready->status;
    const bool bound = status.phase == ClaimPhase::kBound;
    return {
        again   ? ready->reason
        : bound ? Name(status.phase)
                : "Placed",
        again ? ready->message : on + (status.placed_by.empty() ? "" : ", chosen by " + status.placed_by)};
  }
  return {Name(status.phase), ready == nullptr ? "" : ready->message};
}
Step StepOf(const VGpu& vgpu) {
  const VGpuSpec& spec = vgpu.spec;
  const std::string& message = vgpu.status.message;
  const bool has_less = spec.compute_percent < spec.wanted_compute_percent;
  if (vgpu.status.phase == VGpuPhase::kReady && (has_less || !message.empty())) {
    const std::string has = std::to_string(spec.compute_percent) + "%";
    return {"READY," + has, (message.empty() ? "" : message + "; ") + "has " + has +
                                (has_less ? " of the " + std::to_string(spec.wanted_compute_percent) +
                                                "% of compute that it wants"
                                          : " of compute")};
  }
  return {Name(vgpu.status.phase), vgpu.status.message.empty()
                                       ? "for claim " + vgpu.spec.claim + " on GPU " + vgpu.spec.gpu
                                       : vgpu.status.message};
}
Step StepOf(const Node& node) {
  std::string taints;
  for (const auto& [key, value] : node.spec.taints) taints += " " + key + "=" + value;
  const std::string scheduling = SchedulingOf(node);
  return {Name(node.status.state) + (scheduling.empty() ? "" : "," + scheduling) +
              (taints.empty() ? "" : ",tainted" + taints),
          node.status.message};
}
Step StepOf(const Gpu& gpu) {
  return gpu.spec.cordoned ? Step{"CORDONED", gpu.status.message}
                           : Step{"PRESENT", gpu.spec.description.type};
}
Step StepOf(const Tenant& tenant) {
  return {Name(tenant.spec.role) + std::string(tenant.spec.suspended ? ",suspended" : ""), ""};
}
Step StepOf(const Instance&) { return {"PRESENT", ""}; }
Step StepOf(const Session& session) {
  return {"ATTACHED", session.status.program + ", process " + std::to_string(session.status.process_id) +
                          ", to vGPU " + session.spec.vgpu};
}

}  // namespace

void EventHistory::Begin(const Resource& resource) {
  std::visit([this](const auto& r) { state_.lock()->last[r.metadata.uid] = StepOf(r).reason; }, resource);
}

void EventHistory::Append(const std::vector<Change>& changes, WallMicros now_us) {
  auto state = state_.lock();
  for (const Change& change : changes) {
    std::visit(
        [&](const auto& resource) {
          const Metadata& metadata = resource.metadata;
          Step step = StepOf(resource);
          if (change.type == ChangeType::kDeleted) {
            state->last.erase(metadata.uid);
            step = {"GONE", ""};
          } else if (std::exchange(state->last[metadata.uid], step.reason) == step.reason) {
            return;
          }
          state->events.push_back({.time_us = now_us,
                                   .kind = KindOf(change.resource),
                                   .tenant = metadata.tenant,
                                   .name = metadata.name,
                                   .uid = metadata.uid,
                                   .reason = step.reason,
                                   .message = std::move(step.message)});
        },
        change.resource);
  }
  while (state->events.size() > most_) state->events.pop_front();
}

std::vector<ResourceEvent> EventHistory::Read(std::size_t most,
                                              const std::function<bool(const ResourceEvent&)>& wanted) {
  std::vector<ResourceEvent> found;
  auto state = state_.lock();
  for (auto it = state->events.rbegin(); it != state->events.rend() && found.size() < most; ++it) {
    if (wanted(*it)) found.push_back(*it);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace tulle::control
