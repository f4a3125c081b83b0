#include "tulle/gpu/opencl/opencl_backend.h"

#include "tulle/gpu/opencl/opencl_backend_class.h"

namespace tulle::gpu::opencl {

void OpenClBackend::Run(const wire::DestroyObject& message, const Command& command) {
  const Handle handle = message.object.handle;
  switch (message.object.kind) {
    case ObjectKind::kMemory:
      if (DestroyBuffer(handle, command)) return;
      break;
    case ObjectKind::kQueue: DestroyQueue(handle); break;
    case ObjectKind::kEvent:
      // Whoever still waits for a user event that nobody can set any more is told so.
      if (Event* event = table_.Find<Event>(handle)) SetUserEvent(*event, CL_INVALID_EVENT);
      table_.Take<Event>(handle);
      break;
    case ObjectKind::kContext: table_.Take<Context>(handle); break;
    case ObjectKind::kProgram: table_.Take<Program>(handle); break;
    case ObjectKind::kKernel: table_.Take<Kernel>(handle); break;
    case ObjectKind::kSampler: table_.Take<Sampler>(handle); break;
    case ObjectKind::kDevice: table_.Take<SubDevice>(handle); break;
    case ObjectKind::kNone: break;
  }
  ReportDone(completions_, command);
}

std::int32_t OpenClBackend::MakePart(const Buffer& parent, Buffer& part) {
  const cl_buffer_region region = {part.origin_bytes, part.size_bytes};
  cl_int status = CL_SUCCESS;
  part.native.reset(clCreateSubBuffer(parent.native.get(), part.flags.bits & kDeviceAccess,
                                      CL_BUFFER_CREATE_TYPE_REGION, &region, &status));
  return status == CL_SUCCESS ? Watch(part, std::make_unique<BufferMemory>()) : status;
}

// A part that may begin anywhere: a buffer of its own on the same memory, which it keeps as long as a command
// uses it.
std::int32_t OpenClBackend::MakePartOfSvm(const Buffer& parent, Buffer& part) {
  cl_int status = CL_SUCCESS;
  part.native.reset(clCreateBuffer(part.context->context.get(),
                                   (part.flags.bits & kDeviceAccess) | CL_MEM_USE_HOST_PTR, part.size_bytes,
                                   part.bytes.data(), &status));
  if (status != CL_SUCCESS) return status;
  auto memory = std::make_unique<BufferMemory>();
  clRetainMemObject(parent.native.get());
  memory->parent.reset(parent.native.get());
  return Watch(part, std::move(memory));
}

// Keeps `memory` until the driver has deleted buffer.native, which is gone where this fails.
std::int32_t OpenClBackend::Watch(Buffer& buffer, std::unique_ptr<BufferMemory> memory) {
  memory->reporter = reporter_;
  const cl_int status =
      clSetMemObjectDestructorCallback(buffer.native.get(), &BufferMemory::OnDeleted, memory.get());
  if (status == CL_SUCCESS) {
    buffer.memory = memory.release();
  } else {
    buffer.native.reset();  // before its memory
  }
  return status;
}

// True when the answer comes later, from the end of the memory.
bool OpenClBackend::DestroyBuffer(Handle handle, const Command& command) {
  const std::unique_ptr<Buffer> buffer = table_.Take<Buffer>(handle);
  if (buffer == nullptr || buffer->memory == nullptr || !command.wants_status) return false;
  buffer->memory->destroy_sequence = command.sequence;
  return true;
}

void OpenClBackend::DestroyQueue(Handle handle) {
  std::unique_ptr<Queue> queue = table_.Take<Queue>(handle);
  if (queue == nullptr) return;
  AbandonTransfers(*queue);
  if (TrackAll(*queue) != CL_SUCCESS) clFinish(queue->native.get());
  std::erase(dirty_, queue.get());
  FlushQueue(*queue);
  retired_.push_back(std::move(queue));
  std::erase_if(retired_, [this](const auto& retired) { return reporter_->IsIdle(retired->progress); });
}

// Elsewhere the memory that comes with a buffer is not used.
void OpenClBackend::Run(const wire::ShareMemory&, const Command& command) {
  Report(command, device_.host_memory ? CL_SUCCESS : CL_INVALID_OPERATION);
}

// Elsewhere the memory that comes with a buffer is not used.
void OpenClBackend::Run(const wire::opencl::ImportBuffer& message, const Command& command) {
  Report(command, device_.host_memory ? MakeBuffer(command, message.context.handle, message.buffer.handle,
                                                   message.flags, command.memory.size(), 0)
                                      : CL_INVALID_OPERATION);
}

void OpenClBackend::Run(const wire::opencl::CreateBuffer& message, const Command& command) {
  if (message.flags.has(wire::opencl::MemFlag::kExportable) && !device_.host_memory)
    return Report(command, CL_INVALID_OPERATION);
  Report(command, MakeBuffer(command, message.context.handle, message.buffer.handle, message.flags,
                             message.size_bytes, 0));
}

// At `address` if that is not 0.
std::int32_t OpenClBackend::MakeBuffer(const Command& command, Handle context_handle, Handle handle,
                                       wire::Flags<wire::opencl::MemFlag> flags, std::uint64_t size,
                                       std::uint64_t address) {
  const Context* const context = table_.Find<Context>(context_handle);
  if (context == nullptr) return CL_INVALID_CONTEXT;
  if (size == 0 || size > max_allocation_bytes_) return CL_INVALID_BUFFER_SIZE;
  if (!table_.IsFree(handle) || (!command.memory.empty() && command.memory.size() < size))
    return CL_INVALID_VALUE;
  auto buffer = std::make_unique<Buffer>();
  buffer->context = context->native;
  buffer->size_bytes = size;
  buffer->flags = flags;
  buffer->root = handle;
  buffer->is_svm = address != 0;
  const std::int32_t status = CreateNative(
      command, size, flags.bits, address, *buffer,
      [&](cl_mem_flags native_flags, void* bytes, cl_int* error) {
        return clCreateBuffer(context->native->context.get(), native_flags, size, bytes, error);
      },
      [&](cl_command_queue queue, cl_mem native, cl_event* event) {
        constexpr cl_uchar kZero = 0;
        return clEnqueueFillBuffer(queue, native, &kZero, sizeof kZero, 0, size, 0, nullptr, event);
      });
  if (status == CL_SUCCESS) table_.Insert(handle, buffer);
  return status;
}

void OpenClBackend::Run(const wire::opencl::InitBuffer& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  std::int32_t status = command.lacks_memory ? CL_MEM_OBJECT_ALLOCATION_FAILURE : CheckInit(buffer, message);
  if (status == CL_SUCCESS && !command.payload.empty()) {
    if (buffer->bytes.empty()) {
      status = EnqueueService(*buffer->context, &command, [&](cl_command_queue queue, cl_event* event) {
        return clEnqueueWriteBuffer(queue, buffer->native.get(), CL_FALSE, message.offset_bytes,
                                    command.payload.size(), command.payload.data(), 0, nullptr, event);
      });
    } else {
      std::memcpy(buffer->bytes.data() + message.offset_bytes, command.payload.data(),
                  command.payload.size());
      completions_.PayloadDone(command.sequence);
    }
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::CreateSubBuffer& message, const Command& command) {
  const Buffer* const parent = FindBuffer(message.parent.handle);
  std::int32_t status = CheckSubBuffer(parent, message);
  if (status == CL_SUCCESS && !table_.IsFree(message.buffer.handle)) status = CL_INVALID_VALUE;
  if (status != CL_SUCCESS) return Report(command, status);
  auto buffer = std::make_unique<Buffer>();
  buffer->context = parent->context;
  buffer->size_bytes = message.size_bytes;
  buffer->flags = message.flags;
  buffer->root = message.parent.handle;
  buffer->origin_bytes = message.offset_bytes;
  if (!parent->bytes.empty()) buffer->bytes = parent->bytes.subspan(message.offset_bytes, message.size_bytes);
  buffer->in_place = parent->in_place;
  status = parent->is_svm ? MakePartOfSvm(*parent, *buffer) : MakePart(*parent, *buffer);
  if (status == CL_SUCCESS) {
    clRetainMemObject(parent->native.get());
    buffer->parent.reset(parent->native.get());
    table_.Insert(message.buffer.handle, buffer);
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::exec::LoadProgram& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  auto program = std::make_unique<Program>();
  program->context = context->native;
  program->loaded = LoadBinary(context->native->context.get(), context->native->devices, command.payload);
  const ByteVector body = EncodeReply(program->loaded);
  table_.Take<Program>(message.program);
  if (!table_.Insert(message.program, program))
    return ReportFailed(completions_, command, CL_INVALID_PROGRAM);
  if (!command.payload.empty()) completions_.PayloadDone(command.sequence);
  completions_.Reply(command.opcode, command.sequence, body, 0);
}

void OpenClBackend::Run(const wire::opencl::CreateKernel& message, const Command& command) {
  const Program* const program = table_.Find<Program>(message.program.handle);
  if (program == nullptr || program->loaded.program.get() == nullptr) {
    return ReportFailed(completions_, command, CL_INVALID_PROGRAM_EXECUTABLE);
  }
  const auto found = program->loaded.kernels.find(message.name.text);
  if (found == program->loaded.kernels.end())
    return ReportFailed(completions_, command, CL_INVALID_KERNEL_NAME);
  auto kernel = std::make_unique<Kernel>();
  kernel->context = program->context;
  kernel->description = found->second;
  kernel->args.resize(found->second->args.size());
  cl_int status = CL_SUCCESS;
  kernel->native.reset(clCreateKernel(program->loaded.program.get(), found->first.c_str(), &status));
  if (status == CL_SUCCESS && !table_.Insert(message.kernel.handle, kernel)) status = CL_INVALID_VALUE;
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::SetKernelArg& message, const Command& command) {
  Report(command, SetArg(message));
}

void OpenClBackend::Run(const wire::opencl::SetSamplerArg& message, const Command& command) {
  Report(command, SetArg(message));
}

// Whether a buffer or image is what the argument takes. Drivers do not look, and would read the one as the
// other.
std::int32_t OpenClBackend::CheckArg(const KernelDescription::Arg& arg, const Kernel& kernel,
                                     const Buffer* memory) const {
  if (memory == nullptr || memory->context != kernel.context) return CL_INVALID_MEM_OBJECT;
  switch (arg.shape) {
    case ArgShape::kUnknown: return CL_SUCCESS;
    case ArgShape::kMemory: return memory->image.has_value() ? CL_INVALID_ARG_VALUE : CL_SUCCESS;
    case ArgShape::kImage:
      return memory->image.has_value() && arg.image.value_or(memory->image->type) == memory->image->type
                 ? CL_SUCCESS
                 : CL_INVALID_ARG_VALUE;
    default: return CL_INVALID_ARG_VALUE;
  }
}

std::int32_t OpenClBackend::SetArg(const wire::opencl::SetKernelArg& message) {
  using wire::opencl::ArgKind;
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  if (message.index >= kernel->args.size()) return CL_INVALID_ARG_INDEX;
  const KernelDescription::Arg& described = kernel->description->args[message.index];
  const ArgShape shape = described.shape;
  const auto fits = [shape](ArgShape wanted) { return shape == wanted || shape == ArgShape::kUnknown; };
  Kernel::Arg arg;
  cl_int status = CL_SUCCESS;
  switch (message.kind.value) {
    case ArgKind::kValue:
      // Bytes where the driver expects one of its own pointers would be followed.
      if (!fits(ArgShape::kValue)) return CL_INVALID_ARG_VALUE;
      if (message.value.bytes.empty()) return CL_INVALID_ARG_SIZE;
      status = clSetKernelArg(kernel->native.get(), message.index, message.value.bytes.size(),
                              message.value.bytes.data());
      break;
    case ArgKind::kMemory: {
      if (!fits(ArgShape::kMemory) && shape != ArgShape::kImage) return CL_INVALID_ARG_VALUE;
      cl_mem native = nullptr;
      if (message.memory.handle.null()) {
        if (shape == ArgShape::kImage) return CL_INVALID_ARG_VALUE;  // there is no null image
      } else {
        const Buffer* const memory = table_.Find<Buffer>(message.memory.handle);
        if (const std::int32_t wrong = CheckArg(described, *kernel, memory); wrong != CL_SUCCESS)
          return wrong;
        native = memory->native.get();
        arg.memory = message.memory.handle;
      }
      status = clSetKernelArg(kernel->native.get(), message.index, sizeof native,
                              native == nullptr ? nullptr : &native);
      break;
    }
    case ArgKind::kLocal:
      if (!fits(ArgShape::kLocal)) return CL_INVALID_ARG_VALUE;
      if (message.local_bytes == 0) return CL_INVALID_ARG_SIZE;
      if (message.local_bytes > local_memory_bytes_) return CL_INVALID_ARG_SIZE;
      status = clSetKernelArg(kernel->native.get(), message.index, message.local_bytes, nullptr);
      arg.local_bytes = message.local_bytes;
      break;
  }
  if (status != CL_SUCCESS) return status;
  kernel->local_bytes += arg.local_bytes - kernel->args[message.index].local_bytes;
  kernel->args[message.index] = arg;
  return CL_SUCCESS;
}

std::int32_t OpenClBackend::SetArg(const wire::opencl::SetSamplerArg& message) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  if (message.index >= kernel->args.size()) return CL_INVALID_ARG_INDEX;
  const ArgShape shape = kernel->description->args[message.index].shape;
  if (shape != ArgShape::kSampler && shape != ArgShape::kUnknown) return CL_INVALID_ARG_VALUE;
  const Sampler* const sampler = table_.Find<Sampler>(message.sampler.handle);
  if (sampler == nullptr || sampler->context != kernel->context) return CL_INVALID_SAMPLER;
  const cl_sampler native = sampler->native;
  const cl_int status = clSetKernelArg(kernel->native.get(), message.index, sizeof native, &native);
  if (status != CL_SUCCESS) return status;
  kernel->local_bytes -= kernel->args[message.index].local_bytes;
  kernel->args[message.index] = {.sampler = message.sampler.handle};
  return CL_SUCCESS;
}

void OpenClBackend::Run(const wire::opencl::GetKernelSubGroups& message, const Command& command) {
  const Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return ReportFailed(completions_, command, CL_INVALID_KERNEL);
  wire::opencl::GetKernelSubGroupsReply reply;
  reply.status = SubGroupsOf(kernel->native.get(), kernel->context->devices.front(), message, &reply.values);
  if (reply.status != CL_SUCCESS) return ReportFailed(completions_, command, reply.status);
  SendReply(completions_, command.opcode, command.sequence, reply);
}

void OpenClBackend::Run(const wire::opencl::Flush& message, const Command& command) {
  Queue* const queue = table_.Find<Queue>(message.queue.handle);
  if (queue == nullptr) return ReportFailed(completions_, command, CL_INVALID_COMMAND_QUEUE);
  clFlush(queue->native.get());
  ReportDone(completions_, command);
}

void OpenClBackend::Run(const wire::opencl::Finish& message, const Command& command) {
  Queue* const queue = table_.Find<Queue>(message.queue.handle);
  if (queue == nullptr) return ReportFailed(completions_, command, CL_INVALID_COMMAND_QUEUE);
  const std::int32_t status = TrackAll(*queue);
  if (status != CL_SUCCESS) return ReportFailed(completions_, command, status);
  clFlush(queue->native.get());
  if (!reporter_->Finish(&queue->progress, command.sequence)) {
    ReportFailed(completions_, command, CL_OUT_OF_RESOURCES);
  }
}

std::int32_t OpenClBackend::CheckKernel(const wire::opencl::EnqueueKernel& message, Kernel** kernel) const {
  *kernel = table_.Find<Kernel>(message.kernel.handle);
  if (*kernel == nullptr) return CL_INVALID_KERNEL;
  if (const std::int32_t status = CheckRange(message); status != CL_SUCCESS) return status;
  // Kernels keep no reference to their arguments: one may have been destroyed since it was set.
  for (const Kernel::Arg& arg : (*kernel)->args) {
    if (!arg.memory.null() && table_.Find<Buffer>(arg.memory) == nullptr) return CL_INVALID_KERNEL_ARGS;
    if (!arg.sampler.null() && table_.Find<Sampler>(arg.sampler) == nullptr) return CL_INVALID_KERNEL_ARGS;
  }
  if ((*kernel)->local_bytes > local_memory_bytes_) return CL_OUT_OF_RESOURCES;
  return CL_SUCCESS;
}

void OpenClBackend::Run(const wire::opencl::EnqueueKernel& message, const Command& command) {
  Kernel* kernel = nullptr;
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckKernel(message, &kernel); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const bool any_local = message.local_size != wire::Vec3{};
        return clEnqueueNDRangeKernel(queue, kernel->native.get(), message.work_dim,
                                      message.global_offset.data(), message.global_size.data(),
                                      any_local ? message.local_size.data() : nullptr, wait_count, waits,
                                      event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueSync& message, const Command& command) {
  const bool is_barrier = message.kind.value == wire::opencl::SyncKind::kBarrier;
  Queue* const queue = table_.Find<Queue>(message.queue.handle);
  // A marker that waits for some events, and must not wait for more.
  const bool migrates = !is_barrier && device_.markers_wait_for_all && !message.waits.items.empty() &&
                        queue != nullptr && !queue->in_order;
  Enqueue(
      message, command, Duty::kNone, [&] { return migrates ? MakePlaceholder(*queue->context) : CL_SUCCESS; },
      [&](cl_command_queue native, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (is_barrier) return clEnqueueBarrierWithWaitList(native, wait_count, waits, event);
        if (!migrates) return clEnqueueMarkerWithWaitList(native, wait_count, waits, event);
        const cl_mem memory = queue->context->placeholder.get();
        return clEnqueueMigrateMemObjects(native, 1, &memory, 0, wait_count, waits, event);
      });
}

std::int32_t OpenClBackend::MakePlaceholder(NativeContext& context) {
  cl_int status = CL_SUCCESS;
  if (!context.placeholder)
    context.placeholder.reset(clCreateBuffer(context.context.get(), CL_MEM_READ_WRITE, 1, nullptr, &status));
  return status;
}

void OpenClBackend::Run(const wire::opencl::CreateUserEvent& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) {
    InsertFailedEvent(message.event.handle, CL_INVALID_CONTEXT);
    return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  }
  auto event = std::make_unique<Event>();
  cl_int status = CL_SUCCESS;
  event->user.reset(clCreateUserEvent(context->native->context.get(), &status));
  event->failed = status;
  const bool created = status == CL_SUCCESS;
  if (!table_.Insert(message.event.handle, event)) {
    status = CL_INVALID_VALUE;
  } else if (created) {
    ++unset_user_events_;
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::SetUserEventStatus& message, const Command& command) {
  Event* const event = table_.Find<Event>(message.event.handle);
  if (event == nullptr) return ReportFailed(completions_, command, CL_INVALID_EVENT);
  if (message.status > 0) return ReportFailed(completions_, command, CL_INVALID_VALUE);
  Report(command, SetUserEvent(*event, message.status));
}

std::unique_ptr<Backend> MakeBackend(const NativeDevice& device, Completions* completions) {
  return std::make_unique<OpenClBackend>(device, completions);
}

}  // namespace tulle::gpu::opencl
