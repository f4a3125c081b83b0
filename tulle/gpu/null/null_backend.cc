#include "tulle/gpu/null/null_backend_class.h"
#include "tulle/gpu/null/null_device.h"

namespace tulle::gpu::null {

void NullBackend::Run(const wire::DestroyObject& message, const Command& command) {
  const Handle handle = message.object.handle;
  switch (message.object.kind) {
    case ObjectKind::kMemory:
      if (auto buffer = table_.Take<Buffer>(handle); buffer != nullptr && command.wants_status) {
        buffer->memory->destroy_sequence = command.sequence;  // answered when its last user lets go
        return;
      }
      break;
    case ObjectKind::kQueue:
      if (auto queue = table_.Take<Queue>(handle); queue != nullptr && !queue->waiting.empty()) {
        retired_.push_back(std::move(queue));
      }
      break;
    case ObjectKind::kEvent:
      if (auto event = table_.Take<Event>(handle);
          event != nullptr && event->user && event->state->status == kRunning) {
        event->state->status = status::kInvalidEvent;  // nobody can set it any more
      }
      break;
    case ObjectKind::kContext: table_.Take<Context>(handle); break;
    case ObjectKind::kProgram: table_.Take<Program>(handle); break;
    case ObjectKind::kKernel: table_.Take<Kernel>(handle); break;
    case ObjectKind::kSampler: table_.Take<Sampler>(handle); break;
    case ObjectKind::kDevice: break;  // there is none but the whole
    case ObjectKind::kNone: break;
  }
  ReportDone(completions_, command);
}

void NullBackend::Run(const wire::ShareMemory&, const Command& command) { Report(command, injected_); }

void NullBackend::Run(const wire::opencl::DescribeDevice&, const Command& command) {
  if (injected_ != 0) return ReportFailed(completions_, command, injected_);
  completions_.Reply(command.opcode, command.sequence, EncodeDeviceInfos(options_), 0);
}

void NullBackend::Run(const wire::opencl::CreateContext& message, const Command& command) {
  Report(command, Insert(message.context.handle, std::make_unique<Context>()));
}

// The device has no parts.
void NullBackend::Run(const wire::opencl::CountSubDevices&, const Command& command) {
  ReportFailed(completions_, command, status::kInvalidValue);
}
void NullBackend::Run(const wire::opencl::CreateSubDevice&, const Command& command) {
  ReportFailed(completions_, command, status::kInvalidValue);
}
void NullBackend::Run(const wire::opencl::DescribeSubDevice&, const Command& command) {
  ReportFailed(completions_, command, status::kInvalidDevice);
}

void NullBackend::Run(const wire::opencl::CreateContextOn& message, const Command& command) {
  const auto is_whole = [](const auto& device) { return device.handle.null(); };
  if (!std::ranges::all_of(message.devices.items, is_whole)) return Report(command, status::kInvalidDevice);
  if (message.devices.items.empty()) return Report(command, status::kInvalidValue);
  Run(wire::opencl::CreateContext{message.context}, command);
}

void NullBackend::Run(const wire::opencl::CreateQueueOn& message, const Command& command) {
  if (!message.device.handle.null()) return Report(command, status::kInvalidDevice);
  Run(wire::opencl::CreateQueue{message.context, message.queue, message.flags}, command);
}

void NullBackend::Run(const wire::opencl::CreateBuffer& message, const Command& command) {
  MakeBuffer(command, message.context.handle, message.buffer.handle, message.flags, message.size_bytes,
             false);
}

void NullBackend::Run(const wire::opencl::ImportBuffer& message, const Command& command) {
  MakeBuffer(command, message.context.handle, message.buffer.handle, message.flags, command.memory.size(),
             false);
}

// No kernel here follows a pointer that lies in memory, so where the memory is does not matter.
void NullBackend::Run(const wire::opencl::CreateSvm& message, const Command& command) {
  if (!wire::opencl::IsSvmRange(message.address, message.size_bytes))
    return Report(command, status::kInvalidValue);
  MakeBuffer(command, message.context.handle, message.memory.handle, message.flags, message.size_bytes, true);
}

void NullBackend::Run(const wire::opencl::CreateSubBuffer& message, const Command& command) {
  const auto parent = FindMemory(message.parent.handle);
  if (const std::int32_t result = CheckSubBuffer(parent.get(), message); result != 0)
    return Report(command, result);
  if (!parent->is_svm && message.offset_bytes % kBaseAddressAlignBytes != 0)
    return Report(command, status::kMisalignedSubBufferOffset);
  auto memory = std::make_shared<Memory>();
  memory->parent = parent;
  memory->size_bytes = message.size_bytes;
  memory->flags = message.flags;
  memory->root = message.parent.handle;
  memory->origin_bytes = message.offset_bytes;
  Report(command, InsertPart(message.buffer.handle, message.offset_bytes, std::move(memory)));
}

void NullBackend::Run(const wire::opencl::CreateQueue& message, const Command& command) {
  if (table_.Find<Context>(message.context.handle) == nullptr)
    return Report(command, status::kInvalidContext);
  auto queue = std::make_unique<Queue>();
  queue->in_order = !message.flags.has(wire::opencl::QueueFlag::kOutOfOrder);
  queue->profiles = message.flags.has(wire::opencl::QueueFlag::kProfiling);
  Report(command, Insert(message.queue.handle, std::move(queue)));
}

void NullBackend::Run(const wire::opencl::Flush& message, const Command& command) {
  Report(command, table_.Find<Queue>(message.queue.handle) == nullptr ? status::kInvalidCommandQueue : 0);
}

void NullBackend::Run(const wire::opencl::Finish& message, const Command& command) {
  Queue* const queue = table_.Find<Queue>(message.queue.handle);
  std::int32_t result = queue == nullptr ? status::kInvalidCommandQueue : injected_;
  if (result == 0 && waiting_ >= kMaxWaiting) result = status::kOutOfResources;
  if (result != 0) return ReportFailed(completions_, command, result);
  Waiting finish;
  finish.after_all = true;
  finish.run = [] { return 0; };
  finish.answer = [this, sequence = command.sequence](std::int32_t) {
    SendEvents();
    SendStatus(completions_, wire::kOpcodeOf<wire::opencl::Finish>, sequence, 0);
  };
  Push(*queue, std::move(finish));
}

void NullBackend::Run(const wire::opencl::EnqueueSync& message, const Command& command) {
  Enqueue(
      message, command, {}, [] { return 0; },
      []() -> std::function<std::int32_t()> { return [] { return 0; }; });
}

void NullBackend::Run(const wire::opencl::CreateUserEvent& message, const Command& command) {
  std::int32_t result =
      table_.Find<Context>(message.context.handle) == nullptr ? status::kInvalidContext : injected_;
  auto event = std::make_unique<Event>();
  event->user = result == 0;
  event->placeholder = result != 0;
  event->state->status = result == 0 ? kRunning : result;
  if (!table_.Insert(message.event.handle, event)) result = status::kInvalidValue;
  if (result != 0) return ReportFailed(completions_, command, result);
  ReportDone(completions_, command);
}

void NullBackend::Run(const wire::opencl::SetUserEventStatus& message, const Command& command) {
  Event* const event = table_.Find<Event>(message.event.handle);
  if (event == nullptr) return Report(command, status::kInvalidEvent);
  if (message.status > 0) return Report(command, status::kInvalidValue);
  if (!event->user || event->state->status != kRunning) return Report(command, status::kInvalidOperation);
  event->state->status = message.status;
  ReportDone(completions_, command);
}

void NullBackend::MakeBuffer(const Command& command, Handle context, Handle handle,
                             wire::Flags<wire::opencl::MemFlag> flags, std::uint64_t size, bool is_svm) {
  if (table_.Find<Context>(context) == nullptr) return Report(command, status::kInvalidContext);
  if (size == 0 || size > options_.max_allocation_bytes) return Report(command, status::kInvalidBufferSize);
  auto memory = std::make_shared<Memory>();
  memory->flags = flags;
  memory->root = handle;
  memory->is_svm = is_svm;
  Report(command, InsertMemory(command, handle, size, std::move(memory)));
}

std::int32_t NullBackend::InsertMemory(const Command& command, Handle handle, std::uint64_t size,
                                       std::shared_ptr<Memory> memory) {
  memory->completions = &completions_;
  memory->used_bytes = &used_bytes_;
  if (!command.memory.empty() && command.memory.size() < size) return status::kInvalidValue;
  if (size > options_.memory_bytes - used_bytes_) return status::kMemObjectAllocationFailure;
  memory->size_bytes = size;
  used_bytes_ += size;
  memory->bytes = command.memory.data();
  if (command.memory.empty()) {
    memory->own.reset(static_cast<std::byte*>(std::calloc(size, 1)));
    memory->bytes = memory->own.get();
    if (memory->bytes == nullptr) return status::kMemObjectAllocationFailure;
  }
  auto buffer = std::make_unique<Buffer>();
  buffer->memory = std::move(memory);
  return Insert(handle, std::move(buffer));
}

std::int32_t NullBackend::InsertPart(Handle handle, std::uint64_t offset_bytes,
                                     std::shared_ptr<Memory> memory) {
  memory->completions = &completions_;
  memory->used_bytes = &used_bytes_;
  memory->bytes = memory->parent->bytes + offset_bytes;
  auto buffer = std::make_unique<Buffer>();
  buffer->memory = std::move(memory);
  return Insert(handle, std::move(buffer));
}

}  // namespace tulle::gpu::null
