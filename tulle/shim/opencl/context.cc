#include "tulle/shim/opencl/context.h"

#include <algorithm>

#include "tulle/base/log.h"
#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/queue.h"

namespace tulle::shim::opencl {
namespace {

// Copies a property list into `copy`, the ending 0 included.
cl_int ReadProperties(const cl_context_properties* properties, std::vector<cl_context_properties>* copy) {
  if (properties == nullptr) return CL_SUCCESS;
  bool platform_given = false;
  bool sync_given = false;
  for (; *properties != 0; properties += 2) {
    switch (properties[0]) {
      case CL_CONTEXT_PLATFORM:
        if (platform_given) return CL_INVALID_PROPERTY;
        platform_given = true;
        if (!IsPlatform(reinterpret_cast<cl_platform_id>(properties[1]))) return CL_INVALID_PLATFORM;
        break;
      case CL_CONTEXT_INTEROP_USER_SYNC:
        if (sync_given || (properties[1] != CL_TRUE && properties[1] != CL_FALSE)) return CL_INVALID_PROPERTY;
        sync_given = true;
        break;
      default: return CL_INVALID_PROPERTY;
    }
    copy->insert(copy->end(), properties, properties + 2);
  }
  copy->push_back(0);
  return CL_SUCCESS;
}

cl_context MakeContext(std::vector<Ref<Device>> devices, std::vector<cl_context_properties> properties,
                       ContextNotify notify, void* user_data, cl_int* error) {
  const Device& device = *devices.front();
  Connection& connection = device.connection();
  if (connection.lost()) return Fail(error, CL_DEVICE_NOT_AVAILABLE);
  if (notify != nullptr && !device.process().callbacks.Start().ok())
    return Fail(error, CL_OUT_OF_HOST_MEMORY);
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  std::vector<wire::OptRef<wire::ObjectKind::kDevice>> names;
  for (const Ref<Device>& each : devices) names.push_back(each->wire());
  const bool whole = devices.size() == 1 && !device.is_part();
  Ref<Context> context =
      Ref<Context>::Adopt(new Context(std::move(devices), name, std::move(properties), notify, user_data));
  const bool sent = whole ? connection.Submit(wire::opencl::CreateContext{{name}})
                          : connection.Submit(wire::opencl::CreateContextOn{{name}, {names}});
  if (!sent) return Fail(error, CL_DEVICE_NOT_AVAILABLE);
  return Made(error, std::move(context));
}

}  // namespace

Context::Context(std::vector<Ref<Device>> devices, wire::Handle name,
                 std::vector<cl_context_properties> properties, ContextNotify notify, void* user_data)
    : Object(&Dispatch(), ObjectType::kContext),
      devices_(std::move(devices)),
      name_(name),
      properties_(std::move(properties)),
      notify_(notify),
      user_data_(user_data) {
  if (notify_ != nullptr) device().root().Register(this);
}

bool Context::Has(const Device* device) const {
  return std::any_of(devices_.begin(), devices_.end(),
                     [device](const Ref<Device>& each) { return each.get() == device; });
}

void Context::Dispose(Context* context) {
  context->MarkDead();
  if (context->notify_ != nullptr) context->device().root().Unregister(context);
  context->connection().Retire(wire::ObjectKind::kContext, context->name_);
  const auto end = [context] {
    context->destructor_callbacks_.Run(ToHandle(context));
    delete context;
  };
  if (context->destructor_callbacks_.empty() || !HandlingFrame()) {
    end();
  } else {
    context->callbacks().Post(MakeTask(end));
  }
}

cl_int PutDevices(const InfoOut& out, const std::vector<Ref<Device>>& devices) {
  std::vector<cl_device_id> handles;
  for (const Ref<Device>& device : devices) handles.push_back(ToHandle(device.get()));
  return out.Array(std::span<const cl_device_id>(handles));
}

EventOwner Context::event_owner() {
  return {this, [](Object* object) { Dispose(static_cast<Context*>(object)); }, nullptr};
}

void Context::OnDeviceLost(const Error& error) {
  callbacks().Post(
      MakeTask([notify = notify_, user_data = user_data_, text = "tulle: lost the vGPU: " + ToString(error)] {
        notify(text.c_str(), nullptr, 0, user_data);
      }));
}

void Context::AddArgument(Object* object, wire::Handle name) {
  const std::lock_guard lock(arguments_mutex_);
  arguments_.insert(object);
  arguments_by_name_[name] = object;
}
void Context::RemoveArgument(Object* object, wire::Handle name) {
  const std::lock_guard lock(arguments_mutex_);
  arguments_.erase(object);
  arguments_by_name_.erase(name);
}
bool Context::HasArgument(const void* address) {
  const std::lock_guard lock(arguments_mutex_);
  return arguments_.contains(address);
}

void Context::AddQueue(Queue* queue) {
  const std::lock_guard lock(queues_mutex_);
  queues_.insert(queue);
  queue_count_.store(queues_.size());
}
void Context::RemoveQueue(Queue* queue) {
  const std::lock_guard lock(queues_mutex_);
  if (queues_.erase(queue) != 0 && !queue->idle()) left_busy_ = true;
  queue_count_.store(queues_.size());
}
bool Context::idle() {
  const std::vector<Ref<Queue>> queues = Queues();
  return !left_busy_.load() &&
         std::all_of(queues.begin(), queues.end(), [](const Ref<Queue>& queue) { return queue->idle(); });
}
std::vector<Ref<Queue>> Context::Queues() {
  std::vector<Ref<Queue>> queues;
  const std::lock_guard lock(queues_mutex_);
  for (Queue* queue : queues_) {
    if (queue->TryAddRef()) queues.push_back(Ref<Queue>::Adopt(queue));
  }
  return queues;
}

cl_context CreateContext(const cl_context_properties* properties, cl_uint num_devices,
                         const cl_device_id* devices, ContextNotify notify, void* user_data, cl_int* error) {
  std::vector<cl_context_properties> copy;
  if (const cl_int status = ReadProperties(properties, &copy); status != CL_SUCCESS)
    return Fail(error, status);
  if (num_devices == 0 || devices == nullptr || (notify == nullptr && user_data != nullptr)) {
    return Fail(error, CL_INVALID_VALUE);
  }
  std::vector<Ref<Device>> different;
  for (cl_uint i = 0; i < num_devices; ++i) {
    Device* device = FromHandle<Device>(devices[i]);
    if (device == nullptr) return Fail(error, CL_INVALID_DEVICE);
    if (std::find(devices, devices + i, devices[i]) == devices + i) different.emplace_back(device);
    if (&device->root() != &different.front()->root()) {
      Log(LogLevel::kError, "shim",
          "a context over several vGPUs is not supported; create one context for each device",
          {{"devices", num_devices}});
      return Fail(error, CL_OUT_OF_RESOURCES);
    }
  }
  if (different.size() > wire::kMaxContextDevices) return Fail(error, CL_OUT_OF_RESOURCES);
  return MakeContext(std::move(different), std::move(copy), notify, user_data, error);
}

cl_context CreateContextFromType(const cl_context_properties* properties, cl_device_type type,
                                 ContextNotify notify, void* user_data, cl_int* error) {
  std::vector<cl_context_properties> copy;
  if (const cl_int status = ReadProperties(properties, &copy); status != CL_SUCCESS)
    return Fail(error, status);
  if (notify == nullptr && user_data != nullptr) return Fail(error, CL_INVALID_VALUE);
  // A subset of the devices of the type is allowed: the first.
  cl_device_id device = nullptr;
  if (const cl_int status = GetDeviceIDs(ThePlatform(), type, 1, &device, nullptr); status != CL_SUCCESS) {
    return Fail(error, status);
  }
  return MakeContext({Ref<Device>(FromHandle<Device>(device))}, std::move(copy), notify, user_data, error);
}

cl_int RetainContext(cl_context handle) { return RetainHandle<Context>(handle); }
cl_int ReleaseContext(cl_context handle) { return ReleaseHandle<Context>(handle); }

cl_int GetContextInfo(cl_context handle, cl_context_info name, std::size_t size, void* value,
                      std::size_t* size_ret) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return CL_INVALID_CONTEXT;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_CONTEXT_REFERENCE_COUNT: return out.Value<cl_uint>(context->handles());
    case CL_CONTEXT_NUM_DEVICES: return out.Value<cl_uint>(static_cast<cl_uint>(context->devices().size()));
    case CL_CONTEXT_DEVICES: return PutDevices(out, context->devices());
    case CL_CONTEXT_PROPERTIES: return out.Array(std::span(context->properties()));
    default: return CL_INVALID_VALUE;
  }
}

cl_int SetContextDestructorCallback(cl_context handle, void(CL_CALLBACK* notify)(cl_context, void*),
                                    void* user_data) {
  Context* context = FromHandle<Context>(handle);
  if (context == nullptr) return CL_INVALID_CONTEXT;
  if (notify == nullptr) return CL_INVALID_VALUE;
  return context->destructor_callbacks().Add(context->callbacks(), notify, user_data) ? CL_SUCCESS
                                                                                      : CL_OUT_OF_HOST_MEMORY;
}

}  // namespace tulle::shim::opencl
