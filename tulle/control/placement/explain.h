// Why a claim has no place now, in words: what was asked, what there is, node by node, what to do. Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "tulle/control/model/resources.h"
#include "tulle/control/placement/room.h"

namespace tulle::control {

// Pointers outlive the call.
struct ExplainedNode {
  std::string_view name;
  const Labels* labels = nullptr;
  std::string_view closed_because;  // why it takes nothing ("cordoned"); empty when it does
  const NodeRoom* room = nullptr;
};

// A model of GPU, and what its nodes take only those for who tolerate it: what all GPUs of a GpuKind have in
// common.
struct KindOfGpu {
  GpuDescription description;
  Labels taints;
};

struct NoFit {
  std::string reason;   // NoNodes, NoMatchingGpu, NoReadyNode, InsufficientMemory, ...Compute, ...Gpus
  std::string message;  // for people
};

// `demand`: what the spec asks of a GPU. `kinds`: what each GpuKind is. Precondition: the spec has its
// defaults, and does not fit.
NoFit Explain(std::span<const ExplainedNode> nodes, std::span<const KindOfGpu> kinds, const ClaimSpec& spec,
              const Demand& demand);

// What a node has for such vGPUs: how many fit, and in words; without a GPU and a score.
NodeVerdict VerdictOf(const ExplainedNode& node, std::span<const KindOfGpu> kinds, const ClaimSpec& spec,
                      const Demand& demand);

// Why a GPU, or a node, can never serve the spec, whatever is free; empty when it can. Of a spec whose share
// depends on the GPU and that has a compute_percent all the same: with that share.
std::string GpuMismatch(const KindOfGpu& kind, const ClaimSpec& spec);
std::string LabelMismatch(const Labels& labels, const ClaimSpec& spec);

}  // namespace tulle::control
