// Nodes and their GPUs: registration, inventory, reports, silence, leaving.
#include "tulle/control/core/core.h"

#include <algorithm>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

void Core::UpdateFleet(const NodeRecord& node) {
  std::string closed_because;
  if (node.node.status.state != NodeState::kReady) {
    closed_because = Name(node.node.status.state);
  } else if (node.node.spec.cordoned) {
    closed_because = "cordoned";
  }
  fleet_.SetNode(node.metadata().name, node.metadata().labels, std::move(closed_because),
                 node.node.spec.taints);
}

Status Core::CheckNodeLimit() const {
  if (nodes_.size() < options_.max_nodes) return OkStatus();
  return Refusal(Code::kResourceExhausted,
                 "the mesh has " + std::to_string(nodes_.size()) + " nodes, its limit");
}

Core::NodeRecord* Core::NodeOfLink(LinkId link) {
  const auto it = node_of_link_.find(link);
  return it == node_of_link_.end() ? nullptr : nodes_.Find(it->second);
}

// The vGPU's node when it is in touch, or null.
Core::NodeRecord* Core::NodeOf(const VGpuState& vgpu) {
  NodeRecord* node = nodes_.Find(gpus_.Find(vgpu.record.gpu_uid)->node_uid);
  return node->link ? node : nullptr;
}

void Core::Command(NodeRecord& node, NodeCommand command) {
  TULLE_CHECK(node.link.has_value());
  ++node.commands;
  if (const auto* resize = std::get_if<ResizeVGpu>(&command)) {
    VGpuState* const vgpu = vgpus_.Find(resize->uid);
    if (vgpu != nullptr &&
        std::exchange(vgpu->told_memory_bytes, resize->memory_bytes) != resize->memory_bytes)
      vgpu->held_by = node.commands;
  }
  actions_.effects.push_back(SendToNode{*node.link, std::move(command)});
}

void Core::On(const RegisterNode& event) {
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(CheckName(event.name, "name"));
    TULLE_RETURN_IF_ERROR(CheckLabels(event.labels, "labels"));
    const auto invalid = [](const std::string& what) { return Refusal(Code::kInvalidArgument, what); };
    if (event.endpoint.empty() || event.endpoint.size() > kMaxMessageBytes)
      return invalid("data_endpoint: must have 1 to 512 bytes");
    if (event.local_endpoint.size() > kMaxMessageBytes)
      return invalid("local_endpoint: must have at most 512 bytes");
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
    return nodes_.Find("", event.name) == nullptr ? CheckNodeLimit() : OkStatus();
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
  node->commands = 0;
  node->heard = now_.mono;
  node->lost_at.reset();
  node->forget_at.reset();
  Node& model = node->node;
  model.metadata.labels = event.labels;
  model.metadata.labels[std::string(kNodeLabel)] = event.name;
  model.status.state = NodeState::kReady;
  model.status.message.clear();
  model.status.endpoint = event.endpoint;
  model.status.local_endpoint = event.local_endpoint;
  model.status.version = event.version;
  model.status.telemetry = event.telemetry;
  model.status.last_heartbeat_us = now_.wall_us;
  UpdateFleet(*node);
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
    gpu->gpu.status.allocatable_network_bytes_per_s = item.allocatable_network_bytes_per_s;
    gpu->gpu.status.allocatable_spill_bytes = item.allocatable_spill_bytes;
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
  // What goes comes first, then what has less than before, and what has more comes last, so that it fits at
  // all times.
  for (const auto& [uid, report] : reported) {
    const VGpuState* vgpu = vgpus_.Find(uid);
    const bool is_known = vgpu != nullptr && std::find(known.begin(), known.end(), uid) != known.end();
    if (report->state == ReportedState::kDeleted) continue;
    if (!is_known || vgpu->model().status.phase == VGpuPhase::kDeleting)
      Command(node, DeleteVGpu{.uid = uid});
  }
  std::vector<ResizeVGpu> more;
  for (const std::string& uid : known) {
    VGpuState* vgpu = vgpus_.Find(uid);
    if (vgpu != nullptr) {
      // Numbers were another link's, and nobody knows what arrived by it.
      vgpu->held_by = vgpu->told_memory_bytes = 0;
      if (vgpu->held_memory_bytes != 0) vgpu->held_until = now_.mono + options_.heartbeat_timeout;
    }
    const auto it = reported.find(uid);
    if (vgpu == nullptr || it == reported.end() || it->second->compute_percent == 0) continue;
    const ResizeVGpu resize = SizeOf(vgpu->model());
    if (resize.memory_bytes < it->second->memory_bytes) HoldMemory(*vgpu, it->second->memory_bytes);
    if (resize.compute_percent < it->second->compute_percent) {
      Command(node, resize);
    } else if (resize.compute_percent > it->second->compute_percent ||
               resize.network_bytes_per_s != it->second->network_bytes_per_s ||
               (it->second->memory_bytes != 0 && resize.memory_bytes != it->second->memory_bytes)) {
      more.push_back(resize);
    }
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
      const std::vector<Isolation>& offered =
          gpus_.Find(vgpu->record.gpu_uid)->gpu.spec.description.isolations;
      if (vgpu->model().spec.isolation == Isolation::kVm &&
          std::find(offered.begin(), offered.end(), Isolation::kVm) == offered.end()) {
        // A node that knows of none, being older than before, would make it as if that had not been asked
        // for.
        Fail(*vgpu, "IsolationGone", "its GPU offers no virtual machines any more");
        Reconcile(*claims_.Find(vgpu->record.claim_uid));
        continue;
      }
      // The node has restarted, or never heard of it: it is made (anew).
      SetPhase(*vgpu, VGpuPhase::kCreating);
      SendCreate(*vgpu);
      Reconcile(*claims_.Find(vgpu->record.claim_uid));
      continue;
    }
    const VGpuReport& report = *it->second;
    if (vgpu->model().status.phase == VGpuPhase::kDeleting && report.state != ReportedState::kDeleted)
      continue;
    std::set<std::string> extra(report.grant_ids.begin(), report.grant_ids.end());
    for (const Grant& grant : vgpu->record.grants) {
      if (extra.erase(grant.id) == 0) Command(node, AddGrant{.vgpu_uid = uid, .grant = grant});
    }
    for (const std::string& id : extra) Command(node, RevokeGrant{.vgpu_uid = uid, .grant_id = id});
    ApplyReport(*vgpu, report);
  }
  for (const ResizeVGpu& resize : more) Command(node, resize);
}

void Core::On(const NodeHeartbeat& event) {
  NodeRecord* node = NodeOfLink(event.link);
  if (node == nullptr) return;
  node->heard = now_.mono;
  node->node.status.telemetry = event.telemetry;
  node->node.status.last_heartbeat_us = now_.wall_us;
  for (const auto& [uid, usage] : event.vgpus) {
    VGpuState* vgpu = vgpus_.Find(uid);
    if (vgpu == nullptr || gpus_.Find(vgpu->record.gpu_uid)->node_uid != node->metadata().uid) continue;
    vgpu->model().status.usage = usage;
    if (event.done.has_value() && *event.done < vgpu->held_by)
      vgpu->held_until = now_.mono + options_.heartbeat_timeout;
    LetMemoryGo(*vgpu);
    FollowLoad(*vgpu);
    FollowSpill(*vgpu);
  }
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
  UpdateFleet(*node);
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
  UpdateFleet(node);
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
  if (IsDue(node.drain_at, now_.mono)) {
    node.drain_at.reset();
    for (const auto& [index, gpu_uid] : node.gpus)
      GiveUp(*gpus_.Find(gpu_uid), "NodeDrained", "node " + name + " has been drained", false);
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
  KeepEarliest(&next, node.drain_at);
  Arm(uid, next);
}

Core::NodeRecord* Core::NodeToChange(CallId call, const std::string& caller, const std::string& name) {
  if (Status status = Authorize(caller, Permission::kOperate); !status.ok()) {
    Answer(call, std::move(status).error());
    return nullptr;
  }
  NodeRecord* node = nodes_.Find("", name);
  if (node == nullptr) {
    Answer(call, Refusal(Code::kNotFound,
                         "there is no node \"" + Cut(name, kMaxNameBytes) + "\"; see `tulle get nodes`"));
  }
  return node;
}

// Tells claims that have vGPUs there what becomes of these.
void Core::SetScheduling(NodeRecord& node, bool cordoned, WallMicros drain_time_us) {
  node.node.spec.cordoned = cordoned;
  node.node.spec.drain_time_us = drain_time_us;
  node.drain_at.reset();
  if (drain_time_us != 0)
    node.drain_at =
        now_.mono + std::chrono::microseconds(std::max(drain_time_us - now_.wall_us, WallMicros{0}));
  UpdateFleet(node);
  for (const auto& [index, uid] : node.gpus) {
    GpuState& gpu = *gpus_.Find(uid);
    Recount(gpu);
    for (const std::string& vgpu : gpu.vgpus) {
      ClaimState* claim = claims_.Find(vgpus_.Find(vgpu)->record.claim_uid);
      if (claim != nullptr) UpdateDraining(*claim);
    }
  }
  Touch(Kind::kNode, node.metadata().uid, true);
  room_changed_ = true;
  CheckTimers(node);
}

void Core::UpdateDraining(ClaimState& claim) {
  const Node* first = nullptr;  // of its nodes that are drained, whose time is the earliest
  for (const std::string& uid : claim.vgpu_uids) {
    const Node& node = nodes_.Find(gpus_.Find(vgpus_.Find(uid)->record.gpu_uid)->node_uid)->node;
    const WallMicros time_us = node.spec.drain_time_us;
    if (time_us != 0 && (first == nullptr || time_us < first->spec.drain_time_us)) first = &node;
  }
  std::vector<Condition>& conditions = claim.model().status.conditions;
  const Condition* now = FindCondition(conditions, kDraining);
  if (first == nullptr && (now == nullptr || !now->status)) return;
  const bool changed =
      first == nullptr
          ? SetCondition(&conditions, kDraining, false, "Open", "", now_.wall_us)
          : SetCondition(&conditions, kDraining, true, "NodeDrains",
                         "node " + first->metadata.name + " is drained: what it has of the claim ends at " +
                             FormatUtc(first->spec.drain_time_us),
                         now_.wall_us);
  if (changed) Touch(Kind::kClaim, claim.metadata().uid, true);
}

void Core::On(const DrainNode& event) {
  NodeRecord* node = NodeToChange(event.call, event.caller, event.name);
  if (node == nullptr) return;
  const WallMicros grace_us = std::chrono::duration_cast<std::chrono::microseconds>(event.grace).count();
  if (grace_us < 0 || grace_us > kMaxDrainMicros) {
    return Answer(event.call, Refusal(Code::kInvalidArgument,
                                      "grace: " + Seconds(event.grace) + " is not from 0 to 30 days"));
  }
  SetScheduling(*node, true, now_.wall_us + grace_us);
  AnswerWith(event.call, Kind::kNode, node->metadata().uid);
}

void Core::On(const CordonNode& event) {
  NodeRecord* node = NodeToChange(event.call, event.caller, event.name);
  if (node == nullptr) return;
  SetScheduling(*node, event.cordoned, event.cordoned ? node->node.spec.drain_time_us : 0);
  AnswerWith(event.call, Kind::kNode, node->metadata().uid);
}

void Core::On(const CordonGpu& event) {
  if (Status status = Authorize(event.caller, Permission::kOperate); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  GpuState* gpu = gpus_.Find("", event.name);
  if (gpu == nullptr) {
    return Answer(event.call, Refusal(Code::kNotFound, "there is no GPU \"" + Cut(event.name, kMaxNameBytes) +
                                                           "\"; see `tulle get gpus`"));
  }
  SetCordoned(*gpu, event.cordoned, event.cordoned ? "by " + event.caller : "");
  AnswerWith(event.call, Kind::kGpu, gpu->metadata().uid);
}

void Core::On(const TaintNode& event) {
  NodeRecord* node = NodeToChange(event.call, event.caller, event.name);
  if (node == nullptr) return;
  if (Status status = CheckLabels(event.taints, "taints"); !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  node->node.spec.taints = event.taints;
  UpdateFleet(*node);
  Touch(Kind::kNode, node->metadata().uid, true);
  room_changed_ = true;
  AnswerWith(event.call, Kind::kNode, node->metadata().uid);
}

}  // namespace tulle::control
