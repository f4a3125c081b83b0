#include "tulle/control/placement/explain.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "tulle/base/bytes.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::size_t kMaxNodesInMessage = 5;

bool ContainsIgnoringCase(std::string_view text, std::string_view part) {
  const auto same = [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); };
  return std::search(text.begin(), text.end(), part.begin(), part.end(), same) != text.end();
}

bool MatchesAny(std::string_view text, const std::vector<std::string>& parts) {
  return parts.empty() || std::any_of(parts.begin(), parts.end(), [text](const std::string& part) {
           return ContainsIgnoringCase(text, part);
         });
}

std::string Join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += separator;
    text += word;
  }
  return text;
}

// What is free on a GPU, and how many vGPUs are on it.
struct Room {
  std::uint64_t memory = 0;
  std::uint32_t compute = 0;
  std::uint32_t neighbours = 0;
};

Room RoomOf(const GpuStatus& status) {
  const auto minus = [](auto a, auto b) {
    return a > b ? a - b : 0;
  };  // a GPU may have shrunk under its vGPUs
  return {.memory = minus(status.allocatable_memory_bytes, status.allocated_memory_bytes),
          .compute = minus(status.allocatable_compute_percent, status.allocated_compute_percent),
          .neighbours = status.vgpus};
}

// As ClaimSpec has it, in bytes and percent.
struct Asked {
  std::uint64_t memory = 0;
  std::uint32_t compute = 0;
  bool alone = false;
};

bool MemoryFits(const Room& room, const Asked& demand) { return room.memory >= demand.memory; }
bool ComputeFits(const Room& room, const Asked& demand) {
  return room.compute >= demand.compute && (!demand.alone || room.neighbours == 0);
}

std::string InWords(const ClaimSpec& spec) {
  std::string text;
  if (spec.count > 1) text += std::to_string(spec.count) + " vGPUs of ";
  if (spec.performance_level == PerformanceLevel::kDedicated) {
    text += "a whole GPU";
    if (spec.memory_bytes != 0) text += " with " + FormatSize(spec.memory_bytes);
  } else {
    text += FormatSize(spec.memory_bytes);
    const std::uint32_t reserved = ReservedComputePercent(spec.performance_level, spec.compute_percent);
    if (reserved != 0) text += " and " + std::to_string(reserved) + "% of compute";
  }
  return text;
}

// The best GPU of a node for an explanation.
struct NodeView {
  std::string closed;    // the node takes nothing
  std::string mismatch;  // of its first GPU, when none matches
  bool matches = false;
  Room best;                      // per resource: memory of the GPU with most memory free, compute likewise
  std::uint64_t most_memory = 0;  // that any of its GPUs offers at all
  std::uint32_t most_compute = 0;
  bool idle_gpu = false;   // one without vGPUs
  std::uint32_t fits = 0;  // vGPUs of this claim that fit now
};

std::map<std::string, NodeView> ViewByNode(std::span<const ExplainedGpu> gpus, const ClaimSpec& spec,
                                           const Asked& demand) {
  std::map<std::string, NodeView> nodes;
  for (const ExplainedGpu& candidate : gpus) {
    NodeView& node = nodes[candidate.gpu->spec.node];
    node.closed = candidate.closed_because;
    std::string why = LabelMismatch(*candidate.node_labels, spec);
    if (why.empty()) why = GpuMismatch(candidate.gpu->spec.description, spec);
    if (!why.empty()) {
      if (node.mismatch.empty()) node.mismatch = std::move(why);
      continue;
    }
    node.matches = true;
    const GpuStatus& status = candidate.gpu->status;
    Room room = RoomOf(status);
    node.best.memory = std::max(node.best.memory, room.memory);
    node.best.compute = std::max(node.best.compute, room.compute);
    node.most_memory = std::max(node.most_memory, status.allocatable_memory_bytes);
    node.most_compute = std::max(node.most_compute, status.allocatable_compute_percent);
    node.idle_gpu |= room.neighbours == 0;
    while (node.fits < spec.count && MemoryFits(room, demand) && ComputeFits(room, demand)) {
      ++node.fits;
      ++room.neighbours;
      room.memory -= demand.memory;
      room.compute -= demand.compute;
    }
  }
  return nodes;
}

}  // namespace

std::string GpuMismatch(const GpuDescription& is, const ClaimSpec& spec) {
  if (std::find(is.apis.begin(), is.apis.end(), spec.api) == is.apis.end())
    return std::string("has no ") + Name(spec.api);
  if (!MatchesAny(is.type, spec.gpu_types))
    return "has \"" + is.type + "\", not " + Join(spec.gpu_types, " or ");
  if (!MatchesAny(is.vendor, spec.vendors))
    return "is of \"" + is.vendor + "\", not " + Join(spec.vendors, " or ");
  return "";
}

std::string LabelMismatch(const Labels& labels, const ClaimSpec& spec) {
  for (const auto& [key, value] : spec.node_selector) {
    const auto it = labels.find(key);
    if (it == labels.end() || it->second != value) return "is not labelled " + key + "=" + value;
  }
  return "";
}

NoFit Explain(std::span<const ExplainedGpu> gpus, const ClaimSpec& spec) {
  const Asked demand{.memory = spec.memory_bytes,
                     .compute = ReservedComputePercent(spec.performance_level, spec.compute_percent),
                     .alone = spec.performance_level == PerformanceLevel::kDedicated};
  const std::map<std::string, NodeView> nodes = ViewByNode(gpus, spec, demand);
  const std::string asked = "asked for " + InWords(spec) + "; ";
  if (nodes.empty()) {
    return {"NoNodes", asked + "the mesh has no GPU: start a node with `tulle up`, see `tulle get nodes`"};
  }

  std::vector<std::string> lines;
  const NodeView* most_memory = nullptr;
  const NodeView* largest = nullptr;
  std::string most_memory_name, largest_name;
  std::uint32_t fits = 0;
  bool any_matches = false;
  bool any_open = false;
  std::uint32_t most_compute = 0, most_compute_free = 0;
  for (const auto& [name, node] : nodes) {
    std::string line = "node " + name + " ";
    if (!node.matches) {
      line += node.mismatch;
    } else if (!node.closed.empty()) {
      any_matches = true;
      line += "is " + node.closed;
    } else {
      any_matches = any_open = true;
      fits += node.fits;
      most_compute = std::max(most_compute, node.most_compute);
      most_compute_free = std::max(most_compute_free, node.best.compute);
      if (most_memory == nullptr || node.best.memory > most_memory->best.memory)
        most_memory = &node, most_memory_name = name;
      if (largest == nullptr || node.most_memory > largest->most_memory) largest = &node, largest_name = name;
      if (node.fits > 0) {
        line += "has room for " + std::to_string(node.fits);
      } else {
        line += "has " + FormatSize(node.best.memory) + " and " + std::to_string(node.best.compute) +
                "% free on one GPU";
        if (demand.alone && !node.idle_gpu) line += ", no GPU without vGPUs";
      }
    }
    if (lines.size() < kMaxNodesInMessage) lines.push_back(std::move(line));
  }
  if (nodes.size() > lines.size())
    lines.push_back(std::to_string(nodes.size() - lines.size()) + " more nodes");
  const std::string detail = " (" + Join(lines, "; ") + "); see `tulle get gpus`";

  if (!any_matches) return {"NoMatchingGpu", asked + "no GPU of the mesh matches" + detail};
  if (!any_open) return {"NoReadyNode", asked + "no node with a matching GPU is ready" + detail};
  if (demand.memory > largest->most_memory) {
    return {"InsufficientMemory", asked + "the largest GPU has " + FormatSize(largest->most_memory) +
                                      " on node " + largest_name + detail};
  }
  if (demand.memory > most_memory->best.memory) {
    return {"InsufficientMemory", asked + "the largest free slice is " +
                                      FormatSize(most_memory->best.memory) + " on node " + most_memory_name +
                                      detail};
  }
  if (demand.compute > most_compute) {
    return {"InsufficientCompute",
            asked + "no GPU offers more than " + std::to_string(most_compute) + "% of its compute" + detail};
  }
  if (fits > 0) {
    return {"InsufficientGpus", asked + "only " + std::to_string(fits) + " of them " +
                                    (fits == 1 ? "fits" : "fit") + " now" + detail};
  }
  if (demand.alone) return {"InsufficientGpus", asked + "no GPU is without vGPUs now" + detail};
  if (demand.compute > most_compute_free) {
    return {"InsufficientCompute",
            asked + "the largest free share is " + std::to_string(most_compute_free) + "%" + detail};
  }
  return {"InsufficientGpus", asked + "no GPU has both free at once" + detail};
}

}  // namespace tulle::control
