// Why a claim has no place now, in words: what was asked, what there is, node by node, what to do. Pure.
#pragma once

#include <span>
#include <string>

#include "tulle/control/model/resources.h"

namespace tulle::control {

// Pointers outlive the call.
struct ExplainedGpu {
  const Gpu* gpu = nullptr;
  const Labels* node_labels = nullptr;
  std::string_view closed_because;  // why its node takes nothing ("cordoned"); empty when it does
};

struct NoFit {
  std::string reason;   // NoNodes, NoMatchingGpu, NoReadyNode, InsufficientMemory, ...Compute, ...Gpus
  std::string message;  // for people
};

// Precondition: the spec has its defaults, and does not fit.
NoFit Explain(std::span<const ExplainedGpu> gpus, const ClaimSpec& spec);

// Why a GPU, or a node, can never serve the spec, whatever is free; empty when it can.
std::string GpuMismatch(const GpuDescription& is, const ClaimSpec& spec);
std::string LabelMismatch(const Labels& labels, const ClaimSpec& spec);

}  // namespace tulle::control
