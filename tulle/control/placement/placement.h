// Where a claim's vGPUs go. A pure function: GPUs as they are and a claim's spec in, one slot for each vGPU
// or the reason why not out.
//
// A vGPU may go to each GPU that matches (API, type, vendor, the node's labels, schedulable) and has room. Of
// those:
// - the claim's own vGPUs are spread: a GPU that holds fewer of them comes first (N vGPUs are N devices to
// the
//   program, which gains nothing from two on one GPU);
// - then best fit, with stranding in mind: the least of  memory left + compute left + |memory left - compute
// left|,
//   as fractions of the GPU. A remainder of one resource without the other is a fragment that little can use;
// - then the name, so that the answer depends on the input only.
// Identical slices make this greedy choice complete: if all N fit anywhere, it finds room for all N.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "tulle/control/model/resources.h"

namespace tulle::control {

// A GPU as placement sees it. Pointers outlive the call.
struct PlacementGpu {
  const Gpu* gpu = nullptr;
  const Labels* node_labels = nullptr;
  // Why its node takes nothing, in words ("cordoned"); empty when it does.
  std::string closed_because;
};

struct Slot {
  std::size_t gpu = 0;  // index into the GPUs given
  std::uint64_t memory_bytes = 0;
  friend bool operator==(const Slot&, const Slot&) = default;
};

struct NoFit {
  std::string reason;   // NoNodes, NoMatchingGpu, InsufficientMemory, InsufficientCompute, InsufficientGpus
  std::string message;  // what was asked, what there is, node by node, what to do
};

using Placement = std::variant<std::vector<Slot>, NoFit>;

// `spec` has its defaults filled in. GPUs whose index is in `avoid` are used only when nothing else does.
Placement Place(std::span<const PlacementGpu> gpus, const ClaimSpec& spec,
                std::span<const std::size_t> avoid = {});

}  // namespace tulle::control
