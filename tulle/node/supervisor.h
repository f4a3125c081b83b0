// The vGPUs of this node: one worker process each, started, told what it is and whom it serves, watched,
// started again when it ends by itself, ended when its vGPU goes. All commands say what should be and may be
// repeated.
//
// A worker that ends takes its sessions with it: their programs are told that the device is lost, new ones
// may attach as soon as the worker is back. Lives on the loop's thread. Bounds: kMaxVGpus, kMaxGrants each.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"
#include "tulle/base/subprocess.h"
#include "tulle/base/unique_fd.h"
#include "tulle/node/arbiter/arbiter.h"
#include "tulle/node/export_board.h"
#include "tulle/node/loop.h"
#include "tulle/node/restart_backoff.h"
#include "tulle/node/vgpu_groups.h"
#include "tulle/sandbox/control_group.h"
#include "tulle/session/psk_identity.h"
#include "tulle/wire/packet.h"
#include "tulle/wire/schema/node.h"

namespace tulle::node {

inline constexpr std::size_t kMaxVGpus = 256;
inline constexpr std::size_t kMaxListedSessions = 256;  // of one vGPU; more are counted only
inline constexpr std::size_t kMaxGrants =
    256;  // of one vGPU; a claim needs one, or two while they are exchanged

struct Grant {
  std::string id;
  Secret key;
  std::int64_t expire_us = 0;  // wall clock, microseconds since 1970; 0: with the vGPU
};

struct VGpuSpec {
  std::string uid;
  std::string name;  // for logs
  std::string tenant;
  std::uint32_t gpu_index = 0;     // the node's number
  std::uint32_t device_index = 0;  // the probe's number
  std::uint64_t memory_bytes = 0;
  std::uint64_t device_memory_bytes = 0;  // that there is for vGPUs
  std::uint32_t compute_percent = 0;
  arbiter::Level level = arbiter::Level::kBurst;
  std::uint64_t network_bytes_per_s = 0;  // promised; 0: nothing
  std::uint64_t spill_bytes = 0;          // that its programs may have beyond memory_bytes
  bool in_machine = false;                // its sessions' drivers are each in a virtual machine of their own
  // Of the GPU (InventoryGpu).
  bool has_opencl = false;
  std::string cuda_device;
  std::string pci_address;
  arbiter::Sharing sharing = arbiter::Sharing::kMeasured;
  std::string compiler;  // one that is too long for a worker is not told
  friend bool operator==(const VGpuSpec&, const VGpuSpec&) = default;
  arbiter::Promise promise() const { return {level, compute_percent, network_bytes_per_s}; }
};

enum class VGpuState { kCreating, kReady, kFailed, kDeleted };

// What a vGPU did, all of its workers together.
// Of one kind of command.
struct CommandUsage {
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  std::uint64_t latency_ns = 0;
  std::array<std::uint64_t, wire::node::kLatencyCounts> latencies{};  // by kLatencyBoundsNs

  void Add(const CommandUsage& other);
};

struct VGpuUsage {
  std::uint32_t sessions = 0;           // now
  std::uint64_t memory_used_bytes = 0;  // now, on the device
  std::uint64_t commands = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t device_time_ns = 0;
  std::uint64_t executor_crashes = 0;
  std::uint64_t refused_sessions = 0;
  std::uint64_t worker_restarts = 0;
  std::uint64_t spilled_memory_bytes = 0, spilled_file_bytes = 0;  // now
  std::uint64_t spill_out_bytes = 0, spill_in_bytes = 0, spill_wait_ns = 0;
  std::map<std::uint16_t, CommandUsage> by_command;  // by opcode; no more than the wire has

  // Adds what another has counted.
  void Add(const VGpuUsage& other);
};

// A program that is attached.
struct SessionInfo {
  std::string id;
  std::string program;
  std::uint32_t process_id = 0;
  std::string channel;
};

struct VGpuStatus {
  VGpuSpec spec;  // only the uid when there is no such vGPU
  VGpuState state = VGpuState::kCreating;
  std::string message;
  std::vector<std::string> grant_ids;
  VGpuUsage usage;
  std::vector<SessionInfo> sessions;
  arbiter::Delivered delivered;
  std::uint64_t host_memory_bytes = 0;  // of executors and builders, where control groups count it
};

// Who has the builds of the whole mesh. A key names kind, text and options of a program and what compiled it.
class BuildKeeper {
 public:
  virtual ~BuildKeeper() = default;
  // Writes what there is for the vGPU's tenant to the pipe `answer`, and closes it. Does not block.
  virtual void Find(const std::string& vgpu_uid, ByteView key, UniqueFd answer) = 0;
  // `content` is a file. Does not block.
  virtual void Keep(const std::string& vgpu_uid, ByteView key, UniqueFd content) = 0;
};

// Where what vGPUs' programs have beyond the device's memory may be kept, and how much of it.
struct SpillRoom {
  std::uint64_t memory_bytes = 0;  // of this host's memory
  std::uint64_t disk_bytes = 0;
  std::string directory;  // of the files for the latter, which have no name
  std::uint64_t all_bytes() const { return memory_bytes + disk_bytes; }
};

class Supervisor {
 public:
  struct Options {
    // Started with "--control-fd 3", maybe "--share-fd 4", "--turn-fd 5" and "--spill-fd 6", and these
    // arguments.
    std::string worker_binary;
    std::vector<std::string> worker_arguments;
    SpillRoom spill;  // of which each vGPU that spills has the same part of memory
    // In which each vGPU gets one; null: none do.
    std::shared_ptr<const sandbox::ControlGroup> control_group;
    Duration ready_timeout = std::chrono::seconds(30);    // loading a driver takes up to seconds
    Duration shutdown_timeout = std::chrono::seconds(5);  // then it is killed
  };
  // After each change that others should know.
  using OnChange = std::function<void(const VGpuStatus&)>;

  // `loop`, `builds` and `arbiter` must outlive it. Without `builds` workers are told that nobody has built
  // anything; without `arbiter` they hold nobody to a share.
  Supervisor(Loop& loop, Options options, OnChange on_change, BuildKeeper* builds = nullptr,
             arbiter::Arbiter* arbiter = nullptr);
  // Kills what still runs.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // The four commands; each ends in an OnChange, Delete's when the worker has ended. `grants` is exactly what
  // the vGPU shall accept.
  void Create(const VGpuSpec& spec, const std::vector<Grant>& grants);
  void Delete(const std::string& uid);
  // From now on.
  struct Size {
    std::uint32_t compute_percent = 0;
    std::uint64_t network_bytes_per_s = 0;
    std::uint64_t memory_bytes = 0;  // 0: as it is
  };
  void Resize(const std::string& uid, const Size& size);
  void AddGrant(const std::string& uid, const Grant& grant);
  void RevokeGrant(const std::string& uid, const std::string& grant_id);

  // Hands a connection to the worker that it names. The socket stays the caller's. kUnavailable: the worker
  // is being started, try again soon.
  Status Adopt(const session::PskIdentity& identity, int socket);

  // A vGPU that can never be made (no such GPU): it is kept as FAILED until deleted.
  void Refuse(const VGpuSpec& spec, const std::string& why);

  std::vector<VGpuStatus> List() const;
  // Of all vGPUs, those that are gone included.
  VGpuUsage Total() const;

  // Ends all vGPUs; `done` is called when no worker is left. No Create after it.
  void Shutdown(std::function<void()> done);

 private:
  struct VGpu;
  // Handles the packets of one worker.
  struct FromWorker {
    Supervisor& supervisor;
    VGpu& vgpu;
    std::vector<UniqueFd> fds;  // of the packet at hand
    void On(const wire::node::WorkerReady& message);
    void On(const wire::node::WorkerStats& message);
    void On(const wire::node::CommandStats& message);
    void On(const wire::node::SessionOpened& message);
    void On(const wire::node::SessionEnded& message);
    void On(const wire::node::FindBuild& message);
    void On(const wire::node::KeepBuild& message);
    void On(const wire::node::OfferExport& message);
    void On(const wire::node::TakeExport& message);
    void On(const wire::node::CloseExport& message);
    void On(const wire::node::ReleaseExport& message);
    void On(const wire::node::WithdrawExport& message);
  };
  struct VGpu {
    VGpuSpec spec;
    std::map<std::string, Grant> grants;
    VGpuState state = VGpuState::kCreating;
    std::string message;
    std::optional<Subprocess> process;
    UniqueFd control;
    std::deque<ByteVector> outbox;  // packets that the socket had no room for
    std::string last_words;         // what the worker said about its end
    std::optional<Instant> ready_since;
    RestartBackoff backoff;
    Loop::TimerId timer = 0;              // to be ready, to be started again, or to be gone
    Loop::TimerId control_timer = 0;      // to go on with its packets
    VGpuGroups groups;                    // of the running worker
    std::uint64_t past_throttled_ns = 0;  // by those of its predecessors
    bool deleting = false;
    VGpuUsage current;                            // of the running worker
    std::map<std::string, SessionInfo> sessions;  // by id
    VGpuUsage past;                               // of its predecessors
    VGpuUsage usage() const;
  };

  void StartWorker(VGpu& vgpu);
  // Where the node makes control groups; an error where the vGPU cannot be without.
  Status MakeGroups(VGpu& vgpu);
  // As soon as no process is in them any more.
  void RemoveGroups(std::shared_ptr<VGpuGroups> groups, int tries);
  template <typename M>
  void Send(VGpu& vgpu, const M& message);
  void FlushOutbox(VGpu& vgpu);
  void OnControl(const std::string& uid);
  void OnEnded(const std::string& uid);
  void SendGrant(VGpu& vgpu, const Grant& grant);
  void KillAfter(VGpu& vgpu, Duration delay, const std::string& why);
  void Remove(const std::string& uid);
  void Report(const VGpu& vgpu);
  void ReportAbsent(const std::string& uid);
  VGpuStatus StatusOf(const VGpu& vgpu) const;
  void ArmExpiry();
  VGpu* Find(const std::string& uid);

  Loop& loop_;
  const Options options_;
  const OnChange on_change_;
  BuildKeeper* const builds_;
  arbiter::Arbiter* const arbiter_;
  std::map<std::string, VGpu> vgpus_;
  ExportBoard exports_;
  VGpuUsage gone_;  // of vGPUs that were deleted
  wire::Arena arena_;
  Loop::TimerId expiry_timer_ = 0;
  std::uint64_t groups_made_ = 0;
  std::function<void()> on_empty_;
};

}  // namespace tulle::node
