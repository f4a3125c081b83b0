#include "tulle/control/placement/fragmentation.h"

#include <algorithm>
#include <array>

namespace tulle::control {
Fragmentation::Fragmentation(const Workload& workload)
    : workload_(workload),
      fits_(workload.size()),
      stranded_(workload.size()),
      fits_after_(workload.size()),
      stranded_after_(workload.size()) {}

void Fragmentation::Count(const GpuRoom& gpu, std::int32_t sign, std::int32_t* fits,
                          std::int32_t* stranded) const {
  const std::int32_t amount = sign * FreeOf(gpu);
  const std::int32_t shared = gpu.vgpus > 0 ? -1 : 0;
  const std::int32_t* const allowed = workload_.Allowed(gpu.kind);
  const std::int32_t* const compute = workload_.compute.data();
  const std::int32_t* const memory = workload_.memory.data();
  const std::int32_t* const dedicated = workload_.dedicated.data();
  const std::size_t size = workload_.size();
  for (std::size_t i = 0; i < size; ++i) {
    const std::int32_t fit = (gpu.compute >= compute[i] ? -1 : 0) & (gpu.memory >= memory[i] ? -1 : 0) &
                             allowed[i] & ~(shared & dedicated[i]);
    fits[i] -= sign * fit;
    stranded[i] += amount & ~fit;
  }
}

double Fragmentation::Expected(std::int32_t cpu, std::int32_t host_memory, std::int32_t free,
                               const std::int32_t* fits, const std::int32_t* stranded) const {
  const std::int32_t* const needs_cpu = workload_.cpu.data();
  const std::int32_t* const needs_memory = workload_.host_memory.data();
  const std::int32_t* const needs_gpus = workload_.gpus.data();
  const double* const weight = workload_.weight.data();
  std::array<double, Workload::kLanes> sums{};
  for (std::size_t i = 0; i < workload_.size(); i += Workload::kLanes) {
    for (std::size_t k = i; k < i + Workload::kLanes; ++k) {
      const std::int32_t placeable = (cpu >= needs_cpu[k] ? -1 : 0) &
                                     (host_memory >= needs_memory[k] ? -1 : 0) &
                                     (fits[k] >= needs_gpus[k] ? -1 : 0);
      sums[k - i] += weight[k] * ((stranded[k] & placeable) | (free & ~placeable));
    }
  }
  double sum = 0;
  for (const double lane : sums) sum += lane;
  return sum;
}

void Fragmentation::Look(const NodeRoom& node) {
  node_ = &node;
  std::fill(fits_.begin(), fits_.end(), 0);
  std::fill(stranded_.begin(), stranded_.end(), 0);
  free_ = 0;
  for (const GpuRoom& gpu : node.gpus) {
    Count(gpu, 1, fits_.data(), stranded_.data());
    free_ += FreeOf(gpu);
  }
  now_ = Expected(node.cpu, node.host_memory, free_, fits_.data(), stranded_.data());
}

double Fragmentation::After(const Demand& demand, const std::uint32_t* gpus, std::size_t count) const {
  std::int32_t free = free_;
  const std::int32_t* fits = fits_.data();
  const std::int32_t* stranded = stranded_.data();
  if (count > 0) {
    std::copy(fits_.begin(), fits_.end(), fits_after_.begin());
    std::copy(stranded_.begin(), stranded_.end(), stranded_after_.begin());
    fits = fits_after_.data();
    stranded = stranded_after_.data();
  }
  for (std::size_t i = 0; i < count; ++i) {
    const GpuRoom& before = node_->gpus[gpus[i]];
    const GpuRoom after = control::After(before, demand);
    Count(before, -1, fits_after_.data(), stranded_after_.data());
    Count(after, 1, fits_after_.data(), stranded_after_.data());
    free += FreeOf(after) - FreeOf(before);
  }
  return Expected(node_->cpu - demand.cpu, node_->host_memory - demand.host_memory, free, fits, stranded);
}

}  // namespace tulle::control
