#include "bench/placement/mesh_replay.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tulle/control/placement/placer.h"
#include "tulle/control/placement/repack.h"

namespace tulle::bench {
namespace {

using namespace control;

class MeshReplay {
 public:
  MeshReplay(std::unique_ptr<Policy> policy, const MeshAbilities& abilities)
      : abilities_(abilities), placer_(std::move(policy)) {}

  void AddNode(const NodeRoom& room) {
    placer_.Add(room);
    slices_.emplace_back(room.gpus.size());
  }

  // What is allocated more when it has arrived, in thousandths of a GPU.
  std::int64_t Arrive(const Demand& demand) {
    if (const auto placed = placer_.Choose(demand)) return Put(demand, demand.compute, *placed);
    const bool is_slice = demand.gpus == 1 && demand.compute < kWholeGpu;
    if (is_slice && abilities_.least_part < 1) {
      if (const auto plan = PlanByShrinking(placer_, slices_, demand, LeastOf(demand)))
        return CarryOut(*plan, demand);
    }
    if (abilities_.move && demand.gpus > 0) {
      if (const auto plan = PlanByMoving(placer_, slices_, demand)) return CarryOut(*plan, demand);
    }
    return 0;
  }

  std::uint64_t moves() const { return moves_; }
  std::uint64_t shrinks() const { return shrinks_; }

 private:
  struct Where {
    std::size_t node = 0;
    std::uint32_t gpu = 0;
    std::int32_t wanted = 0;
  };

  std::int32_t LeastOf(const Demand& demand) const {
    const bool is_slice = demand.gpus == 1 && demand.compute < kWholeGpu;
    return is_slice ? static_cast<std::int32_t>(std::ceil(abilities_.least_part * demand.compute))
                    : demand.compute;
  }

  // `demand` with what it has; `wanted`: what it asked for.
  std::int64_t Put(const Demand& demand, std::int32_t wanted, const PlacedDemand& placed) {
    placer_.Take(demand, placed);
    if (demand.gpus == 1) {  // those of several GPUs stay together, where they are
      Demand asked = demand;
      asked.compute = wanted;
      slices_[placed.node][placed.gpus.front()].push_back(
          {.id = static_cast<std::uint32_t>(where_.size()),
           .demand = demand,
           .least_compute = std::min(LeastOf(asked), demand.compute)});
      where_.push_back({placed.node, placed.gpus.front(), wanted});
    }
    return std::int64_t{demand.gpus} * demand.compute;
  }

  PlacedSlice& SliceOf(std::uint32_t id) {
    auto& here = slices_[where_[id].node][where_[id].gpu];
    return *std::find_if(here.begin(), here.end(), [id](const PlacedSlice& slice) { return slice.id == id; });
  }

  // What it has more then.
  std::int64_t ResizeTo(std::uint32_t id, std::int32_t compute) {
    const std::int32_t more = compute - SliceOf(id).demand.compute;
    Resize(placer_, slices_, where_[id].node, where_[id].gpu, {id, compute});
    return more;
  }

  std::int64_t CarryOut(const ShrinkPlan& plan, Demand demand) {
    std::int64_t more = 0;
    for (const Shrink& shrink : plan.shrinks) more += ResizeTo(shrink.id, shrink.compute);
    shrinks_ += plan.shrinks.size();
    const std::int32_t wanted = std::exchange(demand.compute, plan.compute);
    return more + Put(demand, wanted, {.node = plan.node, .gpus = {plan.gpu}});
  }

  std::int64_t CarryOut(const MovePlan& plan, const Demand& demand) {
    std::int64_t more = 0;
    for (const Move& move : plan.moves) {
      more += move.compute - SliceOf(move.id).demand.compute;
      for (const Shrink& shrink : move.shrinks) more += shrink.compute - SliceOf(shrink.id).demand.compute;
      shrinks_ += move.shrinks.size();
      Carry(placer_, slices_, move);
      where_[move.id].node = move.to_node;
      where_[move.id].gpu = move.to_gpu;
    }
    moves_ += plan.moves.size();
    more += Put(demand, demand.compute, plan.place);
    for (const std::uint32_t gpu : plan.place.gpus) more += Grow(plan.place.node, gpu);
    return more;
  }

  // What is free on a GPU goes to those that have less than they asked for.
  std::int64_t Grow(std::size_t node, std::uint32_t gpu) {
    std::int64_t more = 0;
    for (std::size_t i = 0; i < slices_[node][gpu].size(); ++i) {
      const PlacedSlice& slice = slices_[node][gpu][i];
      const std::int32_t free = placer_.node(node).gpus[gpu].compute;
      const std::int32_t grown = std::min(where_[slice.id].wanted, slice.demand.compute + free);
      if (grown > slice.demand.compute) more += ResizeTo(slice.id, grown);
    }
    return more;
  }

  const MeshAbilities abilities_;
  Placer placer_;
  std::vector<NodeSlices> slices_;
  std::vector<Where> where_;  // by id
  std::uint64_t moves_ = 0, shrinks_ = 0;
};

}  // namespace

Openb WithProcessorsElsewhere(Openb openb) {
  for (OpenbPod& pod : openb.pods) {
    if (pod.demand.gpus != 0) pod.demand.cpu = pod.demand.host_memory = 0;
  }
  return openb;
}

MeshReplayed ReplayOnMesh(const Openb& openb, std::unique_ptr<Policy> policy, std::uint64_t seed,
                          const MeshAbilities& abilities) {
  MeshReplay mesh(std::move(policy), abilities);
  std::size_t arrivals = 0;
  MeshReplayed result;
  result.replayed = Replay(
      openb, seed, [&](const NodeRoom& room) { mesh.AddNode(room); },
      [&](const Demand& demand) {
        ++arrivals;
        return mesh.Arrive(demand);
      });
  result.moves_per_arrival = static_cast<double>(mesh.moves()) / static_cast<double>(arrivals);
  result.shrinks_per_arrival = static_cast<double>(mesh.shrinks()) / static_cast<double>(arrivals);
  return result;
}

}  // namespace tulle::bench
