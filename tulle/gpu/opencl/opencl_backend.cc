#include "tulle/gpu/opencl/opencl_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "tulle/gpu/api/checks.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/image_checks.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/api/pixel.h"
#include "tulle/gpu/opencl/device_infos.h"
#include "tulle/gpu/opencl/images.h"
#include "tulle/gpu/opencl/program.h"
#include "tulle/gpu/opencl/reporter.h"

namespace tulle::gpu::opencl {
namespace {

using wire::Handle;
using wire::ObjectKind;

constexpr cl_mem_flags kDeviceAccess = CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_READ_ONLY;

// A context of the program. On a device with its own memory it also has a queue of ours, which fills fresh
// buffers; other queues wait for it once after each such command.
struct NativeContext {
  OwnedContext context;
  OwnedQueue service;
  OwnedEvent settled;               // the last command on `service`
  std::uint64_t settled_count = 0;  // commands so far
  // One for each combination of properties that was asked for: drivers (PoCL 3.1) read a sampler when the
  // kernel runs, which may be after the program's was released.
  std::map<std::array<std::uint32_t, 3>, OwnedSampler> samplers;
};

struct Object {
  virtual ~Object() = default;
};

struct Context final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kContext;
  std::shared_ptr<NativeContext> native = std::make_shared<NativeContext>();
};

// Lives from the creation of a buffer or image until the driver has deleted it, which is when no command uses
// it.
struct BufferMemory {
  std::shared_ptr<Reporter> reporter;
  void* mapping = nullptr;  // ours; null: lent with the command, or the device's
  std::size_t mapping_bytes = 0;
  std::uint64_t destroy_sequence = 0;  // the DestroyObject to answer; 0: none

  ~BufferMemory() {
    if (mapping != nullptr) ::munmap(mapping, mapping_bytes);
    if (destroy_sequence != 0) reporter->MemoryFreed(destroy_sequence);
  }
  static void CL_CALLBACK OnDeleted(cl_mem, void* memory) { delete static_cast<BufferMemory*>(memory); }
};

// A buffer, or an image: then the size and flags of the buffer's shape say nothing.
struct Buffer final : Object, BufferShape {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
  std::shared_ptr<NativeContext> context;
  std::optional<ImageShape> image;
  OwnedMemory native;
  OwnedMemory parent;              // of a sub-buffer, or an image in a buffer
  BufferMemory* memory = nullptr;  // valid as long as `native` is ours; null: it lies in its parent's
  MutableByteView bytes;           // the contents, where this process can reach them

  cl_mem root_native() const { return parent ? parent.get() : native.get(); }
};

const ImageShape* ShapeOf(const Buffer* image) { return image == nullptr ? nullptr : &*image->image; }

// The buffer that the pixels of a 1D buffer image are, or null. Its transfers are transfers of that: PoCL
// (3.1) crashes filling such an image and copying from it to a buffer, and copies it to no image.
cl_mem LinearBuffer(const Buffer& image) {
  return image.image->type == wire::opencl::ImageType::k1DBuffer ? image.parent.get() : nullptr;
}
// Where in it a region begins.
std::uint64_t LinearOffset(const Buffer& image, const wire::Vec3& origin) {
  return origin[0] * image.image->pixel_bytes;
}

struct Sampler final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kSampler;
  std::shared_ptr<NativeContext> context;
  cl_sampler native = nullptr;  // the context's
};

struct Program final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProgram;
  std::shared_ptr<NativeContext> context;
  LoadedProgram loaded;
};

struct Kernel final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kKernel;
  struct Arg {
    Handle memory;  // null: no buffer or image
    Handle sampler;
    std::uint64_t local_bytes = 0;
  };
  std::shared_ptr<NativeContext> context;
  OwnedKernel native;
  std::shared_ptr<const KernelDescription> description;
  std::vector<Arg> args;
  std::uint64_t local_bytes = 0;  // of all local arguments
};

// A box as the driver takes it.
struct NativeRect {
  std::size_t origin[3] = {};
  std::size_t row_pitch;
  std::size_t slice_pitch;

  explicit NativeRect(const wire::opencl::Rect& rect)
      : origin{rect.offset_bytes, 0, 0},
        row_pitch(rect.row_pitch_bytes),
        slice_pitch(rect.slice_pitch_bytes) {}
  // Packed, as it travels.
  explicit NativeRect(const wire::Vec3& region) : row_pitch(region[0]), slice_pitch(region[0] * region[1]) {}
};

// The pieces of one transfer that have come so far.
struct Pieces {
  Transfer* transfer = nullptr;
  Tracked* last = nullptr;  // a reference of ours; null: none was started
  std::int32_t failed = 0;  // a piece could not be started: the rest is not, either
};

struct Queue final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
  std::shared_ptr<NativeContext> context;
  OwnedQueue native;
  bool in_order = true;
  bool profiles = false;
  bool dirty = false;                         // something was enqueued since the last clFlush
  bool untracked = false;                     // something untracked was enqueued since the last Finish
  OwnedEvent last;                            // in-order: the last command, if it is untracked
  std::uint64_t settled_count = 0;            // what of the context's service queue it has waited for
  std::map<std::uint64_t, Pieces> transfers;  // by their number; at most kMaxOpenTransfers
  QueueProgress progress;
};

struct Event final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kEvent;
  Tracked* tracked = nullptr;  // its command
  OwnedEvent user;             // or the user event
  bool is_set = false;         // of a user event
  std::int32_t failed = 0;     // a user event set to an error, or no native event at all

  Event() = default;
  ~Event() override {
    if (tracked != nullptr) tracked->Unref();
  }
  bool has_failed() const { return failed != 0 || (tracked != nullptr && tracked->status() < 0); }
  cl_event native() const { return tracked != nullptr ? tracked->native.get() : user.get(); }
};

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
  void Run(const wire::opencl::DescribeDevice& message, const Command& command);
  void Run(const wire::opencl::CreateContext& message, const Command& command);
  void Run(const wire::opencl::CreateBuffer& message, const Command& command);
  void Run(const wire::opencl::InitBuffer& message, const Command& command);
  void Run(const wire::opencl::CreateSubBuffer& message, const Command& command);
  void Run(const wire::opencl::GetImageFormats& message, const Command& command);
  void Run(const wire::opencl::CreateImage& message, const Command& command);
  void Run(const wire::opencl::InitImage& message, const Command& command);
  void Run(const wire::opencl::CreateSampler& message, const Command& command);
  void Run(const wire::opencl::SetSamplerArg& message, const Command& command);
  void Run(const wire::exec::LoadProgram& message, const Command& command);
  void Run(const wire::opencl::CreateKernel& message, const Command& command);
  void Run(const wire::opencl::SetKernelArg& message, const Command& command);
  void Run(const wire::opencl::CreateQueue& message, const Command& command);
  void Run(const wire::opencl::Flush& message, const Command& command);
  void Run(const wire::opencl::Finish& message, const Command& command);
  void Run(const wire::opencl::EnqueueKernel& message, const Command& command);
  void Run(const wire::opencl::EnqueueRead& message, const Command& command);
  void Run(const wire::opencl::EnqueueWrite& message, const Command& command);
  void Run(const wire::opencl::EnqueueCopy& message, const Command& command);
  void Run(const wire::opencl::EnqueueFill& message, const Command& command);
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
    if (status == CL_SUCCESS) status = check();
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
    for (const auto& wait : waits.items) {
      const Event* const event = table_.Find<Event>(wait.handle);
      if (event == nullptr) return CL_INVALID_EVENT_WAIT_LIST;
      if (event->has_failed()) return CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
      waits_.push_back(event->native());
    }
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
  const Buffer* FindBuffer(Handle handle) const {
    const Buffer* const buffer = table_.Find<Buffer>(handle);
    return buffer != nullptr && buffer->image.has_value() ? nullptr : buffer;
  }
  // ... or a buffer.
  const Buffer* FindImage(Handle handle) const {
    const Buffer* const image = table_.Find<Buffer>(handle);
    return image != nullptr && image->image.has_value() ? image : nullptr;
  }

  template <typename Create, typename Clear>
  std::int32_t CreateNative(const Command& command, std::uint64_t size, std::uint64_t flags, Buffer& buffer,
                            const Create& create, const Clear& clear);
  template <typename Start>
  std::int32_t EnqueueService(NativeContext& context, const Command* data, const Start& start);
  std::int32_t CheckArg(const KernelDescription::Arg& arg, const Kernel& kernel, const Buffer* memory) const;
  std::int32_t SetArg(const wire::opencl::SetKernelArg& message);
  std::int32_t SetArg(const wire::opencl::SetSamplerArg& message);
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
static_assert(HandlesEveryDeviceCommand<OpenClBackend>());

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
    case ObjectKind::kNone: break;
  }
  ReportDone(completions_, command);
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

void OpenClBackend::Run(const wire::opencl::DescribeDevice&, const Command& command) {
  completions_.Reply(command.opcode, command.sequence, EncodeDeviceInfos(device_.device), 0);
}

void OpenClBackend::Run(const wire::opencl::CreateContext& message, const Command& command) {
  auto context = std::make_unique<Context>();
  cl_int status = CL_SUCCESS;
  context->native->context = MakeContext(device_, &status);
  if (status == CL_SUCCESS && !device_.host_memory) {
    context->native->service.reset(
        clCreateCommandQueue(context->native->context.get(), device_.device, 0, &status));
  }
  if (status == CL_SUCCESS && !table_.Insert(message.context.handle, context)) status = CL_INVALID_VALUE;
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::CreateBuffer& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  std::int32_t status = CL_SUCCESS;
  if (context == nullptr) {
    status = CL_INVALID_CONTEXT;
  } else if (message.size_bytes == 0 || message.size_bytes > max_allocation_bytes_) {
    status = CL_INVALID_BUFFER_SIZE;
  } else if (!table_.IsFree(message.buffer.handle) ||
             (!command.memory.empty() && command.memory.size() < message.size_bytes)) {
    status = CL_INVALID_VALUE;
  } else {
    auto buffer = std::make_unique<Buffer>();
    buffer->context = context->native;
    buffer->size_bytes = message.size_bytes;
    buffer->flags = message.flags;
    buffer->root = message.buffer.handle;
    status = CreateNative(
        command, message.size_bytes, message.flags.bits, *buffer,
        [&](cl_mem_flags flags, void* bytes, cl_int* error) {
          return clCreateBuffer(context->native->context.get(), flags, message.size_bytes, bytes, error);
        },
        [&](cl_command_queue queue, cl_mem native, cl_event* event) {
          constexpr cl_uchar kZero = 0;
          return clEnqueueFillBuffer(queue, native, &kZero, sizeof kZero, 0, message.size_bytes, 0, nullptr,
                                     event);
        });
    if (status == CL_SUCCESS) table_.Insert(message.buffer.handle, buffer);
  }
  Report(command, status);
}

// Makes buffer.native, of `size` bytes that read as zero: `create(flags, bytes or null, &status)` is the
// native call, `clear(queue, native, &event)` enqueues what fills it where this process cannot reach its
// memory.
template <typename Create, typename Clear>
std::int32_t OpenClBackend::CreateNative(const Command& command, std::uint64_t size, std::uint64_t flag_bits,
                                         Buffer& buffer, const Create& create, const Clear& clear) {
  auto memory = std::make_unique<BufferMemory>();
  memory->reporter = reporter_;
  // What the host may do is checked here; a driver would refuse our own filling, too.
  cl_mem_flags flags = flag_bits & kDeviceAccess;
  if (device_.host_memory) {
    flags |= CL_MEM_USE_HOST_PTR;
    if (!command.memory.empty()) {
      buffer.bytes = command.memory.first(size);
    } else {
      memory->mapping_bytes = size;
      memory->mapping =
          ::mmap(nullptr, memory->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory->mapping == MAP_FAILED) {
        memory->mapping = nullptr;
        return CL_MEM_OBJECT_ALLOCATION_FAILURE;
      }
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
  status = clSetMemObjectDestructorCallback(buffer.native.get(), &BufferMemory::OnDeleted, memory.get());
  if (status != CL_SUCCESS) {
    buffer.native.reset();  // before its memory
    return status;
  }
  buffer.memory = memory.release();
  return CL_SUCCESS;
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

void OpenClBackend::Run(const wire::opencl::InitBuffer& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  std::int32_t status = CheckInit(buffer, message);
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
  const cl_buffer_region region = {message.offset_bytes, message.size_bytes};
  buffer->native.reset(clCreateSubBuffer(parent->native.get(), message.flags.bits & kDeviceAccess,
                                         CL_BUFFER_CREATE_TYPE_REGION, &region, &status));
  if (status == CL_SUCCESS) {
    clRetainMemObject(parent->native.get());
    buffer->parent.reset(parent->native.get());
    table_.Insert(message.buffer.handle, buffer);
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::GetImageFormats& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  std::vector<wire::opencl::ImageFormat> formats;
  const std::int32_t status =
      SupportedFormats(context->native->context.get(), message.access.value, message.type.value, &formats);
  if (status != CL_SUCCESS) return ReportFailed(completions_, command, status);
  SendReply(completions_, command.opcode, command.sequence,
            wire::opencl::GetImageFormatsReply{CL_SUCCESS, {formats}});
}

void OpenClBackend::Run(const wire::opencl::CreateImage& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  ImageShape shape;
  std::int32_t status = CheckCreateImage(message, buffer, image_limits_, max_allocation_bytes_, &shape);
  if (status == CL_SUCCESS && buffer != nullptr && buffer->context != context->native) {
    status = CL_INVALID_CONTEXT;
  }
  const std::uint64_t size = wire::opencl::OwnBytes(message);
  if (status == CL_SUCCESS &&
      (!table_.IsFree(message.image.handle) || (!command.memory.empty() && command.memory.size() < size))) {
    status = CL_INVALID_VALUE;
  }
  if (status != CL_SUCCESS) return Report(command, status);

  auto image = std::make_unique<Buffer>();
  image->context = context->native;
  image->image = shape;
  const NativeImage native(message, buffer == nullptr ? nullptr : buffer->native.get());
  if (buffer != nullptr) {
    clRetainMemObject(buffer->native.get());
    image->parent.reset(buffer->native.get());
    image->native.reset(
        native.Create(context->native->context.get(), message.flags.bits & kDeviceAccess, nullptr, &status));
  } else {
    // Where kernels run in this process, the driver takes an image's pixels as they lie in the memory that is
    // lent. Elsewhere it places them as its hardware likes, and what it needs for that beyond the packed
    // pixels nobody is charged for.
    status = CreateNative(
        command, size, message.flags.bits, *image,
        [&](cl_mem_flags flags, void* bytes, cl_int* error) {
          return native.Create(context->native->context.get(), flags, bytes, error);
        },
        [&](cl_command_queue queue, cl_mem memory, cl_event* event) {
          constexpr cl_uint4 kZero = {};
          constexpr wire::Vec3 kOrigin = {};
          return clEnqueueFillImage(queue, memory, &kZero, kOrigin.data(), message.extents.data(), 0, nullptr,
                                    event);
        });
  }
  if (status == CL_SUCCESS) table_.Insert(message.image.handle, image);
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::InitImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  std::int32_t status = CheckInitImage(ShapeOf(image), message);
  if (status != CL_SUCCESS) return Report(command, status);
  if (image->bytes.empty()) {
    status = EnqueueService(*image->context, &command, [&](cl_command_queue queue, cl_event* event) {
      return clEnqueueWriteImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                 message.region.data(), 0, 0, command.payload.data(), 0, nullptr, event);
    });
  } else {
    const wire::Vec3 box = image->image->BytesOf(message.region);
    const wire::opencl::Rect rect = image->image->RectAt(message.origin);
    const std::byte* packed = command.payload.data();
    for (std::uint64_t slice = 0; slice < box[2]; ++slice) {
      for (std::uint64_t row = 0; row < box[1]; ++row, packed += box[0]) {
        std::memcpy(image->bytes.data() + rect.offset_bytes + slice * rect.slice_pitch_bytes +
                        row * rect.row_pitch_bytes,
                    packed, box[0]);
      }
    }
    completions_.PayloadDone(command.sequence);
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::CreateSampler& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  std::int32_t status = CheckSampler(message);
  if (status != CL_SUCCESS) return Report(command, status);
  auto sampler = std::make_unique<Sampler>();
  sampler->context = context->native;
  const std::array<std::uint32_t, 3> properties = {
      message.normalized,
      wire::opencl::kAddressingBase + static_cast<cl_addressing_mode>(message.addressing.value),
      wire::opencl::kFilterBase + static_cast<cl_filter_mode>(message.filter.value)};
  OwnedSampler& native = context->native->samplers[properties];
  if (!native) {
    native.reset(clCreateSampler(context->native->context.get(), properties[0], properties[1], properties[2],
                                 &status));
  }
  sampler->native = native.get();
  if (status == CL_SUCCESS && !table_.Insert(message.sampler.handle, sampler)) status = CL_INVALID_VALUE;
  Report(command, status);
}

void OpenClBackend::Run(const wire::exec::LoadProgram& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  auto program = std::make_unique<Program>();
  program->context = context->native;
  program->loaded = LoadBinary(context->native->context.get(), device_.device, command.payload);
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

void OpenClBackend::Run(const wire::opencl::CreateQueue& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  auto queue = std::make_unique<Queue>();
  queue->context = context->native;
  queue->in_order = !message.flags.has(wire::opencl::QueueFlag::kOutOfOrder);
  queue->profiles = message.flags.has(wire::opencl::QueueFlag::kProfiling);
  const cl_command_queue_properties properties =
      (queue->in_order ? 0 : CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) |
      (queue->profiles ? CL_QUEUE_PROFILING_ENABLE : 0);
  cl_int status = CL_SUCCESS;
  queue->native.reset(
      clCreateCommandQueue(context->native->context.get(), device_.device, properties, &status));
  if (status == CL_SUCCESS && !table_.Insert(message.queue.handle, queue)) status = CL_INVALID_VALUE;
  Report(command, status);
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

void OpenClBackend::Run(const wire::opencl::EnqueueRead& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  const std::uint64_t size = message.data.size_bytes;
  Enqueue(
      message, command, Duty::kReadReply, [&] { return CheckRead(buffer, message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueReadBuffer(queue, buffer->native.get(), CL_FALSE, message.offset_bytes, size,
                                   command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWrite& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWrite(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueWriteBuffer(queue, buffer->native.get(), CL_FALSE, message.offset_bytes,
                                    command.payload.size(), command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopy& message, const Command& command) {
  const Buffer* const source = FindBuffer(message.source.handle);
  const Buffer* const destination = FindBuffer(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopy(source, destination, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueCopyBuffer(queue, source->native.get(), destination->native.get(),
                                   message.source_offset_bytes, message.destination_offset_bytes,
                                   message.size_bytes, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueFill& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  const ByteView pattern = message.pattern.bytes;
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckFill(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueFillBuffer(queue, buffer->native.get(), pattern.data(), pattern.size(),
                                   message.offset_bytes, message.size_bytes, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueSync& message, const Command& command) {
  Enqueue(
      message, command, Duty::kNone, [] { return CL_SUCCESS; },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return message.kind.value == wire::opencl::SyncKind::kBarrier
                   ? clEnqueueBarrierWithWaitList(queue, wait_count, waits, event)
                   : clEnqueueMarkerWithWaitList(queue, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueReadRect& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kReadReply,
      [&] { return CheckReadRect(buffer, message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const NativeRect from(message.rect);
        const NativeRect packed(message.region);
        return clEnqueueReadBufferRect(queue, buffer->native.get(), CL_FALSE, from.origin, packed.origin,
                                       message.region.data(), from.row_pitch, from.slice_pitch,
                                       packed.row_pitch, packed.slice_pitch, command.payload.data(),
                                       wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWriteRect& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWriteRect(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const NativeRect to(message.rect);
        const NativeRect packed(message.region);
        return clEnqueueWriteBufferRect(queue, buffer->native.get(), CL_FALSE, to.origin, packed.origin,
                                        message.region.data(), to.row_pitch, to.slice_pitch, packed.row_pitch,
                                        packed.slice_pitch, command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyRect& message, const Command& command) {
  const Buffer* const source = FindBuffer(message.source.handle);
  const Buffer* const destination = FindBuffer(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyRect(source, destination, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        // In the root buffers: PoCL 3.1 dies of rectangular copies between sub-buffers.
        NativeRect from(message.from);
        NativeRect to(message.to);
        from.origin[0] += source->origin_bytes;
        to.origin[0] += destination->origin_bytes;
        return clEnqueueCopyBufferRect(queue, source->root_native(), destination->root_native(), from.origin,
                                       to.origin, message.region.data(), from.row_pitch, from.slice_pitch,
                                       to.row_pitch, to.slice_pitch, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueReadImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kReadReply,
      [&] { return CheckReadImage(ShapeOf(image), message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueReadBuffer(queue, linear, CL_FALSE, LinearOffset(*image, message.origin),
                                     message.data.size_bytes, command.payload.data(), wait_count, waits,
                                     event);
        }
        return clEnqueueReadImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                  message.region.data(), 0, 0, command.payload.data(), wait_count, waits,
                                  event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWriteImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWriteImage(ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueWriteBuffer(queue, linear, CL_FALSE, LinearOffset(*image, message.origin),
                                      message.data.size_bytes, command.payload.data(), wait_count, waits,
                                      event);
        }
        return clEnqueueWriteImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                   message.region.data(), 0, 0, command.payload.data(), wait_count, waits,
                                   event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyImage& message, const Command& command) {
  const Buffer* const source = FindImage(message.source.handle);
  const Buffer* const destination = FindImage(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone,
      [&] { return CheckCopyImage(ShapeOf(source), ShapeOf(destination), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const cl_mem from = LinearBuffer(*source);
        const cl_mem to = LinearBuffer(*destination);
        const std::uint64_t from_offset = LinearOffset(*source, message.source_origin);
        const std::uint64_t to_offset = LinearOffset(*destination, message.destination_origin);
        if (from != nullptr && to != nullptr) {
          return clEnqueueCopyBuffer(queue, from, to, from_offset, to_offset,
                                     source->image->PackedBytes(message.region), wait_count, waits, event);
        }
        if (from != nullptr) {
          return clEnqueueCopyBufferToImage(queue, from, destination->native.get(), from_offset,
                                            message.destination_origin.data(), message.region.data(),
                                            wait_count, waits, event);
        }
        if (to != nullptr) {
          return clEnqueueCopyImageToBuffer(queue, source->native.get(), to, message.source_origin.data(),
                                            message.region.data(), to_offset, wait_count, waits, event);
        }
        return clEnqueueCopyImage(queue, source->native.get(), destination->native.get(),
                                  message.source_origin.data(), message.destination_origin.data(),
                                  message.region.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueFillImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckFillImage(ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          const auto pixel = MakePixel(image->image->format, message.color.bytes);
          if (!pixel.has_value()) return cl_int{CL_IMAGE_FORMAT_NOT_SUPPORTED};
          return clEnqueueFillBuffer(queue, linear, pixel->bytes.data(), pixel->size_bytes,
                                     LinearOffset(*image, message.origin),
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueFillImage(queue, image->native.get(), message.color.bytes.data(),
                                  message.origin.data(), message.region.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyImageToBuffer& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyImageToBuffer(ShapeOf(image), buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueCopyBuffer(queue, linear, buffer->native.get(),
                                     LinearOffset(*image, message.origin), message.offset_bytes,
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueCopyImageToBuffer(queue, image->native.get(), buffer->native.get(),
                                          message.origin.data(), message.region.data(), message.offset_bytes,
                                          wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyBufferToImage& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyBufferToImage(buffer, ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueCopyBuffer(queue, buffer->native.get(), linear, message.offset_bytes,
                                     LinearOffset(*image, message.origin),
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueCopyBufferToImage(queue, buffer->native.get(), image->native.get(),
                                          message.offset_bytes, message.origin.data(), message.region.data(),
                                          wait_count, waits, event);
      });
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

}  // namespace

std::unique_ptr<Backend> MakeBackend(const NativeDevice& device, Completions* completions) {
  return std::make_unique<OpenClBackend>(device, completions);
}

}  // namespace tulle::gpu::opencl
