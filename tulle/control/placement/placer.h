// Places demands on nodes, one after the other, at a cost that hardly grows with the mesh: it keeps a ranking
// of all nodes for each demand that comes again and again, and scores a node anew only when it has changed.
// What comes for the first time looks at every node that might have room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/ranking.h"
#include "tulle/control/placement/room.h"

namespace tulle::control {

struct PlacedDemand {
  std::size_t node = 0;
  std::vector<std::uint32_t> gpus;  // ascending
  friend bool operator==(const PlacedDemand&, const PlacedDemand&) = default;
};

// Nodes are known by the order in which they were added, which is also the order of equal scores. Not
// thread-safe.
class Placer {
 public:
  // A ranking takes about 4 bytes for each node, and with each of them a changed node costs one more score.
  explicit Placer(std::unique_ptr<Policy> policy, std::size_t most_rankings = 128)
      : policy_(std::move(policy)), most_rankings_(most_rankings) {}

  // From here on it goes by another policy. Its rankings are made when they are needed.
  void Use(std::unique_ptr<Policy> policy);

  Policy& policy() const { return *policy_; }

  std::size_t Add(NodeRoom room);
  std::size_t size() const { return nodes_.size(); }
  const NodeRoom& node(std::size_t index) const { return nodes_[index]; }
  // The node has changed otherwise than by Take and Give. One that has gone has no GPUs.
  void Set(std::size_t index, NodeRoom room);

  // Where the policy puts the demand; nothing when no node has room. Nothing is taken. With `may_use`, only
  // on nodes for which that is true; then it looks at each that might have room.
  std::optional<PlacedDemand> Choose(const Demand& demand,
                                     const std::function<bool(std::size_t)>& may_use = nullptr);
  // Precondition: it fits there; or was taken there.
  void Take(const Demand& demand, const PlacedDemand& placed);
  void Give(const Demand& demand, const PlacedDemand& placed);

 private:
  struct Kept {
    Demand demand;
    Ranking ranking;
    std::uint64_t used = 0;
  };
  // The most that a GPU of a node has free: most nodes of a full mesh are passed over by a look at these.
  struct Headroom {
    std::int32_t compute = 0;
    std::int32_t memory = 0;
  };

  Ranking* RankingOf(const Demand& demand);
  template <typename F>
  void VisitWithRoom(const Demand& demand, F visit);
  void Rescore(std::size_t index);

  std::unique_ptr<Policy> policy_;
  std::size_t most_rankings_;
  std::vector<NodeRoom> nodes_;
  std::vector<Headroom> headroom_;
  std::vector<Kept> rankings_;
  std::vector<Demand> newcomers_;  // the last demands without a ranking: the second time they get one
  std::size_t next_newcomer_ = 0;
  std::uint64_t choices_ = 0;
};

}  // namespace tulle::control
