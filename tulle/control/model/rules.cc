#include "tulle/control/model/rules.h"

#include <algorithm>
#include <ctime>
#include <initializer_list>
#include <string>

#include "tulle/base/bytes.h"

namespace tulle::control {
namespace {

Error Invalid(std::string_view path, const std::string& what) {
  return Error{.code = Code::kInvalidArgument, .message = std::string(path) + ": " + what};
}

Status CheckTerms(const std::vector<std::string>& terms, std::string_view path) {
  if (terms.size() > kMaxSelectorTerms) {
    return Invalid(path,
                   std::to_string(terms.size()) + " entries, at most " + std::to_string(kMaxSelectorTerms));
  }
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if (terms[i].empty() || terms[i].size() > kMaxNameBytes) {
      return Invalid(std::string(path) + "[" + std::to_string(i) + "]", "must have 1 to 63 bytes");
    }
  }
  return OkStatus();
}

template <typename Phase>
bool IsOneOf(Phase phase, std::initializer_list<Phase> phases) {
  return std::find(phases.begin(), phases.end(), phase) != phases.end();
}

// 0 is not given.
Status CheckMemory(std::uint64_t bytes, const char* path) {
  if (bytes != 0 && bytes < kMinMemoryBytes)
    return Invalid(path, FormatSize(bytes) + " is less than the least, " + FormatSize(kMinMemoryBytes));
  if (bytes > kMaxMemoryBytes)
    return Invalid(path, FormatSize(bytes) + " is more than the most, " + FormatSize(kMaxMemoryBytes));
  return OkStatus();
}

}  // namespace

bool IsResourceName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name.front() != '-' && name.back() != '-' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

Status CheckName(std::string_view name, std::string_view path) {
  if (IsResourceName(name)) return OkStatus();
  return Invalid(path, "\"" + std::string(name.substr(0, kMaxNameBytes)) +
                           "\" is not a name: use 1 to 63 of a-z, 0-9 and '-', not '-' at either end");
}

Status CheckLabels(const Labels& labels, std::string_view path) {
  if (labels.size() > kMaxLabels) {
    return Invalid(path, std::to_string(labels.size()) + " labels, at most " + std::to_string(kMaxLabels));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMaxNameBytes || value.size() > kMaxNameBytes) {
      return Invalid(std::string(path) + "[\"" + key.substr(0, kMaxNameBytes) + "\"]",
                     "keys have 1 to 63 bytes, values at most 63");
    }
  }
  return OkStatus();
}

Status CheckClaimSpec(const ClaimSpec& spec) {
  TULLE_RETURN_IF_ERROR(CheckTerms(spec.gpu_types, "spec.gpu_types"));
  TULLE_RETURN_IF_ERROR(CheckTerms(spec.vendors, "spec.vendors"));
  TULLE_RETURN_IF_ERROR(CheckLabels(spec.node_selector, "spec.node_selector"));
  TULLE_RETURN_IF_ERROR(CheckMemory(spec.memory_bytes, "spec.memory_bytes"));
  if (spec.spill_bytes != 0 && spec.api == DeviceApi::kCuda) {
    return Invalid("spec.spill_bytes",
                   "is for OPENCL: memory of CUDA's programs is on their GPU at all times; leave it out");
  }
  TULLE_RETURN_IF_ERROR(CheckMemory(spec.spill_bytes, "spec.spill_bytes"));
  if (spec.compute_percent > 100) {
    return Invalid("spec.compute_percent",
                   std::to_string(spec.compute_percent) +
                       " is more than one GPU's 100; ask for more vGPUs with spec.count");
  }
  if (spec.performance_level == PerformanceLevel::kDedicated && spec.compute_percent != 0 &&
      spec.compute_percent != 100) {
    return Invalid("spec.compute_percent", std::to_string(spec.compute_percent) +
                                               " of a DEDICATED vGPU, which is always 100; leave it out");
  }
  if (NeedsByGpu(spec)) {
    const std::string path = spec.compute_units != 0 ? "spec.compute_units"
                             : spec.fp32_flops != 0  ? "spec.fp32_flops"
                                                     : "spec.memory_bandwidth_bytes_per_s";
    const bool dedicated = spec.performance_level == PerformanceLevel::kDedicated;
    if ((spec.compute_percent != 0 && !dedicated) || spec.min_compute_percent != 0)
      return Invalid(path,
                     "is in place of spec.compute_percent and spec.min_compute_percent; leave these out");
    if (spec.performance_level == PerformanceLevel::kBestEffort)
      return Invalid(path, "is not for BEST_EFFORT vGPUs, which reserve no compute");
  } else if (spec.min_compute_percent != 0) {
    const ClaimSpec full = WithDefaults(spec);
    if (spec.min_compute_percent > full.compute_percent) {
      return Invalid("spec.min_compute_percent", std::to_string(spec.min_compute_percent) +
                                                     " is more than spec.compute_percent, " +
                                                     std::to_string(full.compute_percent));
    }
    if (full.performance_level != PerformanceLevel::kBurst &&
        full.performance_level != PerformanceLevel::kGuaranteed) {
      return Invalid("spec.min_compute_percent", std::string("is for BURST and GUARANTEED vGPUs, not for ") +
                                                     Name(full.performance_level));
    }
  }
  if (spec.network_bytes_per_s != 0 && spec.performance_level == PerformanceLevel::kBestEffort)
    return Invalid("spec.network_bytes_per_s", "is not for BEST_EFFORT vGPUs, which are promised nothing");
  if (spec.network_bytes_per_s != 0 && spec.network_bytes_per_s < kMinNetworkBytesPerS) {
    return Invalid("spec.network_bytes_per_s", FormatSize(spec.network_bytes_per_s) +
                                                   "/s is less than the least, " +
                                                   FormatSize(kMinNetworkBytesPerS) + "/s");
  }
  if (spec.network_bytes_per_s > kMaxNetworkBytesPerS) {
    return Invalid("spec.network_bytes_per_s", FormatSize(spec.network_bytes_per_s) +
                                                   "/s is more than the most, " +
                                                   FormatSize(kMaxNetworkBytesPerS) + "/s");
  }
  if (spec.count > kMaxVGpusPerClaim) {
    return Invalid("spec.count", std::to_string(spec.count) +
                                     " is more than the most that one claim may ask for, " +
                                     std::to_string(kMaxVGpusPerClaim));
  }
  if (spec.priority < -kMaxPriority || spec.priority > kMaxPriority) {
    return Invalid("spec.priority", std::to_string(spec.priority) + " is not between " +
                                        std::to_string(-kMaxPriority) + " and " +
                                        std::to_string(kMaxPriority));
  }
  TULLE_RETURN_IF_ERROR(CheckLabels(spec.tolerations, "spec.tolerations"));
  const auto topology = static_cast<int>(spec.topology);
  if (topology < 0 || topology > static_cast<int>(Topology::kDistinctNodes)) {
    return Invalid("spec.topology", std::to_string(topology) + " is not one that this controller knows");
  }
  if (spec.topology == Topology::kSameGpu && spec.performance_level == PerformanceLevel::kDedicated &&
      spec.count > 1) {
    return Invalid("spec.topology", "SAME_GPU for " + std::to_string(spec.count) +
                                        " DEDICATED vGPUs, each of which needs a GPU of its own");
  }
  if (spec.duration_us < 0 || spec.duration_us > kMaxDurationMicros) {
    return Invalid("spec.duration", "must be from 0 to 365 days");
  }
  const auto level = static_cast<int>(spec.performance_level);
  if (level < 0 || level > static_cast<int>(PerformanceLevel::kDedicated)) {
    return Invalid("spec.performance_level",
                   std::to_string(level) + " is not a level that this controller knows");
  }
  const auto isolation = static_cast<int>(spec.isolation);
  if (isolation < 0 || isolation > static_cast<int>(Isolation::kVm)) {
    return Invalid("spec.isolation",
                   std::to_string(isolation) + " is not an isolation that this controller knows");
  }
  const auto api = static_cast<int>(spec.api);
  if (api < 0 || api > static_cast<int>(DeviceApi::kCuda)) {
    return Invalid("spec.api", std::to_string(api) + " is not an API that this controller knows");
  }
  return OkStatus();
}

Status CheckTenantSpec(const TenantSpec& spec) {
  const auto role = static_cast<int>(spec.role);
  if (role < 0 || role > static_cast<int>(TenantRole::kViewer)) {
    return Invalid("spec.role", std::to_string(role) + " is not a role that this controller knows");
  }
  if (spec.weight > kMaxTenantWeight) {
    return Invalid("spec.weight",
                   std::to_string(spec.weight) + " is more than " + std::to_string(kMaxTenantWeight));
  }
  return OkStatus();
}

TenantSpec WithDefaults(TenantSpec spec) {
  if (spec.role == TenantRole::kUnspecified) spec.role = TenantRole::kMember;
  if (spec.weight == 0) spec.weight = 1;
  return spec;
}

bool MayDo(TenantRole role, Permission permission) {
  using enum TenantRole;
  switch (permission) {
    case Permission::kUse: return role != kViewer;
    case Permission::kReadAll: return role == kViewer || role == kOperator || role == kAdmin;
    case Permission::kOperate: return role == kOperator || role == kAdmin;
    case Permission::kAdminister: return role == kAdmin;
  }
  return false;
}

ClaimSpec WithDefaults(ClaimSpec spec) {
  using enum PerformanceLevel;
  if (spec.api == DeviceApi::kUnspecified) spec.api = DeviceApi::kOpenCl;
  if (spec.performance_level == kUnspecified) spec.performance_level = kBurst;
  if (spec.count == 0) spec.count = 1;
  if (spec.isolation == Isolation::kUnspecified) spec.isolation = Isolation::kProcess;
  const bool dedicated = spec.performance_level == kDedicated;
  if (spec.memory_bytes == 0 && !dedicated) spec.memory_bytes = kDefaultMemoryBytes;
  if (spec.compute_percent == 0 && (dedicated || !NeedsByGpu(spec))) {
    spec.compute_percent = dedicated || spec.performance_level == kBestEffort ? 100 : kDefaultComputePercent;
  }
  return spec;
}

std::optional<std::uint32_t> ShareOn(const GpuDescription& gpu, const ClaimSpec& spec) {
  std::uint64_t share = NeedsByGpu(spec) ? 1 : spec.compute_percent;
  const auto need = [&share](std::uint64_t asked, std::uint64_t all) {
    if (asked == 0) return true;
    if (asked > all) return false;
    share = std::max<std::uint64_t>(share, (100 * asked + all - 1) / all);
    return true;
  };
  // Of rates in thousands, so that a hundred times as much is a number.
  if (!need(spec.compute_units, gpu.compute_units) || !need(spec.fp32_flops / 1000, gpu.fp32_flops / 1000) ||
      !need(spec.memory_bandwidth / 1000, gpu.bandwidth_bytes_per_s / 1000)) {
    return std::nullopt;
  }
  return static_cast<std::uint32_t>(share);
}

std::string FormatFlops(std::uint64_t flops) {
  const bool tera = flops >= 1'000'000'000'000;
  char text[32];
  const double number = static_cast<double>(flops) / (tera ? 1e12 : 1e9);
  std::snprintf(text, sizeof text, number < 1000 ? "%.3g" : "%.0f", number);
  return text + std::string(tera ? " TFLOPS" : " GFLOPS");
}

std::uint32_t ReservedComputePercent(PerformanceLevel level, std::uint32_t compute_percent) {
  return level == PerformanceLevel::kBestEffort ? 0 : compute_percent;
}

bool MayBecome(ClaimPhase from, ClaimPhase to) {
  using enum ClaimPhase;
  switch (from) {
    case kPending: return IsOneOf(to, {kBound, kReleased, kFailed});
    case kBound: return IsOneOf(to, {kReleased, kFailed});
    case kReleased:
    case kFailed: return false;
  }
  return false;
}

bool MayBecome(VGpuPhase from, VGpuPhase to) {
  using enum VGpuPhase;
  switch (from) {
    case kCreating: return IsOneOf(to, {kReady, kFailed, kDeleting});
    case kReady: return IsOneOf(to, {kCreating, kFailed, kDeleting});  // kCreating: its node makes it anew
    case kFailed: return to == kDeleting;
    case kDeleting: return false;
  }
  return false;
}

bool MayBecome(NodeState from, NodeState to) {
  using enum NodeState;
  switch (from) {
    case kReady: return IsOneOf(to, {kNotReady, kLeft});
    case kNotReady: return IsOneOf(to, {kReady, kLeft});
    case kLeft: return to == kReady;
  }
  return false;
}

bool SetCondition(std::vector<Condition>* conditions, std::string_view type, bool status,
                  std::string_view reason, std::string_view message, WallMicros now_us) {
  auto it = std::find_if(conditions->begin(), conditions->end(),
                         [type](const Condition& c) { return c.type == type; });
  if (it == conditions->end()) {
    conditions->push_back({.type = std::string(type), .status = !status});
    it = conditions->end() - 1;
  } else if (it->status == status && it->reason == reason && it->message == message) {
    return false;
  }
  if (it->status != status) it->last_transition_us = now_us;
  it->status = status;
  it->reason = reason;
  it->message = message;
  return true;
}

const char* SchedulingOf(const Node& node) {
  if (!node.spec.cordoned) return "";
  if (node.spec.drain_time_us == 0) return "cordoned";
  return node.status.vgpus == 0 ? "drained" : "draining";
}

std::string FormatUtc(WallMicros time_us) {
  const std::time_t seconds = static_cast<std::time_t>(time_us / 1'000'000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace tulle::control
