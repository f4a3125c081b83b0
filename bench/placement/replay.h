// The saturation experiment of the FGD paper (Weng et al., USENIX ATC 2023, section 6): the pods of a list
// arrive in random order, then more of them, drawn from the list, until 130 % of the cluster's GPUs have been
// asked for; none leaves, and what does not fit is dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "bench/placement/openb.h"
#include "tulle/control/placement/policy.h"

namespace tulle::bench {

struct Replayed {
  // The share of all GPUs that is allocated, in percent, by the share that has been asked for, rounded to
  // percent; the mean over the arrivals at which it rounds to that.
  std::map<int, double> allocated;
  double decision_us = 0;  // on average
};

Replayed Replay(const Openb& openb, std::unique_ptr<control::Policy> policy, std::uint64_t seed);

// The same for any cluster: `add_node` is called for each node first, `arrive` for each arrival, and returns
// how much is allocated more then, in thousandths of a GPU.
Replayed Replay(const Openb& openb, std::uint64_t seed,
                const std::function<void(const control::NodeRoom&)>& add_node,
                const std::function<std::int64_t(const control::Demand&)>& arrive);

// The list's pods as a workload, each with weight 1, without host memory, as the paper has it.
std::vector<control::WeightedDemand> WorkloadOf(const Openb& openb);

}  // namespace tulle::bench
