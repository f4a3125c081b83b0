#include "bench/placement/mesh.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tulle::bench {

using namespace control;

namespace {

bool IsSlice(const Demand& demand) { return demand.gpus == 1 && demand.compute < kWholeGpu; }

}  // namespace

void Mesh::AddNode(const NodeRoom& room) {
  placer_.Add(room);
  slices_.emplace_back(room.gpus.size());
}

std::optional<std::uint32_t> Mesh::Arrive(const Demand& demand) {
  if (const auto place = placer_.Choose(demand)) return Put(demand, demand.compute, *place);
  if (const auto id = Shrinking(demand, nullptr)) return id;
  if (abilities_.move && demand.gpus > 0) {
    if (const auto plan = PlanByMoving(placer_, slices_, demand)) return CarryOut(*plan, demand);
  }
  return std::nullopt;
}

std::optional<std::uint32_t> Mesh::ArriveAt(std::size_t node, const Demand& demand) {
  const NodeRoom& room = placer_.node(node);
  if (Fits(room, demand)) {
    placer_.policy().Look(room);
    const Choice choice = placer_.policy().Best(demand);
    if (choice.fits())
      return Put(demand, demand.compute, {.node = node, .gpus = GpusOf(room, demand, choice)});
  }
  return Shrinking(demand, [node](std::size_t index) { return index == node; });
}

std::optional<std::uint32_t> Mesh::Shrinking(const Demand& demand,
                                             const std::function<bool(std::size_t)>& may_use) {
  if (abilities_.least_part == 1 || !IsSlice(demand)) return std::nullopt;
  const auto plan = PlanByShrinking(placer_, slices_, demand, LeastOf(demand), may_use);
  if (!plan) return std::nullopt;
  return CarryOut(*plan, demand);
}

std::size_t Mesh::Leave(std::uint32_t id) {
  const Placed& gone = placed_[id];
  Demand had = gone.demand;
  if (had.gpus == 1) {
    had = SliceOf(id).demand;
    std::erase_if(slices_[gone.place.node][gone.place.gpus.front()],
                  [id](const PlacedSlice& slice) { return slice.id == id; });
  }
  placer_.Give(had, gone.place);
  allocated_ -= std::int64_t{had.gpus} * had.compute;
  return gone.place.node;
}

void Mesh::Grow(std::size_t node) {
  for (std::uint32_t gpu = 0; gpu < slices_[node].size(); ++gpu) Grow(node, gpu);
}

std::int32_t Mesh::LeastOf(const Demand& demand) const {
  return IsSlice(demand) ? static_cast<std::int32_t>(std::ceil(abilities_.least_part * demand.compute))
                         : demand.compute;
}

// `demand` with what it gets; `wanted`: what it asked for.
std::uint32_t Mesh::Put(const Demand& demand, std::int32_t wanted, const PlacedDemand& place) {
  placer_.Take(demand, place);
  const auto id = static_cast<std::uint32_t>(placed_.size());
  if (demand.gpus == 1) {  // those of several GPUs stay together, where they are
    Demand asked = demand;
    asked.compute = wanted;
    slices_[place.node][place.gpus.front()].push_back(
        {.id = id, .demand = demand, .least_compute = std::min(LeastOf(asked), demand.compute)});
  }
  placed_.push_back({demand, place, wanted});
  allocated_ += std::int64_t{demand.gpus} * demand.compute;
  return id;
}

PlacedSlice& Mesh::SliceOf(std::uint32_t id) {
  const PlacedDemand& place = placed_[id].place;
  auto& here = slices_[place.node][place.gpus.front()];
  return *std::find_if(here.begin(), here.end(), [id](const PlacedSlice& slice) { return slice.id == id; });
}

void Mesh::ResizeTo(std::uint32_t id, std::int32_t compute) {
  allocated_ += compute - SliceOf(id).demand.compute;
  const PlacedDemand& place = placed_[id].place;
  Resize(placer_, slices_, place.node, place.gpus.front(), {id, compute});
}

std::uint32_t Mesh::CarryOut(const ShrinkPlan& plan, Demand demand) {
  for (const Shrink& shrink : plan.shrinks) ResizeTo(shrink.id, shrink.compute);
  shrinks_ += plan.shrinks.size();
  const std::int32_t wanted = std::exchange(demand.compute, plan.compute);
  return Put(demand, wanted, {.node = plan.node, .gpus = {plan.gpu}});
}

std::uint32_t Mesh::CarryOut(const MovePlan& plan, const Demand& demand) {
  for (const Move& move : plan.moves) {
    allocated_ += move.compute - SliceOf(move.id).demand.compute;
    for (const Shrink& shrink : move.shrinks)
      allocated_ += shrink.compute - SliceOf(shrink.id).demand.compute;
    shrinks_ += move.shrinks.size();
    Carry(placer_, slices_, move);
    placed_[move.id].place = {.node = move.to_node, .gpus = {move.to_gpu}};
  }
  moves_ += plan.moves.size();
  const std::uint32_t id = Put(demand, demand.compute, plan.place);
  for (const std::uint32_t gpu : plan.place.gpus) Grow(plan.place.node, gpu);
  return id;
}

void Mesh::Grow(std::size_t node, std::uint32_t gpu) {
  for (std::size_t i = 0; i < slices_[node][gpu].size(); ++i) {
    const PlacedSlice& slice = slices_[node][gpu][i];
    const std::int32_t free = placer_.node(node).gpus[gpu].compute;
    const std::int32_t grown = std::min(placed_[slice.id].wanted, slice.demand.compute + free);
    if (grown > slice.demand.compute) ResizeTo(slice.id, grown);
  }
}

Openb WithProcessorsElsewhere(Openb openb) {
  for (OpenbPod& pod : openb.pods) {
    if (pod.demand.gpus != 0) pod.demand.cpu = pod.demand.host_memory = 0;
  }
  return openb;
}

MeshReplayed ReplayOnMesh(const Openb& openb, std::unique_ptr<Policy> policy, std::uint64_t seed,
                          const MeshAbilities& abilities) {
  Mesh mesh(std::move(policy), abilities);
  std::size_t arrivals = 0;
  MeshReplayed result;
  result.replayed = Replay(
      openb, seed, [&](const NodeRoom& room) { mesh.AddNode(room); },
      [&](const Demand& demand) {
        ++arrivals;
        const std::int64_t before = mesh.allocated();
        mesh.Arrive(demand);
        return mesh.allocated() - before;
      });
  result.moves_per_arrival = static_cast<double>(mesh.moves()) / static_cast<double>(arrivals);
  result.shrinks_per_arrival = static_cast<double>(mesh.shrinks()) / static_cast<double>(arrivals);
  return result;
}

}  // namespace tulle::bench
