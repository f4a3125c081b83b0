#include "tulle/shim/opencl/queue.h"

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/event.h"

namespace tulle::shim::opencl {
namespace {

constexpr cl_command_queue_properties kHostFlags =
    CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE | CL_QUEUE_PROFILING_ENABLE;

// Sends what creates the queue. False: the session is lost.
bool SendQueue(const Queue& queue) {
  using wire::opencl::QueueFlag;
  wire::opencl::CreateQueueOn message;
  message.context = queue.context().wire();
  message.queue = {queue.name()};
  message.device = queue.device().wire();
  if (!queue.in_order()) message.flags.bits |= static_cast<std::uint64_t>(QueueFlag::kOutOfOrder);
  if ((queue.flags() & CL_QUEUE_PROFILING_ENABLE) != 0)
    message.flags.bits |= static_cast<std::uint64_t>(QueueFlag::kProfiling);
  if (queue.device().is_part()) return queue.connection().Submit(message);
  return queue.connection().Submit(wire::opencl::CreateQueue{message.context, message.queue, message.flags});
}

cl_command_queue MakeQueue(cl_context context_handle, cl_device_id device_handle,
                           cl_command_queue_properties flags, std::vector<cl_queue_properties> properties,
                           cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  Device* device = FromHandle<Device>(device_handle);
  if (device == nullptr || !context->Has(device)) return Fail(error, CL_INVALID_DEVICE);
  const auto offered =
      device->Info<cl_command_queue_properties>(CL_DEVICE_QUEUE_ON_HOST_PROPERTIES, kHostFlags);
  if ((flags & ~(kHostFlags & offered)) != 0) return Fail(error, CL_INVALID_QUEUE_PROPERTIES);
  Connection& connection = context->connection();
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Queue> queue = Ref<Queue>::Adopt(new Queue(*context, *device, name, flags, std::move(properties)));
  if (!SendQueue(*queue)) return Fail(error, CL_OUT_OF_RESOURCES);
  context->AddQueue(queue.get());
  for (const Ref<Queue>& other : context->Queues()) other->AwaitUnawaited();
  return Made(error, std::move(queue));
}

cl_int EnqueueSync(wire::opencl::SyncKind kind, cl_command_queue queue, cl_uint num_waits,
                   const cl_event* waits, cl_event* event) {
  const bool marker = kind == wire::opencl::SyncKind::kMarker;
  Enqueue enqueue(queue, marker ? CL_COMMAND_MARKER : CL_COMMAND_BARRIER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  wire::opencl::EnqueueSync message;
  message.kind = {kind};
  return enqueue.Submit(message);
}

}  // namespace

void Queue::Dispose(Queue* queue) {
  queue->MarkDead();
  queue->context().RemoveQueue(queue);
  Connection& connection = queue->connection();
  connection.Retire(wire::ObjectKind::kQueue, queue->name_);
  connection.ForgetFailure(queue->name_);
  delete queue;
}

Ref<Queue> Queue::MakeAside(Context& context) {
  const wire::Handle name = context.connection().NewHandle();
  if (name.null()) return {};
  Ref<Queue> queue = Ref<Queue>::Adopt(new Queue(context, context.device(), name, 0, {}));
  return SendQueue(*queue) ? queue : Ref<Queue>();
}

EventOwner Queue::event_owner() {
  return {this, [](Object* object) { Dispose(static_cast<Queue*>(object)); }, &pending_events_};
}

bool Queue::AwaitNotices(std::uint64_t sequence) {
  if (pending_events_.load(std::memory_order_acquire) == 0) return true;
  std::vector<Ref<Event>> earlier;
  connection().events().ForEach([&](Event& event) {
    const std::uint64_t at = event.sequence();
    if (event.owner() == this && !event.final() && at != 0 && at <= sequence) earlier.emplace_back(&event);
  });
  for (const Ref<Event>& event : earlier) {
    if (!event->final() && !connection().AwaitUntil([&] { return event->final(); })) return false;
  }
  return true;
}

void Queue::AwaitUnawaited() {
  const std::lock_guard lock(awaiting_);  // whoever comes second waits, too
  const std::uint32_t noted = noted_.load();
  if (awaited_.load() == noted) return;
  const std::uint64_t sent = commands();
  StatusWait wait;
  if (connection().Call(wire::opencl::Finish{wire()}, wait)) NoteCompleted(sent);
  awaited_.store(noted);
}

std::unique_lock<std::mutex> Queue::TakeTurn(std::uint64_t* number) {
  std::unique_lock lock(turn_);
  *number = ++commands_;
  return lock;
}

void Queue::NoteCompleted(std::uint64_t number) {
  std::uint64_t known = completed_.load();
  while (known < number && !completed_.compare_exchange_weak(known, number)) {
  }
}

std::uint64_t Queue::commands() {
  const std::lock_guard lock(turn_);
  return commands_;
}

cl_int Queue::Finish() {
  StatusWait wait;
  const std::uint32_t noted = noted_.load();
  const std::uint64_t sent = commands();
  if (!connection().Call(wire::opencl::Finish{wire()}, wait)) return CL_OUT_OF_RESOURCES;
  awaited_.store(noted);
  NoteCompleted(sent);
  if (!AwaitNotices(wait.sequence())) return CL_OUT_OF_RESOURCES;
  const cl_int failure = connection().TakeFailure(name_);
  return failure != CL_SUCCESS ? failure : wait.status;
}

Enqueue::Enqueue(cl_command_queue queue, cl_command_type command, cl_uint num_waits, const cl_event* waits,
                 cl_event* event)
    : queue_(FromHandle<Queue>(queue)), status_(CL_SUCCESS), command_(command), event_out_(event) {
  if (queue_ == nullptr) {
    status_ = CL_INVALID_COMMAND_QUEUE;
    return;
  }
  if ((num_waits == 0) != (waits == nullptr)) {
    status_ = CL_INVALID_EVENT_WAIT_LIST;
    return;
  }
  if (num_waits > wire::kMaxWaitList) {
    status_ = CL_OUT_OF_RESOURCES;
    return;
  }
  std::span<wire::Ref<wire::ObjectKind::kEvent>> names(inline_waits_);
  if (num_waits > kInlineWaits) {
    more_waits_.resize(num_waits);
    names = more_waits_;
  }
  for (cl_uint i = 0; i < num_waits; ++i) {
    const Event* wait = FromHandle<Event>(waits[i]);
    if (wait == nullptr) {
      status_ = CL_INVALID_EVENT_WAIT_LIST;
      return;
    }
    if (&ContextOf(*wait) != &queue_->context()) {
      status_ = CL_INVALID_CONTEXT;
      return;
    }
    names[i] = wait->wire();
    waits_for_program_ |= QueueOf(*wait) == nullptr;
  }
  wait_view_ = names.first(num_waits);
}

Enqueue::Enqueue(Queue& queue, cl_command_type command,
                 std::span<const wire::Ref<wire::ObjectKind::kEvent>> waits, cl_event* event)
    : queue_(&queue), status_(CL_SUCCESS), command_(command), event_out_(event), wait_view_(waits) {}

Event* Enqueue::MakeEvent(bool always) {
  if (event_ || !(always || wants_event())) return event_.get();
  event_ = Ref<Event>::Adopt(connection().events().Create(&Dispatch(), queue_->event_owner(), command_));
  return event_.get();
}

void Enqueue::TakeTurn() {
  if (turn_.owns_lock() || within_another_) return;
  // Whoever awaits the end of what is unawaited later would wait for the program, too.
  if (waits_for_program_) queue_->AwaitUnawaited();
  turn_ = queue_->TakeTurn(&number_);
}

bool Enqueue::PlaceNothing() {
  wire::opencl::EnqueueSync message;
  message.kind = {wire::opencl::SyncKind::kMarker};
  if (queue_->in_order() || !waits().items.empty()) return SubmitPiece(message, true);
  // A marker that waits for nothing waits for everything before it, which in this queue it must not: so it
  // waits for something that happens at once. (Not for what has happened: to PoCL 3.1 that is nothing.)
  cl_event now = CreateUserEvent(ToHandle(&queue_->context()), nullptr);
  if (now == nullptr) return false;
  WaitFor(*FromHandle<Event>(now));
  const bool sent = SubmitPiece(message, true);
  SetUserEventStatus(now, CL_COMPLETE);
  ReleaseEvent(now);
  return sent;
}

cl_int Enqueue::SubmitNothing() {
  if (wants_event() && MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  return PlaceNothing() ? Commit() : CL_OUT_OF_RESOURCES;
}

cl_int Enqueue::PlaceHere(std::function<void(const Done& done)> work) {
  CallbackThread& thread = queue_->context().callbacks();
  if (!thread.Start().ok()) return CL_OUT_OF_HOST_MEMORY;
  cl_event gate = CreateUserEvent(ToHandle(&queue_->context()), nullptr);
  if (gate == nullptr) return CL_OUT_OF_RESOURCES;
  const auto done = [gate](cl_int status) {
    SetUserEventStatus(gate, status);
    ReleaseEvent(gate);
  };
  // Between two commands: the one ends when the turn comes, the other when the work is done.
  TakeTurn();
  Enqueue turn(*queue_, CL_COMMAND_MARKER, wait_view_);
  turn.within_another_ = true;
  const Ref<Event> event(turn.MakeEvent(true));
  bool sent = event && turn.PlaceNothing();
  if (sent) {
    WaitFor(*FromHandle<Event>(gate));
    sent = PlaceNothing();
  }
  if (!sent) {
    done(CL_OUT_OF_RESOURCES);
    return CL_OUT_OF_RESOURCES;
  }
  event->Observe(thread, MakeTask([event, done, work = std::move(work)] {
                   const std::int32_t status = event->status();
                   if (status == CL_COMPLETE) {
                     work(done);
                   } else {
                     done(status);
                   }
                 }));
  connection().Flush();
  return CL_SUCCESS;
}

void Enqueue::WaitFor(const Event& event) { gate_ = event.wire(); }

cl_int Enqueue::Commit() {
  if (wants_event()) *event_out_ = ToHandle(event_.release());
  return CL_SUCCESS;
}

cl_command_queue CreateCommandQueue(cl_context context, cl_device_id device,
                                    cl_command_queue_properties flags, cl_int* error) {
  if ((flags & ~kHostFlags) != 0 && FromHandle<Context>(context) != nullptr)
    return Fail(error, CL_INVALID_VALUE);
  return MakeQueue(context, device, flags, {}, error);
}

cl_command_queue CreateCommandQueueWithProperties(cl_context context, cl_device_id device,
                                                  const cl_queue_properties* properties, cl_int* error) {
  cl_command_queue_properties flags = 0;
  std::vector<cl_queue_properties> copy;
  if (properties != nullptr) {
    for (; *properties != 0; properties += 2) {
      // Other properties are of queues on the device, which is not offered.
      if (properties[0] == CL_QUEUE_SIZE) return Fail(error, CL_INVALID_QUEUE_PROPERTIES);
      if (properties[0] != CL_QUEUE_PROPERTIES) return Fail(error, CL_INVALID_VALUE);
      flags = properties[1];
      constexpr cl_command_queue_properties kAll =
          kHostFlags | CL_QUEUE_ON_DEVICE | CL_QUEUE_ON_DEVICE_DEFAULT;
      if ((flags & ~kAll) != 0) return Fail(error, CL_INVALID_VALUE);
      copy.insert(copy.end(), properties, properties + 2);
    }
    copy.push_back(0);
  }
  return MakeQueue(context, device, flags, std::move(copy), error);
}

cl_int RetainCommandQueue(cl_command_queue handle) { return RetainHandle<Queue>(handle); }
cl_int ReleaseCommandQueue(cl_command_queue handle) {
  Queue* queue = FromHandle<Queue>(handle);
  if (queue == nullptr) return CL_INVALID_COMMAND_QUEUE;
  queue->connection().Flush();
  if (queue->handles() == 1) queue->AwaitUnawaited();
  return ReleaseHandle<Queue>(handle);
}

cl_int GetCommandQueueInfo(cl_command_queue handle, cl_command_queue_info name, std::size_t size, void* value,
                           std::size_t* size_ret) {
  const Queue* queue = FromHandle<Queue>(handle);
  if (queue == nullptr) return CL_INVALID_COMMAND_QUEUE;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_QUEUE_CONTEXT: return out.Value<cl_context>(ToHandle(&queue->context()));
    case CL_QUEUE_DEVICE: return out.Value<cl_device_id>(ToHandle(&queue->device()));
    case CL_QUEUE_REFERENCE_COUNT: return out.Value<cl_uint>(queue->handles());
    case CL_QUEUE_PROPERTIES: return out.Value(queue->flags());
    case CL_QUEUE_PROPERTIES_ARRAY: return out.Array(std::span(queue->properties()));
    case CL_QUEUE_DEVICE_DEFAULT: return out.Value<cl_command_queue>(nullptr);
    case CL_QUEUE_SIZE: return CL_INVALID_COMMAND_QUEUE;  // asked only of queues on the device
    default: return CL_INVALID_VALUE;
  }
}

cl_int Flush(cl_command_queue handle) {
  const Queue* queue = FromHandle<Queue>(handle);
  if (queue == nullptr) return CL_INVALID_COMMAND_QUEUE;
  if (!queue->connection().Submit(wire::opencl::Flush{queue->wire()})) return CL_OUT_OF_RESOURCES;
  queue->connection().Flush();
  return CL_SUCCESS;
}

cl_int Finish(cl_command_queue handle) {
  Queue* queue = FromHandle<Queue>(handle);
  return queue == nullptr ? CL_INVALID_COMMAND_QUEUE : queue->Finish();
}

cl_int EnqueueMarkerWithWaitList(cl_command_queue queue, cl_uint num_waits, const cl_event* waits,
                                 cl_event* event) {
  return EnqueueSync(wire::opencl::SyncKind::kMarker, queue, num_waits, waits, event);
}
cl_int EnqueueBarrierWithWaitList(cl_command_queue queue, cl_uint num_waits, const cl_event* waits,
                                  cl_event* event) {
  return EnqueueSync(wire::opencl::SyncKind::kBarrier, queue, num_waits, waits, event);
}
cl_int EnqueueMarker(cl_command_queue queue, cl_event* event) {
  if (FromHandle<Queue>(queue) != nullptr && event == nullptr) return CL_INVALID_VALUE;
  return EnqueueSync(wire::opencl::SyncKind::kMarker, queue, 0, nullptr, event);
}
cl_int EnqueueBarrier(cl_command_queue queue) {
  return EnqueueSync(wire::opencl::SyncKind::kBarrier, queue, 0, nullptr, nullptr);
}
cl_int EnqueueWaitForEvents(cl_command_queue queue, cl_uint num_events, const cl_event* events) {
  if (FromHandle<Queue>(queue) == nullptr) return CL_INVALID_COMMAND_QUEUE;
  if (num_events == 0 || events == nullptr) return CL_INVALID_VALUE;
  const cl_int status = EnqueueSync(wire::opencl::SyncKind::kBarrier, queue, num_events, events, nullptr);
  return status == CL_INVALID_EVENT_WAIT_LIST ? CL_INVALID_EVENT : status;
}

}  // namespace tulle::shim::opencl
