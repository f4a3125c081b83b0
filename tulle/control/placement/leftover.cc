#include "tulle/control/placement/leftover.h"

#include <algorithm>
#include <array>

namespace tulle::control {
namespace {

// As many observations as what stands in for a state counts for.
constexpr double kStandInCounts = 10;

constexpr std::size_t kMemoryStates = 8;
constexpr std::size_t kHostStates = 12;
constexpr std::size_t kGpuStates = (kWholeGpu + 1) * kMemoryStates;
constexpr std::size_t kKindStates = kHostStates * kGpuStates;

// The number of `bounds` that `value` reaches.
template <std::size_t N>
std::size_t Bucket(const std::array<double, N>& bounds, double value) {
  return static_cast<std::size_t>(std::upper_bound(bounds.begin(), bounds.end(), value) - bounds.begin());
}

std::size_t GpuState(const GpuRoom& gpu) {
  // Free memory for free compute, both as parts of the GPU.
  static constexpr std::array<double, kMemoryStates - 1> kMemoryForCompute = {0.125, 0.25, 0.5, 0.9,
                                                                              1.1,   2,    4};
  std::size_t memory = 0;
  if (gpu.memory_capacity > 0) {
    const double share = static_cast<double>(gpu.memory) * kWholeGpu / gpu.memory_capacity;
    memory = gpu.compute > 0 ? Bucket(kMemoryForCompute, share / gpu.compute) : kMemoryStates - 1;
  }
  return static_cast<std::size_t>(FreeOf(gpu)) * kMemoryStates + memory;
}

std::size_t HostState(std::int32_t cpu, std::int32_t free) {
  static constexpr std::array<double, kHostStates - 1> kProcessorsForGpu = {0.25, 1, 2, 3,  4, 5,
                                                                            6,    7, 8, 10, 12};
  return free > 0 ? Bucket(kProcessorsForGpu, static_cast<double>(cpu) / free) : kHostStates - 1;
}

// Observations of one state or of several.
struct Observed {
  double times = 0;
  double left = 0;
  void Add(const Observed& other) {
    times += other.times;
    left += other.left;
  }
  double Mean(double stand_in) const { return (left + kStandInCounts * stand_in) / (times + kStandInCounts); }
};

}  // namespace

LeftoverSeen::LeftoverSeen(std::size_t kinds) : times(kinds * kKindStates), left(kinds * kKindStates) {}

LeftoverTable::LeftoverTable(const LeftoverSeen& seen, bool by_kind)
    : kinds_(by_kind ? seen.times.size() / kKindStates : 0), left_((kinds_ + 1) * kKindStates) {
  const auto observed = [&](std::size_t state) {
    return Observed{.times = seen.times[state], .left = seen.left[state]};
  };
  for (std::size_t gpu = 0; gpu < kGpuStates; ++gpu) {
    std::array<Observed, kHostStates> of_host;
    Observed of_all;
    for (std::size_t host = 0; host < kHostStates; ++host) {
      for (std::size_t state = host * kGpuStates + gpu; state < seen.times.size(); state += kKindStates) {
        of_host[host].Add(observed(state));
      }
      of_all.Add(of_host[host]);
    }
    const double anywhere = of_all.Mean(static_cast<double>(gpu / kMemoryStates));
    for (std::size_t host = 0; host < kHostStates; ++host) {
      const double here = of_host[host].Mean(anywhere);
      std::size_t state = host * kGpuStates + gpu;
      for (std::size_t kind = 0; kind < kinds_; ++kind, state += kKindStates) {
        left_[state] = static_cast<float>(observed(state).Mean(here));
      }
      left_[state] = static_cast<float>(here);
    }
  }
}

void LeftoverTable::StatesOf(const NodeRoom& node, std::vector<std::uint32_t>* states) {
  const std::size_t host = HostState(node.cpu, FreeOf(node)) * kGpuStates;
  states->clear();
  for (const GpuRoom& gpu : node.gpus) {
    states->push_back(static_cast<std::uint32_t>(gpu.kind * kKindStates + host + GpuState(gpu)));
  }
}

double LeftoverTable::After(const NodeRoom& node, const Demand& demand, const std::uint32_t* gpus,
                            std::size_t count) const {
  std::int32_t free = FreeOf(node);
  for (std::size_t i = 0; i < count; ++i) {
    const GpuRoom& gpu = node.gpus[gpus[i]];
    free += FreeOf(control::After(gpu, demand)) - FreeOf(gpu);
  }
  const float* const left = left_.data() + HostState(node.cpu - demand.cpu, free) * kGpuStates;
  double sum = 0;
  const std::uint32_t* const end = gpus + count;
  for (std::uint32_t i = 0; i < node.gpus.size(); ++i) {
    const bool taken = gpus != end && *gpus == i;
    const GpuRoom& gpu = node.gpus[i];
    sum += left[std::min<std::size_t>(gpu.kind, kinds_) * kKindStates +
                GpuState(taken ? control::After(gpu, demand) : gpu)];
    gpus += taken;
  }
  return sum;
}

}  // namespace tulle::control
