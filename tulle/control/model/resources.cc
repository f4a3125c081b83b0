#include "tulle/control/model/resources.h"

#include <algorithm>

namespace tulle::control {

const char* Name(DeviceApi api) {
  switch (api) {
    case DeviceApi::kOpenCl: return "OPENCL";
    case DeviceApi::kCuda: return "CUDA";
    case DeviceApi::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(ComputeSharing sharing) {
  switch (sharing) {
    case ComputeSharing::kAtOnce: return "AT_ONCE";
    case ComputeSharing::kByTurns: return "BY_TURNS";
    case ComputeSharing::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(Isolation isolation) {
  switch (isolation) {
    case Isolation::kProcess: return "PROCESS";
    case Isolation::kVm: return "VM";
    case Isolation::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(PerformanceLevel level) {
  switch (level) {
    case PerformanceLevel::kBestEffort: return "BEST_EFFORT";
    case PerformanceLevel::kBurst: return "BURST";
    case PerformanceLevel::kGuaranteed: return "GUARANTEED";
    case PerformanceLevel::kDedicated: return "DEDICATED";
    case PerformanceLevel::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(ClaimPhase phase) {
  switch (phase) {
    case ClaimPhase::kPending: return "PENDING";
    case ClaimPhase::kBound: return "BOUND";
    case ClaimPhase::kReleased: return "RELEASED";
    case ClaimPhase::kFailed: return "FAILED";
  }
  return "UNSPECIFIED";
}

const char* Name(AllocationBranch branch) {
  switch (branch) {
    case AllocationBranch::kCreateSlice: return "CREATE_SLICE";
    case AllocationBranch::kShrinkNeighbours: return "SHRINK_NEIGHBOURS";
    case AllocationBranch::kWait: return "WAIT";
    case AllocationBranch::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(Topology topology) {
  switch (topology) {
    case Topology::kSameGpu: return "SAME_GPU";
    case Topology::kSameNode: return "SAME_NODE";
    case Topology::kDistinctNodes: return "DISTINCT_NODES";
    case Topology::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

const char* Name(VGpuPhase phase) {
  switch (phase) {
    case VGpuPhase::kCreating: return "CREATING";
    case VGpuPhase::kReady: return "READY";
    case VGpuPhase::kFailed: return "FAILED";
    case VGpuPhase::kDeleting: return "DELETING";
  }
  return "UNSPECIFIED";
}

const char* Name(NodeState state) {
  switch (state) {
    case NodeState::kReady: return "READY";
    case NodeState::kNotReady: return "NOT_READY";
    case NodeState::kLeft: return "LEFT";
  }
  return "UNSPECIFIED";
}

const char* Name(TenantRole role) {
  switch (role) {
    case TenantRole::kAdmin: return "ADMIN";
    case TenantRole::kOperator: return "OPERATOR";
    case TenantRole::kMember: return "MEMBER";
    case TenantRole::kViewer: return "VIEWER";
    case TenantRole::kUnspecified: break;
  }
  return "UNSPECIFIED";
}

namespace {

// The one of `candidates` that has that name.
template <typename Enum>
bool Parse(std::string_view text, std::initializer_list<Enum> candidates, Enum* value) {
  std::string word(text);
  std::transform(word.begin(), word.end(), word.begin(), [](char c) {
    return c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  for (const Enum candidate : candidates) {
    if (word != Name(candidate)) continue;
    *value = candidate;
    return true;
  }
  return false;
}

}  // namespace

bool ParsePerformanceLevel(std::string_view text, PerformanceLevel* level) {
  using enum PerformanceLevel;
  return Parse(text, {kBestEffort, kBurst, kGuaranteed, kDedicated}, level);
}

bool ParseIsolation(std::string_view text, Isolation* isolation) {
  return Parse(text, {Isolation::kProcess, Isolation::kVm}, isolation);
}

bool ParseTopology(std::string_view text, Topology* topology) {
  using enum Topology;
  return Parse(text, {kSameGpu, kSameNode, kDistinctNodes}, topology);
}

bool ParseTenantRole(std::string_view text, TenantRole* role) {
  using enum TenantRole;
  return Parse(text, {kAdmin, kOperator, kMember, kViewer}, role);
}

const Condition* FindCondition(const std::vector<Condition>& conditions, std::string_view type) {
  const auto it = std::find_if(conditions.begin(), conditions.end(),
                               [type](const Condition& condition) { return condition.type == type; });
  return it == conditions.end() ? nullptr : &*it;
}

}  // namespace tulle::control
