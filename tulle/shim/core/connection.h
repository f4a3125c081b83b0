// One vGPU as this process uses it: the session with its worker, the names of the objects there, who waits
// for which answer, the memory lease, the events, and what happens when it all ends.
//
// Every method may be called by any thread unless it says otherwise. Nothing here calls the program: its
// callbacks are posted to the callback thread. A connection lives until the process ends (threads of the
// program may be anywhere in it), so it is never destroyed in production.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/shared_memory.h"
#include "tulle/session/client_session.h"
#include "tulle/shim/core/callbacks.h"
#include "tulle/shim/core/event.h"
#include "tulle/shim/core/handles.h"
#include "tulle/shim/core/lease.h"
#include "tulle/shim/core/reply.h"

namespace tulle::shim {

// What goes with a command beside its message.
struct Attached {
  wire::Handle queue;         // gets the blame when the command fails later
  Event* event = nullptr;     // named in the message; learns the command's sequence number
  Reply* reply = nullptr;     // for commands that are answered
  bool wants_status = false;  // answer StatusReply though the command has no reply of its own
  std::span<const ByteView> payload = {};
  bool lent = false;  // the payload stays as it is until Connection::Settle()
};

// True while this thread handles what a worker sent: it may hold the session's locks, so it must neither send
// nor call the program.
bool HandlingFrame();

class Connection final : private session::ClientHandler {
 public:
  struct Options {
    session::Target target;
    std::string program;
    Random* random = nullptr;  // must outlive the connection, as the next
    CallbackThread* callbacks = nullptr;
    std::string trace_directory;  // where a trace of the session is written (session/trace.h); empty: nowhere
    bool trace_payloads = false;
    std::uint64_t capabilities = wire::OpenClCapabilities();  // that are offered
    std::int32_t lost_status = 0;  // what pending events end with when the session is lost
    // How a command fails of which an event that it waited for has failed: that is told by events alone.
    std::int32_t waits_failed_status = 0;
    void (*on_lost)(void* argument, const Error& error) = nullptr;  // once, from any thread; must not wait
    void* on_lost_argument = nullptr;
  };
  static Result<std::unique_ptr<Connection>> Open(const Options& options);
  ~Connection() override;

  const session::SessionLimits& limits() const { return session_->limits(); }
  bool lost() const { return lost_.load(); }
  EventPool& events() { return events_; }

  // Sends one command. False: the session is lost, and `attached.reply` will not be told.
  template <wire::Message M>
  bool Submit(const M& message, const Attached& attached = {}) {
    if (lost()) return false;
    SendRetired();
    Hook hook{this, &attached};
    const auto sent = session_->Send(message, attached.payload, attached.wants_status ? wire::kWantStatus : 0,
                                     &Connection::BeforeSend, &hook, attached.lent);
    return Submitted(sent.ok(), hook);
  }

  // What was lent may change from here on.
  void Settle() { session_->Settle(); }

  // Sends a command and waits for its answer. False: the session is lost.
  template <wire::Message M>
  bool Call(const M& message, Wait& wait, Attached attached = {}) {
    attached.reply = &wait;
    return Submit(message, attached) && Await(wait);
  }
  // The status of a command that is answered with one; `lost` when the session is lost.
  template <wire::Message M>
  std::int32_t CallForStatus(const M& message, std::int32_t lost, Attached attached = {}) {
    static_assert(wire::kModeOf<M> == wire::Mode::kOneWay, "it is answered anyway: use Call");
    StatusWait wait;
    attached.wants_status = true;
    return Call(message, wait, attached) ? wait.status : lost;
  }

  // Waits until done() holds. False: the session was lost first. `done` must be cheap; it is called under
  // the session's receive lock.
  template <typename F>
  bool AwaitUntil(const F& done) {
    return session_->WaitUntil([&done] { return done(); }).ok() || done();
  }
  bool Await(Wait& wait) {
    return AwaitUntil([&wait] { return wait.done(); }) && !wait.lost();
  }

  void Flush() { (void)session_->Flush(); }
  // Makes progress for a program that polls.
  void FlushAndPoll() {
    if (lost()) return;
    Flush();
    session_->Poll();
  }

  // A name for an object that the next message creates; null when there are too many.
  wire::Handle NewHandle() { return handles_.New(); }
  // The object is no longer used here: tells the worker, then the name (and its memory) may be used again.
  // `unused`, which must not be given while a frame is handled, is told when no command uses the object any
  // more, or the session is lost.
  void Retire(wire::ObjectKind kind, wire::Handle handle, std::uint64_t memory_bytes = 0,
              Reply* unused = nullptr);

  // The same for an object other than an event that a message has ended which was sent: the name may be used
  // again.
  void Forget(wire::Handle handle) { handles_.Recycle(handle); }

  // Takes `size` bytes of the lease for an object, asking the worker when it is too short. On kFull nothing
  // was taken.
  enum class Memory { kTaken, kFull, kLost };
  Memory TakeMemory(std::uint64_t size);
  // What was taken for an object that was not created after all; others give it back by Retire.
  void GiveMemory(std::uint64_t size);
  // Gives the worker back what of the lease no object uses; false: there is nothing.
  bool ReturnUnusedMemory();

  // Where a buffer lies in the memory in which the vGPU keeps this session's buffers. Asks the worker, for
  // both, and does not wait; null: this process cannot map that memory.
  class Place;
  std::shared_ptr<Place> AskForPlace(wire::Ref<wire::ObjectKind::kMemory> buffer);
  // All of the buffer's `size` bytes; null: they are not there. Waits for the worker if its answers are not
  // here.
  std::byte* Locate(const Place& place, std::uint64_t size);

  // Numbers a transfer that is sent in several pieces.
  std::uint64_t NextTransfer() { return next_transfer_.fetch_add(1, std::memory_order_relaxed); }

  // The first failure, since the last call, of a command of this queue that had already returned success;
  // 0 when there was none.
  std::int32_t TakeFailure(wire::Handle queue);
  // The queue is gone, and its failure with it.
  void ForgetFailure(wire::Handle queue);

  // Tells the worker that the process ends; gives up after `limit`. Threads that still use the connection
  // find it lost.
  void Leave(Duration limit);

  // In the child of a fork, which then leaks the connection: the parent's goes on.
  void AbandonAfterFork() { session_->AbandonAfterFork(); }

 private:
  struct Hook {
    Connection* connection;
    const Attached* attached;
    std::uint64_t reply_sequence = 0;  // under which the reply was registered
    bool refused = false;
  };
  struct Retired {
    wire::ObjectKind kind;
    wire::Handle handle;
    std::uint64_t memory_bytes;
  };

  explicit Connection(const Options& options);
  static void BeforeSend(void* hook, std::uint64_t sequence);
  bool Submitted(bool sent, const Hook& hook);
  void SendRetired() {
    if (has_retired_.load(std::memory_order_relaxed)) SendRetiredNow();
  }
  void SendRetiredNow();
  void Recycle(const Retired& object);

  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) override;
  Result<MutableByteView> OnParts(std::uint64_t answers, std::uint64_t total_bytes) override;
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override;
  void OnLost(const Error& error) override;
  bool HasWork() const override { return options_.callbacks->has_due(); }
  void Work(Who who) override;
  Status OnEventsCompleted(ByteView body);
  Status OnKernelOutput(ByteView body);
  Status OnCommandFailed(ByteView body);

  const Options options_;
  std::atomic<bool> lost_{false};
  std::atomic<bool> leaving_{false};
  HandleSpace handles_;
  EventPool events_;
  ReplyTable replies_;
  std::atomic<std::uint64_t> next_transfer_{1};

  std::mutex lease_mutex_;
  std::unique_ptr<MemoryLease> lease_;  // guarded by lease_mutex_

  class FirstLease;
  class SharedMemoryWait;
  MutableByteView SharedMemory();
  std::once_flag memory_asked_for_;
  std::unique_ptr<SharedMemoryWait>
      shared_memory_wait_;  // fixed once it was asked for; null: it was not sent
  std::once_flag memory_mapped_;
  std::optional<tulle::SharedMemory> shared_memory_;  // fixed then

  // Objects that died while frames were being handled, where nothing may be sent.
  std::mutex retired_mutex_;
  std::vector<Retired> retired_;
  std::atomic<bool> has_retired_{false};

  // Which queue the latest commands belong to, to blame it for a failure. An older command's failure is
  // every queue's.
  struct Blame {
    std::atomic<std::uint64_t> sequence{0};
    std::atomic<std::uint64_t> queue{0};  // a handle's bits: one machine word is lock-free everywhere
  };
  static constexpr std::size_t kBlames = 4096;
  std::unique_ptr<Blame[]> blames_{new Blame[kBlames]};
  std::mutex failures_mutex_;
  std::unordered_map<std::uint32_t, std::pair<wire::Handle, std::int32_t>> failures_;  // by slot of the queue
  std::atomic<bool> has_failures_{false};

  std::unique_ptr<session::ClientSession> session_;
};

}  // namespace tulle::shim
