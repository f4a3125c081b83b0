// A mesh's control plane in one thread: the real core, simulated nodes with null GPUs, users, a store and
// clocks, all of them by one seed. Faults come at any moment; checkers look at the state all the time, and
// again once it has settled.
//
//   faults    links break; partitions (both ends believe in the link); node daemons die with their workers,
//   come back,
//             or leave; vGPUs fail; GPUs go; reports are repeated; the controller dies before or after a
//             commit; the store stalls; the wall clock jumps
//   checkers  no GPU is promised or used twice over; all of a claim's vGPUs or none; no acknowledged claim is
//             lost, no ended one comes back; nobody exceeds its quota; tenants are charged for what they
//             have, no more, no less; watchers see the state as it is; nothing leaks; all converges once
//             faults stop; nobody starves; what all have given back can be had again
//
// The same seed gives the same run everywhere.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/control/core/core.h"

namespace tulle::sim {

enum class Fault {
  kLinkBreaks,
  kPartition,
  kNodeDies,
  kNodeLeaves,
  kVGpuFails,
  kGpuGoes,
  kReportAgain,
  kCrashBeforeCommit,
  kCrashAfterCommit,
  kStoreStalls,
  kClockForward,
  kClockBack
};
inline constexpr std::size_t kFaults = 12;
const char* Name(Fault fault);

// What a fault met: on its node, or for faults of the controller and what waits or has ended, in the mesh.
enum class Met { kWaiting, kStarting, kBound, kEnded, kGoing };
inline constexpr std::size_t kMets = 5;
const char* Name(Met met);

// How often which fault met what.
using Coverage = std::array<std::array<std::uint64_t, kMets>, kFaults>;

class ControlSim {
 public:
  // The size of the mesh, 3 to `most_nodes` nodes, and all else goes by the seed.
  explicit ControlSim(std::uint64_t seed, double most_nodes = 1'000);
  ~ControlSim();

  // An hour and a hundred faults, then calm, then one that must not starve. The first breach of what must
  // hold, or nothing.
  std::optional<std::string> Run();

  const Coverage& coverage() const { return coverage_; }
  std::size_t nodes() const;
  std::uint64_t faults() const { return faults_; }

 private:
  struct SimNode;
  struct Acknowledged {
    std::string uid;
    bool deleted = false;
  };
  using Key = std::pair<std::string, std::string>;  // tenant, name

  bool Chance(std::uint64_t one_in) { return random_.Below(one_in) == 0; }
  std::uint64_t Between(std::uint64_t least, std::uint64_t most) {
    return least + random_.Below(most - least + 1);
  }
  template <typename C>
  auto& Pick(C& container);
  control::CallId NextCall() { return control::CallId{++ids_}; }

  // Time and events.
  void Second();
  void Move(Duration by);
  void Do(const control::Event& event);
  void Restart();
  void Inject();
  void Note(Fault fault, const SimNode* node);

  // Nodes.
  void Connect(SimNode& node);
  void Disconnect(SimNode& node);
  void Attach(SimNode& node);
  void Obey(SimNode& node);
  control::VGpuReport ReportOf(const SimNode& node, const std::string& uid) const;

  // Users.
  void Act();
  void Create(const std::string& tenant);
  void SetTenant(const std::string& tenant);

  // Checkers: the first breach is kept.
  void Breach(const std::string& what);
  void Expect(bool holds, const std::string& what) {
    if (!holds) Breach(what);
  }
  void CheckChange(const control::Change& change);
  void CheckState();
  void CheckTenants();
  void CheckWatchers();
  void Settle(int seconds);
  void CheckConverged();
  void CheckStarvation();
  void CheckNothingIsLeft();

  std::uint64_t seed_;
  SeededRandom random_, core_random_;
  control::CoreOptions options_;
  control::Now now_;
  std::uint64_t epoch_ = 0, ids_ = 0, faults_ = 0;
  bool calm_ = false;   // no faults
  bool quiet_ = false;  // and users do nothing
  std::unique_ptr<control::Core> core_;
  std::map<std::pair<control::Kind, std::string>, control::Record> store_;
  std::vector<SimNode> nodes_;
  std::vector<std::string> tenants_;
  std::map<Key, Acknowledged> acknowledged_;
  std::map<control::CallId, std::pair<Key, bool>> calls_;  // that create (false) or delete (true)
  control::CallId probe_{};
  bool probe_succeeded_ = false;
  std::map<std::string, double> gpu_seconds_;  // that each tenant has had
  bool clock_jumped_ = false;
  std::map<std::string, control::Resource> watched_;  // by uid: what a watcher has seen
  std::set<std::string> ended_;                       // uids of claims that were seen to end
  std::uint64_t last_version_ = 0;
  std::set<control::HoldId> holds_;
  std::optional<control::StartRehearsal> rehearsal_;
  Coverage coverage_{};
  std::optional<std::string> breach_;
};

}  // namespace tulle::sim
