// Memory that programs of this node's vGPUs lend to each other: what is offered, who has it. The node keeps
// the descriptors, so that a worker gets those of others' memory only from here, and only what its tenant may
// have.
//
// Lives on the loop's thread. Bounds: wire::kMaxExports of each vGPU, kMaxExportsOfNode of all, for each of
// which the node has a descriptor, and kMaxWithdrawals that wait for one.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tulle/base/unique_fd.h"
#include "tulle/wire/schema/exports.h"

namespace tulle::node {

inline constexpr std::size_t kMaxExportsOfNode = 2048;
inline constexpr std::size_t kMaxWithdrawals = 8;

class ExportBoard {
 public:
  // What workers are told, by the vGPU's uid.
  struct Tell {
    std::function<void(const std::string& vgpu, const std::string& token)> withdrawn;  // end who has it
    std::function<void(const std::string& vgpu, const std::string& token)> unused;     // its owner
  };
  using Done = std::function<void(wire::ExportStatus)>;

  explicit ExportBoard(Tell tell) : tell_(std::move(tell)) {}

  // `tenant`: whose vGPUs may take it.
  wire::ExportStatus Offer(const std::string& vgpu, const std::string& token, const std::string& tenant,
                           std::uint64_t size_bytes, bool writable, UniqueFd memory);
  // For a session, by its number among the vGPU's; until Close. Valid until the next call of anything here;
  // null: there is none that this tenant may have.
  struct Taken {
    int memory = -1;
    std::uint64_t size_bytes = 0;
    bool writable = false;
  };
  const Taken* Take(const std::string& vgpu, const std::string& tenant, const std::string& token,
                    std::uint64_t session);
  // It may never have had it.
  void Close(const std::string& vgpu, const std::string& token, std::uint64_t session);
  // By its owner, as the next.
  void Release(const std::string& vgpu, const std::string& token);
  // `done`: nobody has it any more; at once where that is so, or there is none.
  void Withdraw(const std::string& vgpu, const std::string& token, Done done);
  // What it had offered is withdrawn, what it had taken is closed.
  void OnWorkerEnded(const std::string& vgpu);

  std::size_t size() const { return exports_.size(); }

 private:
  struct Export {
    std::string owner;  // empty: its worker has ended
    std::string tenant;
    UniqueFd memory;
    Taken taken;
    bool released = false;
    bool withdrawn = false;
    std::set<std::pair<std::string, std::uint64_t>> sessions;  // that have it, by vGPU
    std::vector<Done> waiting;
  };
  using Exports = std::map<std::string, Export>;

  Export* FindOf(const std::string& vgpu, const std::string& token);
  void Withdraw(const std::string& token, Export& its);
  // It may be over. Its place in the map afterwards: the next.
  Exports::iterator Settle(Exports::iterator at);

  const Tell tell_;
  Exports exports_;  // by token
};

}  // namespace tulle::node
