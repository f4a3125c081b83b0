// What is free on nodes, and what is asked of them, as placement counts it: in small integers, so that a mesh
// of a hundred thousand GPUs is scored in cache and sums are exact. Compute is in thousandths of a GPU,
// its memory, and what may be had beyond it, in pages (what is free rounded down, what is asked rounded up),
// hosts' memory in MiB, CPU in thousandths of a processor, what the network moves in 64 KiB a second. Values:
// no ownership, no threads.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

namespace tulle::control {

inline constexpr std::int32_t kWholeGpu = 1000;  // of compute
// Sizes of up to 8 TiB fit, and what drivers report as a device's memory is a whole number of pages.
inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kNetworkUnitBytes = 64u << 10;

// A model of GPU, numbered by whoever fills the rooms.
using GpuKind = std::uint32_t;

struct GpuRoom {
  GpuKind kind = 0;
  std::int32_t compute = kWholeGpu;  // free, as is memory
  std::int32_t memory = 0;
  std::int32_t network = 0;  // free, of its node's
  std::int32_t spill = 0;    // free
  std::int32_t compute_capacity = kWholeGpu;
  std::int32_t memory_capacity = 0;  // 0: its memory is not placed by
  std::int32_t vgpus = 0;            // on it now
  friend bool operator==(const GpuRoom&, const GpuRoom&) = default;
};

struct NodeRoom {
  std::int32_t cpu = 0;  // free
  std::int32_t host_memory = 0;
  std::vector<GpuRoom> gpus;
  friend bool operator==(const NodeRoom&, const NodeRoom&) = default;
};

// What one placement takes of one node: `gpus` slices, each of another GPU, and what their host needs for
// them.
struct Demand {
  std::int32_t cpu = 0;
  std::int32_t host_memory = 0;
  std::int32_t gpus = 1;  // 0: the host only
  std::int32_t compute = 0;
  std::int32_t memory = 0;
  std::int32_t network = 0;
  std::int32_t spill = 0;
  bool dedicated = false;                // GPUs that nobody else is on, with all their memory
  std::vector<std::uint8_t> kinds = {};  // 1 at the index of each GpuKind that will do; empty: any

  bool Allows(GpuKind kind) const { return kinds.empty() || (kind < kinds.size() && kinds[kind] != 0); }
  friend auto operator<=>(const Demand&, const Demand&) = default;
};

inline bool Fits(const GpuRoom& gpu, const Demand& demand) {
  return gpu.compute >= demand.compute && gpu.memory >= demand.memory && gpu.network >= demand.network &&
         gpu.spill >= demand.spill && (!demand.dedicated || gpu.vgpus == 0) && demand.Allows(gpu.kind);
}

// What is free on a GPU, in thousandths of it: of its compute, and where its memory is placed by, the mean of
// both.
inline std::int32_t FreeOf(const GpuRoom& gpu) {
  if (gpu.memory_capacity == 0) return gpu.compute;
  const auto memory = static_cast<std::int32_t>(std::int64_t{kWholeGpu} * gpu.memory / gpu.memory_capacity);
  return (gpu.compute + memory) / 2;
}

inline std::int32_t FreeOf(const NodeRoom& node) {
  std::int32_t sum = 0;
  for (const GpuRoom& gpu : node.gpus) sum += FreeOf(gpu);
  return sum;
}

// The GPU once a slice of it has been taken.
inline GpuRoom After(GpuRoom gpu, const Demand& demand) {
  gpu.compute -= demand.compute;
  gpu.memory = demand.dedicated ? 0 : gpu.memory - demand.memory;
  gpu.network -= demand.network;
  gpu.spill -= demand.spill;
  ++gpu.vgpus;
  return gpu;
}

// Whether the host has what the demand needs of it, GPUs aside.
inline bool HostFits(const NodeRoom& node, const Demand& demand) {
  return node.cpu >= demand.cpu && node.host_memory >= demand.host_memory;
}

bool Fits(const NodeRoom& node, const Demand& demand);

// Takes the demand's slices of the GPUs with these indices, or gives them back. Precondition: they fit; or
// are taken.
void Take(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus);
void Give(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus);

}  // namespace tulle::control
