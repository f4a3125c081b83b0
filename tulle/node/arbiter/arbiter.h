// Shares the node's GPUs among its vGPUs: many times a second it looks at what each has used and divides what
// there is; and where a GPU is used by turns, it gives them, to who has asked first. The workers hold their
// programs to it (worker/pace). Thread-safe; it has a thread of its own.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/result.h"
#include "tulle/base/shared_memory.h"
#include "tulle/base/unique_fd.h"
#include "tulle/node/arbiter/shares.h"
#include "tulle/wire/share_page.h"

namespace tulle::node::arbiter {

// What a vGPU was promised.
struct Promise {
  Level level = Level::kBurst;
  std::uint32_t compute_percent = 0;
  std::uint64_t network_bytes_per_s = 0;  // 0: nothing
};

// What a vGPU has now, and how long its work has waited so far (on workers that were replaced, too).
struct Delivered {
  double share = 0;  // of its GPU
  std::uint64_t throttled_ns = 0;
  std::uint64_t network_bytes_per_s = 0;  // 0: as much as it likes
  std::uint64_t network_bytes = 0;        // that have passed
  std::uint64_t network_throttled_ns = 0;
};

// How it is known what a vGPU uses of its GPU.
enum class Sharing {
  kMeasured,       // by what its workers measure, while all use it at once
  kTurns,          // one uses it at a time
  kControlGroups,  // the host's kernel holds its executors to it (sandbox::ControlGroup)
};

// For a worker that starts; the arbiter's, until the next Start or Remove of the vGPU.
struct WorkerEnds {
  int share_fd = -1;  // a wire::SharePage
  int turn_fd = -1;   // the socket of Sharing::kTurns; else -1
};

class Arbiter {
 public:
  // `lanes`: how much of its time a GPU of this node gives in a time, as workers measure it.
  // `network_bytes_per_s`: what its network moves, both ways together; 0: not known, so that only those are
  // held up that may have no more than they were promised. `longest_turn`: while others wait, in whole
  // milliseconds; zero: as long as it takes. `clock` must outlive it.
  Arbiter(double lanes, std::uint64_t network_bytes_per_s, Duration longest_turn, const Clock* clock);
  ~Arbiter();
  Arbiter(const Arbiter&) = delete;
  Arbiter& operator=(const Arbiter&) = delete;

  // Its worker is about to start.
  Result<WorkerEnds> Start(const std::string& uid, std::uint32_t gpu, Sharing sharing,
                           const Promise& promise);
  // From now on.
  void Change(const std::string& uid, const Promise& promise);
  // Its worker has ended, with its turn or without.
  void Stopped(const std::string& uid);
  void Remove(const std::string& uid);
  Delivered Get(const std::string& uid) const;

 private:
  // A vGPU's part of something.
  struct Part {
    std::uint64_t used = 0, waited_ns = 0, throttled_ns = 0;  // as last seen
    std::uint64_t past_throttled_ns = 0;                      // of earlier workers
    Slice slice;                                              // lately
  };
  struct VGpu {
    std::uint32_t gpu = 0;
    Promise promise;
    std::optional<SharedMemory> memory;
    Part compute, network;
    std::uint64_t past_network_bytes = 0;  // of earlier workers
    double lanes = 1;
    bool unheld = false;            // Sharing::kControlGroups: its worker holds it to no share of compute
    UniqueFd turns, workers_turns;  // two ends of a socket; none: it is not used by turns
    std::uint64_t asked = 0;        // the how manieth that asked for a turn; 0: it has not
    wire::SharePage& page() const { return *reinterpret_cast<wire::SharePage*>(memory->bytes().data()); }
  };
  struct State {
    std::map<std::string, VGpu> vgpus;
    Instant measured_at{};
    std::uint64_t asked = 0;  // how many times turns were asked for
    bool stopping = false;
  };
  bool Measure(State& state, Instant now);
  void Share(State& state);
  static void GiveTurns(State& state);
  void Wake();
  void SetTerms(VGpu& vgpu, const Promise& promise);
  // Calls f(its vGPUs) for each GPU.
  template <typename F>
  static void ForEachGpu(State& state, F&& f);
  static std::vector<Slice> SlicesOf(const std::vector<VGpu*>& vgpus, Part VGpu::*part);
  void Run();

  const double lanes_;
  const std::uint64_t network_bytes_per_s_;
  const Duration longest_turn_;
  const Clock& clock_;
  mutable Guarded<State> state_;
  const UniqueFd wake_;  // of the thread
  std::thread thread_;
};

}  // namespace tulle::node::arbiter
