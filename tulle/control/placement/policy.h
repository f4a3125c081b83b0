// Which of the nodes that have room is the best one: rules behind one interface. Each looks at one node at a
// time and gives it a score that depends on that node alone, so that it can be kept until the node changes
// (ranking.h). Of nodes with equal scores the first one is taken.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/placement/room.h"
#include "tulle/control/placement/workload.h"

namespace tulle::control {

// How to put a demand on a node.
struct Choice {
  static constexpr float kNoRoom = -std::numeric_limits<float>::infinity();
  float score = kNoRoom;  // higher is better
  std::uint32_t gpu = 0;  // the first of its GPUs
  bool fits() const { return score != kNoRoom; }
};

// Not thread-safe.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual const char* name() const = 0;
  // Turns to a node, which must stay as it is until the next call.
  virtual void Look(const NodeRoom& node) = 0;
  // The best way to put the demand on that node.
  virtual Choice Best(const Demand& demand) const = 0;
  // Whether a score stands until its node changes.
  virtual bool scores_last() const { return true; }
};

// The GPUs that a choice takes: of a demand for one, that one; for several, the first ones that it fits on.
std::vector<std::uint32_t> GpusOf(const NodeRoom& node, const Demand& demand, const Choice& choice);

// What the mesh goes by while it does not know what it will be asked for: the least of  memory left + compute
// left + |memory left - compute left|  on the GPU, as parts of it. Best fit; and a remainder of one without
// the other is a fragment that little can use.
std::unique_ptr<Policy> MakeBalancedFit();

// The published rules, as the experiments of the FGD paper have them (Weng et al., USENIX ATC 2023;
// github.com/hkust-adsl/kubernetes-scheduler-simulator), to compare with. Their constants are those of that
// cluster: its largest node has 128 processors and 8 GPUs.
//
// Fragmentation gradient descent: the least growth of the node's fragment; in steps of a sigmoid's
// hundredths, which makes near-ties first fits.
std::unique_ptr<Policy> MakeFgd(std::shared_ptr<const Workload> workload);
// The least product of what is free and what is asked (Tetris: Grandl et al., SIGCOMM 2014, reversed).
std::unique_ptr<Policy> MakeDotProduct();
std::unique_ptr<Policy> MakeBestFit();
// Used GPUs first, then used nodes, then idle ones.
std::unique_ptr<Policy> MakeGpuPacking();
// Any node with room, any of its GPUs. `random` must outlive it.
std::unique_ptr<Policy> MakeRandom(Random& random);

}  // namespace tulle::control
