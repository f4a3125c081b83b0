// How room could be made for a demand that has none: by shrinking slices that may have less, or by moving
// slices to other GPUs. Plans, with what they cost; nothing is done here.
//
// Shrinking is looked for where least of it is needed; each neighbour then gives in proportion to what it can
// spare. For moving, the GPUs of a node are ranked by how much would have to go from them, the nodes by their
// cheapest GPUs, and the cheapest nodes are tried until all that has to go finds another place by the policy,
// or one where others shrink.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "tulle/control/placement/placer.h"
#include "tulle/control/placement/room.h"

namespace tulle::control {

// A slice that is on a GPU now.
struct PlacedSlice {
  std::uint32_t id = 0;            // of the caller's; no other one of the GPU has it
  Demand demand;                   // what it has; of one GPU
  std::int32_t least_compute = 0;  // that it may be shrunk to; as much as it has: it may not
};
// Of one node, by GPU.
using NodeSlices = std::vector<std::vector<PlacedSlice>>;

// What each gives of `missing` when all give alike, by what each can: nobody more than it can, and no less
// together than `missing` or all that they can.
std::vector<std::int32_t> GiveAlike(std::int32_t missing, std::span<const std::int32_t> can);

struct Shrink {
  std::uint32_t id = 0;
  std::int32_t compute = 0;  // that is left to it
};
struct ShrinkPlan {
  std::size_t node = 0;
  std::uint32_t gpu = 0;
  std::int32_t compute = 0;  // that the newcomer gets: at least the least that it takes
  std::vector<Shrink> shrinks;
};
// Where `demand`, of one GPU, fits once others have shrunk, if it takes `least_compute` instead of its
// compute; on nodes for which `may_use` is true only, if there is one. Nothing when that is nowhere. `slices`
// by the placer's index of nodes.
std::optional<ShrinkPlan> PlanByShrinking(const Placer& placer, const std::vector<NodeSlices>& slices,
                                          const Demand& demand, std::int32_t least_compute,
                                          const std::function<bool(std::size_t)>& may_use = nullptr);

struct Move {
  std::uint32_t id = 0;
  std::size_t from_node = 0, to_node = 0;
  std::uint32_t from_gpu = 0, to_gpu = 0;
  std::int32_t compute = 0;     // that it has then
  std::vector<Shrink> shrinks;  // of others, there, before it comes
};
struct MovePlan {
  PlacedDemand place;       // of the demand, once all have moved
  std::vector<Move> moves;  // in this order
  std::int64_t moved_compute =
      0;  // the cost, in thousandths of a GPU: what is moved stands still for a moment
};
struct MoveLimits {
  std::size_t most_moves = 16;
  std::size_t nodes_tried = 8;
};
// `placer` and `slices` are left as they were.
std::optional<MovePlan> PlanByMoving(Placer& placer, std::vector<NodeSlices>& slices, const Demand& demand,
                                     const MoveLimits& limits = {});

// Carries a part of a plan out on them: a slice gets another size, or goes elsewhere.
void Resize(Placer& placer, std::vector<NodeSlices>& slices, std::size_t node, std::uint32_t gpu,
            const Shrink& to);
void Carry(Placer& placer, std::vector<NodeSlices>& slices, const Move& move);

}  // namespace tulle::control
