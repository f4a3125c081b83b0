#include "tulle/control/placement/room.h"

#include "tulle/base/check.h"

namespace tulle::control {
namespace {

void Move(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus, std::int32_t sign) {
  node->cpu += sign * demand.cpu;
  node->host_memory += sign * demand.host_memory;
  for (const std::uint32_t index : gpus) {
    GpuRoom& gpu = node->gpus.at(index);
    gpu.compute += sign * demand.compute;
    gpu.memory += sign * demand.memory;
    gpu.vgpus -= sign;
    TULLE_CHECK(gpu.compute >= 0 && gpu.memory >= 0 && gpu.vgpus >= 0);
  }
  TULLE_CHECK(node->cpu >= 0 && node->host_memory >= 0);
}

}  // namespace

bool Fits(const NodeRoom& node, const Demand& demand) {
  if (!HostFits(node, demand)) return false;
  std::int32_t left = demand.gpus;
  for (auto gpu = node.gpus.begin(); left > 0 && gpu != node.gpus.end(); ++gpu) left -= Fits(*gpu, demand);
  return left <= 0;
}

void Take(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus) {
  Move(node, demand, gpus, -1);
}

void Give(NodeRoom* node, const Demand& demand, const std::vector<std::uint32_t>& gpus) {
  Move(node, demand, gpus, +1);
}

}  // namespace tulle::control
