// Claims that come, wait, stay and go: the pods of a list, drawn at random with their lifetimes, arrive as a
// Poisson process at such a rate that `load` of the cluster's GPUs would be in use if nothing were ever
// refused; each stays for its lifetime from when it was placed. What has no room waits, and whenever
// something leaves, those that wait are tried in the order in which they came, past those that do not fit
// (first fit with backfill). A run begins as the same process would look with no limit after a long time:
// with a Poisson number of pods, drawn in proportion to their lifetimes, and anywhere in them.
//
// The trace's own arrivals are not used: at no time do they ask for more than 66 of the 6,212 GPUs.
#pragma once

#include <cstdint>
#include <memory>

#include "bench/placement/mesh.h"
#include "bench/placement/openb.h"
#include "tulle/control/placement/policy.h"

namespace tulle::bench {

struct DeparturesOptions {
  double load = 1;
  std::size_t arrivals = 60'000;
  std::size_t warm_up = 20'000;  // of them, of which nothing is reported
};

struct Departures {
  double allocated = 0;     // the share of all GPUs, in percent, the mean over time
  double mean_wait_s = 0;   // of those that ask for GPUs; who still waits at the end has waited until then
  double waited = 0;        // the part of them that waited at all
  double mean_waiting = 0;  // how many wait, over time
  double moves_per_arrival = 0;
};

Departures ReplayDepartures(const Openb& openb, std::unique_ptr<control::Policy> policy, std::uint64_t seed,
                            const MeshAbilities& abilities, const DeparturesOptions& options);

}  // namespace tulle::bench
