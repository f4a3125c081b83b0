// Command queues, and what every enqueued command goes through: its wait list, its event, its submission.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/shim/opencl/context.h"
#include "tulle/shim/opencl/entry_points.h"
#include "tulle/wire/schema/opencl/queue.h"

namespace tulle::shim::opencl {

class Queue final : public Object {
 public:
  Queue(Context& context, Device& device, wire::Handle name, cl_command_queue_properties flags,
        std::vector<cl_queue_properties> properties)
      : Object(&Dispatch(), ObjectType::kQueue),
        context_(&context),
        device_(&device),
        name_(name),
        flags_(flags),
        properties_(std::move(properties)) {}
  static void Dispose(Queue* queue);
  // An in-order one of our own, which the program's do not wait for. Null: too many objects, or the session
  // is lost.
  static Ref<Queue> MakeAside(Context& context);

  Context& context() const { return *context_; }
  Device& device() const { return *device_; }  // one of the context's
  Connection& connection() const { return context_->connection(); }
  wire::Ref<wire::ObjectKind::kQueue> wire() const { return {name_}; }
  wire::Handle name() const { return name_; }
  cl_command_queue_properties flags() const { return flags_; }
  bool in_order() const { return (flags_ & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) == 0; }
  // As given to clCreateCommandQueueWithProperties, with the 0 that ends them; or empty.
  const std::vector<cl_queue_properties>& properties() const { return properties_; }

  EventOwner event_owner();

  // Every command up to `sequence` is known to have completed; waits for the notices of their events, so that
  // the program sees them complete too. False: the session is lost.
  bool AwaitNotices(std::uint64_t sequence);

  // Whether the program could not tell that the commands so far have not completed: none has an event, and
  // none brings anything into its memory.
  bool unseen() const {
    return pending_events_.load(std::memory_order_acquire) == 0 &&
           downloads_.load(std::memory_order_acquire) == 0;
  }
  // Counts what is on its way into the program's memory.
  std::atomic<std::uint32_t>& downloads() { return downloads_; }

  // A blocking write has returned to the program before it was carried out. Nobody can tell while this is the
  // context's only queue, in order, and unseen(); before that changes, AwaitUnawaited makes it true.
  void NoteUnawaited() { noted_.fetch_add(1); }
  void AwaitUnawaited();

  // Held by whoever sends a command, from its first message to its last, so that no other thread's comes in
  // between. Says which command of the queue it is.
  std::unique_lock<std::mutex> TakeTurn(std::uint64_t* number);
  // All commands up to this one have completed.
  void NoteCompleted(std::uint64_t number);
  // Whether all commands so far are known to have completed.
  bool idle() const { return completed_.load() == commands_.load(); }

  // Waits until all commands so far have completed, and the program sees them complete. The first failure
  // among them, or CL_OUT_OF_RESOURCES when the session is lost.
  cl_int Finish();

 private:
  ~Queue() = default;
  std::uint64_t commands();  // that were sent whole

  const Ref<Context> context_;
  const Ref<Device> device_;
  const wire::Handle name_;
  const cl_command_queue_properties flags_;
  const std::vector<cl_queue_properties> properties_;
  std::atomic<std::uint32_t> pending_events_{0};
  std::atomic<std::uint32_t> downloads_{0};
  std::atomic<std::uint32_t> noted_{0};  // by NoteUnawaited
  std::mutex awaiting_;
  std::atomic<std::uint32_t> awaited_{0};  // of these, at least
  std::mutex turn_;
  std::atomic<std::uint64_t> commands_{0};  // begun; changed by who has the turn
  std::atomic<std::uint64_t> completed_{0};
};
TULLE_API_OBJECT(Queue, cl_command_queue, ObjectType::kQueue, CL_INVALID_COMMAND_QUEUE);
TULLE_API_OBJECT(Event, cl_event, ObjectType::kEvent, CL_INVALID_EVENT);

// One command on its way into a queue: checks the wait list, makes the event, submits, hands the event out.
//
//   Enqueue enqueue(queue_handle, CL_COMMAND_..., num_waits, waits, event_out);
//   if (enqueue.status() != CL_SUCCESS) return enqueue.status();
//   ... check what the command itself needs, fill `message` ...
//   return enqueue.Submit(message);
class Enqueue {
 public:
  Enqueue(cl_command_queue queue, cl_command_type command, cl_uint num_waits, const cl_event* waits,
          cl_event* event);

  // The same for a command of our own. The waits must outlive it.
  Enqueue(Queue& queue, cl_command_type command, std::span<const wire::Ref<wire::ObjectKind::kEvent>> waits,
          cl_event* event = nullptr);

  cl_int status() const { return status_; }

  // Precondition of the rest: status() is CL_SUCCESS.
  Queue& queue() const { return *queue_; }
  Connection& connection() const { return queue_->connection(); }
  // What its next message waits for.
  wire::WaitList waits() const { return {gate_.handle.null() ? wait_view_ : std::span(&gate_, 1)}; }
  // Whether the command waits for events that its caller named.
  bool has_waits() const { return !wait_view_.empty(); }

  // The command's event, made now if the program wants one (or `always`); null if not, or on failure.
  // Checks done by then should be all that can fail.
  Event* MakeEvent(bool always = false);
  bool wants_event() const { return event_out_ != nullptr; }
  Event* event() const { return event_.get(); }

  // For one-message commands: fills in queue, waits and event, submits, and calls Commit.
  template <wire::Message M>
  cl_int Submit(M& message) {
    if (wants_event() && MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
    return SubmitPiece(message, true) ? Commit() : CL_OUT_OF_RESOURCES;
  }
  // One message of a command; the event belongs to the last.
  template <wire::Message M>
  bool SubmitPiece(M& message, bool last, Attached attached = {}) {
    TakeTurn();
    message.queue = queue_->wire();
    message.waits = waits();
    message.event = {last && event_ ? event_->handle() : wire::Handle{}};
    attached.queue = queue_->name();
    attached.event = last ? event_.get() : nullptr;
    const bool sent = connection().Submit(message, attached);
    if (last) turn_ = {};
    return sent;
  }
  // The same for a whole one, whose failure is told by its event alone.
  template <wire::Message M>
  bool SubmitQuietly(M& message) {
    Attached attached;
    auto reply = std::make_unique<Unheeded>();
    attached.wants_status = true;
    attached.reply = reply.get();
    if (!SubmitPiece(message, true, attached)) return false;
    reply.release();
    return true;
  }
  // For commands that do nothing but take their place in the queue: the one message, as SubmitPiece ...
  bool PlaceNothing();
  // ... or Submit.
  cl_int SubmitNothing();
  // For commands that this process carries out when their turn comes: `work` runs on the callback thread when
  // what is before it in the queue has ended, and what is behind it waits until `done(status)` is called,
  // from any thread. It does not run, and the command fails, when something that it waits for has failed. The
  // event, if it is to have one, is made before; Commit is left to the caller.
  using Done = std::function<void(cl_int status)>;
  cl_int PlaceHere(std::function<void(const Done& done)> work);
  // For what this thread does itself, between two messages of the command: waits until `begin` has completed,
  // works, and only then lets `end` come, and with it the command's event and what is behind it in the queue.
  // `work` is not called when `begin` fails; the command fails as that did. `sequence`: of `begin`.
  template <wire::Message Begin, wire::Message End, typename Work>
  cl_int DoHere(Begin& begin, End& end, std::uint64_t* sequence, const Work& work) {
    cl_event gate = CreateUserEvent(ToHandle(&queue_->context()), nullptr);
    if (gate == nullptr) return CL_OUT_OF_RESOURCES;
    TakeTurn();
    Enqueue turn(*queue_, command_, wait_view_);
    turn.within_another_ = true;
    const Ref<Event> begun(turn.MakeEvent(true));
    bool sent = begun && turn.SubmitQuietly(begin);
    if (sent) {
      WaitFor(*FromHandle<Event>(gate));
      sent = SubmitQuietly(end);
    }
    turn_ = {};
    cl_int status = CL_OUT_OF_RESOURCES;
    if (sent && connection().AwaitUntil([&] { return begun->final(); })) status = begun->status();
    if (status == CL_COMPLETE) work();
    SetUserEventStatus(gate, status);
    ReleaseEvent(gate);
    if (begun) *sequence = begun->sequence();
    return status;
  }
  // Gives the event to the program.
  cl_int Commit();
  // Which command of the queue it was; 0: not sent.
  std::uint64_t number() const { return number_; }

 private:
  // Until its last message is sent, or it ends.
  void TakeTurn();
  // For just this event, instead of what it waited for.
  void WaitFor(const Event& event);

  Queue* queue_ = nullptr;
  cl_int status_;
  cl_command_type command_;
  cl_event* event_out_;
  Ref<Event> event_;
  static constexpr std::size_t kInlineWaits = 16;
  std::array<wire::Ref<wire::ObjectKind::kEvent>, kInlineWaits> inline_waits_;
  std::vector<wire::Ref<wire::ObjectKind::kEvent>> more_waits_;
  std::span<const wire::Ref<wire::ObjectKind::kEvent>> wait_view_;
  wire::Ref<wire::ObjectKind::kEvent> gate_;  // awaited instead, if it is not null
  bool waits_for_program_ = false;            // for a user event
  bool within_another_ = false;               // whose turn it is
  std::unique_lock<std::mutex> turn_;
  std::uint64_t number_ = 0;
};

}  // namespace tulle::shim::opencl
