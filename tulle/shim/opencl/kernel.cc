#include "tulle/shim/opencl/kernel.h"

#include <algorithm>

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/image.h"
#include "tulle/shim/opencl/sampler.h"

namespace tulle::shim::opencl {
namespace {

using wire::opencl::ArgKind;

Ref<Kernel> MakeKernel(Program& program, const Unit& unit,
                       const std::shared_ptr<KernelDefinition>& definition, cl_int* error) {
  Connection& connection = program.connection();
  const wire::Handle name = connection.NewHandle();
  if (name.null()) {
    *error = CL_OUT_OF_RESOURCES;
    return {};
  }
  Ref<Kernel> kernel = Ref<Kernel>::Adopt(new Kernel(program, name, definition));
  const bool sent = connection.Submit(wire::opencl::CreateKernel{unit.wire(), {name}, {definition->name}});
  *error = sent ? CL_SUCCESS : CL_OUT_OF_RESOURCES;
  return sent ? std::move(kernel) : Ref<Kernel>();
}

// A cl_mem given as an argument: the handle's null, or a live buffer of the kernel's context.
cl_int ReadMemoryArg(Kernel& kernel, const void* value, wire::Handle* name) {
  cl_mem handle = nullptr;
  if (value != nullptr) std::memcpy(&handle, value, sizeof handle);
  if (handle == nullptr) return CL_SUCCESS;
  const Memory* memory = BufferFromHandle(handle);
  if (memory == nullptr) return CL_INVALID_MEM_OBJECT;
  if (&memory->context() != &kernel.program().context()) return CL_INVALID_CONTEXT;
  *name = memory->wire().handle;
  return CL_SUCCESS;
}

// The same for an image, which must be of the type and for the access that the kernel declares.
cl_int ReadImageArg(Kernel& kernel, const ArgDefinition& arg, const void* value, wire::Handle* name) {
  cl_mem handle = nullptr;
  if (value != nullptr) std::memcpy(&handle, value, sizeof handle);
  const Memory* memory = FromHandle<Memory>(handle);
  if (memory == nullptr || memory->image() == nullptr) return CL_INVALID_MEM_OBJECT;
  if (&memory->context() != &kernel.program().context()) return CL_INVALID_CONTEXT;
  const auto type = wire::opencl::ImageTypeNamed(arg.type_name);
  const bool reads = arg.access_qualifier != CL_KERNEL_ARG_ACCESS_WRITE_ONLY;
  const bool writes = arg.access_qualifier != CL_KERNEL_ARG_ACCESS_READ_ONLY;
  if (type.value_or(memory->image()->type) != memory->image()->type) return CL_INVALID_MEM_OBJECT;
  if ((reads && (memory->flags() & CL_MEM_WRITE_ONLY) != 0) ||
      (writes && (memory->flags() & CL_MEM_READ_ONLY) != 0)) {
    return CL_INVALID_ARG_VALUE;
  }
  *name = memory->wire().handle;
  return CL_SUCCESS;
}

cl_int SetSamplerArg(Kernel& kernel, cl_uint index, std::size_t size, const void* value) {
  if (size != sizeof(cl_sampler)) return CL_INVALID_ARG_SIZE;
  cl_sampler handle = nullptr;
  if (value != nullptr) std::memcpy(&handle, value, sizeof handle);
  const Sampler* sampler = FromHandle<Sampler>(handle);
  if (sampler == nullptr) return CL_INVALID_SAMPLER;
  if (&sampler->context() != &kernel.program().context()) return CL_INVALID_CONTEXT;
  return kernel.SetSampler(index, sampler->wire().handle);
}

// Sets an argument of which the device told nothing: eight bytes may be a buffer or a number, and no bytes
// may be local memory or a null buffer. The device knows; what it takes is remembered.
cl_int SetUnknownArg(Kernel& kernel, cl_uint index, std::size_t size, const void* value) {
  if (value == nullptr) {
    const cl_int status = kernel.SetArg(index, ArgKind::kLocal, {}, size, {});
    if (status == CL_SUCCESS || size != sizeof(cl_mem)) return status;
    return kernel.SetArg(index, ArgKind::kMemory, {}, 0, {});
  }
  const ByteView bytes(static_cast<const std::byte*>(value), size);
  if (size == sizeof(cl_mem)) {
    void* address = nullptr;
    std::memcpy(&address, value, sizeof address);
    if (kernel.program().context().HasArgument(address)) {
      const Memory* memory = FromHandle<Memory>(static_cast<cl_mem>(address));
      const cl_int status = memory != nullptr
                                ? kernel.SetArg(index, ArgKind::kMemory, memory->wire().handle, 0, {})
                                : SetSamplerArg(kernel, index, size, value);
      if (status == CL_SUCCESS) return status;
    } else if (address == nullptr) {
      const cl_int status = kernel.SetArg(index, ArgKind::kMemory, {}, 0, {});
      if (status == CL_SUCCESS) return status;
    }
  }
  return kernel.SetArg(index, ArgKind::kValue, {}, 0, bytes);
}

cl_int CheckWorkSizes(const Device& device, const KernelDefinition& kernel, cl_uint dimensions,
                      const wire::opencl::EnqueueKernel& message) {
  for (cl_uint i = 0; i < dimensions; ++i) {
    if (message.global_offset[i] > UINT64_MAX - message.global_size[i]) return CL_INVALID_GLOBAL_OFFSET;
  }
  const Device::Limits& limits = device.limits();
  const wire::Vec3& required = kernel.compile_work_group_size;
  const bool requires_size = required[0] != 0;
  for (cl_uint i = dimensions; i < 3; ++i) {
    if (requires_size && required[i] > 1) return CL_INVALID_WORK_GROUP_SIZE;
  }
  if (message.local_size[0] == 0) return CL_SUCCESS;
  std::uint64_t items = 1;
  for (cl_uint i = 0; i < dimensions; ++i) {
    const std::uint64_t local = message.local_size[i];
    if (local == 0) return CL_INVALID_WORK_GROUP_SIZE;
    if (local > limits.max_work_item_sizes[i]) return CL_INVALID_WORK_ITEM_SIZE;
    if (requires_size && local != required[i]) return CL_INVALID_WORK_GROUP_SIZE;
    if (message.global_size[i] % local != 0 && (requires_size || !limits.non_uniform_work_groups)) {
      return CL_INVALID_WORK_GROUP_SIZE;
    }
    items *= local;  // each is at most max_work_item_sizes, so three of them do not overflow in practice
    if (items > limits.max_work_group_size) return CL_INVALID_WORK_GROUP_SIZE;
  }
  return kernel.work_group_size != 0 && items > kernel.work_group_size ? CL_INVALID_WORK_GROUP_SIZE
                                                                       : CL_SUCCESS;
}

cl_int EnqueueKernel(cl_command_type command, cl_command_queue queue, cl_kernel handle, cl_uint dimensions,
                     const std::size_t* global_offset, const std::size_t* global_size,
                     const std::size_t* local_size, cl_uint num_waits, const cl_event* waits,
                     cl_event* event) {
  Enqueue enqueue(queue, command, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  Context& context = enqueue.queue().context();
  if (&kernel->program().context() != &context) return CL_INVALID_CONTEXT;
  if (dimensions < 1 || dimensions > 3) return CL_INVALID_WORK_DIMENSION;
  if (!kernel->all_args_set()) return CL_INVALID_KERNEL_ARGS;
  const Device::Limits& limits = context.device().limits();

  wire::opencl::EnqueueKernel message;
  message.kernel = kernel->wire();
  message.work_dim = dimensions;
  bool empty = global_size == nullptr;
  for (cl_uint i = 0; i < 3; ++i) {
    const bool used = i < dimensions;
    message.global_offset[i] = used && global_offset != nullptr ? global_offset[i] : 0;
    message.global_size[i] = empty ? 0 : used ? global_size[i] : 1;
    message.local_size[i] = local_size == nullptr ? 0 : used ? local_size[i] : 1;
    empty = empty || message.global_size[i] == 0;
  }
  if (local_size != nullptr && local_size[0] == 0) return CL_INVALID_WORK_GROUP_SIZE;
  if (empty) {
    if (!limits.empty_ranges) return CL_INVALID_GLOBAL_WORK_SIZE;
    return enqueue.SubmitNothing();  // only the command's place in the queue counts
  }
  // Where the program leaves it to the device, a size that the kernel requires is the only one.
  const wire::Vec3& required = kernel->definition().compile_work_group_size;
  if (local_size == nullptr && required[0] != 0) message.local_size = required;
  if (const cl_int status = CheckWorkSizes(context.device(), kernel->definition(), dimensions, message);
      status != CL_SUCCESS) {
    return status;
  }
  if (limits.local_memory_bytes != 0 && kernel->local_bytes() > limits.local_memory_bytes)
    return CL_OUT_OF_RESOURCES;
  return enqueue.Submit(message);
}

// Null stands for the one that there is.
bool IsDeviceOf(const Kernel& kernel, cl_device_id device) {
  const Program& program = kernel.program();
  return device == nullptr ? program.devices().size() == 1 : program.Has(FromHandle<Device>(device));
}

}  // namespace

Kernel::Kernel(Program& program, wire::Handle name, std::shared_ptr<KernelDefinition> definition)
    : Object(&Dispatch(), ObjectType::kKernel),
      program_(&program),
      name_(name),
      definition_(std::move(definition)),
      unset_args_(static_cast<std::uint32_t>(definition_->args.size())),
      args_(definition_->args.size()) {
  program_->kernel_count().fetch_add(1);
}

void Kernel::Dispose(Kernel* kernel) {
  kernel->MarkDead();
  kernel->connection().Retire(wire::ObjectKind::kKernel, kernel->name_);
  kernel->program_->kernel_count().fetch_sub(1);
  delete kernel;
}

bool Kernel::Same(const ArgValue& arg, ArgKind kind, wire::Handle memory, std::uint64_t local_bytes,
                  ByteView value) const {
  return arg.set && arg.sampler.null() && !arg.is_pointer && arg.kind == kind && arg.memory == memory &&
         arg.local_bytes == local_bytes &&
         std::equal(arg.value.begin(), arg.value.end(), value.begin(), value.end());
}

cl_int Kernel::SetArg(cl_uint index, ArgKind kind, wire::Handle memory, std::uint64_t local_bytes,
                      ByteView value) {
  const std::lock_guard lock(mutex_);
  ArgValue& arg = args_[index];
  if (Same(arg, kind, memory, local_bytes, value)) return CL_SUCCESS;
  // More than there is would fit no launch, and the device would refuse it when nobody waits for its answer.
  const std::uint64_t local_limit = program_->context().device().limits().local_memory_bytes;
  if (local_limit != 0 && local_bytes > local_limit) return CL_OUT_OF_RESOURCES;

  wire::opencl::SetKernelArg message;
  message.kernel = wire();
  message.index = index;
  message.kind = {kind};
  message.memory = {memory};
  message.local_bytes = local_bytes;
  message.value = {value};

  ArgDefinition& definition = definition_->args[index];
  const std::uint64_t form =
      (static_cast<std::uint64_t>(value.size()) << 8) | (static_cast<std::uint64_t>(kind) + 1);
  const bool fits = definition.address_qualifier != 0 &&
                    (kind != ArgKind::kValue || definition.ValueSize() == value.size());
  if (const cl_int status = Send(message, definition, fits, form); status != CL_SUCCESS) return status;
  Store(arg, {.set = true,
              .kind = kind,
              .memory = memory,
              .local_bytes = local_bytes,
              .value = ByteVector(value.begin(), value.end())});
  return CL_SUCCESS;
}

void Kernel::Store(ArgValue& arg, ArgValue value) {
  if (value.local_bytes != arg.local_bytes)
    local_arg_bytes_.fetch_add(value.local_bytes - arg.local_bytes, std::memory_order_release);
  if (!arg.set) unset_args_.fetch_sub(1, std::memory_order_release);
  arg = std::move(value);
}

template <wire::Message M>
cl_int Kernel::Send(const M& message, ArgDefinition& definition, bool fits, std::uint64_t form) {
  // What is known to fit is sent and forgotten. The device is asked once about anything else.
  if (fits || definition.accepted.load(std::memory_order_relaxed) == form)
    return connection().Submit(message) ? CL_SUCCESS : CL_OUT_OF_RESOURCES;
  const cl_int status = connection().CallForStatus(message, CL_OUT_OF_RESOURCES);
  if (status == CL_SUCCESS) definition.accepted.store(form, std::memory_order_relaxed);
  return status;
}

cl_int Kernel::SetSampler(cl_uint index, wire::Handle sampler) {
  const std::lock_guard lock(mutex_);
  ArgValue& arg = args_[index];
  if (arg.set && arg.sampler == sampler) return CL_SUCCESS;
  ArgDefinition& definition = definition_->args[index];
  constexpr std::uint64_t kForm = 0xff;  // of no ArgKind
  const wire::opencl::SetSamplerArg message{wire(), index, {sampler}};
  if (const cl_int status = Send(message, definition, definition.address_qualifier != 0, kForm);
      status != CL_SUCCESS) {
    return status;
  }
  Store(arg, {.set = true, .sampler = sampler});
  return CL_SUCCESS;
}

cl_int Kernel::SetPointer(cl_uint index, wire::Handle memory, std::uint64_t offset_bytes) {
  const std::lock_guard lock(mutex_);
  ArgValue& arg = args_[index];
  if (arg.set && arg.is_pointer && arg.memory == memory && arg.offset_bytes == offset_bytes)
    return CL_SUCCESS;
  ArgDefinition& definition = definition_->args[index];
  constexpr std::uint64_t kForm = 0xfe;  // of no ArgKind
  const wire::opencl::SetSvmArg message{wire(), index, {memory}, offset_bytes};
  if (const cl_int status = Send(message, definition, definition.address_qualifier != 0, kForm);
      status != CL_SUCCESS) {
    return status;
  }
  Store(arg, {.set = true,
              .kind = ArgKind::kMemory,
              .memory = memory,
              .is_pointer = true,
              .offset_bytes = offset_bytes});
  return CL_SUCCESS;
}

cl_int Kernel::CopyArgs(Kernel& other) {
  std::vector<ArgValue> args;
  {
    const std::lock_guard lock(other.mutex_);
    args = other.args_;
  }
  Context& context = program_->context();
  for (cl_uint i = 0; i < args.size(); ++i) {
    if (!args[i].set) continue;
    // Alive until the argument is sent, whatever other threads release.
    const Ref<Memory> memory = context.Argument<Memory>(args[i].memory);
    const Ref<Sampler> sampler = context.Argument<Sampler>(args[i].sampler);
    if ((!args[i].memory.null() && !memory) || (!args[i].sampler.null() && !sampler)) continue;
    const cl_int status = !args[i].sampler.null() ? SetSampler(i, args[i].sampler)
                          : args[i].is_pointer
                              ? SetPointer(i, args[i].memory, args[i].offset_bytes)
                              : SetArg(i, args[i].kind, args[i].memory, args[i].local_bytes, args[i].value);
    if (status != CL_SUCCESS) return status;
  }
  return CL_SUCCESS;
}

cl_kernel CreateKernel(cl_program handle, const char* name, cl_int* error) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return Fail(error, CL_INVALID_PROGRAM);
  if (name == nullptr) return Fail(error, CL_INVALID_VALUE);
  const auto executable = program->built(CL_PROGRAM_BINARY_TYPE_EXECUTABLE);
  if (executable == nullptr) return Fail(error, CL_INVALID_PROGRAM_EXECUTABLE);
  const auto& kernels = executable->kernels;
  const auto found =
      std::find_if(kernels.begin(), kernels.end(), [name](const auto& k) { return k->name == name; });
  if (found == kernels.end()) return Fail(error, CL_INVALID_KERNEL_NAME);
  cl_int status = CL_SUCCESS;
  Ref<Kernel> kernel = MakeKernel(*program, *executable->unit, *found, &status);
  return kernel ? Made(error, std::move(kernel)) : Fail(error, status);
}

cl_int CreateKernelsInProgram(cl_program handle, cl_uint num_kernels, cl_kernel* kernels,
                              cl_uint* num_kernels_ret) {
  Program* program = FromHandle<Program>(handle);
  if (program == nullptr) return CL_INVALID_PROGRAM;
  const auto executable = program->built(CL_PROGRAM_BINARY_TYPE_EXECUTABLE);
  if (executable == nullptr) return CL_INVALID_PROGRAM_EXECUTABLE;
  const auto count = static_cast<cl_uint>(executable->kernels.size());
  if (kernels != nullptr) {
    if (num_kernels < count) return CL_INVALID_VALUE;
    std::vector<Ref<Kernel>> made;
    for (const auto& definition : executable->kernels) {
      cl_int status = CL_SUCCESS;
      made.push_back(MakeKernel(*program, *executable->unit, definition, &status));
      if (status != CL_SUCCESS) return status;
    }
    for (cl_uint i = 0; i < count; ++i) kernels[i] = ToHandle(made[i].release());
  }
  if (num_kernels_ret != nullptr) *num_kernels_ret = count;
  return CL_SUCCESS;
}

cl_kernel CloneKernel(cl_kernel handle, cl_int* error) {
  Kernel* source = FromHandle<Kernel>(handle);
  if (source == nullptr) return Fail(error, CL_INVALID_KERNEL);
  cl_int status = CL_SUCCESS;
  Ref<Kernel> kernel =
      MakeKernel(source->program(), *source->program().build()->unit, source->shared_definition(), &status);
  if (kernel) status = kernel->CopyArgs(*source);
  return status == CL_SUCCESS ? Made(error, std::move(kernel)) : Fail(error, status);
}

cl_int RetainKernel(cl_kernel handle) { return RetainHandle<Kernel>(handle); }
cl_int ReleaseKernel(cl_kernel handle) { return ReleaseHandle<Kernel>(handle); }

cl_int SetKernelArg(cl_kernel handle, cl_uint index, std::size_t size, const void* value) {
  Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  if (index >= kernel->definition().args.size()) return CL_INVALID_ARG_INDEX;
  const ArgDefinition& arg = kernel->definition().args[index];
  if (arg.type_name == "sampler_t") return SetSamplerArg(*kernel, index, size, value);
  if (arg.is_image()) {
    if (size != sizeof(cl_mem)) return CL_INVALID_ARG_SIZE;
    wire::Handle image;
    const cl_int status = ReadImageArg(*kernel, arg, value, &image);
    return status == CL_SUCCESS ? kernel->SetArg(index, ArgKind::kMemory, image, 0, {}) : status;
  }
  switch (arg.address_qualifier) {
    case CL_KERNEL_ARG_ADDRESS_LOCAL:
      if (value != nullptr) return CL_INVALID_ARG_VALUE;
      return size == 0 ? CL_INVALID_ARG_SIZE : kernel->SetArg(index, ArgKind::kLocal, {}, size, {});
    case CL_KERNEL_ARG_ADDRESS_GLOBAL:
    case CL_KERNEL_ARG_ADDRESS_CONSTANT: {
      if (size != sizeof(cl_mem)) return CL_INVALID_ARG_SIZE;
      wire::Handle memory;
      const cl_int status = ReadMemoryArg(*kernel, value, &memory);
      return status == CL_SUCCESS ? kernel->SetArg(index, ArgKind::kMemory, memory, 0, {}) : status;
    }
    default: break;
  }
  if (size == 0 || (value != nullptr && size > wire::kMaxArgBytes)) return CL_INVALID_ARG_SIZE;
  if (arg.address_qualifier == 0) return SetUnknownArg(*kernel, index, size, value);
  if (value == nullptr) return CL_INVALID_ARG_VALUE;
  if (const std::size_t expected = arg.ValueSize(); expected != 0 && expected != size)
    return CL_INVALID_ARG_SIZE;
  return kernel->SetArg(index, ArgKind::kValue, {}, 0, {static_cast<const std::byte*>(value), size});
}

cl_int GetKernelInfo(cl_kernel handle, cl_kernel_info name, std::size_t size, void* value,
                     std::size_t* size_ret) {
  const Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  const InfoOut out(size, value, size_ret);
  const KernelDefinition& definition = kernel->definition();
  switch (name) {
    case CL_KERNEL_FUNCTION_NAME: return out.Text(definition.name);
    case CL_KERNEL_NUM_ARGS: return out.Value<cl_uint>(static_cast<cl_uint>(definition.args.size()));
    case CL_KERNEL_REFERENCE_COUNT: return out.Value<cl_uint>(kernel->handles());
    case CL_KERNEL_CONTEXT: return out.Value<cl_context>(ToHandle(&kernel->program().context()));
    case CL_KERNEL_PROGRAM: return out.Value<cl_program>(ToHandle(&kernel->program()));
    case CL_KERNEL_ATTRIBUTES: return out.Text(definition.attributes);
    default: return CL_INVALID_VALUE;
  }
}

cl_int GetKernelWorkGroupInfo(cl_kernel handle, cl_device_id device, cl_kernel_work_group_info name,
                              std::size_t size, void* value, std::size_t* size_ret) {
  Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  if (!IsDeviceOf(*kernel, device)) return CL_INVALID_DEVICE;
  const InfoOut out(size, value, size_ret);
  const KernelDefinition& definition = kernel->definition();
  switch (name) {
    case CL_KERNEL_WORK_GROUP_SIZE: return out.Value<std::size_t>(definition.work_group_size);
    case CL_KERNEL_COMPILE_WORK_GROUP_SIZE: {
      const wire::Vec3& from = definition.compile_work_group_size;
      return out.Value(std::array<std::size_t, 3>{from[0], from[1], from[2]});
    }
    case CL_KERNEL_LOCAL_MEM_SIZE: return out.Value<cl_ulong>(kernel->local_bytes());
    case CL_KERNEL_PREFERRED_WORK_GROUP_SIZE_MULTIPLE:
      return out.Value<std::size_t>(definition.preferred_work_group_multiple);
    case CL_KERNEL_PRIVATE_MEM_SIZE: return out.Value<cl_ulong>(definition.private_mem_bytes);
    default:
      return CL_INVALID_VALUE;  // CL_KERNEL_GLOBAL_WORK_SIZE is for custom devices and built-in kernels
  }
}

cl_int GetKernelArgInfo(cl_kernel handle, cl_uint index, cl_kernel_arg_info name, std::size_t size,
                        void* value, std::size_t* size_ret) {
  const Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  const KernelDefinition& definition = kernel->definition();
  if (index >= definition.args.size()) return CL_INVALID_ARG_INDEX;
  const ArgDefinition& arg = definition.args[index];
  if (!definition.shows_arg_info || arg.address_qualifier == 0) return CL_KERNEL_ARG_INFO_NOT_AVAILABLE;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_KERNEL_ARG_ADDRESS_QUALIFIER:
      return out.Value<cl_kernel_arg_address_qualifier>(arg.address_qualifier);
    case CL_KERNEL_ARG_ACCESS_QUALIFIER:
      return out.Value<cl_kernel_arg_access_qualifier>(arg.access_qualifier);
    case CL_KERNEL_ARG_TYPE_NAME: return out.Text(arg.type_name);
    case CL_KERNEL_ARG_TYPE_QUALIFIER: return out.Value<cl_kernel_arg_type_qualifier>(arg.type_qualifier);
    case CL_KERNEL_ARG_NAME: return out.Text(arg.name);
    default: return CL_INVALID_VALUE;
  }
}

cl_int GetKernelSubGroupInfo(cl_kernel handle, cl_device_id device, cl_kernel_sub_group_info name,
                             std::size_t input_size, const void* input, std::size_t size, void* value,
                             std::size_t* size_ret) {
  using wire::opencl::SubGroupQuery;
  const Kernel* kernel = FromHandle<Kernel>(handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  const Device& own_device = kernel->program().context().device();
  if (!IsDeviceOf(*kernel, device)) return CL_INVALID_DEVICE;
  if (!own_device.has_sub_groups()) return CL_INVALID_OPERATION;
  const InfoOut out(size, value, size_ret);
  wire::opencl::GetKernelSubGroups message;
  message.kernel = kernel->wire();
  message.dimensions = 1;
  message.sizes = {1, 1, 1};
  constexpr std::size_t kOne = sizeof(std::size_t);
  const auto is_one_to_three = [](std::size_t bytes) {
    return bytes == kOne || bytes == 2 * kOne || bytes == 3 * kOne;
  };
  std::size_t results = 1;
  switch (name) {
    case CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE: message.query = {SubGroupQuery::kMaxSizeForRange}; break;
    case CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE: message.query = {SubGroupQuery::kCountForRange}; break;
    case CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT:
      message.query = {SubGroupQuery::kLocalSizeForCount};
      // As many dimensions as there is room for; without any, all.
      results = value == nullptr ? message.sizes.size() : size / kOne;
      if (input_size != kOne || !is_one_to_three(results * kOne)) return CL_INVALID_VALUE;
      break;
    case CL_KERNEL_MAX_NUM_SUB_GROUPS: message.query = {SubGroupQuery::kMaxCount}; break;
    case CL_KERNEL_COMPILE_NUM_SUB_GROUPS: message.query = {SubGroupQuery::kCompiledCount}; break;
    default: return CL_INVALID_VALUE;
  }
  const bool takes_input = name != CL_KERNEL_MAX_NUM_SUB_GROUPS && name != CL_KERNEL_COMPILE_NUM_SUB_GROUPS;
  if (takes_input) {
    if (input == nullptr || !is_one_to_three(input_size)) return CL_INVALID_VALUE;
    message.dimensions = static_cast<cl_uint>(std::max(input_size / kOne, results));
    std::memcpy(message.sizes.data(), input, input_size);
  }
  cl_int status = CL_SUCCESS;
  wire::Vec3 values{};
  auto take = [&](const wire::opencl::GetKernelSubGroupsReply& reply) {
    status = reply.status;
    values = reply.values;
  };
  WaitFor<wire::opencl::GetKernelSubGroupsReply, decltype(take)> wait(take);
  if (!kernel->connection().Call(message, wait)) return CL_OUT_OF_RESOURCES;
  return status == CL_SUCCESS ? out.Put(values.data(), results * kOne) : status;
}

cl_int GetKernelSubGroupInfoKHR(cl_kernel kernel, cl_device_id device, cl_kernel_sub_group_info name,
                                std::size_t input_size, const void* input, std::size_t size, void* value,
                                std::size_t* size_ret) {
  return GetKernelSubGroupInfo(kernel, device, name, input_size, input, size, value, size_ret);
}

cl_int EnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                            const std::size_t* global_offset, const std::size_t* global_size,
                            const std::size_t* local_size, cl_uint num_waits, const cl_event* waits,
                            cl_event* event) {
  return EnqueueKernel(CL_COMMAND_NDRANGE_KERNEL, queue, kernel, dimensions, global_offset, global_size,
                       local_size, num_waits, waits, event);
}

cl_int EnqueueTask(cl_command_queue queue, cl_kernel kernel, cl_uint num_waits, const cl_event* waits,
                   cl_event* event) {
  const std::size_t one = 1;
  return EnqueueKernel(CL_COMMAND_TASK, queue, kernel, 1, nullptr, &one, &one, num_waits, waits, event);
}

}  // namespace tulle::shim::opencl
