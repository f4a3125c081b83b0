#include "tulle/control/placement/repack.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tulle::control {
namespace {

// Which slices have to go from a GPU so that the demand fits: nothing when they cannot. One that is just
// large enough, or else the largest ones.
std::optional<std::vector<const PlacedSlice*>> ToGo(const GpuRoom& gpu,
                                                    const std::vector<PlacedSlice>& slices,
                                                    const Demand& demand) {
  if (!demand.Allows(gpu.kind) || gpu.compute_capacity < demand.compute ||
      (gpu.memory_capacity != 0 && gpu.memory_capacity < demand.memory)) {
    return std::nullopt;
  }
  std::vector<const PlacedSlice*> go;
  if (Fits(gpu, demand)) return go;
  std::vector<const PlacedSlice*> by_size;
  for (const PlacedSlice& slice : slices) by_size.push_back(&slice);
  std::sort(by_size.begin(), by_size.end(),
            [](const PlacedSlice* a, const PlacedSlice* b) { return a->demand.compute < b->demand.compute; });
  GpuRoom left = gpu;
  const auto without = [](GpuRoom room, const PlacedSlice& slice) {
    room.compute += slice.demand.compute;
    room.memory += slice.demand.memory;
    --room.vgpus;
    return room;
  };
  for (const PlacedSlice* slice : by_size) {
    if (Fits(without(left, *slice), demand)) return std::vector{slice};
  }
  for (auto it = by_size.rbegin(); it != by_size.rend(); ++it) {
    left = without(left, **it);
    go.push_back(*it);
    if (Fits(left, demand)) return go;
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::int32_t> GiveAlike(std::int32_t missing, std::span<const std::int32_t> can) {
  std::int64_t all = 0;
  for (const std::int32_t one : can) all += one;
  std::int64_t left = std::min<std::int64_t>(missing, all);
  std::vector<std::int32_t> given;
  for (const std::int32_t one : can) {
    // Rounded up, so that the sum is enough.
    const std::int64_t part = all == 0 ? 0 : std::min<std::int64_t>((left * one + all - 1) / all, one);
    given.push_back(static_cast<std::int32_t>(part));
    all -= one;
    left -= std::min(part, left);
  }
  return given;
}

std::optional<ShrinkPlan> PlanByShrinking(const Placer& placer, const std::vector<NodeSlices>& slices,
                                          const Demand& demand, std::int32_t least_compute,
                                          const std::function<bool(std::size_t)>& may_use) {
  if (demand.gpus != 1 || demand.dedicated) return std::nullopt;
  std::optional<ShrinkPlan> best;
  std::int32_t best_missing = std::numeric_limits<std::int32_t>::max();
  for (std::size_t node = 0; node < placer.size(); ++node) {
    const NodeRoom& room = placer.node(node);
    if (!HostFits(room, demand) || (may_use && !may_use(node))) continue;
    for (std::uint32_t i = 0; i < room.gpus.size(); ++i) {
      const GpuRoom& gpu = room.gpus[i];
      if (!demand.Allows(gpu.kind) || gpu.memory < demand.memory || gpu.network < demand.network ||
          gpu.spill < demand.spill)
        continue;
      std::int32_t spare = 0;
      for (const PlacedSlice& slice : slices[node][i]) spare += slice.demand.compute - slice.least_compute;
      const std::int32_t missing = demand.compute - gpu.compute;
      if (missing >= best_missing || gpu.compute + spare < least_compute) continue;
      best_missing = missing;
      best = ShrinkPlan{.node = node, .gpu = i};
    }
  }
  if (!best) return std::nullopt;
  // The neighbours and the newcomer, who comes last, give alike.
  const GpuRoom& gpu = placer.node(best->node).gpus[best->gpu];
  const std::vector<PlacedSlice>& neighbours = slices[best->node][best->gpu];
  std::vector<std::int32_t> can;
  for (const PlacedSlice& slice : neighbours) can.push_back(slice.demand.compute - slice.least_compute);
  can.push_back(demand.compute - least_compute);
  const std::vector<std::int32_t> given = GiveAlike(std::max(demand.compute - gpu.compute, 0), can);
  best->compute = demand.compute - given.back();
  for (std::size_t i = 0; i < neighbours.size(); ++i) {
    if (given[i] != 0) best->shrinks.push_back({neighbours[i].id, neighbours[i].demand.compute - given[i]});
  }
  return best;
}

std::optional<MovePlan> PlanByMoving(Placer& placer, std::vector<NodeSlices>& slices, const Demand& demand,
                                     const MoveLimits& limits) {
  if (demand.gpus < 1) return std::nullopt;
  struct Candidate {
    std::int64_t cost = 0;
    std::size_t node = 0;
    std::vector<std::uint32_t> gpus;
  };
  std::vector<Candidate> candidates;
  for (std::size_t node = 0; node < placer.size(); ++node) {
    const NodeRoom& room = placer.node(node);
    if (!HostFits(room, demand) || room.gpus.size() < static_cast<std::size_t>(demand.gpus)) continue;
    std::vector<std::pair<std::int64_t, std::uint32_t>> costs;
    for (std::uint32_t i = 0; i < room.gpus.size(); ++i) {
      const auto go = ToGo(room.gpus[i], slices[node][i], demand);
      if (!go) continue;
      std::int64_t cost = 0;
      for (const PlacedSlice* slice : *go) cost += slice->demand.compute;
      costs.emplace_back(cost, i);
    }
    if (costs.size() < static_cast<std::size_t>(demand.gpus)) continue;
    std::partial_sort(costs.begin(), costs.begin() + demand.gpus, costs.end());
    Candidate candidate{.node = node};
    for (std::int32_t i = 0; i < demand.gpus; ++i) {
      candidate.cost += costs[static_cast<std::size_t>(i)].first;
      candidate.gpus.push_back(costs[static_cast<std::size_t>(i)].second);
    }
    std::sort(candidate.gpus.begin(), candidate.gpus.end());
    candidates.push_back(std::move(candidate));
  }
  const std::size_t tried = std::min(candidates.size(), limits.nodes_tried);
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(tried),
                    candidates.end(), [](const Candidate& a, const Candidate& b) {
                      return std::pair(a.cost, a.node) < std::pair(b.cost, b.node);
                    });
  candidates.resize(tried);
  const auto elsewhere = [](std::size_t from) { return [from](std::size_t node) { return node != from; }; };
  for (const Candidate& candidate : candidates) {
    MovePlan plan{.place = {.node = candidate.node, .gpus = candidate.gpus}, .moved_compute = candidate.cost};
    // What was before, to be put back.
    std::vector<std::pair<Move, std::int32_t>> done;  // with what the slice had
    std::vector<std::vector<Shrink>> had;
    bool fits = true;
    for (const std::uint32_t gpu : candidate.gpus) {
      const auto pointers = ToGo(placer.node(candidate.node).gpus[gpu], slices[candidate.node][gpu], demand);
      std::vector<PlacedSlice> go;  // by value: carrying a move out changes the list that these are in
      for (const PlacedSlice* slice : *pointers) go.push_back(*slice);
      for (const PlacedSlice& slice : go) {
        if (!fits) break;
        fits = false;
        if (plan.moves.size() == limits.most_moves) break;
        Move move{
            .id = slice.id, .from_node = candidate.node, .from_gpu = gpu, .compute = slice.demand.compute};
        if (const auto to = placer.Choose(slice.demand, elsewhere(candidate.node))) {
          move.to_node = to->node;
          move.to_gpu = to->gpus.front();
        } else if (const auto shrink = PlanByShrinking(placer, slices, slice.demand, slice.least_compute,
                                                       elsewhere(candidate.node))) {
          move.to_node = shrink->node;
          move.to_gpu = shrink->gpu;
          move.compute = shrink->compute;
          move.shrinks = shrink->shrinks;
        } else {
          break;
        }
        std::vector<Shrink>& before = had.emplace_back();
        for (const PlacedSlice& other : slices[move.to_node][move.to_gpu]) {
          before.push_back({other.id, other.demand.compute});
        }
        Carry(placer, slices, move);
        done.emplace_back(move, slice.demand.compute);
        plan.moves.push_back(std::move(move));
        fits = true;
      }
    }
    for (std::size_t i = done.size(); i-- > 0;) {
      const auto& [move, compute] = done[i];
      Carry(placer, slices,
            {.id = move.id,
             .from_node = move.to_node,
             .to_node = move.from_node,
             .from_gpu = move.to_gpu,
             .to_gpu = move.from_gpu,
             .compute = compute});
      for (const Shrink& before : had[i]) Resize(placer, slices, move.to_node, move.to_gpu, before);
    }
    if (fits) return plan;
  }
  return std::nullopt;
}

void Resize(Placer& placer, std::vector<NodeSlices>& slices, std::size_t node, std::uint32_t gpu,
            const Shrink& to) {
  for (PlacedSlice& slice : slices[node][gpu]) {
    if (slice.id != to.id || slice.demand.compute == to.compute) continue;
    placer.Give(slice.demand, {.node = node, .gpus = {gpu}});
    slice.demand.compute = to.compute;
    placer.Take(slice.demand, {.node = node, .gpus = {gpu}});
  }
}

void Carry(Placer& placer, std::vector<NodeSlices>& slices, const Move& move) {
  for (const Shrink& shrink : move.shrinks) Resize(placer, slices, move.to_node, move.to_gpu, shrink);
  std::vector<PlacedSlice>& from = slices[move.from_node][move.from_gpu];
  const auto it =
      std::find_if(from.begin(), from.end(), [&](const PlacedSlice& slice) { return slice.id == move.id; });
  PlacedSlice slice = *it;
  from.erase(it);
  placer.Give(slice.demand, {.node = move.from_node, .gpus = {move.from_gpu}});
  slice.demand.compute = move.compute;
  placer.Take(slice.demand, {.node = move.to_node, .gpus = {move.to_gpu}});
  slices[move.to_node][move.to_gpu].push_back(std::move(slice));
}

}  // namespace tulle::control
