// The backend itself, for the files that carry its commands out: device_commands.cc devices, contexts and
// queues; opencl_backend.cc buffers, kernels and events; transfer_commands.cc what moves bytes of buffers;
// image_commands.cc images and samplers; svm_commands.cc shared virtual memory.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/api/svm_memory.h"
#include "tulle/gpu/opencl/device_infos.h"
#include "tulle/gpu/opencl/images.h"
#include "tulle/gpu/opencl/objects.h"

namespace tulle::gpu::opencl {

class OpenClBackend final : public Backend {
 public:
  OpenClBackend(const NativeDevice& device, Completions* completions)
      : device_(device),
        completions_(*completions),
        reporter_(std::make_shared<Reporter>(completions)),
        max_allocation_bytes_(
            DeviceValue<cl_ulong>(device.device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, ~cl_ulong{0})),
        image_limits_(LimitsOf(device.device)),
        local_memory_bytes_(DeviceValue<cl_ulong>(device.device, CL_DEVICE_LOCAL_MEM_SIZE, ~cl_ulong{0})) {}

  ~OpenClBackend() override {
    // Nothing may wait for a program that is gone.
    table_.ForEach<Event>([this](Handle, Event& event) { SetUserEvent(event, CL_INVALID_EVENT); });
    table_.ForEach<Queue>([this](Handle, Queue& queue) {
      AbandonTransfers(queue);
      clFinish(queue.native.get());
    });
    for (const auto& queue : retired_) clFinish(queue->native.get());
    table_.ForEach<Context>([](Handle, Context& context) {
      if (context.native->service) clFinish(context.native->service.get());
    });
    reporter_->Close();
  }

  void Submit(const Command& command) override {
    if (Dispatch(command, arena_, *this) != wire::WireResult::kOk) {
      ReportFailed(completions_, command, CL_INVALID_VALUE);
    }
  }

  void Flush() override {
    for (Queue* queue : dirty_) FlushQueue(*queue);
    dirty_.clear();
  }

  void Run(const wire::DestroyObject& message, const Command& command);
  void Run(const wire::ShareMemory& message, const Command& command);
  void Run(const wire::opencl::DescribeDevice& message, const Command& command);
  void Run(const wire::opencl::DescribeSubDevice& message, const Command& command);
  void Run(const wire::opencl::CountSubDevices& message, const Command& command);
  void Run(const wire::opencl::CreateSubDevice& message, const Command& command);
  void Run(const wire::opencl::CreateContext& message, const Command& command);
  void Run(const wire::opencl::CreateContextOn& message, const Command& command);
  void Run(const wire::opencl::CreateBuffer& message, const Command& command);
  void Run(const wire::opencl::InitBuffer& message, const Command& command);
  void Run(const wire::opencl::ImportBuffer& message, const Command& command);
  void Run(const wire::opencl::CreateSubBuffer& message, const Command& command);
  void Run(const wire::opencl::GetImageFormats& message, const Command& command);
  void Run(const wire::opencl::CreateImage& message, const Command& command);
  void Run(const wire::opencl::InitImage& message, const Command& command);
  void Run(const wire::opencl::CreateSampler& message, const Command& command);
  void Run(const wire::opencl::SetSamplerArg& message, const Command& command);
  void Run(const wire::opencl::CreateSvm& message, const Command& command);
  void Run(const wire::opencl::SetSvmArg& message, const Command& command);
  void Run(const wire::exec::LoadProgram& message, const Command& command);
  void Run(const wire::opencl::CreateKernel& message, const Command& command);
  void Run(const wire::opencl::SetKernelArg& message, const Command& command);
  void Run(const wire::opencl::GetKernelSubGroups& message, const Command& command);
  void Run(const wire::opencl::CreateQueue& message, const Command& command);
  void Run(const wire::opencl::CreateQueueOn& message, const Command& command);
  void Run(const wire::opencl::Flush& message, const Command& command);
  void Run(const wire::opencl::Finish& message, const Command& command);
  void Run(const wire::opencl::EnqueueKernel& message, const Command& command);
  void Run(const wire::opencl::EnqueueRead& message, const Command& command);
  void Run(const wire::opencl::EnqueueWrite& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopy& message, const Command& command);
  void Run(const wire::opencl::EnqueueFill& message, const Command& command);
  void Run(const wire::opencl::EnqueueMap& message, const Command& command);
  void Run(const wire::opencl::EnqueueUnmap& message, const Command& command);
  void Run(const wire::opencl::EnqueueSync& message, const Command& command);
  void Run(const wire::opencl::EnqueueReadRect& message, const Command& command);
  void Run(const wire::opencl::EnqueueWriteRect& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopyRect& message, const Command& command);
  void Run(const wire::opencl::EnqueueReadImage& message, const Command& command);
  void Run(const wire::opencl::EnqueueWriteImage& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopyImage& message, const Command& command);
  void Run(const wire::opencl::EnqueueFillImage& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopyImageToBuffer& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopyBufferToImage& message, const Command& command);
  void Run(const wire::opencl::CreateUserEvent& message, const Command& command);
  void Run(const wire::opencl::SetUserEventStatus& message, const Command& command);

 private:
  using Duty = Tracked::Duty;

  // Puts a command on the queue: `start(native queue, wait count, waits, event or null)` is the one native
  // call; `check()` says what is wrong with the rest of the message.
  template <typename M, typename Check, typename Start>
  void Enqueue(const M& message, const Command& command, Duty duty, const Check& check, const Start& start) {
    Queue* const queue = table_.Find<Queue>(message.queue.handle);
    Pieces* pieces = nullptr;
    bool last_piece = true;
    std::int32_t status = queue == nullptr ? CL_INVALID_COMMAND_QUEUE : CL_SUCCESS;
    if constexpr (requires { message.transfer; }) {
      last_piece = message.more == 0;
      if (status == CL_SUCCESS) status = CheckPiece(message);
      if (status == CL_SUCCESS && message.transfer != 0) {
        pieces = FindPieces(*queue, message.transfer, !last_piece, &status);
      }
    }
    if (status == CL_SUCCESS) status = command.lacks_memory ? CL_MEM_OBJECT_ALLOCATION_FAILURE : check();
    if (status == CL_SUCCESS) status = GatherWaits(message.waits, pieces, *queue);
    if (status == CL_SUCCESS && reporter_->full()) status = CL_OUT_OF_RESOURCES;
    const Handle event = message.event.handle;
    if (status == CL_SUCCESS && !event.null() && !table_.IsFree(event)) status = CL_INVALID_EVENT;
    if (status == CL_SUCCESS && queue->settled_count != queue->context->settled_count)
      status = Settle(*queue);

    const bool may_fail = device_.fails_silently && unset_user_events_ != 0;
    const bool tracked = duty != Duty::kNone || !event.null() || may_fail;
    cl_event native = nullptr;
    if (status == CL_SUCCESS) {
      status =
          start(queue->native.get(), static_cast<cl_uint>(waits_.size()),
                waits_.empty() ? nullptr : waits_.data(), tracked || queue->in_order ? &native : nullptr);
    }
    if (status != CL_SUCCESS) {
      if (pieces != nullptr) pieces->failed = status;
      ReportFailed(completions_, command, status);
      if (!event.null()) InsertFailedEvent(event, status);
      if (pieces != nullptr && last_piece) {
        ClosePieces(*queue, pieces, event, status);
      } else if (!event.null()) {
        reporter_->CompleteEvent(event, status);
      }
      return;
    }

    if (!queue->dirty) {
      queue->dirty = true;
      dirty_.push_back(queue);
    }
    if (!tracked) {
      queue->untracked = true;
      queue->last.reset(native);
      ReportDone(completions_, command);
      return;
    }
    queue->last.reset();  // the tracked one stands for it
    auto* entry = new Tracked;
    entry->native.reset(native);
    entry->duty = duty;
    entry->opcode = command.opcode;
    entry->sequence = command.sequence;
    if constexpr (requires { message.data.size_bytes; }) entry->payload_bytes = message.data.size_bytes;
    entry->queue = &queue->progress;
    entry->profiles = queue->profiles && (!event.null() || pieces != nullptr);
    if (pieces == nullptr) {
      entry->event = event;
    } else {
      entry->transfer = pieces->transfer;
      if (pieces->last != nullptr) pieces->last->Unref();
      entry->Ref();
      pieces->last = entry;
    }
    if (!event.null()) {
      auto object = std::make_unique<Event>();
      entry->Ref();
      object->tracked = entry;
      table_.Insert(event, object);
    }
    reporter_->Track(entry);
    if (pieces != nullptr && last_piece) ClosePieces(*queue, pieces, event, CL_SUCCESS);
    ReportDone(completions_, command);
  }

  // The pieces of this transfer; null for one that is whole after all. Sets *status when there are too many,
  // or an earlier piece failed.
  static Pieces* FindPieces(Queue& queue, std::uint64_t transfer, bool more, std::int32_t* status) {
    auto found = queue.transfers.find(transfer);
    if (found == queue.transfers.end()) {
      if (!more) return nullptr;
      if (queue.transfers.size() == kMaxOpenTransfers) {
        *status = CL_OUT_OF_RESOURCES;
        return nullptr;
      }
      found = queue.transfers.emplace(transfer, Pieces{new Transfer}).first;
    }
    *status = found->second.failed;
    return &found->second;
  }

  void ClosePieces(Queue& queue, Pieces* pieces, Handle event, std::int32_t status) {
    reporter_->CloseTransfer(pieces->transfer, event, status);
    if (pieces->last != nullptr) pieces->last->Unref();
    std::erase_if(queue.transfers, [pieces](const auto& item) { return &item.second == pieces; });
  }

  void AbandonTransfers(Queue& queue) {
    while (!queue.transfers.empty())
      ClosePieces(queue, &queue.transfers.begin()->second, Handle{}, CL_SUCCESS);
  }

  // Fills waits_. Pieces of a transfer follow each other even where the queue keeps no order, so that the
  // last one's event stands for all.
  std::int32_t GatherWaits(const wire::WaitList& waits, const Pieces* pieces, const Queue& queue) {
    waits_.clear();
    bool waits_for_others = false;
    for (const auto& wait : waits.items) {
      const Event* const event = table_.Find<Event>(wait.handle);
      if (event == nullptr) return CL_INVALID_EVENT_WAIT_LIST;
      if (event->has_failed()) return CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
      waits_for_others |= event->tracked == nullptr || event->tracked->queue != &queue.progress;
      waits_.push_back(event->native());
    }
    // What the others do may depend on what is in this queue by now. Mesa's rusticl completes together
    // whatever was flushed together.
    if (waits_for_others && queue.dirty) clFlush(queue.native.get());
    if (pieces != nullptr && pieces->last != nullptr && !queue.in_order)
      waits_.push_back(pieces->last->native.get());
    return CL_SUCCESS;
  }

  void InsertFailedEvent(Handle handle, std::int32_t status) {
    auto event = std::make_unique<Event>();
    event->failed = status;
    table_.Insert(handle, event);
  }

  // Lets the queue's further commands wait for what fills fresh buffers.
  static std::int32_t Settle(Queue& queue) {
    const cl_event settled = queue.context->settled.get();
    const cl_int status = clEnqueueBarrierWithWaitList(queue.native.get(), 1, &settled, nullptr);
    if (status == CL_SUCCESS) queue.settled_count = queue.context->settled_count;
    return status;
  }

  // Makes the end of everything enqueued so far something that the reporter knows of.
  std::int32_t TrackAll(Queue& queue) {
    if (!queue.untracked) return CL_SUCCESS;
    cl_event native = queue.last.release();
    if (native == nullptr && !queue.in_order) {
      const cl_int status = clEnqueueMarkerWithWaitList(queue.native.get(), 0, nullptr, &native);
      if (status != CL_SUCCESS) return status;
    }
    queue.untracked = false;
    if (native == nullptr) return CL_SUCCESS;  // in order, and the last command is tracked
    auto* entry = new Tracked;
    entry->native.reset(native);
    entry->queue = &queue.progress;
    reporter_->Track(entry);
    return CL_SUCCESS;
  }

  static void FlushQueue(Queue& queue) {
    clFlush(queue.native.get());
    queue.dirty = false;
  }

  std::int32_t SetUserEvent(Event& event, std::int32_t status) {
    if (!event.user || event.is_set) return CL_INVALID_OPERATION;
    event.is_set = true;
    --unset_user_events_;
    if (status < 0) event.failed = status;
    const std::int32_t result = clSetUserEventStatus(event.user.get(), status);
    if (status < 0 && device_.fails_silently) reporter_->EndFailed();
    return result;
  }

  // Done, or failed with the status: for commands that are not enqueued.
  void Report(const Command& command, std::int32_t status) {
    if (status == CL_SUCCESS) {
      ReportDone(completions_, command);
    } else {
      ReportFailed(completions_, command, status);
    }
  }

  // Null also for an image, ...
  Buffer* FindBuffer(Handle handle) const {
    Buffer* const buffer = table_.Find<Buffer>(handle);
    return buffer != nullptr && buffer->image.has_value() ? nullptr : buffer;
  }
  // ... or a buffer.
  const Buffer* FindImage(Handle handle) const {
    const Buffer* const image = table_.Find<Buffer>(handle);
    return image != nullptr && image->image.has_value() ? image : nullptr;
  }

  cl_device_id FindDevice(Handle handle) const;
  static std::int32_t MakePlaceholder(NativeContext& context);
  std::int32_t MakeContextOn(Handle handle, const std::vector<cl_device_id>& devices);
  std::int32_t MakeBuffer(const Command& command, Handle context, Handle handle,
                          wire::Flags<wire::opencl::MemFlag> flags, std::uint64_t size,
                          std::uint64_t address);
  template <typename Create, typename Clear>
  std::int32_t CreateNative(const Command& command, std::uint64_t size, std::uint64_t flags,
                            std::uint64_t address, Buffer& buffer, const Create& create, const Clear& clear);
  template <typename Start>
  std::int32_t EnqueueService(NativeContext& context, const Command* data, const Start& start);
  std::int32_t Watch(Buffer& buffer, std::unique_ptr<BufferMemory> memory);
  std::int32_t MakePart(const Buffer& parent, Buffer& part);
  std::int32_t MakePartOfSvm(const Buffer& parent, Buffer& part);
  std::int32_t CheckArg(const KernelDescription::Arg& arg, const Kernel& kernel, const Buffer* memory) const;
  std::int32_t SetArg(const wire::opencl::SetKernelArg& message);
  std::int32_t SetArg(const wire::opencl::SetSamplerArg& message);
  std::int32_t SetArg(const wire::opencl::SetSvmArg& message);
  bool DestroyBuffer(Handle handle, const Command& command);
  void DestroyQueue(Handle handle);
  std::int32_t CheckKernel(const wire::opencl::EnqueueKernel& message, Kernel** kernel) const;

  const NativeDevice device_;
  Completions& completions_;
  const std::shared_ptr<Reporter> reporter_;
  const std::uint64_t max_allocation_bytes_;
  const wire::opencl::ImageLimits image_limits_;
  const std::uint64_t local_memory_bytes_;
  wire::Arena arena_;
  QueueProgress service_progress_;
  ObjectTable<Object> table_;
  std::vector<std::unique_ptr<Queue>> retired_;  // destroyed by the program, not yet idle
  std::vector<Queue*> dirty_;
  std::uint32_t unset_user_events_ = 0;
  std::vector<cl_event> waits_;  // of the command at hand
};
static_assert(HandlesEveryDeviceCommand<OpenClBackend>(wire::OpenClCapabilities()));

// Makes buffer.native, of `size` bytes that read as zero, at `address` if that is not 0:
// `create(flags, bytes or null, &status)` is the native call, `clear(queue, native, &event)` enqueues what
// fills it where this process cannot reach its memory.
template <typename Create, typename Clear>
std::int32_t OpenClBackend::CreateNative(const Command& command, std::uint64_t size, std::uint64_t flag_bits,
                                         std::uint64_t address, Buffer& buffer, const Create& create,
                                         const Clear& clear) {
  auto memory = std::make_unique<BufferMemory>();
  // What the host may do is checked here; a driver would refuse our own filling, too.
  cl_mem_flags flags = flag_bits & kDeviceAccess;
  if (device_.host_memory) {
    flags |= CL_MEM_USE_HOST_PTR;
    if (!command.memory.empty() && address == 0) {
      buffer.bytes = command.memory.first(size);
      buffer.in_place = true;
    } else {
      memory->mapping_bytes = size;
      if (address != 0) {
        memory->mapping = MapSvm(address, size, command.memory);
      } else {
        memory->mapping = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory->mapping == MAP_FAILED) memory->mapping = nullptr;
      }
      if (memory->mapping == nullptr) return CL_MEM_OBJECT_ALLOCATION_FAILURE;
      buffer.bytes = {static_cast<std::byte*>(memory->mapping), size};
    }
  }
  cl_int status = CL_SUCCESS;
  buffer.native.reset(create(flags, buffer.bytes.data(), &status));
  if (status != CL_SUCCESS) return status;
  if (!device_.host_memory) {
    status = EnqueueService(*buffer.context, nullptr, [&](cl_command_queue queue, cl_event* event) {
      return clear(queue, buffer.native.get(), event);
    });
    if (status != CL_SUCCESS) return status;
  }
  return Watch(buffer, std::move(memory));
}

// Something on the context's service queue, by `start(queue, &event)`; it uses the payload of `data`, if not
// null.
template <typename Start>
std::int32_t OpenClBackend::EnqueueService(NativeContext& context, const Command* data, const Start& start) {
  cl_event native = nullptr;
  const cl_int status = start(context.service.get(), &native);
  if (status != CL_SUCCESS) return status;
  clRetainEvent(native);
  context.settled.reset(native);
  ++context.settled_count;
  auto* entry = new Tracked;
  entry->native.reset(native);
  entry->queue = &service_progress_;
  if (data != nullptr) {
    entry->duty = Duty::kPayloadDone;
    entry->sequence = data->sequence;
  }
  reporter_->Track(entry);
  clFlush(context.service.get());
  return CL_SUCCESS;
}

}  // namespace tulle::gpu::opencl
