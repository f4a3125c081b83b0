// Command queues, and what every enqueued command goes through: its wait list, its event, its submission.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "tulle/shim/opencl/context.h"
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

  // A blocking write has returned to the program before it was carried out. Nobody can tell while this is the
  // context's only queue and in order; before that changes, AwaitUnawaited makes it true.
  void NoteUnawaited() { unawaited_.store(true); }
  void AwaitUnawaited();

  // Waits until all commands so far have completed, and the program sees them complete. The first failure
  // among them, or CL_OUT_OF_RESOURCES when the session is lost.
  cl_int Finish();

 private:
  ~Queue() = default;

  const Ref<Context> context_;
  const Ref<Device> device_;
  const wire::Handle name_;
  const cl_command_queue_properties flags_;
  const std::vector<cl_queue_properties> properties_;
  std::atomic<std::uint32_t> pending_events_{0};
  std::atomic<bool> unawaited_{false};
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

  cl_int status() const { return status_; }

  // Precondition of the rest: status() is CL_SUCCESS.
  Queue& queue() const { return *queue_; }
  Connection& connection() const { return queue_->connection(); }
  wire::WaitList waits() const { return {wait_view_}; }
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
    message.queue = queue_->wire();
    message.waits = waits();
    message.event = {last && event_ ? event_->handle() : wire::Handle{}};
    attached.queue = queue_->name();
    attached.event = last ? event_.get() : nullptr;
    return connection().Submit(message, attached);
  }
  // Gives the event to the program.
  cl_int Commit();

 private:
  Queue* queue_ = nullptr;
  cl_int status_;
  cl_command_type command_;
  cl_event* event_out_;
  Ref<Event> event_;
  static constexpr std::size_t kInlineWaits = 16;
  std::array<wire::Ref<wire::ObjectKind::kEvent>, kInlineWaits> inline_waits_;
  std::vector<wire::Ref<wire::ObjectKind::kEvent>> more_waits_;
  std::span<const wire::Ref<wire::ObjectKind::kEvent>> wait_view_;
};

}  // namespace tulle::shim::opencl
