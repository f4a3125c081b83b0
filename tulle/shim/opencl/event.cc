#include "tulle/shim/opencl/event.h"

#include "tulle/shim/opencl/entry_points.h"

namespace tulle::shim::opencl {
namespace {

using EventNotify = void(CL_CALLBACK*)(cl_event, cl_int, void*);

// Nobody has to know the answer, but that it comes makes waiting threads look again.
class Unheeded final : public Reply {
  Status OnReply(ByteView, ByteView) override {
    delete this;
    return OkStatus();
  }
  void OnLost() override { delete this; }
};

// What the program sees as the event's state. A command leaves this process at the latest when the program
// looks at it, so it is never seen as merely queued; whether it runs already is the device's secret.
cl_int ExecutionStatus(const Event& event) {
  const std::int32_t status = event.status();
  return status == Event::kPending ? CL_SUBMITTED : status;
}

}  // namespace

cl_int WaitForEvents(cl_uint num_events, const cl_event* events) {
  if (num_events == 0 || events == nullptr) return CL_INVALID_VALUE;
  for (cl_uint i = 0; i < num_events; ++i) {
    const Event* event = FromHandle<Event>(events[i]);
    if (event == nullptr) return CL_INVALID_EVENT;
    if (&ContextOf(*event) != &ContextOf(*FromHandle<Event>(events[0]))) return CL_INVALID_CONTEXT;
  }
  bool failed = false;
  for (cl_uint i = 0; i < num_events; ++i) {
    // Another thread may release the event meanwhile.
    const Ref<Event> event(FromHandle<Event>(events[i]));
    Connection& connection = ContextOf(*event).connection();
    if (!event->final()) connection.AwaitUntil([&] { return event->final(); });
    failed = failed || event->status() < 0;
    if (Queue* queue = QueueOf(*event); queue != nullptr && queue->in_order())
      queue->AwaitNotices(event->sequence());
  }
  return failed ? CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST : CL_SUCCESS;
}

cl_int GetEventInfo(cl_event handle, cl_event_info name, std::size_t size, void* value,
                    std::size_t* size_ret) {
  const Event* event = FromHandle<Event>(handle);
  if (event == nullptr) return CL_INVALID_EVENT;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_EVENT_COMMAND_QUEUE: {
      Queue* queue = QueueOf(*event);
      return out.Value<cl_command_queue>(queue == nullptr ? nullptr : ToHandle(queue));
    }
    case CL_EVENT_CONTEXT: return out.Value<cl_context>(ToHandle(&ContextOf(*event)));
    case CL_EVENT_COMMAND_TYPE: return out.Value<cl_command_type>(event->command());
    case CL_EVENT_COMMAND_EXECUTION_STATUS:
      if (!event->final()) ContextOf(*event).connection().FlushAndPoll();
      return out.Value<cl_int>(ExecutionStatus(*event));
    case CL_EVENT_REFERENCE_COUNT: return out.Value<cl_uint>(event->handles());
    default: return CL_INVALID_VALUE;
  }
}

cl_int RetainEvent(cl_event handle) { return RetainHandle<Event>(handle); }
cl_int ReleaseEvent(cl_event handle) { return ReleaseHandle<Event>(handle); }

cl_int GetEventProfilingInfo(cl_event handle, cl_profiling_info name, std::size_t size, void* value,
                             std::size_t* size_ret) {
  const Event* event = FromHandle<Event>(handle);
  if (event == nullptr) return CL_INVALID_EVENT;
  const Queue* queue = QueueOf(*event);
  if (queue == nullptr || (queue->flags() & CL_QUEUE_PROFILING_ENABLE) == 0)
    return CL_PROFILING_INFO_NOT_AVAILABLE;
  if (!event->final()) queue->connection().FlushAndPoll();
  if (event->status() != CL_COMPLETE) return CL_PROFILING_INFO_NOT_AVAILABLE;
  const InfoOut out(size, value, size_ret);
  const EventTimes& times = event->times();
  switch (name) {
    case CL_PROFILING_COMMAND_QUEUED: return out.Value<cl_ulong>(times.queued_ns);
    case CL_PROFILING_COMMAND_SUBMIT: return out.Value<cl_ulong>(times.submitted_ns);
    case CL_PROFILING_COMMAND_START: return out.Value<cl_ulong>(times.started_ns);
    case CL_PROFILING_COMMAND_END: return out.Value<cl_ulong>(times.ended_ns);
    case CL_PROFILING_COMMAND_COMPLETE: return out.Value<cl_ulong>(times.ended_ns);
    default: return CL_INVALID_VALUE;
  }
}

cl_event CreateUserEvent(cl_context context_handle, cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  Connection& connection = context->connection();
  Ref<Event> event =
      Ref<Event>::Adopt(connection.events().Create(&Dispatch(), context->event_owner(), CL_COMMAND_USER));
  if (!event) return Fail(error, CL_OUT_OF_RESOURCES);
  Attached attached;
  attached.event = event.get();
  if (!connection.Submit(wire::opencl::CreateUserEvent{context->wire(), {event->handle()}}, attached)) {
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  return Made(error, std::move(event));
}

cl_int SetUserEventStatus(cl_event handle, cl_int status) {
  Event* event = FromHandle<Event>(handle);
  if (event == nullptr || event->command() != CL_COMMAND_USER) return CL_INVALID_EVENT;
  if (status > CL_COMPLETE) return CL_INVALID_VALUE;
  Connection& connection = ContextOf(*event).connection();
  // Callbacks that become due now may release the event.
  const Ref<Event> keep(event);
  if (!event->Finalize(status)) return CL_INVALID_OPERATION;
  auto reply = std::make_unique<Unheeded>();
  Attached attached;
  attached.reply = reply.get();
  attached.wants_status = true;
  if (!connection.Submit(wire::opencl::SetUserEventStatus{event->wire(), status}, attached))
    return CL_OUT_OF_RESOURCES;
  reply.release();  // NOLINT: it deletes itself when it is answered
  connection.Flush();
  return CL_SUCCESS;
}

cl_int SetEventCallback(cl_event handle, cl_int type, EventNotify notify, void* user_data) {
  Event* event = FromHandle<Event>(handle);
  if (event == nullptr) return CL_INVALID_EVENT;
  if (notify == nullptr || (type != CL_COMPLETE && type != CL_RUNNING && type != CL_SUBMITTED))
    return CL_INVALID_VALUE;
  CallbackThread& thread = ContextOf(*event).callbacks();
  if (!thread.Start().ok()) return CL_OUT_OF_HOST_MEMORY;
  // The task keeps the event alive until it has run. A command that ended in error never reached the state
  // that was waited for: its callbacks get the error.
  auto task = MakeTask([event = Ref<Event>(event), type, notify, user_data] {
    const std::int32_t status = event->status();
    notify(ToHandle(event.get()), status < 0 ? status : type, user_data);
  });
  if (type == CL_SUBMITTED) {
    thread.Post(std::move(task));
  } else {
    event->Observe(thread, std::move(task));
  }
  return CL_SUCCESS;
}

}  // namespace tulle::shim::opencl
