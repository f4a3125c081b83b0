// A cluster of which all that a mesh can do is used: a vGPU is reached over the network, so that the
// processors of who uses it need not be at the GPU's host; and its size and place may change while it runs.
// By plans (tulle/control/placement/repack.h), of which only shrinking is carried out so far. With no
// abilities it is what other schedulers have: what has been placed stays as it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "bench/placement/openb.h"
#include "bench/placement/replay.h"
#include "tulle/control/placement/placer.h"
#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/repack.h"

namespace tulle::bench {

struct MeshAbilities {
  // Slices, and only these, may be had with this part of what they ask for at least; 1: they may not. They
  // have all of it wherever there is room.
  double least_part = 1;
  bool move = false;  // slices and single GPUs move when one that has no room would have some then
};

class Mesh {
 public:
  Mesh(std::unique_ptr<control::Policy> policy, const MeshAbilities& abilities)
      : abilities_(abilities), placer_(std::move(policy)) {}

  void AddNode(const control::NodeRoom& room);

  // Finds it a place by all that the mesh can do; its number, or nothing.
  std::optional<std::uint32_t> Arrive(const control::Demand& demand);
  // The same on one node, with no moves.
  std::optional<std::uint32_t> ArriveAt(std::size_t node, const control::Demand& demand);
  // Gives back what it has; the node that it was on. Nothing grows yet, so that others may have it.
  std::size_t Leave(std::uint32_t id);
  // What is free on the node goes to those there that have less than they asked for.
  void Grow(std::size_t node);

  std::int64_t allocated() const { return allocated_; }  // in thousandths of a GPU
  std::uint64_t moves() const { return moves_; }
  std::uint64_t shrinks() const { return shrinks_; }

 private:
  struct Placed {
    control::Demand demand;  // what it has, if it is of several GPUs; else see slices_
    control::PlacedDemand place;
    std::int32_t wanted = 0;
  };

  std::optional<std::uint32_t> Shrinking(const control::Demand& demand,
                                         const std::function<bool(std::size_t)>& may_use);
  std::int32_t LeastOf(const control::Demand& demand) const;
  std::uint32_t Put(const control::Demand& demand, std::int32_t wanted, const control::PlacedDemand& placed);
  control::PlacedSlice& SliceOf(std::uint32_t id);
  void ResizeTo(std::uint32_t id, std::int32_t compute);
  std::uint32_t CarryOut(const control::ShrinkPlan& plan, control::Demand demand);
  std::uint32_t CarryOut(const control::MovePlan& plan, const control::Demand& demand);
  void Grow(std::size_t node, std::uint32_t gpu);

  const MeshAbilities abilities_;
  control::Placer placer_;
  std::vector<control::NodeSlices> slices_;
  std::vector<Placed> placed_;  // by number
  std::int64_t allocated_ = 0;
  std::uint64_t moves_ = 0, shrinks_ = 0;
};

struct MeshReplayed {
  Replayed replayed;
  double moves_per_arrival = 0;
  double shrinks_per_arrival = 0;
};

// The saturation experiment (replay.h) on a mesh.
MeshReplayed ReplayOnMesh(const Openb& openb, std::unique_ptr<control::Policy> policy, std::uint64_t seed,
                          const MeshAbilities& abilities);

// The list without what its pods' hosts are to have.
Openb WithProcessorsElsewhere(Openb openb);

}  // namespace tulle::bench
