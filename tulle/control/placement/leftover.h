// What will be left of a GPU that is partly free, once the mesh is full: a table, learnt from rehearsals
// (rehearsal.h). It knows which remainders the expected workload really fills up, and not only which it
// could.
//
// An entry is the mean, over all GPUs that were in a state at some time of a rehearsal, of what was still
// free on them at its end. The state: the kind of GPU, how much of it is free, how much of its memory goes
// with that, and how many processors its host has free for each free GPU. Immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tulle/control/placement/room.h"

namespace tulle::control {

// Of each state how often a GPU was in it, and the sum of what was left of these in the end, in thousandths
// of a GPU.
struct LeftoverSeen {
  explicit LeftoverSeen(std::size_t kinds);
  std::vector<double> times, left;
};

class LeftoverTable {
 public:
  // Where a state was seen seldom, the mean over all kinds stands in, and then that over all hosts; where
  // that was never seen either, all that is free is taken to be lost. Without `by_kind` it is always the mean
  // over all kinds: the less is told apart, the more is known of it.
  LeftoverTable(const LeftoverSeen& seen, bool by_kind);

  // The states of the node's GPUs, in their order, to `states`.
  static void StatesOf(const NodeRoom& node, std::vector<std::uint32_t>* states);

  // Summed up over the node's GPUs, in thousandths of a GPU: as it is, and once the demand has taken its part
  // of the GPUs with these indices (ascending).
  double Of(const NodeRoom& node) const { return After(node, {.gpus = 0}, nullptr, 0); }
  double After(const NodeRoom& node, const Demand& demand, const std::uint32_t* gpus,
               std::size_t count) const;

 private:
  std::size_t kinds_ = 0;  // those beyond it have the entries of kind kinds_
  std::vector<float> left_;
};

}  // namespace tulle::control
