// The completing half of the OpenCL backend: what the driver's threads run when a command ends.
//
// Every command whose end somebody wants to know (a reply, payload to release, an event, a Finish behind it)
// is Tracked. Ends may be called back in any order and on any thread; what is reported is ordered: the
// replies of a transfer, then its event, then the Finish that waits for it. Reports made while another
// thread is delivering are left to that thread, so completions that come close together share a notice.
//
// Thread-safe. Bounded by kMaxTracked commands under way.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/opencl/native.h"

namespace tulle::gpu::opencl {

class Reporter;

// Commands of one queue that have not ended, in the groups that Finish commands cut them into. Its owner
// keeps it until it is idle; only the reporter looks inside.
struct QueueProgress {
  struct Group {
    std::uint32_t running = 0;
    bool closed = false;  // by a Finish:
    std::uint64_t finish_sequence = 0;
  };
  std::deque<Group> groups{1};    // the last one is open
  std::uint64_t first_group = 0;  // number of groups.front()
  std::uint64_t running = 0;      // in all groups
};

// A transfer that was sent in pieces: one event for all of them. Owned by the reporter.
struct Transfer {
  std::uint32_t running = 0;
  bool closed = false;                       // the last piece was seen, or will never come
  wire::opencl::EventCompletion completion;  // what its event will say; null handle: nobody asked
};

// One native command. Two owners (the event table and the driver's callback), the last one deletes it.
struct Tracked {
  enum class Duty { kNone, kReadReply, kPayloadDone };

  OwnedEvent native;
  wire::Handle event;  // null: nobody asked (or the transfer has it)
  bool profiles = false;
  Duty duty = Duty::kNone;
  std::uint16_t opcode = 0;  // of the command that the duty is for
  std::uint64_t sequence = 0;
  std::uint64_t payload_bytes = 0;  // kReadReply
  QueueProgress* queue = nullptr;
  Transfer* transfer = nullptr;  // null: sent whole

  // The final status; 1 before the end. Negative: nothing may wait for it any more.
  std::int32_t status() const { return status_.load(std::memory_order_acquire); }

  void Unref() {
    if (owners_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  void Ref() { owners_.fetch_add(1, std::memory_order_relaxed); }

 private:
  friend class Reporter;
  Reporter* reporter_ = nullptr;
  std::uint64_t group_ = 0;
  Tracked* next_ = nullptr;  // of those under way
  Tracked* previous_ = nullptr;
  std::atomic<std::int32_t> status_{1};
  std::atomic<int> owners_{1};
};

class Reporter {
 public:
  // Tracked commands under way in one session; each costs about 200 bytes here.
  static constexpr std::uint64_t kMaxTracked = 1u << 20;

  explicit Reporter(Completions* completions) : completions_(completions) {}
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  // True when nothing that was tracked on the queue still runs.
  bool IsIdle(const QueueProgress& queue);

  Transfer* OpenTransfer() { return new Transfer; }
  // No further piece comes. When all pieces have ended, `event` (may be null) completes with `status`, or
  // with the first error of a piece when there was one.
  void CloseTransfer(Transfer* transfer, wire::Handle event, std::int32_t status);

  // True when no more may be tracked.
  bool full() const { return tracked_.load(std::memory_order_relaxed) >= kMaxTracked; }

  // From now on the end of the command is awaited; its `native` is set. Takes one of the caller's references.
  void Track(Tracked* command);

  // Answers `sequence` when everything tracked on the queue so far has ended and has been reported. False,
  // and nothing done, when kMaxTracked of them wait on this queue.
  bool Finish(QueueProgress* queue, std::uint64_t sequence);

  // An event that has no command: its enqueue failed.
  void CompleteEvent(wire::Handle event, std::int32_t status);
  // StatusReply{0} to a DestroyObject whose memory no command can touch any more.
  void MemoryFreed(std::uint64_t sequence);

  // Ends the commands that the driver has failed without a word (NativeDevice::fails_silently).
  void EndFailed();

  // Returns when every tracked command has ended and every report has been delivered; nothing is reported
  // after that.
  void Close();

 private:
  struct Report {
    enum class Kind { kEvent, kFinish, kMemoryFreed };
    Kind kind;
    std::uint64_t sequence;                    // kFinish, kMemoryFreed
    wire::opencl::EventCompletion completion;  // kEvent
  };

  static void CL_CALLBACK OnEnd(cl_event native, cl_int status, void* tracked);
  void End(Tracked* command, cl_int status);
  void AnswerFinishes(QueueProgress* queue);
  void Deliver(std::unique_lock<std::mutex>& lock);
  void SendAll(const std::vector<Report>& reports);

  Completions* const completions_;
  std::atomic<std::uint64_t> tracked_{0};

  std::mutex mutex_;
  std::condition_variable idle_;
  std::vector<Report> reports_;   // not yet delivered, in order
  Tracked* under_way_ = nullptr;  // a list, newest first
  std::vector<Tracked*> failed_;  // ended by EndFailed; kept, as the driver still refers to them
  bool delivering_ = false;
  bool closed_ = false;
  // Of the delivering thread:
  std::vector<Report> sending_;
  std::vector<wire::opencl::EventCompletion> batch_;
  ByteVector body_;
};

}  // namespace tulle::gpu::opencl
