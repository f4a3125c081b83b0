// Streams and events.
#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

constexpr unsigned kEventFlags = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;

// A function of the program that a stream calls; deletes itself.
struct HostCall {
  CUhostFn function = nullptr;
  CUstreamCallback callback = nullptr;
  CUstream stream = nullptr;
  void* user_data = nullptr;

  static void Run(void* argument, CUresult result) {
    const std::unique_ptr<HostCall> call(static_cast<HostCall*>(argument));
    if (call->function != nullptr && result == CUDA_SUCCESS) call->function(call->user_data);
    if (call->callback != nullptr) call->callback(call->stream, result, call->user_data);
  }
};

CUresult CallHost(CUstream stream, std::unique_ptr<HostCall> call) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  HostCall* const argument = call.release();
  const CUresult result = choice.device().CallHost(choice.stream, &HostCall::Run, argument);
  if (result != CUDA_SUCCESS) delete argument;
  return result;
}

CUresult FindEvent(CUevent handle, std::shared_ptr<EventObject>* event) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *event = driver->events.Find(handle);
  if (*event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return (*event)->context->destroyed ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

}  // namespace

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return cuStreamCreateWithPriority(stream, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (stream == nullptr || (flags & ~unsigned{CU_STREAM_NON_BLOCKING}) != 0) return CUDA_ERROR_INVALID_VALUE;
  auto object = std::make_shared<StreamObject>();
  object->context = context;
  object->flags = flags;
  object->priority = 0;  // of the range that there is
  TULLE_CUDA_RETURN_IF_ERROR(context->device->CreateStream(context->id, flags, priority, &object->id));
  *stream = TheDriver()->streams.Add(std::move(object));
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto object = driver->streams.Remove(stream);
  if (object == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (object->context->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return object->context->device->DestroyStream(object->stream());
}

CUresult cuStreamDestroy(CUstream stream) { return cuStreamDestroy_v2(stream); }

CUresult cuStreamSynchronize(CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  return choice.device().SynchronizeStream(choice.stream);
}

CUresult cuStreamQuery(CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  return choice.device().QueryStream(choice.stream);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent handle, unsigned flags) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  std::shared_ptr<EventObject> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(handle, &event));
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  if (event->context->device == choice.context->device)
    return choice.device().WaitForEvent(choice.stream, event->id);
  // Of another device: known here once it is complete.
  return event->context->device->SynchronizeEvent(event->context->id, event->id);
}

CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void* user_data, unsigned flags) {
  if (callback == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  auto call = std::make_unique<HostCall>();
  *call = {.callback = callback, .stream = stream, .user_data = user_data};
  return CallHost(stream, std::move(call));
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* user_data) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto call = std::make_unique<HostCall>();
  *call = {.function = function, .user_data = user_data};
  return CallHost(stream, std::move(call));
}

CUresult cuStreamGetPriority(CUstream stream, int* priority) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto object = TheDriver()->streams.Find(stream);
  *priority = object == nullptr ? 0 : object->priority;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream stream, unsigned* flags) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto object = TheDriver()->streams.Find(stream);
  *flags = object == nullptr ? unsigned{CU_STREAM_DEFAULT} : object->flags;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = choice.context->handle;
  return CUDA_SUCCESS;
}

// The default streams of all contexts and threads differ, too.
CUresult cuStreamGetId(CUstream stream, unsigned long long* id) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *id = choice.context->number << 48 ^ static_cast<unsigned long long>(choice.stream.id);
  return CUDA_SUCCESS;
}

CUresult cuStreamGetDevice(CUstream stream, CUdevice* device) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = choice.context->ordinal;
  return CUDA_SUCCESS;
}

// Nothing is ever captured.
CUresult cuStreamIsCapturing(CUstream stream, int* status) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *status = 0;
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) != 0) return NotSupported("events between processes");
  if ((flags & ~kEventFlags) != 0) return CUDA_ERROR_INVALID_VALUE;
  auto object = std::make_shared<EventObject>();
  object->context = context;
  object->flags = flags;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->CreateEvent(context->id, flags, &object->id));
  *event = TheDriver()->events.Add(std::move(object));
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) { return cuEventDestroy_v2(event); }

CUresult cuEventDestroy_v2(CUevent handle) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto event = driver->events.Remove(handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->context->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return event->context->device->DestroyEvent(event->context->id, event->id);
}

CUresult cuEventRecord(CUevent event, CUstream stream) { return cuEventRecordWithFlags(event, stream, 0); }

CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned flags) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  std::shared_ptr<EventObject> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(handle, &event));
  if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
  if (event->context != choice.context) return CUDA_ERROR_INVALID_HANDLE;
  return choice.device().RecordEvent(choice.stream, event->id);
}

CUresult cuEventQuery(CUevent handle) {
  std::shared_ptr<EventObject> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(handle, &event));
  return event->context->device->QueryEvent(event->context->id, event->id);
}

CUresult cuEventSynchronize(CUevent handle) {
  std::shared_ptr<EventObject> event;
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(handle, &event));
  return event->context->device->SynchronizeEvent(event->context->id, event->id);
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  std::shared_ptr<EventObject> first, last;
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(start, &first));
  TULLE_CUDA_RETURN_IF_ERROR(FindEvent(end, &last));
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (first->context != last->context || ((first->flags | last->flags) & CU_EVENT_DISABLE_TIMING) != 0)
    return CUDA_ERROR_INVALID_HANDLE;
  return first->context->device->GetElapsedTime(first->context->id, first->id, last->id, milliseconds);
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
