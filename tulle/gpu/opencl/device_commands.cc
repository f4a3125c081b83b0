// The device and its parts, and what is made on them: contexts and queues.
#include <map>
#include <mutex>
#include <utility>

#include "tulle/gpu/opencl/opencl_backend_class.h"

namespace tulle::gpu::opencl {
namespace {

// What clCreateSubDevices takes: with the 0 that ends them.
std::vector<cl_device_partition_property> Properties(const wire::opencl::CountSubDevices& message) {
  std::vector<cl_device_partition_property> properties(message.properties.items.begin(),
                                                       message.properties.items.end());
  properties.push_back(0);
  return properties;
}

std::int32_t Count(cl_device_id parent, const std::vector<cl_device_partition_property>& properties,
                   cl_uint* count) {
  const cl_int status = clCreateSubDevices(parent, properties.data(), 0, nullptr, count);
  if (status != CL_SUCCESS) return status;
  return *count >= 1 && *count <= wire::kMaxContextDevices ? CL_SUCCESS : CL_DEVICE_PARTITION_FAILED;
}

// The parts that a device is divided into. They stay for as long as the process, and equal divisions share
// them: PoCL (3.1, pthread) lets go of a finished command's context, then of its queue, in a thread of its
// own and after it has said that the command is done; if the context was the last to know the part, the
// queue's device is gone by then.
cl_int PartsOf(cl_device_id parent, const std::vector<cl_device_partition_property>& properties,
               cl_uint count, const std::vector<cl_device_id>** parts) {
  static std::mutex mutex;
  static auto* const known = new std::map<std::pair<cl_device_id, std::vector<cl_device_partition_property>>,
                                          std::vector<cl_device_id>>;
  const std::lock_guard lock(mutex);
  const auto [it, is_new] = known->try_emplace({parent, properties}, count);
  *parts = &it->second;
  if (!is_new) return CL_SUCCESS;
  const cl_int status = clCreateSubDevices(parent, properties.data(), count, it->second.data(), nullptr);
  if (status != CL_SUCCESS) known->erase(it);
  return status;
}

}  // namespace

// The vGPU's own for the null handle; null for a name that stands for nothing.
cl_device_id OpenClBackend::FindDevice(Handle handle) const {
  if (handle.null()) return device_.device;
  const SubDevice* const part = table_.Find<SubDevice>(handle);
  return part == nullptr ? nullptr : part->native.get();
}

void OpenClBackend::Run(const wire::opencl::DescribeDevice&, const Command& command) {
  completions_.Reply(command.opcode, command.sequence, EncodeDeviceInfos(device_), 0);
}

void OpenClBackend::Run(const wire::opencl::DescribeSubDevice& message, const Command& command) {
  NativeDevice part = device_;
  part.device = FindDevice(message.device.handle);
  if (part.device == nullptr) return ReportFailed(completions_, command, CL_INVALID_DEVICE);
  completions_.Reply(command.opcode, command.sequence, EncodeDeviceInfos(part), 0);
}

void OpenClBackend::Run(const wire::opencl::CountSubDevices& message, const Command& command) {
  const cl_device_id parent = FindDevice(message.parent.handle);
  if (parent == nullptr) return ReportFailed(completions_, command, CL_INVALID_DEVICE);
  wire::opencl::CountSubDevicesReply reply;
  reply.status = Count(parent, Properties(message), &reply.count);
  SendReply(completions_, command.opcode, command.sequence, reply);
}

void OpenClBackend::Run(const wire::opencl::CreateSubDevice& message, const Command& command) {
  const cl_device_id parent = FindDevice(message.parent.handle);
  if (parent == nullptr) return Report(command, CL_INVALID_DEVICE);
  const auto properties = Properties({message.parent, message.properties});
  cl_uint count = 0;
  std::int32_t status = Count(parent, properties, &count);
  if (status != CL_SUCCESS) return Report(command, status);
  if (message.index >= count || !table_.IsFree(message.device.handle))
    return Report(command, CL_INVALID_VALUE);
  const std::vector<cl_device_id>* parts = nullptr;
  status = PartsOf(parent, properties, count, &parts);
  if (status == CL_SUCCESS) status = clRetainDevice((*parts)[message.index]);
  if (status != CL_SUCCESS) return Report(command, status);
  auto part = std::make_unique<SubDevice>();
  part->native.reset((*parts)[message.index]);
  table_.Insert(message.device.handle, part);
  Report(command, CL_SUCCESS);
}

void OpenClBackend::Run(const wire::opencl::CreateContext& message, const Command& command) {
  Report(command, MakeContextOn(message.context.handle, {device_.device}));
}

void OpenClBackend::Run(const wire::opencl::CreateContextOn& message, const Command& command) {
  std::vector<cl_device_id> devices;
  for (const auto& device : message.devices.items) {
    devices.push_back(FindDevice(device.handle));
    if (devices.back() == nullptr) return Report(command, CL_INVALID_DEVICE);
  }
  Report(command, devices.empty() ? CL_INVALID_VALUE : MakeContextOn(message.context.handle, devices));
}

std::int32_t OpenClBackend::MakeContextOn(Handle handle, const std::vector<cl_device_id>& devices) {
  auto context = std::make_unique<Context>();
  NativeContext& native = *context->native;
  cl_int status = CL_SUCCESS;
  native.devices = devices;
  for (cl_device_id device : devices) {
    if (status == CL_SUCCESS) status = clRetainDevice(device);
    if (status != CL_SUCCESS) return status;
    native.kept.emplace_back(device);
  }
  native.context = MakeContext(device_.platform, devices, &status);
  if (status == CL_SUCCESS && !device_.host_memory)
    native.service.reset(clCreateCommandQueue(native.context.get(), devices.front(), 0, &status));
  if (status == CL_SUCCESS && !table_.Insert(handle, context)) status = CL_INVALID_VALUE;
  return status;
}

void OpenClBackend::Run(const wire::opencl::CreateQueue& message, const Command& command) {
  Run(wire::opencl::CreateQueueOn{message.context, message.queue, message.flags, {}}, command);
}

void OpenClBackend::Run(const wire::opencl::CreateQueueOn& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return Report(command, CL_INVALID_CONTEXT);
  const cl_device_id device = FindDevice(message.device.handle);
  const std::vector<cl_device_id>& devices = context->native->devices;
  if (std::find(devices.begin(), devices.end(), device) == devices.end())
    return Report(command, CL_INVALID_DEVICE);
  auto queue = std::make_unique<Queue>();
  queue->context = context->native;
  queue->in_order = !message.flags.has(wire::opencl::QueueFlag::kOutOfOrder);
  queue->profiles = message.flags.has(wire::opencl::QueueFlag::kProfiling);
  const cl_command_queue_properties properties =
      (queue->in_order ? 0 : CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) |
      (queue->profiles ? CL_QUEUE_PROFILING_ENABLE : 0);
  cl_int status = CL_SUCCESS;
  queue->native.reset(clCreateCommandQueue(context->native->context.get(), device, properties, &status));
  if (status == CL_SUCCESS && !table_.Insert(message.queue.handle, queue)) status = CL_INVALID_VALUE;
  Report(command, status);
}

}  // namespace tulle::gpu::opencl
