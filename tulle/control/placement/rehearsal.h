// Learns from the expected workload how to place it: what the mesh will be asked for is placed on an empty
// copy of its nodes, again and again, each time until as much has been asked for as there is, and what is
// left over in the end makes a table of what each remainder is worth (leftover.h). By that table placements
// change, and so does what is left over; so this is repeated. Of all the policies on the way, plain
// fragmentation gradient descent among them, the one is taken that fills the mesh best in rehearsals that
// none of them has learnt from.
//
// This is approximate policy iteration with Monte Carlo evaluation (Bertsekas, Dynamic Programming and
// Optimal Control, volume II, chapter 6), of a value that is a sum over GPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stop_token>

#include "tulle/control/placement/outlook.h"
#include "tulle/control/placement/room.h"
#include "tulle/control/placement/workload.h"

namespace tulle::control {

struct RehearsalOptions {
  std::uint64_t seed = 1;
  int rounds = 4;                 // of learning
  int runs = 3;                   // rehearsals in each round, and as many again to judge its policy by
  double remember = 0.5;          // what a round's observations count for in the next
  double gradient = 0.2;          // Outlook::gradient
  std::size_t most_nodes = 1500;  // of a larger mesh a sample is rehearsed on
  int most_arrivals = 100'000;    // in a run, which may then end before the mesh is full
};

// `nodes` as they are when nothing has been taken of them. Needs nothing but its arguments and takes seconds,
// so it may run on a thread of its own; it ends soon after `stop` is asked for, with what it has. The same
// arguments give the same outlook.
Outlook Rehearse(std::span<const NodeRoom> nodes, std::span<const WeightedDemand> demands,
                 const RehearsalOptions& options = {}, const std::stop_token& stop = {});

}  // namespace tulle::control
