// The mesh's GPUs as placement knows them, kept up to date GPU by GPU, and where a claim's vGPUs go.
//
// A vGPU may go to each GPU that matches (API, type, vendor, the node's labels) of a node that is open, and
// that has room. Of those the policy (policy.h) chooses, but a claim's own vGPUs are spread: a GPU that holds
// fewer of them comes first (N vGPUs are N devices to the program, which gains nothing from two on one GPU).
// Identical slices make this complete: if all N fit anywhere, it finds room for all N. A claim may also want
// all of them on one GPU, which is a slice N times as large; on one node, which is tried node by node, the
// policy's best first; or on nodes of their own.
//
// A claim that is elastic (min_compute_percent below compute_percent) gets less where there is no room for
// all of it; and where there is none even for that, or for one that is not elastic, elastic vGPUs of others
// get less (repack.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

#include "tulle/control/model/resources.h"
#include "tulle/control/placement/explain.h"
#include "tulle/control/placement/placer.h"
#include "tulle/control/placement/policy.h"
#include "tulle/control/placement/repack.h"

namespace tulle::control {

struct Slot {
  std::string gpu_uid;
  std::uint64_t memory_bytes = 0;
  std::uint32_t compute_percent = 0;
  friend bool operator==(const Slot&, const Slot&) = default;
};

// A vGPU whose share of compute may change: what it has, and the least that it may have.
struct ElasticVGpu {
  std::string uid;
  std::uint32_t compute_percent = 0;
  std::uint32_t least_percent = 0;
  friend bool operator==(const ElasticVGpu&, const ElasticVGpu&) = default;
};

struct Resized {
  std::string vgpu_uid;
  std::uint32_t compute_percent = 0;
  friend bool operator==(const Resized&, const Resized&) = default;
};

struct Placed {
  std::vector<Slot> slots;
  std::vector<Resized> shrunk;  // others, before the slots are there
  friend bool operator==(const Placed&, const Placed&) = default;
};

using Placement = std::variant<Placed, NoFit>;

// Not thread-safe.
class Fleet {
 public:
  explicit Fleet(std::unique_ptr<Policy> policy) : placer_(std::move(policy)) {}

  // From here on it goes by another policy.
  void Use(std::unique_ptr<Policy> policy) { placer_.Use(std::move(policy)); }

  // A node is there, or has changed. `closed_because`: why it takes nothing ("cordoned"); empty when it does.
  void SetNode(const std::string& name, const Labels& labels, std::string closed_because,
               const Labels& taints = {});
  void RemoveNode(const std::string& name);
  // A GPU of a node that is there is new, or what is allocated of it has changed. Until RemoveGpu it must
  // stay where it is, and may change only together with this call. `elastic`: those of its vGPUs that are.
  void SetGpu(const Gpu& gpu, std::vector<ElasticVGpu> elastic = {});
  void RemoveGpu(const Gpu& gpu);

  // A slot for each vGPU of the claim, whose spec has its defaults, or why there is none. GPUs with these
  // uids are used only when nothing else does. Nothing is taken: SetGpu says what is.
  Placement Place(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus = {});

  // The same, without the reason, which takes time in a large mesh: no slots.
  Placed TryPlace(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus = {});

  // Sets GPUs aside on which the claim would fit if they were empty, those where least is missing: until they
  // are given back nothing is placed there. Their uids; none when there are not so many left.
  std::vector<std::string> SetAside(const ClaimSpec& spec);
  // Lets claims be placed there again, or no longer. GPUs that have gone are passed over.
  void Open(const std::vector<std::string>& gpus) { SetOpen(gpus, true); }
  void Close(const std::vector<std::string>& gpus) { SetOpen(gpus, false); }

  // Whether vGPUs may be placed there now, room aside.
  bool IsOpen(const Gpu& gpu) const {
    return gpu.status.schedulable && !set_aside_.contains(gpu.metadata.uid);
  }

  const char* policy_name() const { return placer_.policy().name(); }
  // What each node has for one more such vGPU: at most `most`, the best first and those without room last. Of
  // the rest only the number.
  std::vector<NodeVerdict> Judge(const ClaimSpec& spec, std::size_t most, std::uint32_t* more) const;

  // A claim whose share of a GPU depends on the GPU, as it asks for compute units or bandwidth, with each
  // share that this comes to on some kind of GPU, the least first; on GPUs for which that is enough. Others
  // as they are.
  std::vector<ClaimSpec> Variants(const ClaimSpec& spec) const;

  // What the policy is asked for each vGPU of such a claim. Kinds of GPU that come later are not among its
  // own.
  Demand DemandOf(const ClaimSpec& spec) const;
  // The nodes that are open, as if nothing had been taken of them.
  std::vector<NodeRoom> EmptyRooms() const;

 private:
  struct NodeEntry {
    std::string name;
    Labels labels, taints;
    std::string closed_because;
    std::vector<const Gpu*> gpus;
    std::vector<std::vector<ElasticVGpu>> elastic;  // of these, in this order
    NodeRoom room;                                  // likewise
    NodeRoom
        open_room;  // the same with nothing free on those set aside; the placer has it while the node is open
  };
  static ExplainedNode Explained(const NodeEntry& node) {
    return {.name = node.name,
            .labels = &node.labels,
            .closed_because = node.closed_because,
            .room = &node.open_room};
  }
  std::vector<std::string> SetAsideFor(const ClaimSpec& variant);
  void SetOpen(const std::vector<std::string>& gpus, bool open);
  // Gives the placer what the node has.
  void Update(std::size_t index);
  GpuKind KindOf(const GpuDescription& description, const Labels& taints);
  // The demand of all vGPUs of the claim that go to one GPU at once.
  bool IsOneSlice(const ClaimSpec& spec) const {
    return spec.topology == Topology::kSameGpu && spec.count > 1;
  }
  Placed TryVariant(const ClaimSpec& variant, const std::set<std::string>& avoid_gpus);
  // In what is free.
  std::vector<Slot> PlaceFree(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus);
  // With less than it asks for, but no less than its least, in what is free.
  std::vector<Slot> PlaceSmaller(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus);
  // With others shrunk; each vGPU on a GPU of its own, unless all are to be on one.
  Placed PlaceByShrinking(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus);
  // Places on nodes for which `matches` is true only, if there is one.
  std::vector<Slot> Deal(const ClaimSpec& spec, const std::set<std::string>& avoid_gpus,
                         const std::function<bool(std::size_t)>& matches);

  Placer placer_;
  std::vector<NodeEntry> nodes_;  // by the placer's index; without a name: free for another
  std::unordered_map<std::string, std::size_t> index_of_node_;
  std::vector<std::size_t> vacant_;
  std::unordered_map<std::string, std::size_t> node_of_gpu_;  // by uid
  std::set<std::string> set_aside_;                           // uids
  std::vector<NodeSlices> slices_;  // the elastic vGPUs, by the placer's index; ids by their order on the GPU
  std::size_t elastic_vgpus_ = 0;
  std::map<std::tuple<std::string, std::string, std::vector<DeviceApi>, std::vector<Isolation>, std::uint32_t,
                      std::uint64_t, std::uint64_t, Labels>,
           GpuKind>
      kinds_;
  std::vector<KindOfGpu> kind_descriptions_;
};

}  // namespace tulle::control
