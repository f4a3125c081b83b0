// For tests: random nodes and demands that often fit them, and often just do not.
#pragma once

#include <cstdint>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/room.h"

namespace tulle::control {

inline std::int32_t RandomBelow(Random& random, int bound) {
  return static_cast<std::int32_t>(random.Below(static_cast<std::uint64_t>(bound)));
}

// Compute in twentieths of a GPU, memory in GiB of at most 16, processors by the half.
inline NodeRoom RandomNode(Random& random) {
  NodeRoom node{.cpu = 500 * RandomBelow(random, 60), .host_memory = 1024 * RandomBelow(random, 100)};
  const bool with_memory = random.Below(2) == 0;
  const std::uint64_t size = random.Below(9);
  for (std::uint64_t i = 0; i < size; ++i) {
    GpuRoom gpu{.kind = static_cast<GpuKind>(random.Below(3)), .memory_capacity = with_memory ? 16 << 10 : 0};
    gpu.memory = gpu.memory_capacity;
    if (random.Below(3) != 0) {
      gpu.compute = 50 * RandomBelow(random, 21);
      gpu.memory = gpu.memory_capacity / 16 * RandomBelow(random, 17);
      gpu.vgpus = 1 + RandomBelow(random, 3);
    }
    node.gpus.push_back(gpu);
  }
  return node;
}

inline Demand RandomDemand(Random& random) {
  Demand demand{.cpu = 500 * RandomBelow(random, 20), .host_memory = 1024 * RandomBelow(random, 20)};
  demand.gpus = random.Below(3) != 0 ? 1 : RandomBelow(random, 5);
  if (demand.gpus == 0) return demand;
  demand.compute = demand.gpus > 1 && random.Below(2) == 0 ? kWholeGpu : 50 * RandomBelow(random, 21);
  demand.memory = random.Below(2) == 0 ? 0 : 1024 * RandomBelow(random, 17);
  demand.dedicated = random.Below(6) == 0;
  if (random.Below(3) == 0) demand.kinds = {random.Below(2) == 0, random.Below(2) == 0, 1};
  return demand;
}

// Any that it fits on. Precondition: Fits(node, demand).
inline std::vector<std::uint32_t> RandomGpusFor(const NodeRoom& node, const Demand& demand, Random& random) {
  std::vector<std::uint32_t> fitting;
  for (std::uint32_t i = 0; i < node.gpus.size(); ++i) {
    if (Fits(node.gpus[i], demand)) fitting.push_back(i);
  }
  while (static_cast<std::int32_t>(fitting.size()) > demand.gpus) {
    fitting.erase(fitting.begin() + static_cast<std::ptrdiff_t>(random.Below(fitting.size())));
  }
  return fitting;
}

}  // namespace tulle::control
