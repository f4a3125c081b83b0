#include "tulle/control/placement/fleet.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "tulle/base/check.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::int32_t kComputePerPercent = kWholeGpu / 100;

std::int32_t ComputeOf(std::uint32_t percent) {
  return kComputePerPercent * static_cast<std::int32_t>(percent);
}

// To its two leading digits.
std::uint64_t RoundedDown(std::uint64_t number) {
  std::uint64_t unit = 1;
  while (number / unit >= 100) unit *= 10;
  return number / unit * unit;
}

std::int32_t PagesIn(std::uint64_t bytes) {
  return static_cast<std::int32_t>(
      std::min<std::uint64_t>(bytes / kPageBytes, std::numeric_limits<std::int32_t>::max()));
}

// Rounded down.
std::int32_t NetworkUnitsIn(std::uint64_t bytes_per_s) {
  return static_cast<std::int32_t>(
      std::min<std::uint64_t>(bytes_per_s / kNetworkUnitBytes, std::numeric_limits<std::int32_t>::max()));
}

// Nothing is free there.
void Shut(GpuRoom* gpu) {
  gpu->compute = gpu->memory = gpu->network = gpu->spill = 0;
  ++gpu->vgpus;
}

template <typename T>
T Minus(T all, T taken) {
  return all > taken ? all - taken : 0;  // a GPU may have shrunk under its vGPUs
}

GpuRoom RoomOf(const Gpu& gpu, GpuKind kind) {
  const GpuStatus& status = gpu.status;
  return {
      .kind = kind,
      .compute = kComputePerPercent * static_cast<std::int32_t>(Minus(status.allocatable_compute_percent,
                                                                      status.allocated_compute_percent)),
      .memory = PagesIn(Minus(status.allocatable_memory_bytes, status.allocated_memory_bytes)),
      .network =
          NetworkUnitsIn(Minus(status.allocatable_network_bytes_per_s, status.allocated_network_bytes_per_s)),
      .spill = PagesIn(Minus(status.allocatable_spill_bytes, status.allocated_spill_bytes)),
      .compute_capacity = kComputePerPercent * static_cast<std::int32_t>(status.allocatable_compute_percent),
      .memory_capacity = std::max(PagesIn(status.allocatable_memory_bytes), 1),
      .vgpus = static_cast<std::int32_t>(status.vgpus)};
}

}  // namespace

void Fleet::SetNode(const std::string& name, const Labels& labels, std::string closed_because,
                    const Labels& taints) {
  const auto [it, is_new] = index_of_node_.emplace(name, nodes_.size());
  if (is_new && !vacant_.empty()) {
    it->second = vacant_.back();
    vacant_.pop_back();
  } else if (is_new) {
    nodes_.emplace_back();
    slices_.emplace_back();
    placer_.Add({});
  }
  NodeEntry& node = nodes_[it->second];
  const bool was_open = node.closed_because.empty();
  node.name = name;
  node.labels = labels;
  node.closed_because = std::move(closed_because);
  if (node.taints != taints) {
    node.taints = taints;
    for (std::size_t i = 0; i < node.gpus.size(); ++i) {
      node.room.gpus[i].kind = KindOf(node.gpus[i]->spec.description, taints);
    }
    return Update(it->second);
  }
  if (was_open != node.closed_because.empty()) Update(it->second);
}

void Fleet::RemoveNode(const std::string& name) {
  const auto it = index_of_node_.find(name);
  if (it == index_of_node_.end()) return;
  for (const auto& elastic : nodes_[it->second].elastic) elastic_vgpus_ -= elastic.size();
  nodes_[it->second] = {};
  slices_[it->second].clear();
  Update(it->second);
  vacant_.push_back(it->second);
  index_of_node_.erase(it);
}

void Fleet::SetGpu(const Gpu& gpu, std::vector<ElasticVGpu> elastic) {
  const std::size_t index = index_of_node_.at(gpu.spec.node);
  NodeEntry& node = nodes_[index];
  const auto i = std::find(node.gpus.begin(), node.gpus.end(), &gpu) - node.gpus.begin();
  if (i == std::ssize(node.gpus)) {
    node.gpus.push_back(&gpu);
    node.room.gpus.emplace_back();
    node.elastic.emplace_back();
    slices_[index].emplace_back();
    node_of_gpu_[gpu.metadata.uid] = index;
  }
  GpuRoom& room = node.room.gpus[static_cast<std::size_t>(i)];
  room = RoomOf(gpu, KindOf(gpu.spec.description, node.taints));
  if (gpu.spec.cordoned) Shut(&room);
  std::vector<ElasticVGpu>& had = node.elastic[static_cast<std::size_t>(i)];
  if (had != elastic) {
    elastic_vgpus_ += elastic.size() - had.size();
    had = std::move(elastic);
    std::vector<PlacedSlice>& slices = slices_[index][static_cast<std::size_t>(i)];
    slices.clear();
    for (const ElasticVGpu& vgpu : had) {
      slices.push_back({.id = static_cast<std::uint32_t>(slices.size()),
                        .demand = {.compute = ComputeOf(vgpu.compute_percent)},
                        .least_compute = ComputeOf(vgpu.least_percent)});
    }
  }
  Update(index);
}

void Fleet::RemoveGpu(const Gpu& gpu) {
  const std::size_t index = index_of_node_.at(gpu.spec.node);
  NodeEntry& node = nodes_[index];
  const auto i = std::find(node.gpus.begin(), node.gpus.end(), &gpu) - node.gpus.begin();
  TULLE_CHECK(i != std::ssize(node.gpus));
  node_of_gpu_.erase(gpu.metadata.uid);
  set_aside_.erase(gpu.metadata.uid);
  elastic_vgpus_ -= node.elastic[static_cast<std::size_t>(i)].size();
  node.elastic.erase(node.elastic.begin() + i);
  slices_[index].erase(slices_[index].begin() + i);
  node.gpus.erase(node.gpus.begin() + i);
  node.room.gpus.erase(node.room.gpus.begin() + i);
  Update(index);
}

GpuKind Fleet::KindOf(const GpuDescription& description, const Labels& taints) {
  // These are measured: equal GPUs have about the same.
  GpuDescription kind = description;
  kind.bandwidth_bytes_per_s = RoundedDown(kind.bandwidth_bytes_per_s);
  kind.fp32_flops = RoundedDown(kind.fp32_flops);
  const auto [it, is_new] =
      kinds_.emplace(std::tuple(kind.type, kind.vendor, kind.apis, kind.isolations, kind.compute_units,
                                kind.bandwidth_bytes_per_s, kind.fp32_flops, taints),
                     static_cast<GpuKind>(kind_descriptions_.size()));
  if (is_new) kind_descriptions_.push_back({kind, taints});
  return it->second;
}

void Fleet::Update(std::size_t index) {
  NodeEntry& node = nodes_[index];
  node.open_room = node.room;
  for (std::size_t i = 0; !set_aside_.empty() && i < node.gpus.size(); ++i) {
    if (set_aside_.contains(node.gpus[i]->metadata.uid)) Shut(&node.open_room.gpus[i]);
  }
  placer_.Set(index, node.closed_because.empty() ? node.open_room : NodeRoom());
}

void Fleet::SetOpen(const std::vector<std::string>& gpus, bool open) {
  for (const std::string& uid : gpus) {
    const auto it = node_of_gpu_.find(uid);
    if (it == node_of_gpu_.end()) continue;
    if (open ? set_aside_.erase(uid) != 0 : set_aside_.insert(uid).second) Update(it->second);
  }
}

std::vector<ClaimSpec> Fleet::Variants(const ClaimSpec& spec) const {
  if (!NeedsByGpu(spec) || spec.compute_percent != 0) return {spec};
  std::set<std::uint32_t> shares;
  for (const KindOfGpu& kind : kind_descriptions_) {
    if (const auto share = ShareOn(kind.description, spec)) shares.insert(*share);
  }
  std::vector<ClaimSpec> variants(shares.size(), spec);
  std::transform(shares.begin(), shares.end(), variants.begin(), [&spec](std::uint32_t share) {
    ClaimSpec variant = spec;
    variant.compute_percent = share;
    return variant;
  });
  return variants;
}

std::vector<std::string> Fleet::SetAside(const ClaimSpec& spec) {
  for (const ClaimSpec& variant : Variants(spec)) {
    if (std::vector<std::string> uids = SetAsideFor(variant); !uids.empty()) return uids;
  }
  return {};
}

std::vector<std::string> Fleet::SetAsideFor(const ClaimSpec& spec) {
  const Demand demand = DemandOf(spec);
  // What is missing, in parts of what the GPU has.
  std::vector<std::pair<double, std::string>> candidates;
  for (const NodeEntry& node : nodes_) {
    if (node.gpus.empty() || !node.closed_because.empty() || !LabelMismatch(node.labels, spec).empty())
      continue;
    for (std::size_t i = 0; i < node.gpus.size(); ++i) {
      const GpuRoom& gpu = node.room.gpus[i];
      if (!demand.Allows(gpu.kind) || gpu.compute_capacity < demand.compute ||
          gpu.memory_capacity < demand.memory || set_aside_.contains(node.gpus[i]->metadata.uid)) {
        continue;
      }
      const double compute = static_cast<double>(demand.compute - gpu.compute) / kWholeGpu;
      const double memory = demand.dedicated
                                ? 1 - static_cast<double>(gpu.memory) / gpu.memory_capacity
                                : static_cast<double>(demand.memory - gpu.memory) / gpu.memory_capacity;
      candidates.emplace_back(std::max(compute, memory), node.gpus[i]->metadata.uid);
    }
  }
  std::sort(candidates.begin(), candidates.end());
  const std::size_t needed = IsOneSlice(spec) ? 1 : spec.count;
  std::vector<std::string> uids;
  std::map<std::size_t, std::vector<std::string>> by_node;
  for (const auto& [missing, uid] : candidates) {
    std::vector<std::string>& here = by_node[node_of_gpu_.at(uid)];
    here.push_back(uid);
    if (spec.topology == Topology::kSameNode) {
      if (here.size() == needed) uids = here;
    } else if (spec.topology != Topology::kDistinctNodes || here.size() == 1) {
      uids.push_back(uid);
    }
    if (uids.size() == needed) break;
  }
  if (uids.size() < needed) return {};
  Close(uids);
  return uids;
}

Demand Fleet::DemandOf(const ClaimSpec& spec) const {
  const std::uint32_t percent = ReservedComputePercent(spec.performance_level, spec.compute_percent);
  Demand demand{.compute = ComputeOf(percent),
                .memory = PagesIn(spec.memory_bytes + kPageBytes - 1),
                .network = NetworkUnitsIn(spec.network_bytes_per_s + kNetworkUnitBytes - 1),
                .spill = PagesIn(spec.spill_bytes + kPageBytes - 1),
                .dedicated = spec.performance_level == PerformanceLevel::kDedicated};
  if (IsOneSlice(spec)) {
    demand.compute *= static_cast<std::int32_t>(spec.count);
    demand.memory = PagesIn(spec.count * spec.memory_bytes + kPageBytes - 1);
    demand.network = NetworkUnitsIn(spec.count * spec.network_bytes_per_s + kNetworkUnitBytes - 1);
    demand.spill = PagesIn(spec.count * spec.spill_bytes + kPageBytes - 1);
  }
  for (const KindOfGpu& kind : kind_descriptions_) demand.kinds.push_back(GpuMismatch(kind, spec).empty());
  return demand;
}

std::vector<NodeVerdict> Fleet::Judge(const ClaimSpec& spec, std::size_t most, std::uint32_t* more) const {
  std::vector<ClaimSpec> variants = Variants(spec);
  if (variants.empty()) variants = {spec};
  std::vector<Demand> demands;
  for (const ClaimSpec& variant : variants) demands.push_back(DemandOf(variant));
  struct Judged {
    float score = 0;
    std::size_t node = 0;
    std::uint32_t gpu = 0;
    std::size_t variant = 0;
  };
  std::vector<Judged> judged;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].gpus.empty()) continue;
    Judged& entry =
        judged.emplace_back(Judged{.score = Choice::kNoRoom, .node = i, .variant = variants.size() - 1});
    const NodeRoom& room = placer_.node(i);
    if (!LabelMismatch(nodes_[i].labels, spec).empty()) continue;
    for (std::size_t v = 0; v < variants.size() && entry.score == Choice::kNoRoom; ++v) {
      if (!Fits(room, demands[v])) continue;
      placer_.policy().Look(room);
      const Choice choice = placer_.policy().Best(demands[v]);
      entry.score = choice.score;
      entry.gpu = choice.gpu;
      entry.variant = v;
    }
  }
  const std::size_t count = std::min(judged.size(), most);
  std::partial_sort(judged.begin(), judged.begin() + static_cast<std::ptrdiff_t>(count), judged.end(),
                    [](const Judged& a, const Judged& b) {
                      return std::pair(-a.score, a.node) < std::pair(-b.score, b.node);
                    });
  *more = static_cast<std::uint32_t>(judged.size() - count);
  judged.resize(count);
  std::vector<NodeVerdict> verdicts;
  for (const Judged& entry : judged) {
    const NodeEntry& node = nodes_[entry.node];
    NodeVerdict& verdict = verdicts.emplace_back(
        VerdictOf(Explained(node), kind_descriptions_, variants[entry.variant], demands[entry.variant]));
    if (entry.score == Choice::kNoRoom) continue;
    verdict.gpu = node.gpus[entry.gpu]->metadata.name;
    verdict.score = entry.score;
  }
  return verdicts;
}

std::vector<NodeRoom> Fleet::EmptyRooms() const {
  std::vector<NodeRoom> rooms;
  for (const NodeEntry& node : nodes_) {
    if (node.gpus.empty() || !node.closed_because.empty()) continue;
    for (GpuRoom& gpu : rooms.emplace_back(node.room).gpus) {
      gpu.compute = gpu.compute_capacity;
      gpu.memory = gpu.memory_capacity;
      gpu.vgpus = 0;
    }
  }
  return rooms;
}

Placed Fleet::TryPlace(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  if (!NeedsByGpu(spec)) return TryVariant(spec, avoid_gpus);
  for (const ClaimSpec& variant : Variants(spec)) {
    if (Placed placed = TryVariant(variant, avoid_gpus); !placed.slots.empty()) return placed;
  }
  return {};
}

Placed Fleet::TryVariant(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  Placed placed{.slots = PlaceFree(spec, avoid_gpus)};
  if (placed.slots.empty() && IsElastic(spec)) placed.slots = PlaceSmaller(spec, avoid_gpus);
  if (placed.slots.empty() && elastic_vgpus_ != 0) return PlaceByShrinking(spec, avoid_gpus);
  return placed;
}

std::vector<Slot> Fleet::PlaceSmaller(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  ClaimSpec least = spec;
  least.compute_percent = spec.min_compute_percent;
  std::vector<Slot> slots = PlaceFree(least, avoid_gpus);
  // What is left on each GPU is divided among those that are there.
  std::map<std::string, std::uint32_t> own;
  for (const Slot& slot : slots) ++own[slot.gpu_uid];
  for (Slot& slot : slots) {
    const NodeEntry& node = nodes_[node_of_gpu_.at(slot.gpu_uid)];
    for (std::size_t i = 0; i < node.gpus.size(); ++i) {
      if (node.gpus[i]->metadata.uid != slot.gpu_uid) continue;
      const auto free = static_cast<std::uint32_t>(node.open_room.gpus[i].compute / kComputePerPercent);
      slot.compute_percent =
          std::clamp(free / own[slot.gpu_uid], least.compute_percent, spec.compute_percent);
    }
  }
  return slots;
}

Placed Fleet::PlaceByShrinking(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  const std::uint32_t each = IsOneSlice(spec) ? spec.count : 1;  // vGPUs on one GPU
  const Demand demand = DemandOf(spec);
  const std::int32_t least = IsElastic(spec) ? ComputeOf(each * spec.min_compute_percent) : demand.compute;
  // Nobody is to be shrunk for a whole GPU, and who reserves no compute lacks none.
  if (demand.dedicated || least == 0) return {};
  std::set<std::size_t> changed;
  const auto shut = [&](std::size_t index, std::size_t gpu) {
    NodeRoom room = placer_.node(index);
    if (gpu >= room.gpus.size()) return;  // the node is closed
    Shut(&room.gpus[gpu]);
    placer_.Set(index, std::move(room));
    changed.insert(index);
  };
  for (const std::string& uid : avoid_gpus) {
    const auto it = node_of_gpu_.find(uid);
    if (it == node_of_gpu_.end()) continue;
    for (std::size_t i = 0; i < nodes_[it->second].gpus.size(); ++i) {
      if (nodes_[it->second].gpus[i]->metadata.uid == uid) shut(it->second, i);
    }
  }
  const auto matches = [&](std::size_t index) { return LabelMismatch(nodes_[index].labels, spec).empty(); };
  // How many GPUs of the node one could have if others shrank.
  const auto places = [&](std::size_t index) {
    std::uint32_t count = 0;
    const NodeRoom& room = placer_.node(index);
    for (std::size_t i = 0; i < room.gpus.size(); ++i) {
      std::int32_t could_be_free = room.gpus[i].compute;
      for (const PlacedSlice& slice : slices_[index][i])
        could_be_free += slice.demand.compute - slice.least_compute;
      count += demand.Allows(room.gpus[i].kind) && room.gpus[i].memory >= demand.memory &&
               room.gpus[i].network >= demand.network && room.gpus[i].spill >= demand.spill &&
               could_be_free >= least;
    }
    return count;
  };
  std::function<bool(std::size_t)> may_use = matches;
  std::set<std::size_t> used;
  if (spec.topology == Topology::kDistinctNodes && spec.count > 1) {
    may_use = [&](std::size_t index) { return !used.contains(index) && matches(index); };
  } else if (spec.topology == Topology::kSameNode && spec.count > 1) {
    std::size_t one = 0;
    while (one < nodes_.size() && !(matches(one) && places(one) >= spec.count)) ++one;
    may_use = [one](std::size_t index) { return index == one; };
  }
  Placed placed;
  while (placed.slots.size() < spec.count) {
    const auto plan = PlanByShrinking(placer_, slices_, demand, least, may_use);
    if (!plan) break;
    const NodeEntry& node = nodes_[plan->node];
    placed.slots.insert(
        placed.slots.end(), each,
        {.gpu_uid = node.gpus[plan->gpu]->metadata.uid,
         .memory_bytes = spec.memory_bytes,
         .compute_percent = static_cast<std::uint32_t>(plan->compute / kComputePerPercent) / each});
    // Rounded down, which frees no less.
    for (const Shrink& shrink : plan->shrinks) {
      placed.shrunk.push_back(
          {.vgpu_uid = node.elastic[plan->gpu][shrink.id].uid,
           .compute_percent = static_cast<std::uint32_t>(shrink.compute / kComputePerPercent)});
    }
    used.insert(plan->node);
    shut(plan->node, plan->gpu);
  }
  for (const std::size_t index : changed) Update(index);
  return placed.slots.size() < spec.count ? Placed() : placed;
}

std::vector<Slot> Fleet::PlaceFree(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  std::function<bool(std::size_t)> matches;
  if (!spec.node_selector.empty()) {
    matches = [&](std::size_t index) { return LabelMismatch(nodes_[index].labels, spec).empty(); };
  }
  if (IsOneSlice(spec)) {
    ClaimSpec one = spec;
    one.count = 1;
    one.topology = Topology::kUnspecified;
    one.memory_bytes = spec.count * spec.memory_bytes;
    // More than 100 percent fits no GPU.
    one.compute_percent = spec.count * spec.compute_percent;
    one.network_bytes_per_s = spec.count * spec.network_bytes_per_s;
    one.spill_bytes = spec.count * spec.spill_bytes;
    std::vector<Slot> slots = Deal(one, avoid_gpus, matches);
    if (!slots.empty())
      slots.assign(spec.count, {.gpu_uid = slots[0].gpu_uid,
                                .memory_bytes = spec.memory_bytes,
                                .compute_percent = spec.compute_percent});
    return slots;
  }
  if (spec.topology != Topology::kSameNode || spec.count < 2) return Deal(spec, avoid_gpus, matches);
  // The node that the policy likes best for the first of them, of those that have not been tried.
  const Demand demand = DemandOf(spec);
  std::set<std::size_t> tried;
  for (;;) {
    const auto placed = placer_.Choose(
        demand, [&](std::size_t index) { return !tried.contains(index) && (!matches || matches(index)); });
    if (!placed) return {};
    std::vector<Slot> slots =
        Deal(spec, avoid_gpus, [&](std::size_t index) { return index == placed->node; });
    if (!slots.empty()) return slots;
    tried.insert(placed->node);
  }
}

std::vector<Slot> Fleet::Deal(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus,
                              const std::function<bool(std::size_t)>& may_use) {
  const Demand demand = DemandOf(spec);
  std::set<std::size_t> used;  // nodes that have one already, where each is to have one only
  std::function<bool(std::size_t)> matches = may_use;
  if (spec.topology == Topology::kDistinctNodes && spec.count > 1) {
    matches = [&](std::size_t index) { return !used.contains(index) && (!may_use || may_use(index)); };
  }

  // While the claim's vGPUs are dealt out, the placer's rooms are without what they take, and nothing is free
  // on GPUs that are not their turn: those to be avoided, and those that hold `most_own` of the claim's
  // already.
  struct Special {
    bool avoided = false;
    std::uint32_t own = 0;
    std::int32_t memory = 0;  // taken
  };
  std::map<std::pair<std::size_t, std::uint32_t>, Special> specials;  // by node and GPU
  bool use_avoided = false;
  std::uint32_t most_own = 1;
  const auto refresh = [&](std::size_t index) {
    if (!nodes_[index].closed_because.empty()) return;
    NodeRoom room = nodes_[index].open_room;
    for (std::uint32_t i = 0; i < room.gpus.size(); ++i) {
      const auto it = specials.find({index, i});
      if (it == specials.end()) continue;
      const Special& special = it->second;
      GpuRoom& gpu = room.gpus[i];
      const bool open = special.own < most_own && (use_avoided || !special.avoided);
      const auto own = static_cast<std::int32_t>(special.own);
      gpu.compute = open ? gpu.compute - own * demand.compute : 0;
      gpu.memory = open ? gpu.memory - special.memory : 0;
      gpu.network = open ? gpu.network - own * demand.network : 0;
      gpu.spill = open ? gpu.spill - own * demand.spill : 0;
      gpu.vgpus += open ? own : 1;
    }
    placer_.Set(index, std::move(room));
  };
  const auto refresh_all = [&] {
    for (const auto& [place, special] : specials) refresh(place.first);
  };
  for (std::size_t index = 0; !avoid_gpus.empty() && index < nodes_.size(); ++index) {
    for (std::uint32_t i = 0; i < nodes_[index].gpus.size(); ++i) {
      if (avoid_gpus.contains(nodes_[index].gpus[i]->metadata.uid)) specials[{index, i}].avoided = true;
    }
  }
  refresh_all();

  std::vector<Slot> slots;
  while (slots.size() < spec.count) {
    if (const std::optional<PlacedDemand> placed = placer_.Choose(demand, matches)) {
      const std::uint32_t i = placed->gpus.front();
      const Gpu& gpu = *nodes_[placed->node].gpus[i];
      Special& special = specials[{placed->node, i}];
      const GpuStatus& status = gpu.status;
      // A whole GPU comes with all that it has.
      slots.push_back({.gpu_uid = gpu.metadata.uid,
                       .memory_bytes = demand.dedicated ? Minus(status.allocatable_memory_bytes,
                                                                status.allocated_memory_bytes)
                                                        : spec.memory_bytes,
                       .compute_percent = spec.compute_percent});
      ++special.own;
      used.insert(placed->node);
      special.memory += demand.dedicated ? nodes_[placed->node].open_room.gpus[i].memory : demand.memory;
      if (slots.size() < spec.count) refresh(placed->node);
      continue;
    }
    const bool may_stack = std::any_of(specials.begin(), specials.end(),
                                       [&](const auto& entry) { return entry.second.own >= most_own; });
    if (may_stack) {
      ++most_own;
    } else if (!use_avoided && !avoid_gpus.empty()) {
      use_avoided = true;
      most_own = 1;
    } else {
      break;
    }
    refresh_all();
  }
  if (spec.count > 1 || !avoid_gpus.empty()) {
    for (const auto& [place, special] : specials) Update(place.first);
  }
  if (slots.size() < spec.count) slots.clear();
  return slots;
}

Placement Fleet::Place(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus) {
  if (Placed placed = TryPlace(spec, avoid_gpus); !placed.slots.empty()) return placed;
  std::vector<ExplainedNode> nodes;
  nodes.reserve(nodes_.size());
  for (const NodeEntry& node : nodes_) {
    nodes.push_back(Explained(node));
  }
  // With the largest share, for which each GPU that could serve it is a match.
  const std::vector<ClaimSpec> variants = Variants(spec);
  const ClaimSpec& explained = variants.empty() ? spec : variants.back();
  NoFit no_fit = Explain(nodes, kind_descriptions_, explained, DemandOf(explained));
  if (!set_aside_.empty()) {
    no_fit.message += "; " + std::to_string(set_aside_.size()) +
                      (set_aside_.size() == 1 ? " GPU is" : " GPUs are") +
                      " set aside for claims whose turn it is";
  }
  return no_fit;
}

}  // namespace tulle::control
