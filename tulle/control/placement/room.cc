#include "tulle/control/placement/room.h"

#include "tulle/base/check.h"

namespace tulle::control {
bool Fits(const NodeRoom& node, const Demand& demand) {
  if (!HostFits(node, demand)) return false;
  std::int32_t left = demand.gpus;
  for (auto gpu = node.gpus.begin(); left > 0 && gpu != node.gpus.end(); ++gpu) left -= Fits(*gpu, demand);
  return left <= 0;
}

void Take(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus) {
  node->cpu -= demand.cpu;
  node->host_memory -= demand.host_memory;
  TULLE_CHECK(node->cpu >= 0 && node->host_memory >= 0);
  for (const std::uint32_t index : gpus) {
    GpuRoom& gpu = node->gpus.at(index);
    TULLE_CHECK(Fits(gpu, demand));
    gpu = After(gpu, demand);
  }
}

void Give(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus) {
  node->cpu += demand.cpu;
  node->host_memory += demand.host_memory;
  for (const std::uint32_t index : gpus) {
    GpuRoom& gpu = node->gpus.at(index);
    gpu.compute += demand.compute;
    gpu.memory = demand.dedicated ? gpu.memory_capacity : gpu.memory + demand.memory;
    gpu.network += demand.network;
    gpu.spill += demand.spill;
    --gpu.vgpus;
    TULLE_CHECK(gpu.vgpus >= 0);
  }
}

}  // namespace tulle::control
