#include "tulle/control/placement/explain.h"

#include <algorithm>
#include <cctype>

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

// Of those things that the claim asks for in place of a share: "12 compute units and 1.5 TFLOPS".
std::string NeedsInWords(const ClaimSpec& asked, std::uint32_t units, std::uint64_t flops,
                         std::uint64_t bandwidth) {
  std::vector<std::string> words;
  if (asked.compute_units != 0) words.push_back(std::to_string(units) + " compute units");
  if (asked.fp32_flops != 0) words.push_back(FormatFlops(flops));
  if (asked.memory_bandwidth != 0) words.push_back(FormatSize(bandwidth) + "/s of memory bandwidth");
  return Join(words, " and ");
}

std::string InWords(const ClaimSpec& spec) {
  std::string text;
  if (spec.count > 1) text += std::to_string(spec.count) + " vGPUs of ";
  const char* where = spec.count < 2                              ? ""
                      : spec.topology == Topology::kSameGpu       ? " on one GPU"
                      : spec.topology == Topology::kSameNode      ? " on one node"
                      : spec.topology == Topology::kDistinctNodes ? " on as many nodes"
                                                                  : "";
  if (spec.performance_level == PerformanceLevel::kDedicated) {
    text += "a whole GPU";
    if (spec.memory_bytes != 0) text += " with " + FormatSize(spec.memory_bytes);
  } else {
    text += FormatSize(spec.memory_bytes);
    const std::uint32_t reserved = ReservedComputePercent(spec.performance_level, spec.compute_percent);
    if (NeedsByGpu(spec)) {
      text += " and " + NeedsInWords(spec, spec.compute_units, spec.fp32_flops, spec.memory_bandwidth);
    } else if (reserved != 0) {
      text += " and " + std::to_string(reserved) + "% of compute";
    }
  }
  if (spec.network_bytes_per_s != 0)
    text += " and " + FormatSize(spec.network_bytes_per_s) + "/s of the network";
  if (spec.spill_bytes != 0) text += " and " + FormatSize(spec.spill_bytes) + " to spill";
  if (spec.isolation == Isolation::kVm) text += " in a virtual machine";
  text += where;
  return text;
}

std::string Memory(std::int32_t pages) { return FormatSize(static_cast<std::uint64_t>(pages) * kPageBytes); }

std::string Network(std::int32_t units) {
  return FormatSize(static_cast<std::uint64_t>(units) * kNetworkUnitBytes) + "/s";
}

std::string Percent(std::int32_t compute) { return std::to_string(compute / (kWholeGpu / 100)) + "%"; }

// What there is of those GPUs of a node, or of all nodes, that match.
struct View {
  bool matches = false;
  std::int32_t most_memory = -1;  // that a GPU offers at all, in pages
  std::int32_t most_compute = 0;
  std::int32_t free_memory = -1;  // the most on a GPU
  std::int32_t free_compute = 0;  // the most on a GPU
  std::int32_t free_network = 0;  // likewise
  std::int32_t free_spill = 0;    // likewise
  bool idle_gpu = false;          // one without vGPUs
  std::uint64_t fits = 0;         // vGPUs of this claim that fit now
};

View ViewOf(const NodeRoom& node, const Demand& demand) {
  View view;
  for (const GpuRoom& gpu : node.gpus) {
    if (!demand.Allows(gpu.kind)) continue;
    view.matches = true;
    view.most_memory = std::max(view.most_memory, gpu.memory_capacity);
    view.most_compute = std::max(view.most_compute, gpu.compute_capacity);
    view.free_memory = std::max(view.free_memory, gpu.memory);
    view.free_compute = std::max(view.free_compute, gpu.compute);
    view.free_network = std::max(view.free_network, gpu.network);
    view.free_spill = std::max(view.free_spill, gpu.spill);
    view.idle_gpu |= gpu.vgpus == 0;
    if (!Fits(gpu, demand)) continue;
    std::int32_t fits = demand.dedicated ? 1 : static_cast<std::int32_t>(kMaxVGpusPerClaim);
    if (demand.memory > 0) fits = std::min(fits, gpu.memory / demand.memory);
    if (demand.compute > 0) fits = std::min(fits, gpu.compute / demand.compute);
    if (demand.network > 0) fits = std::min(fits, gpu.network / demand.network);
    if (demand.spill > 0) fits = std::min(fits, gpu.spill / demand.spill);
    view.fits += static_cast<std::uint64_t>(fits);
  }
  return view;
}

std::string InWords(const ExplainedNode& node, const View& view, std::span<const KindOfGpu> kinds,
                    const ClaimSpec& spec) {
  if (std::string why = LabelMismatch(*node.labels, spec); !why.empty()) return why;
  if (!view.matches) {
    // Of several kinds of GPUs each may lack something else.
    std::vector<std::string> reasons;
    for (const GpuRoom& gpu : node.room->gpus) {
      std::string why = GpuMismatch(kinds[gpu.kind], spec);
      if (std::find(reasons.begin(), reasons.end(), why) == reasons.end()) reasons.push_back(std::move(why));
    }
    return Join(reasons, ", ");
  }
  if (!node.closed_because.empty()) return "is " + std::string(node.closed_because);
  if (view.fits > 0) return "has room for " + std::to_string(std::min<std::uint64_t>(view.fits, spec.count));
  std::string text =
      "has " + Memory(view.free_memory) + " and " + Percent(view.free_compute) + " free on one GPU";
  if (spec.network_bytes_per_s != 0)
    text += " and " + Network(view.free_network) + " of the network to promise";
  if (spec.spill_bytes != 0) text += " and " + Memory(view.free_spill) + " to spill";
  if (spec.performance_level == PerformanceLevel::kDedicated && !view.idle_gpu)
    text += ", no GPU without vGPUs";
  return text;
}

}  // namespace

std::string GpuMismatch(const KindOfGpu& kind, const ClaimSpec& spec) {
  const GpuDescription& is = kind.description;
  if (std::find(is.apis.begin(), is.apis.end(), spec.api) == is.apis.end())
    return std::string("has no ") + Name(spec.api);
  if (spec.isolation == Isolation::kVm &&
      std::find(is.isolations.begin(), is.isolations.end(), spec.isolation) == is.isolations.end()) {
    return "offers no virtual machines (its node's log says why)";
  }
  if (!MatchesAny(is.type, spec.gpu_types))
    return "has \"" + is.type + "\", not " + Join(spec.gpu_types, " or ");
  if (!MatchesAny(is.vendor, spec.vendors))
    return "is of \"" + is.vendor + "\", not " + Join(spec.vendors, " or ");
  if (NeedsByGpu(spec)) {
    const std::optional<std::uint32_t> share = ShareOn(is, spec);
    if (!share) return "has " + NeedsInWords(spec, is.compute_units, is.fp32_flops, is.bandwidth_bytes_per_s);
    if (spec.compute_percent != 0 && *share > spec.compute_percent)
      return "would have to give " + std::to_string(*share) + "%";
  }
  for (const auto& [key, value] : kind.taints) {
    const auto tolerated = spec.tolerations.find(key);
    if (tolerated == spec.tolerations.end() ||
        (tolerated->second != value && tolerated->second != kAnyValue)) {
      return "is tainted " + key + "=" + value;
    }
  }
  return "";
}

std::string LabelMismatch(const Labels& labels, const ClaimSpec& spec) {
  for (const auto& [key, value] : spec.node_selector) {
    const auto it = labels.find(key);
    if (it == labels.end() || it->second != value) return "is not labelled " + key + "=" + value;
  }
  return "";
}

NodeVerdict VerdictOf(const ExplainedNode& node, std::span<const KindOfGpu> kinds, const ClaimSpec& spec,
                      const Demand& demand) {
  View view;
  if (LabelMismatch(*node.labels, spec).empty()) view = ViewOf(*node.room, demand);
  const bool open = view.matches && node.closed_because.empty();
  ClaimSpec any_number = spec;
  any_number.count = kMaxVGpusPerClaim;
  return {.node = std::string(node.name),
          .room = open ? static_cast<std::uint32_t>(view.fits) : 0,
          .message = InWords(node, view, kinds, any_number)};
}

NoFit Explain(std::span<const ExplainedNode> nodes, std::span<const KindOfGpu> kinds, const ClaimSpec& spec,
              const Demand& demand) {
  const std::string asked = "asked for " + InWords(spec) + "; ";
  View all;
  bool any_matches = false;
  std::size_t count = 0;
  std::string_view largest, most_free;  // nodes
  std::vector<std::string> lines;
  for (const ExplainedNode& node : nodes) {
    if (node.room->gpus.empty()) continue;
    ++count;
    View view;
    if (LabelMismatch(*node.labels, spec).empty()) view = ViewOf(*node.room, demand);
    if (lines.size() < kMaxNodesInMessage)
      lines.push_back("node " + std::string(node.name) + " " + InWords(node, view, kinds, spec));
    any_matches |= view.matches;
    if (!view.matches || !node.closed_because.empty()) continue;
    if (view.most_memory > all.most_memory) largest = node.name;
    if (view.free_memory > all.free_memory) most_free = node.name;
    all = {.matches = true,
           .most_memory = std::max(all.most_memory, view.most_memory),
           .most_compute = std::max(all.most_compute, view.most_compute),
           .free_memory = std::max(all.free_memory, view.free_memory),
           .free_compute = std::max(all.free_compute, view.free_compute),
           .free_network = std::max(all.free_network, view.free_network),
           .free_spill = std::max(all.free_spill, view.free_spill),
           .fits = all.fits + view.fits};
  }
  if (count == 0) {
    return {"NoNodes", asked + "the mesh has no GPU: start a node with `tulle up`, see `tulle get nodes`"};
  }
  if (count > lines.size()) lines.push_back(std::to_string(count - lines.size()) + " more nodes");
  const std::string detail = " (" + Join(lines, "; ") + "); see `tulle get gpus`";

  if (!any_matches) return {"NoMatchingGpu", asked + "no GPU of the mesh matches" + detail};
  if (!all.matches) return {"NoReadyNode", asked + "no node with a matching GPU is ready" + detail};
  if (demand.memory > all.most_memory) {
    return {"InsufficientMemory", asked + "the largest GPU has " + Memory(all.most_memory) + " on node " +
                                      std::string(largest) + detail};
  }
  if (demand.memory > all.free_memory) {
    return {"InsufficientMemory", asked + "the largest free slice is " + Memory(all.free_memory) +
                                      " on node " + std::string(most_free) + detail};
  }
  if (demand.compute > all.most_compute) {
    return {"InsufficientCompute",
            asked + "no GPU offers more than " + Percent(all.most_compute) + " of its compute" + detail};
  }
  if (all.fits > 0) {
    return {"InsufficientGpus", asked + "only " + std::to_string(all.fits) + " of them " +
                                    (all.fits == 1 ? "fits" : "fit") + " now" + detail};
  }
  if (demand.dedicated) return {"InsufficientGpus", asked + "no GPU is without vGPUs now" + detail};
  if (demand.compute > all.free_compute) {
    return {"InsufficientCompute", asked + "the largest free share is " + Percent(all.free_compute) + detail};
  }
  if (demand.network > all.free_network) {
    return {"InsufficientNetwork", asked + "the most that a GPU's node can promise of its network is " +
                                       Network(all.free_network) + detail +
                                       "; nodes say what theirs moves with --network-bandwidth"};
  }
  if (demand.spill > all.free_spill) {
    return {"InsufficientSpill", asked + "the most that is left for vGPUs of one GPU to spill is " +
                                     Memory(all.free_spill) + detail +
                                     "; nodes allow it with --spill-memory and --spill-disk"};
  }
  return {"InsufficientGpus", asked + "no GPU has all of it free at once" + detail};
}

}  // namespace tulle::control
