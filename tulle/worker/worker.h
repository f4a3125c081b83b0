// The worker: the process that is one vGPU. It holds the grants' keys, takes connections from its node, runs
// a thread per session, and reports what they use. It runs no tenant code and loads no driver.
//
// The thread that calls Run() owns the control link, the grants' changes and the list of sessions. Bounds:
// Options and kMaxGrants.
//
// A worker whose node has gone ends its sessions and exits: nobody could revoke their grants any more.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/secret.h"
#include "tulle/base/shared_memory.h"
#include "tulle/base/unique_fd.h"
#include "tulle/session/server_session.h"
#include "tulle/wire/packet.h"
#include "tulle/wire/schema/node.h"
#include "tulle/worker/build/builder.h"
#include "tulle/worker/build/slots.h"
#include "tulle/worker/exec/session.h"
#include "tulle/worker/exports/node_exports.h"
#include "tulle/worker/pace/turn.h"
#include "tulle/worker/quota/memory.h"
#include "tulle/worker/spares.h"
#include "tulle/worker/spill/residency.h"

namespace tulle::worker {

// A claim has one; a node may add a new one before it revokes the old.
inline constexpr std::size_t kMaxGrants = 256;

struct Options {
  // One client process each, with an executor process and a thread here. More are told that the vGPU is busy.
  std::size_t max_sessions = 64;
  // Connections whose handshake is under way, or which are being told kBusy. One more ends the oldest
  // handshake, so that strangers who say nothing hold only these and shut nobody out.
  std::size_t max_handshakes = 32;
  std::size_t spare_executors = 1;
  unsigned concurrent_builds = 2;
  Duration stats_interval = std::chrono::milliseconds(200);
  // How long ending sessions may take before the process exits without them.
  Duration shutdown_timeout = std::chrono::seconds(4);
  bool allow_plain_tcp = false;
  bool compression = true;  // of what sessions send over the network, where it pays
  Duration handshake_timeout = std::chrono::seconds(10);
  // How long a session whose connection was lost keeps what it has, for its client to come back; zero: it
  // ends with its connection.
  Duration resume_window = std::chrono::seconds(60);
  // For so long a client that was lost is not given up for the sake of another.
  Duration absence_patience = std::chrono::seconds(3);
  exec::SessionLimits session_limits;
};

// Where sessions' work is done; made once the node has said which vGPU this is.
struct Device {
  std::unique_ptr<exec::ExecutorFactory> executors;  // for sessions of OpenCL; null: there are none
  std::unique_ptr<build::Builder> builder;
  std::unique_ptr<exec::ExecutorFactory> cuda_executors = nullptr;  // for sessions of CUDA; likewise
  // How much of its time the device can give in a time, as executors measure it; 0: they do not measure it.
  double lanes = 0;
  bool maps_memory = true;  // executors can have memory of others (Executor::MapMemory)
};

class Worker {
 public:
  // Makes the device of an assignment. Called once, on Run()'s thread.
  using OpenDevice = std::function<Result<Device>(const wire::node::AssignVGpu& assignment)>;

  // `control` is the packet socket to the node, `share` a wire::SharePage or none: then the vGPU may use all
  // of the device. `turns`: that page's socket, where the device is used by turns. `spill_file`: for memory
  // that is not on the device, where the assignment has any such. `clock` must outlive the worker.
  Worker(UniqueFd control, const Options& options, OpenDevice open_device, const Clock* clock,
         UniqueFd share = UniqueFd(), UniqueFd turns = UniqueFd(), UniqueFd spill_file = UniqueFd());
  ~Worker();

  enum class End {
    kDone,
    kNoDevice,  // the device could not be opened; the node has been told why
    kStuck,     // sessions did not end in time: the process must exit without destroying this object
  };
  // Serves the node until it says Shutdown or is gone, then ends the sessions.
  End Run();

  // As if the node had said Shutdown. Safe in a signal handler.
  void RequestShutdown();

  // Messages of the node; called by DispatchPacket within Run().
  void On(const wire::node::AssignVGpu& message);
  void On(const wire::node::AddGrant& message);
  void On(const wire::node::RevokeGrant& message);
  void On(const wire::node::AdoptConnection& message);
  void On(const wire::node::Shutdown& message);
  void On(const wire::node::ExportWithdrawn& message);
  void On(const wire::node::ExportUnused& message);
  void On(const wire::node::ResizeMemory& message);

 private:
  // One connection, from its arrival to the end of its session.
  struct Connection {
    std::thread thread;
    UniqueFd socket;    // a duplicate, so that a handshake under way can be cut short; guarded by state_
    std::string grant;  // once the client has named it; guarded by state_
    std::optional<session::Peer> peer;  // of a session that has begun; guarded by state_
    bool peer_told = false;             // Run()'s thread
    exec::EndRequest end;
    exec::SessionCounters counters;
    std::atomic<bool> finished{false};  // the thread is about to return
  };
  struct State {
    std::map<std::string, Secret, std::less<>> grants;
    std::list<Connection> connections;  // the list itself changes on Run()'s thread only
  };
  struct Totals {
    std::uint64_t commands = 0, received_bytes = 0, sent_bytes = 0, device_time_ns = 0;
    Totals& operator+=(const Totals& other) {
      commands += other.commands, received_bytes += other.received_bytes, sent_bytes += other.sent_bytes;
      device_time_ns += other.device_time_ns;
      return *this;
    }
  };

  void ReadControl();
  Status HoldToShare();
  void Serve(Connection& connection, UniqueFd socket);
  Result<session::GrantKey> KeyOf(Connection& connection, const std::string& vgpu, const std::string& grant);
  // Ends the session whose client has been away longest, when that is long enough; waits until it has given
  // back what it had. False: none will be long enough in time, all of them together have too little, or the
  // one for whose sake it is done is to end itself.
  bool EndAbsent(const Connection& for_whom, std::uint64_t missing_bytes);
  void Wake();
  void Reap();
  void EndAll(wire::EndReason reason, const std::string& message);
  void ReportStats();
  Totals CountersOf(Connection& connection) const;
  // False: the node does not read.
  bool ReportSessions();
  bool ReportCommands();  // false: there was nothing new, or the node does not read
  template <wire::Message M>
  Status Tell(const M& message);

  const UniqueFd control_;
  const Options options_;
  const OpenDevice open_device_;
  const Clock& clock_;
  UniqueFd share_, turns_, spill_file_;
  UniqueFd wake_;  // an eventfd: a session ended, or a shutdown was asked for
  std::atomic<bool> shutdown_{false};

  bool no_device_ = false;
  std::string vgpu_;  // set by AssignVGpu, before any connection
  Device device_;
  std::uint64_t spill_bytes_ = 0;  // AssignVGpu
  std::optional<quota::MemoryQuota> quota_;
  std::optional<spill::Pool> spill_;  // none: programs may allocate what the vGPU has of the device
  std::optional<exports::NodeExports> exports_;  // after what its memory counts against
  std::optional<SharedMemory> share_memory_;     // a wire::SharePage
  std::optional<pace::Turn> turn_;               // none: all use the device at once
  std::optional<pace::Pacer> pacer_;             // none: nothing holds the vGPU to a share
  std::optional<pace::Network> network_;
  build::Slots build_slots_;
  std::optional<Spares> spares_;
  session::ResumeTable resume_table_;

  Guarded<State> state_;
  std::atomic<std::size_t> sessions_{0};
  std::atomic<std::uint32_t> crashes_{0};
  std::atomic<std::uint32_t> refused_{0};
  std::deque<std::string> sessions_gone_;  // of which the node knows, and that they ended it does not
  Totals ended_;                           // of sessions that are over
  exec::CommandTotals ended_commands_;     // the same
  exec::CommandTotals told_commands_;
  std::vector<UniqueFd> received_fds_;  // of the packet at hand
  std::optional<ByteVector> told_stats_;
  Instant stats_told_at_{};
  bool stats_wait_ = false;  // some may have changed, but it is too early to tell
};

}  // namespace tulle::worker
