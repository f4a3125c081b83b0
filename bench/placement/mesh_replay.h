// The saturation experiment (replay.h) with what only a mesh can do: a vGPU is reached over the network, so
// that the processors of who uses it need not be at the GPU's host; and its size and place may change while
// it runs. By plans (tulle/control/placement/repack.h), which nothing carries out yet.
#pragma once

#include <cstdint>
#include <memory>

#include "bench/placement/openb.h"
#include "bench/placement/replay.h"
#include "tulle/control/placement/policy.h"

namespace tulle::bench {

struct MeshAbilities {
  // Slices, and only these, may be had with this part of what they ask for at least; 1: they may not. They
  // have all of it wherever there is room.
  double least_part = 1;
  bool move = false;  // slices and single GPUs move when one that has no room would have some then
};

struct MeshReplayed {
  Replayed replayed;
  double moves_per_arrival = 0;
  double shrinks_per_arrival = 0;
};

MeshReplayed ReplayOnMesh(const Openb& openb, std::unique_ptr<control::Policy> policy, std::uint64_t seed,
                          const MeshAbilities& abilities);

// The list without what its pods' hosts are to have.
Openb WithProcessorsElsewhere(Openb openb);

}  // namespace tulle::bench
