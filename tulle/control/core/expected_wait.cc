// When a waiting claim may be expected to have its vGPUs: those that have some are taken to end as claims
// have ended so far, or by their durations, and the claims that wait before it to be served before it.
#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>

#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

// At a GPU for a claim; more would take longer than somebody who asks wants to wait.
constexpr std::size_t kMostLooks = 20'000'000;

struct Room {
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  std::uint64_t network_bytes_per_s = 0;
  std::uint64_t spill_bytes = 0;
  std::uint32_t vgpus = 0;
};

}  // namespace

std::vector<const Core::ClaimState*> Core::WaitingClaims() const {
  std::vector<const TenantState*> tenants;
  for (const std::string& uid : waiting_tenants_) tenants.push_back(tenants_.Find(uid));
  const auto rank = [this](const TenantState* of) {
    return std::pair(DominantShare(*of) / of->tenant.spec.weight, std::get<WallMicros>(*of->waiting.begin()));
  };
  std::sort(tenants.begin(), tenants.end(),
            [&](const TenantState* a, const TenantState* b) { return rank(a) < rank(b); });
  std::vector<const ClaimState*> claims;
  for (const TenantState* tenant : tenants) {
    for (const WaitingKey& key : tenant->waiting) claims.push_back(claims_.Find(std::get<std::string>(key)));
  }
  return claims;
}

std::uint32_t Core::WaitingPosition(const ClaimState& claim) const {
  const std::vector<const ClaimState*> waiting = WaitingClaims();
  const auto it = std::find(waiting.begin(), waiting.end(), &claim);
  return it == waiting.end() ? 0 : static_cast<std::uint32_t>(it - waiting.begin()) + 1;
}

std::optional<Duration> Core::ExpectedStay(const ClaimState& claim, const Now& now) const {
  const double age_s = std::max(static_cast<double>(now.wall_us - PlacedAt(claim.model())) / 1e6, 0.0);
  const std::size_t own =
      age_s < 1 ? 0 : std::min(static_cast<std::size_t>(std::ilogb(age_s)), lifetimes_.size() - 1);
  std::optional<double> left_s;
  // The median of those that lasted as long as this one at least, taken to be spread evenly over their
  // octave.
  std::uint64_t longer = 0, shorter = 0;
  for (std::size_t i = 0; i < lifetimes_.size(); ++i) (i < own ? shorter : longer) += lifetimes_[i];
  std::uint64_t below = 0;
  for (std::size_t i = own; i < lifetimes_.size() && longer != 0; ++i) {
    if (2 * (below + lifetimes_[i]) >= longer) {
      const double part =
          (static_cast<double>(longer) / 2 - static_cast<double>(below)) / static_cast<double>(lifetimes_[i]);
      const double low = std::max(age_s, i == 0 ? 0 : std::exp2(i));
      left_s = low + part * (std::exp2(i + 1) - low) - age_s;
      break;
    }
    below += lifetimes_[i];
  }
  if (!left_s && shorter != 0) left_s = age_s;  // it has outlived all others: as long again
  if (const std::int64_t most_us = claim.model().spec.duration_us; most_us != 0) {
    const double most_s = std::max(static_cast<double>(most_us) / 1e6 - age_s, 0.0);
    left_s = std::min(left_s.value_or(most_s), most_s);
  }
  if (!left_s) return std::nullopt;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*left_s));
}

std::optional<Duration> Core::ExpectedWait(const ClaimState& claim, const Now& now) const {
  std::vector<const ClaimState*> ahead = WaitingClaims();
  const auto self = std::find(ahead.begin(), ahead.end(), &claim);
  if (self == ahead.end()) return std::nullopt;
  ahead.erase(self + 1, ahead.end());

  std::vector<const GpuState*> gpus;
  std::vector<Room> rooms;
  std::unordered_map<std::string, std::size_t> index_of;
  gpus_.ForEach([&](const GpuState& gpu) {
    const GpuStatus& status = gpu.gpu.status;
    if (!status.schedulable) return;
    index_of[gpu.metadata().uid] = gpus.size();
    gpus.push_back(&gpu);
    const auto minus = [](auto all, auto taken) { return all > taken ? all - taken : 0; };
    rooms.push_back({minus(status.allocatable_memory_bytes, status.allocated_memory_bytes),
                     minus(status.allocatable_compute_percent, status.allocated_compute_percent),
                     minus(status.allocatable_network_bytes_per_s, status.allocated_network_bytes_per_s),
                     minus(status.allocatable_spill_bytes, status.allocated_spill_bytes), status.vgpus});
  });
  using End = std::pair<Duration, const ClaimState*>;
  std::priority_queue<End, std::vector<End>, std::greater<>> ends;
  claims_.ForEach([&](const ClaimState& other) {
    if (other.vgpu_uids.empty()) return;
    if (const auto stay = ExpectedStay(other, now)) ends.emplace(*stay, &other);
  });

  std::size_t looks = 0;
  // Whether it has room; takes that.
  const auto place = [&](const ClaimSpec& spec) {
    const bool dedicated = spec.performance_level == PerformanceLevel::kDedicated;
    const auto compute_on = [&](std::size_t gpu) {
      if (NeedsByGpu(spec)) return ShareOn(gpus[gpu]->gpu.spec.description, spec).value_or(101);
      return ReservedComputePercent(spec.performance_level, spec.compute_percent);
    };
    std::vector<std::size_t> taken;
    for (std::size_t i = 0; i < gpus.size() && taken.size() < spec.count; ++i) {
      ++looks;
      const Room& room = rooms[i];
      if (room.memory_bytes < spec.memory_bytes || room.compute_percent < compute_on(i) ||
          room.network_bytes_per_s < spec.network_bytes_per_s || room.spill_bytes < spec.spill_bytes ||
          (dedicated && room.vgpus != 0))
        continue;
      const NodeRecord& node = *nodes_.Find(gpus[i]->node_uid);
      if (LabelMismatch(node.metadata().labels, spec).empty() &&
          GpuMismatch({gpus[i]->gpu.spec.description, node.node.spec.taints}, spec).empty()) {
        taken.push_back(i);
      }
    }
    if (taken.size() < spec.count) return false;
    for (const std::size_t i : taken) {
      rooms[i].memory_bytes -= dedicated ? rooms[i].memory_bytes : spec.memory_bytes;
      rooms[i].compute_percent -= compute_on(i);
      rooms[i].network_bytes_per_s -= spec.network_bytes_per_s;
      rooms[i].spill_bytes -= spec.spill_bytes;
      ++rooms[i].vgpus;
    }
    return true;
  };
  for (Duration at{};;) {
    // Each that fits now; one that does not may be passed.
    for (std::size_t i = 0; i < ahead.size();) {
      if (looks > kMostLooks) return std::nullopt;
      if (!place(ahead[i]->model().spec)) {
        ++i;
        continue;
      }
      if (ahead[i] == &claim) return at;
      ahead.erase(ahead.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (ends.empty()) return std::nullopt;
    at = std::max(at, ends.top().first);
    for (const std::string& uid : ends.top().second->vgpu_uids) {
      const VGpuState& vgpu = *vgpus_.Find(uid);
      const auto it = index_of.find(vgpu.record.gpu_uid);
      if (it == index_of.end()) continue;
      const VGpuSpec& spec = vgpu.model().spec;
      rooms[it->second].memory_bytes += spec.memory_bytes;
      rooms[it->second].compute_percent +=
          ReservedComputePercent(spec.performance_level, spec.compute_percent);
      rooms[it->second].network_bytes_per_s += spec.network_bytes_per_s;
      rooms[it->second].spill_bytes += spec.spill_bytes;
      --rooms[it->second].vgpus;
    }
    ends.pop();
  }
}

}  // namespace tulle::control
