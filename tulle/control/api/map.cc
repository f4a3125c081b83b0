#include "tulle/control/api/map.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <algorithm>

#include "tulle/base/check.h"

namespace tulle::control {
namespace {

// A node may tell anything.
float Percent(float told) { return told > 0 ? std::min(told, 100.0f) : 0; }

constexpr double kSecondsPerHour = 3600;

using google::protobuf::util::TimeUtil;

google::protobuf::Timestamp ToProtoTime(WallMicros us) { return TimeUtil::MicrosecondsToTimestamp(us); }
// Zero when not set; out of range stays what arithmetic makes of it, nobody but people reads it.
WallMicros FromProtoTime(const google::protobuf::Timestamp& time) {
  return static_cast<WallMicros>(static_cast<std::uint64_t>(time.seconds()) * 1'000'000u) +
         time.nanos() / 1000;
}

std::int64_t FromProtoDuration(const google::protobuf::Duration& duration) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(duration.seconds()) * 1'000'000u) +
         duration.nanos() / 1000;
}

template <typename Range, typename Repeated>
void CopyInto(const Range& from, Repeated* to) {
  to->Assign(from.begin(), from.end());
}
void CopyInto(const Labels& from, google::protobuf::Map<std::string, std::string>* to) {
  to->insert(from.begin(), from.end());
}
Labels LabelsOf(const google::protobuf::Map<std::string, std::string>& from) {
  return {from.begin(), from.end()};
}
std::vector<std::string> StringsOf(const google::protobuf::RepeatedPtrField<std::string>& from) {
  return {from.begin(), from.end()};
}

v1::Metadata ToProto(const Metadata& from) {
  v1::Metadata to;
  to.set_name(from.name);
  to.set_uid(from.uid);
  to.set_resource_version(from.resource_version);
  if (from.create_time_us != 0) *to.mutable_create_time() = ToProtoTime(from.create_time_us);
  to.set_tenant(from.tenant);
  CopyInto(from.labels, to.mutable_labels());
  return to;
}
Metadata FromProto(const v1::Metadata& from) {
  return {.name = from.name(),
          .uid = from.uid(),
          .resource_version = from.resource_version(),
          .create_time_us = FromProtoTime(from.create_time()),
          .tenant = from.tenant(),
          .labels = LabelsOf(from.labels())};
}

}  // namespace

v1::ClaimSpec ToProto(const ClaimSpec& from) {
  v1::ClaimSpec to;
  CopyInto(from.gpu_types, to.mutable_gpu_types());
  CopyInto(from.vendors, to.mutable_vendors());
  to.set_api(static_cast<v1::DeviceApi>(from.api));
  to.set_memory_bytes(from.memory_bytes);
  to.set_compute_percent(from.compute_percent);
  to.set_performance_level(static_cast<v1::PerformanceLevel>(from.performance_level));
  to.set_count(from.count);
  CopyInto(from.node_selector, to.mutable_node_selector());
  to.set_no_wait(from.no_wait);
  to.set_release_when_unheld(from.release_when_unheld);
  to.set_priority(from.priority);
  to.set_topology(static_cast<v1::Topology>(from.topology));
  CopyInto(from.tolerations, to.mutable_tolerations());
  if (from.duration_us != 0) *to.mutable_duration() = TimeUtil::MicrosecondsToDuration(from.duration_us);
  to.set_min_compute_percent(from.min_compute_percent);
  to.set_compute_units(from.compute_units);
  to.set_fp32_flops(from.fp32_flops);
  to.set_memory_bandwidth_bytes_per_s(from.memory_bandwidth);
  to.set_network_bytes_per_s(from.network_bytes_per_s);
  to.set_spill_bytes(from.spill_bytes);
  to.set_isolation(static_cast<v1::Isolation>(from.isolation));
  return to;
}
ClaimSpec FromProto(const v1::ClaimSpec& from) {
  return {.gpu_types = StringsOf(from.gpu_types()),
          .vendors = StringsOf(from.vendors()),
          .api = static_cast<DeviceApi>(from.api()),
          .memory_bytes = from.memory_bytes(),
          .compute_percent = from.compute_percent(),
          .performance_level = static_cast<PerformanceLevel>(from.performance_level()),
          .count = from.count(),
          .node_selector = LabelsOf(from.node_selector()),
          .no_wait = from.no_wait(),
          .release_when_unheld = from.release_when_unheld(),
          .priority = from.priority(),
          .topology = static_cast<Topology>(from.topology()),
          .tolerations = LabelsOf(from.tolerations()),
          .duration_us = FromProtoDuration(from.duration()),
          .min_compute_percent = from.min_compute_percent(),
          .compute_units = from.compute_units(),
          .fp32_flops = from.fp32_flops(),
          .memory_bandwidth = from.memory_bandwidth_bytes_per_s(),
          .network_bytes_per_s = from.network_bytes_per_s(),
          .spill_bytes = from.spill_bytes(),
          .isolation = static_cast<Isolation>(from.isolation())};
}

v1::Claim ToProto(const Claim& from) {
  v1::Claim to;
  *to.mutable_metadata() = ToProto(from.metadata);
  *to.mutable_spec() = ToProto(from.spec);
  v1::ClaimStatus& status = *to.mutable_status();
  status.set_phase(static_cast<v1::ClaimStatus::Phase>(from.status.phase));
  CopyInto(from.status.vgpus, status.mutable_vgpus());
  for (const Condition& condition : from.status.conditions) {
    v1::Condition& added = *status.add_conditions();
    added.set_type(condition.type);
    added.set_status(condition.status);
    added.set_reason(condition.reason);
    added.set_message(condition.message);
    if (condition.last_transition_us != 0)
      *added.mutable_last_transition_time() = ToProtoTime(condition.last_transition_us);
  }
  status.set_holders(from.status.holders);
  status.set_branch(static_cast<v1::AllocationBranch>(from.status.branch));
  status.set_placed_by(from.status.placed_by);
  return to;
}
Claim FromProto(const v1::Claim& from) {
  Claim to{.metadata = FromProto(from.metadata()), .spec = FromProto(from.spec())};
  to.status.phase = static_cast<ClaimPhase>(from.status().phase());
  to.status.branch = static_cast<AllocationBranch>(from.status().branch());
  to.status.placed_by = from.status().placed_by();
  to.status.vgpus = StringsOf(from.status().vgpus());
  for (const v1::Condition& condition : from.status().conditions()) {
    to.status.conditions.push_back({.type = condition.type(),
                                    .status = condition.status(),
                                    .reason = condition.reason(),
                                    .message = condition.message(),
                                    .last_transition_us = FromProtoTime(condition.last_transition_time())});
  }
  to.status.holders = from.status().holders();
  return to;
}

v1::ExplainClaimResponse ToProto(const ClaimExplanation& from) {
  v1::ExplainClaimResponse to;
  *to.mutable_claim() = ToProto(from.claim);
  to.set_policy(from.policy);
  to.set_waiting_position(from.waiting_position);
  to.set_waiting_claims(from.waiting_claims);
  for (const NodeVerdict& verdict : from.nodes) {
    v1::NodeVerdict& added = *to.add_nodes();
    added.set_node(verdict.node);
    added.set_room(verdict.room);
    added.set_gpu(verdict.gpu);
    added.set_score(verdict.score);
    added.set_message(verdict.message);
  }
  to.set_more_nodes(from.more_nodes);
  if (from.expected_wait_us) {
    *to.mutable_expected_wait() = TimeUtil::MicrosecondsToDuration(*from.expected_wait_us);
  }
  return to;
}
ClaimExplanation FromProto(const v1::ExplainClaimResponse& from) {
  ClaimExplanation to{.claim = FromProto(from.claim()),
                      .policy = from.policy(),
                      .waiting_position = from.waiting_position(),
                      .waiting_claims = from.waiting_claims(),
                      .more_nodes = from.more_nodes()};
  if (from.has_expected_wait()) to.expected_wait_us = FromProtoDuration(from.expected_wait());
  for (const v1::NodeVerdict& verdict : from.nodes()) {
    to.nodes.push_back({.node = verdict.node(),
                        .room = verdict.room(),
                        .gpu = verdict.gpu(),
                        .score = verdict.score(),
                        .message = verdict.message()});
  }
  return to;
}

v1::VGpuUsage ToProto(const VGpuUsage& from) {
  v1::VGpuUsage to;
  to.set_memory_used_bytes(from.memory_used_bytes);
  to.set_compute_used_percent(from.compute_used_percent);
  to.set_compute_share_percent(from.compute_share_percent);
  to.set_compute_throttled_percent(from.compute_throttled_percent);
  to.set_network_used_bytes_per_s(from.network_used_bytes_per_s);
  to.set_network_share_bytes_per_s(from.network_share_bytes_per_s);
  to.set_network_throttled_percent(from.network_throttled_percent);
  to.set_spilled_bytes(from.spilled_bytes);
  to.set_spill_bytes_per_s(from.spill_bytes_per_s);
  to.set_spill_wait_percent(from.spill_wait_percent);
  return to;
}
VGpuUsage FromProto(const v1::VGpuUsage& from) {
  return {.memory_used_bytes = from.memory_used_bytes(),
          .compute_used_percent = Percent(from.compute_used_percent()),
          .compute_share_percent = Percent(from.compute_share_percent()),
          .compute_throttled_percent = Percent(from.compute_throttled_percent()),
          .network_used_bytes_per_s = from.network_used_bytes_per_s(),
          .network_share_bytes_per_s = from.network_share_bytes_per_s(),
          .network_throttled_percent = Percent(from.network_throttled_percent()),
          .spilled_bytes = from.spilled_bytes(),
          .spill_bytes_per_s = from.spill_bytes_per_s(),
          .spill_wait_percent = Percent(from.spill_wait_percent())};
}

v1::VGpu ToProto(const VGpu& from) {
  v1::VGpu to;
  *to.mutable_metadata() = ToProto(from.metadata);
  to.mutable_spec()->set_claim(from.spec.claim);
  to.mutable_spec()->set_gpu(from.spec.gpu);
  to.mutable_spec()->set_memory_bytes(from.spec.memory_bytes);
  to.mutable_spec()->set_compute_percent(from.spec.compute_percent);
  to.mutable_spec()->set_performance_level(static_cast<v1::PerformanceLevel>(from.spec.performance_level));
  to.mutable_spec()->set_wanted_compute_percent(from.spec.wanted_compute_percent);
  to.mutable_spec()->set_network_bytes_per_s(from.spec.network_bytes_per_s);
  to.mutable_spec()->set_spill_bytes(from.spec.spill_bytes);
  to.mutable_spec()->set_isolation(static_cast<v1::Isolation>(from.spec.isolation));
  to.mutable_status()->set_phase(static_cast<v1::VGpuStatus::Phase>(from.status.phase));
  to.mutable_status()->set_node(from.status.node);
  to.mutable_status()->set_endpoint(from.status.endpoint);
  to.mutable_status()->set_sessions(from.status.sessions);
  to.mutable_status()->set_message(from.status.message);
  if (from.status.usage != VGpuUsage()) *to.mutable_status()->mutable_usage() = ToProto(from.status.usage);
  return to;
}
VGpu FromProto(const v1::VGpu& from) {
  return {.metadata = FromProto(from.metadata()),
          .spec = {.claim = from.spec().claim(),
                   .gpu = from.spec().gpu(),
                   .memory_bytes = from.spec().memory_bytes(),
                   .compute_percent = from.spec().compute_percent(),
                   .performance_level = static_cast<PerformanceLevel>(from.spec().performance_level()),
                   // An older store does not say it.
                   .wanted_compute_percent =
                       std::max(from.spec().wanted_compute_percent(), from.spec().compute_percent()),
                   .network_bytes_per_s = from.spec().network_bytes_per_s(),
                   .spill_bytes = from.spec().spill_bytes(),
                   .isolation = static_cast<Isolation>(from.spec().isolation())},
          .status = {.phase = static_cast<VGpuPhase>(from.status().phase()),
                     .node = from.status().node(),
                     .endpoint = from.status().endpoint(),
                     .sessions = from.status().sessions(),
                     .message = from.status().message(),
                     .usage = FromProto(from.status().usage())}};
}

v1::GpuDescription ToProto(const GpuDescription& from) {
  v1::GpuDescription to;
  to.set_type(from.type);
  to.set_vendor(from.vendor);
  for (const DeviceApi api : from.apis) to.add_apis(static_cast<v1::DeviceApi>(api));
  to.set_memory_bytes(from.memory_bytes);
  to.set_compute_units(from.compute_units);
  to.set_clock_mhz(from.clock_mhz);
  to.set_bandwidth_bytes_per_s(from.bandwidth_bytes_per_s);
  to.set_fp32_flops(from.fp32_flops);
  to.set_compute_sharing(static_cast<v1::ComputeSharing>(from.compute_sharing));
  to.set_driver(from.driver);
  for (const Isolation isolation : from.isolations) to.add_isolations(static_cast<v1::Isolation>(isolation));
  return to;
}
GpuDescription FromProto(const v1::GpuDescription& from) {
  GpuDescription to{.type = from.type(),
                    .vendor = from.vendor(),
                    .memory_bytes = from.memory_bytes(),
                    .compute_units = from.compute_units(),
                    .clock_mhz = from.clock_mhz(),
                    .bandwidth_bytes_per_s = from.bandwidth_bytes_per_s(),
                    .fp32_flops = from.fp32_flops(),
                    .driver = from.driver(),
                    .compute_sharing = static_cast<ComputeSharing>(from.compute_sharing())};
  for (const int api : from.apis()) to.apis.push_back(static_cast<DeviceApi>(api));
  for (const int isolation : from.isolations()) to.isolations.push_back(static_cast<Isolation>(isolation));
  return to;
}

v1::Gpu ToProto(const Gpu& from) {
  v1::Gpu to;
  *to.mutable_metadata() = ToProto(from.metadata);
  to.mutable_spec()->set_node(from.spec.node);
  to.mutable_spec()->set_index(from.spec.index);
  *to.mutable_spec()->mutable_description() = ToProto(from.spec.description);
  v1::GpuStatus& status = *to.mutable_status();
  status.set_allocatable_memory_bytes(from.status.allocatable_memory_bytes);
  status.set_allocatable_compute_percent(from.status.allocatable_compute_percent);
  status.set_allocated_memory_bytes(from.status.allocated_memory_bytes);
  status.set_allocated_compute_percent(from.status.allocated_compute_percent);
  status.set_allocatable_network_bytes_per_s(from.status.allocatable_network_bytes_per_s);
  status.set_allocated_network_bytes_per_s(from.status.allocated_network_bytes_per_s);
  status.set_allocatable_spill_bytes(from.status.allocatable_spill_bytes);
  status.set_allocated_spill_bytes(from.status.allocated_spill_bytes);
  status.set_vgpus(from.status.vgpus);
  status.set_schedulable(from.status.schedulable);
  status.set_message(from.status.message);
  to.mutable_spec()->set_cordoned(from.spec.cordoned);
  return to;
}
Gpu FromProto(const v1::Gpu& from) {
  return {.metadata = FromProto(from.metadata()),
          .spec = {.node = from.spec().node(),
                   .index = from.spec().index(),
                   .description = FromProto(from.spec().description()),
                   .cordoned = from.spec().cordoned()},
          .status = {.allocatable_memory_bytes = from.status().allocatable_memory_bytes(),
                     .allocatable_compute_percent = from.status().allocatable_compute_percent(),
                     .allocated_memory_bytes = from.status().allocated_memory_bytes(),
                     .allocated_compute_percent = from.status().allocated_compute_percent(),
                     .allocatable_network_bytes_per_s = from.status().allocatable_network_bytes_per_s(),
                     .allocated_network_bytes_per_s = from.status().allocated_network_bytes_per_s(),
                     .allocatable_spill_bytes = from.status().allocatable_spill_bytes(),
                     .allocated_spill_bytes = from.status().allocated_spill_bytes(),
                     .vgpus = from.status().vgpus(),
                     .schedulable = from.status().schedulable(),
                     .message = from.status().message()}};
}

v1::NodeTelemetry ToProto(const NodeTelemetry& from) {
  v1::NodeTelemetry to;
  to.set_cpus(from.cpus);
  to.set_cpu_percent(from.cpu_percent);
  to.set_memory_total_bytes(from.memory_total_bytes);
  to.set_memory_available_bytes(from.memory_available_bytes);
  to.set_network_received_bytes(from.network_received_bytes);
  to.set_network_sent_bytes(from.network_sent_bytes);
  to.set_sessions(from.sessions);
  return to;
}
NodeTelemetry FromProto(const v1::NodeTelemetry& from) {
  return {.cpus = from.cpus(),
          .cpu_percent = from.cpu_percent(),
          .memory_total_bytes = from.memory_total_bytes(),
          .memory_available_bytes = from.memory_available_bytes(),
          .network_received_bytes = from.network_received_bytes(),
          .network_sent_bytes = from.network_sent_bytes(),
          .sessions = from.sessions()};
}

v1::Node ToProto(const Node& from) {
  v1::Node to;
  *to.mutable_metadata() = ToProto(from.metadata);
  to.mutable_spec()->set_cordoned(from.spec.cordoned);
  CopyInto(from.spec.taints, to.mutable_spec()->mutable_taints());
  if (from.spec.drain_time_us != 0)
    *to.mutable_spec()->mutable_drain_time() = ToProtoTime(from.spec.drain_time_us);
  v1::NodeStatus& status = *to.mutable_status();
  status.set_state(static_cast<v1::NodeStatus::State>(from.status.state));
  status.set_endpoint(from.status.endpoint);
  status.set_version(from.status.version);
  if (from.status.last_heartbeat_us != 0)
    *status.mutable_last_heartbeat_time() = ToProtoTime(from.status.last_heartbeat_us);
  *status.mutable_telemetry() = ToProto(from.status.telemetry);
  status.set_gpus(from.status.gpus);
  status.set_vgpus(from.status.vgpus);
  status.set_message(from.status.message);
  status.set_local_endpoint(from.status.local_endpoint);
  return to;
}
Node FromProto(const v1::Node& from) {
  return {
      .metadata = FromProto(from.metadata()),
      .spec = {.cordoned = from.spec().cordoned(),
               .taints = LabelsOf(from.spec().taints()),
               .drain_time_us = from.spec().has_drain_time() ? FromProtoTime(from.spec().drain_time()) : 0},
      .status = {.state = static_cast<NodeState>(from.status().state()),
                 .endpoint = from.status().endpoint(),
                 .local_endpoint = from.status().local_endpoint(),
                 .version = from.status().version(),
                 .last_heartbeat_us = FromProtoTime(from.status().last_heartbeat_time()),
                 .telemetry = FromProto(from.status().telemetry()),
                 .gpus = from.status().gpus(),
                 .vgpus = from.status().vgpus(),
                 .message = from.status().message()}};
}

v1::Session ToProto(const Session& from) {
  v1::Session to;
  *to.mutable_metadata() = ToProto(from.metadata);
  to.mutable_spec()->set_vgpu(from.spec.vgpu);
  to.mutable_spec()->set_claim(from.spec.claim);
  to.mutable_status()->set_node(from.status.node);
  to.mutable_status()->set_program(from.status.program);
  to.mutable_status()->set_process_id(from.status.process_id);
  to.mutable_status()->set_channel(from.status.channel);
  return to;
}
Session FromProto(const v1::Session& from) {
  return {.metadata = FromProto(from.metadata()),
          .spec = {.vgpu = from.spec().vgpu(), .claim = from.spec().claim()},
          .status = {.node = from.status().node(),
                     .program = from.status().program(),
                     .process_id = from.status().process_id(),
                     .channel = from.status().channel()}};
}

v1::Instance ToProto(const Instance& from) {
  v1::Instance to;
  *to.mutable_metadata() = ToProto(from.metadata);
  to.mutable_spec();
  to.mutable_status()->set_address(from.status.address);
  CopyInto(from.status.claims, to.mutable_status()->mutable_claims());
  if (from.status.last_seen_us != 0)
    *to.mutable_status()->mutable_last_seen_time() = ToProtoTime(from.status.last_seen_us);
  return to;
}
Instance FromProto(const v1::Instance& from) {
  return {.metadata = FromProto(from.metadata()),
          .status = {.address = from.status().address(),
                     .claims = StringsOf(from.status().claims()),
                     .last_seen_us = FromProtoTime(from.status().last_seen_time())}};
}

v1::TenantSpec ToProto(const TenantSpec& from) {
  v1::TenantSpec to;
  to.set_role(static_cast<v1::TenantRole>(from.role));
  v1::Quota& quota = *to.mutable_quota();
  if (from.quota.memory_bytes) quota.set_memory_bytes(*from.quota.memory_bytes);
  if (from.quota.compute_percent) quota.set_compute_percent(*from.quota.compute_percent);
  if (from.quota.vgpus) quota.set_vgpus(*from.quota.vgpus);
  if (from.quota.claims) quota.set_claims(*from.quota.claims);
  to.set_weight(from.weight);
  to.set_suspended(from.suspended);
  return to;
}
TenantSpec FromProto(const v1::TenantSpec& from) {
  TenantSpec to{
      .role = static_cast<TenantRole>(from.role()), .weight = from.weight(), .suspended = from.suspended()};
  const v1::Quota& quota = from.quota();
  if (quota.has_memory_bytes()) to.quota.memory_bytes = quota.memory_bytes();
  if (quota.has_compute_percent()) to.quota.compute_percent = quota.compute_percent();
  if (quota.has_vgpus()) to.quota.vgpus = quota.vgpus();
  if (quota.has_claims()) to.quota.claims = quota.claims();
  return to;
}

v1::Tenant ToProto(const Tenant& from) {
  v1::Tenant to;
  *to.mutable_metadata() = ToProto(from.metadata);
  *to.mutable_spec() = ToProto(from.spec);
  v1::TenantStatus& status = *to.mutable_status();
  status.set_memory_bytes(from.status.memory_bytes);
  status.set_compute_percent(from.status.compute_percent);
  status.set_vgpus(from.status.vgpus);
  status.set_claims(from.status.claims);
  status.set_waiting_claims(from.status.waiting_claims);
  status.set_dominant_share(from.status.dominant_share);
  return to;
}
Tenant FromProto(const v1::Tenant& from) {
  return {.metadata = FromProto(from.metadata()),
          .spec = FromProto(from.spec()),
          .status = {.memory_bytes = from.status().memory_bytes(),
                     .compute_percent = from.status().compute_percent(),
                     .vgpus = from.status().vgpus(),
                     .claims = from.status().claims(),
                     .waiting_claims = from.status().waiting_claims(),
                     .dominant_share = from.status().dominant_share()}};
}

v1::TenantUsage ToProto(const TenantUsage& from) {
  v1::TenantUsage to;
  to.set_tenant(from.tenant);
  to.set_gpu_seconds(from.usage.gpu_seconds);
  to.set_memory_gib_hours(from.usage.memory_gib_seconds / kSecondsPerHour);
  to.set_vgpu_hours(from.usage.vgpu_seconds / kSecondsPerHour);
  return to;
}
TenantUsage FromProto(const v1::TenantUsage& from) {
  return {.tenant = from.tenant(),
          .usage = {.gpu_seconds = from.gpu_seconds(),
                    .memory_gib_seconds = from.memory_gib_hours() * kSecondsPerHour,
                    .vgpu_seconds = from.vgpu_hours() * kSecondsPerHour}};
}

v1::AuditEntry ToProto(const AuditEntry& from) {
  v1::AuditEntry to;
  *to.mutable_time() = ToProtoTime(from.time_us);
  to.set_caller(from.caller);
  to.set_address(from.address);
  to.set_method(from.method);
  to.set_request(from.request);
  to.set_code(from.code);
  to.set_message(from.message);
  return to;
}
AuditEntry FromProto(const v1::AuditEntry& from) {
  return {.time_us = FromProtoTime(from.time()),
          .caller = from.caller(),
          .address = from.address(),
          .method = from.method(),
          .request = from.request(),
          .code = from.code(),
          .message = from.message()};
}

v1::ApiToken ToProto(const ApiToken& from) {
  v1::ApiToken to;
  to.set_id(from.id);
  to.set_tenant(from.tenant);
  to.set_description(from.description);
  *to.mutable_create_time() = ToProtoTime(from.create_time_us);
  *to.mutable_expire_time() = ToProtoTime(from.expire_time_us);
  return to;
}
ApiToken FromProto(const v1::ApiToken& from) {
  return {.id = from.id(),
          .tenant = from.tenant(),
          .description = from.description(),
          .create_time_us = FromProtoTime(from.create_time()),
          .expire_time_us = FromProtoTime(from.expire_time())};
}

v1::Event ToProto(const ResourceEvent& from) {
  v1::Event to;
  *to.mutable_time() = ToProtoTime(from.time_us);
  to.set_kind(static_cast<v1::Kind>(from.kind));
  to.set_tenant(from.tenant);
  to.set_name(from.name);
  to.set_uid(from.uid);
  to.set_reason(from.reason);
  to.set_message(from.message);
  return to;
}
ResourceEvent FromProto(const v1::Event& from) {
  return {.time_us = FromProtoTime(from.time()),
          .kind = static_cast<Kind>(from.kind()),
          .tenant = from.tenant(),
          .name = from.name(),
          .uid = from.uid(),
          .reason = from.reason(),
          .message = from.message()};
}

v1::AttachedVGpu ToProto(const AttachedVGpu& from) {
  v1::AttachedVGpu to;
  to.set_vgpu(from.vgpu);
  to.set_vgpu_uid(from.vgpu_uid);
  CopyInto(from.endpoints, to.mutable_endpoints());
  to.set_grant_id(from.grant_id);
  to.set_grant_key(std::string(AsText(from.grant_key.Expose())));
  *to.mutable_device() = ToProto(from.device);
  to.set_memory_bytes(from.memory_bytes);
  to.set_compute_percent(from.compute_percent);
  to.set_performance_level(static_cast<v1::PerformanceLevel>(from.performance_level));
  return to;
}
AttachedVGpu FromProto(const v1::AttachedVGpu& from) {
  return {.vgpu = from.vgpu(),
          .vgpu_uid = from.vgpu_uid(),
          .endpoints = StringsOf(from.endpoints()),
          .grant_id = from.grant_id(),
          .grant_key = Secret(AsBytes(from.grant_key())),
          .device = FromProto(from.device()),
          .memory_bytes = from.memory_bytes(),
          .compute_percent = from.compute_percent(),
          .performance_level = static_cast<PerformanceLevel>(from.performance_level())};
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  std::string json;
  // Fails only for messages with a malformed Any, and there are none in this API.
  TULLE_CHECK(google::protobuf::util::MessageToJsonString(message, &json, options).ok());
  return json;
}

}  // namespace tulle::control
