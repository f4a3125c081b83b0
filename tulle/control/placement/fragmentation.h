// How much of a node's free GPU the expected workload cannot use.
//
// Source: Weng et al., Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
// Descent, USENIX ATC 2023. For a demand that the node cannot take (or that asks for no GPU) all that is free
// is fragment; for another, what is free (FreeOf) on the GPUs that it does not fit on. A node's fragment is
// the mean over the workload.
#pragma once

#include <cstdint>
#include <vector>

#include "tulle/control/placement/room.h"
#include "tulle/control/placement/workload.h"

namespace tulle::control {

// Looks at one node at a time. `workload` must outlive it. Not thread-safe.
class Fragmentation {
 public:
  explicit Fragmentation(const Workload& workload);

  // Turns to a node, which must stay as it is until the next call.
  void Look(const NodeRoom& node);

  std::int32_t free() const { return free_; }
  double now() const { return now_; }
  // If the demand had taken its part of these GPUs. Precondition: it fits.
  double After(const Demand& demand, const std::uint32_t* gpus, std::size_t count) const;

 private:
  double Expected(std::int32_t cpu, std::int32_t host_memory, std::int32_t free, const std::int32_t* fits,
                  const std::int32_t* stranded) const;
  // Adds a GPU, with `sign` -1 takes it away.
  void Count(const GpuRoom& gpu, std::int32_t sign, std::int32_t* fits, std::int32_t* stranded) const;

  const Workload& workload_;
  const NodeRoom* node_ = nullptr;
  std::int32_t free_ = 0;
  double now_ = 0;
  std::vector<std::int32_t> fits_,
      stranded_;  // for each demand: GPUs that it fits on, what is free on the others
  mutable std::vector<std::int32_t> fits_after_, stranded_after_;
};

}  // namespace tulle::control
