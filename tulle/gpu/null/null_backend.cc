// The null device's backend and driver.
#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>

#include "tulle/base/random.h"
#include "tulle/gpu/api/checks.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/image_checks.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/api/pixel.h"
#include "tulle/gpu/null/null_device.h"
#include "tulle/gpu/null/null_image.h"
#include "tulle/gpu/null/null_program.h"

namespace tulle::gpu::null {
namespace {

using wire::Handle;
using wire::ObjectKind;
using wire::opencl::ArgKind;
using wire::opencl::EventCompletion;
namespace status = cl_status;

constexpr std::int32_t kRunning = 1;  // of an event; OpenCL's final states are 0 and below

// Outlives the handle of its buffer or image while commands use it.
struct Memory : BufferShape {
  std::optional<ImageShape> image;
  std::shared_ptr<Memory> parent;  // of a sub-buffer, or an image in a buffer
  Completions* completions = nullptr;
  std::uint64_t* used_bytes = nullptr;  // of the device
  std::unique_ptr<std::byte, decltype(&std::free)> own{nullptr, &std::free};
  std::byte* bytes = nullptr;
  std::uint64_t destroy_sequence = 0;  // the DestroyObject to answer; 0: none

  ~Memory() {
    if (parent == nullptr) *used_bytes -= size_bytes;
    if (destroy_sequence != 0)
      SendStatus(*completions, wire::kOpcodeOf<wire::DestroyObject>, destroy_sequence, 0);
  }
};

struct EventState {
  std::int32_t status = kRunning;
};
using EventPointer = std::shared_ptr<EventState>;

struct Object {
  virtual ~Object() = default;
};
struct Context final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kContext;
};
struct Buffer final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
  std::shared_ptr<Memory> memory;
};
struct Sampler final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kSampler;
};
struct Program final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProgram;
  NullProgram loaded;
};
struct Kernel final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kKernel;
  struct Arg {
    Handle memory;
    Handle sampler;
    ByteVector value;
  };
  std::shared_ptr<const NullKernel> kernel;
  std::map<std::uint32_t, Arg> args;
};
struct Event final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kEvent;
  EventPointer state = std::make_shared<EventState>();
  bool user = false;
  bool placeholder = false;  // its enqueue failed: waiting for it fails
};

// A transfer sent in pieces. Each piece waits for the one before.
struct Transfer {
  EventPointer last;           // of the newest piece
  std::int32_t failed = 0;     // a piece was refused: so is the rest
  EventCompletion completion;  // what its event will say
};

struct Waiting {
  std::vector<EventPointer> waits;
  std::function<std::int32_t()> run;
  std::function<void(std::int32_t)> answer;  // the reply or release that is due; may be empty
  EventPointer state = std::make_shared<EventState>();
  Handle event;  // null: nobody asked
  std::shared_ptr<Transfer> transfer;
  bool barrier = false;    // later commands wait for it
  bool after_all = false;  // it waits for all earlier ones
  std::uint64_t queued_ns = 0;
};

struct Queue final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
  bool in_order = true;
  bool profiles = false;
  std::deque<Waiting> waiting;
  std::map<std::uint64_t, std::shared_ptr<Transfer>> transfers;
};

using BuiltIn = std::uint32_t (*)(std::uint32_t, std::uint32_t);
BuiltIn FindBuiltIn(std::string_view name) {
  if (name == "null_add") return [](std::uint32_t a, std::uint32_t b) { return a + b; };
  if (name == "null_mul") return [](std::uint32_t a, std::uint32_t b) { return a * b; };
  return nullptr;
}

wire::opencl::Rect Packed(const wire::Vec3& region) { return {0, region[0], region[0] * region[1]}; }

void CopyBox(const std::byte* source, const wire::opencl::Rect& from, std::byte* destination,
             const wire::opencl::Rect& to, const wire::Vec3& region) {
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row) {
      // Two images in one buffer may overlap.
      std::memmove(destination + to.offset_bytes + slice * to.slice_pitch_bytes + row * to.row_pitch_bytes,
                   source + from.offset_bytes + slice * from.slice_pitch_bytes + row * from.row_pitch_bytes,
                   region[0]);
    }
  }
}

class NullBackend final : public SteppedBackend {
 public:
  NullBackend(const Options& options, Completions* completions)
      : options_(options), completions_(*completions), random_(options.seed) {}

  ~NullBackend() override {
    table_.ForEach<Event>([](Handle, Event& event) {
      if (event.user && event.state->status == kRunning) event.state->status = status::kInvalidEvent;
    });
    while (StepOnce()) {
    }
    SendEvents();
  }

  void Submit(const Command& command) override {
    if (InjectFailure()) {
      constexpr std::int32_t kFailures[] = {status::kMemObjectAllocationFailure, status::kOutOfResources,
                                            status::kOutOfHostMemory};
      injected_ = kFailures[random_.Below(std::size(kFailures))];
    }
    if (Dispatch(command, arena_, *this) != wire::WireResult::kOk) {
      ReportFailed(completions_, command, status::kInvalidValue);
    }
    injected_ = 0;
    if (!options_.stepped) {
      while (StepOnce()) {
      }
    }
    SendEvents();
  }

  void Flush() override {}

  bool Step() override {
    const bool stepped = StepOnce();
    SendEvents();
    return stepped;
  }
  std::size_t waiting() const override { return waiting_; }

  void Run(const wire::DestroyObject& message, const Command& command) {
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
      case ObjectKind::kNone: break;
    }
    ReportDone(completions_, command);
  }

  void Run(const wire::opencl::DescribeDevice&, const Command& command) {
    if (injected_ != 0) return ReportFailed(completions_, command, injected_);
    completions_.Reply(command.opcode, command.sequence, EncodeDeviceInfos(options_), 0);
  }

  void Run(const wire::opencl::CreateContext& message, const Command& command) {
    Report(command, Insert(message.context.handle, std::make_unique<Context>()));
  }

  void Run(const wire::opencl::CreateBuffer& message, const Command& command) {
    const std::uint64_t size = message.size_bytes;
    if (table_.Find<Context>(message.context.handle) == nullptr)
      return Report(command, status::kInvalidContext);
    if (size == 0 || size > options_.max_allocation_bytes) return Report(command, status::kInvalidBufferSize);
    auto memory = std::make_shared<Memory>();
    memory->flags = message.flags;
    memory->root = message.buffer.handle;
    Report(command, InsertMemory(command, message.buffer.handle, size, std::move(memory)));
  }

  void Run(const wire::opencl::GetImageFormats& message, const Command& command) {
    if (table_.Find<Context>(message.context.handle) == nullptr)
      return ReportFailed(completions_, command, status::kInvalidContext);
    if (injected_ != 0) return ReportFailed(completions_, command, injected_);
    SendReply(completions_, command.opcode, command.sequence,
              wire::opencl::GetImageFormatsReply{0, {ImageFormats()}});
  }

  void Run(const wire::opencl::CreateImage& message, const Command& command) {
    if (table_.Find<Context>(message.context.handle) == nullptr)
      return Report(command, status::kInvalidContext);
    const auto buffer = FindMemory(message.buffer.handle);
    ImageShape shape;
    if (const std::int32_t result =
            CheckCreateImage(message, buffer.get(), kImageLimits, options_.max_allocation_bytes, &shape);
        result != 0) {
      return Report(command, result);
    }
    if (std::ranges::count(ImageFormats(), message.format) == 0)
      return Report(command, status::kImageFormatNotSupported);
    auto memory = std::make_shared<Memory>();
    memory->image = shape;
    memory->parent = buffer;
    const Handle handle = message.image.handle;
    Report(command, buffer != nullptr
                        ? InsertPart(handle, 0, std::move(memory))
                        : InsertMemory(command, handle, wire::opencl::OwnBytes(message), std::move(memory)));
  }

  void Run(const wire::opencl::InitImage& message, const Command& command) {
    const auto memory = FindImage(message.image.handle);
    std::int32_t result = CheckInitImage(ShapeOf(memory), message);
    if (result == 0) result = injected_;
    if (result != 0) return ReportFailed(completions_, command, result);
    const wire::Vec3 box = memory->image->BytesOf(message.region);
    CopyBox(command.payload.data(), Packed(box), memory->bytes, memory->image->RectAt(message.origin), box);
    completions_.PayloadDone(command.sequence);
    ReportDone(completions_, command);
  }

  void Run(const wire::opencl::CreateSampler& message, const Command& command) {
    if (table_.Find<Context>(message.context.handle) == nullptr)
      return Report(command, status::kInvalidContext);
    if (const std::int32_t result = CheckSampler(message); result != 0) return Report(command, result);
    Report(command, Insert(message.sampler.handle, std::make_unique<Sampler>()));
  }

  void Run(const wire::opencl::SetSamplerArg& message, const Command& command) {
    Report(command, SetArg(message));
  }

  void Run(const wire::opencl::InitBuffer& message, const Command& command) {
    Memory* const memory = FindMemory(message.buffer.handle).get();
    std::int32_t result = CheckInit(memory, message);
    if (result == 0) result = injected_;
    if (result != 0) return ReportFailed(completions_, command, result);
    if (!command.payload.empty()) {
      std::memcpy(memory->bytes + message.offset_bytes, command.payload.data(), command.payload.size());
      completions_.PayloadDone(command.sequence);
    }
    ReportDone(completions_, command);
  }

  void Run(const wire::opencl::CreateSubBuffer& message, const Command& command) {
    const auto parent = FindMemory(message.parent.handle);
    if (const std::int32_t result = CheckSubBuffer(parent.get(), message); result != 0)
      return Report(command, result);
    if (message.offset_bytes % kBaseAddressAlignBytes != 0)
      return Report(command, status::kMisalignedSubBufferOffset);
    auto memory = std::make_shared<Memory>();
    memory->parent = parent;
    memory->size_bytes = message.size_bytes;
    memory->flags = message.flags;
    memory->root = message.parent.handle;
    memory->origin_bytes = message.offset_bytes;
    Report(command, InsertPart(message.buffer.handle, message.offset_bytes, std::move(memory)));
  }

  void Run(const wire::exec::LoadProgram& message, const Command& command) {
    if (injected_ != 0) return ReportFailed(completions_, command, injected_);
    if (table_.Find<Context>(message.context) == nullptr) {
      return ReportFailed(completions_, command, status::kInvalidContext);
    }
    auto program = std::make_unique<Program>();
    program->loaded = LoadNull(command.payload);
    const ByteVector body = EncodeReply(program->loaded);
    table_.Take<Program>(message.program);
    if (!table_.Insert(message.program, program))
      return ReportFailed(completions_, command, status::kInvalidProgram);
    if (!command.payload.empty()) completions_.PayloadDone(command.sequence);
    completions_.Reply(command.opcode, command.sequence, body, 0);
  }

  void Run(const wire::opencl::CreateKernel& message, const Command& command) {
    const Program* const program = table_.Find<Program>(message.program.handle);
    if (program == nullptr) return Report(command, status::kInvalidProgramExecutable);
    auto kernel = std::make_unique<Kernel>();
    kernel->kernel = program->loaded.Find(message.name.text);
    if (kernel->kernel == nullptr) return Report(command, status::kInvalidKernelName);
    Report(command, Insert(message.kernel.handle, std::move(kernel)));
  }

  void Run(const wire::opencl::SetKernelArg& message, const Command& command) {
    Report(command, SetArg(message));
  }

  void Run(const wire::opencl::CreateQueue& message, const Command& command) {
    if (table_.Find<Context>(message.context.handle) == nullptr)
      return Report(command, status::kInvalidContext);
    auto queue = std::make_unique<Queue>();
    queue->in_order = !message.flags.has(wire::opencl::QueueFlag::kOutOfOrder);
    queue->profiles = message.flags.has(wire::opencl::QueueFlag::kProfiling);
    Report(command, Insert(message.queue.handle, std::move(queue)));
  }

  void Run(const wire::opencl::Flush& message, const Command& command) {
    Report(command, table_.Find<Queue>(message.queue.handle) == nullptr ? status::kInvalidCommandQueue : 0);
  }

  void Run(const wire::opencl::Finish& message, const Command& command) {
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

  void Run(const wire::opencl::EnqueueKernel& message, const Command& command) {
    Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
    Enqueue(
        message, command, {}, [&] { return CheckKernel(message, kernel); },
        [&]() -> std::function<std::int32_t()> { return KernelBody(message, *kernel); });
  }

  void Run(const wire::opencl::EnqueueRead& message, const Command& command) {
    const auto memory = FindMemory(message.memory.handle);
    const std::uint64_t size = message.data.size_bytes;
    Enqueue(
        message, command, ReadAnswer(command, size),
        [&] { return CheckRead(memory.get(), message, command.payload.size()); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, out = command.payload.data(), offset = message.offset_bytes, size] {
            std::memcpy(out, memory->bytes + offset, size);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueWrite& message, const Command& command) {
    const auto memory = FindMemory(message.memory.handle);
    Enqueue(
        message, command, WriteAnswer(command), [&] { return CheckWrite(memory.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, data = ByteView(command.payload), offset = message.offset_bytes] {
            std::memcpy(memory->bytes + offset, data.data(), data.size());
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueCopy& message, const Command& command) {
    const auto source = FindMemory(message.source.handle);
    const auto destination = FindMemory(message.destination.handle);
    Enqueue(
        message, command, {}, [&] { return CheckCopy(source.get(), destination.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          return [source, destination, from = message.source_offset_bytes,
                  to = message.destination_offset_bytes, size = message.size_bytes] {
            std::memcpy(destination->bytes + to, source->bytes + from, size);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueFill& message, const Command& command) {
    const auto memory = FindMemory(message.memory.handle);
    Enqueue(
        message, command, {}, [&] { return CheckFill(memory.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          const ByteView bytes = message.pattern.bytes;
          return [memory, pattern = ByteVector(bytes.begin(), bytes.end()), offset = message.offset_bytes,
                  size = message.size_bytes] {
            for (std::uint64_t i = 0; i < size; i += pattern.size()) {
              std::memcpy(memory->bytes + offset + i, pattern.data(), pattern.size());
            }
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueSync& message, const Command& command) {
    Enqueue(
        message, command, {}, [] { return 0; },
        []() -> std::function<std::int32_t()> { return [] { return 0; }; });
  }

  void Run(const wire::opencl::EnqueueReadRect& message, const Command& command) {
    const auto memory = FindMemory(message.memory.handle);
    Enqueue(
        message, command, ReadAnswer(command, message.data.size_bytes),
        [&] { return CheckReadRect(memory.get(), message, command.payload.size()); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, out = command.payload.data(), rect = message.rect, region = message.region] {
            CopyBox(memory->bytes, rect, out, Packed(region), region);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueWriteRect& message, const Command& command) {
    const auto memory = FindMemory(message.memory.handle);
    Enqueue(
        message, command, WriteAnswer(command), [&] { return CheckWriteRect(memory.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, in = command.payload.data(), rect = message.rect, region = message.region] {
            CopyBox(in, Packed(region), memory->bytes, rect, region);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueCopyRect& message, const Command& command) {
    const auto source = FindMemory(message.source.handle);
    const auto destination = FindMemory(message.destination.handle);
    Enqueue(
        message, command, {}, [&] { return CheckCopyRect(source.get(), destination.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          return [source, destination, from = message.from, to = message.to, region = message.region] {
            CopyBox(source->bytes, from, destination->bytes, to, region);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueReadImage& message, const Command& command) {
    const auto memory = FindImage(message.image.handle);
    Enqueue(
        message, command, ReadAnswer(command, message.data.size_bytes),
        [&] { return CheckReadImage(ShapeOf(memory), message, command.payload.size()); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, out = command.payload.data(), rect = memory->image->RectAt(message.origin),
                  box = memory->image->BytesOf(message.region)] {
            CopyBox(memory->bytes, rect, out, Packed(box), box);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueWriteImage& message, const Command& command) {
    const auto memory = FindImage(message.image.handle);
    Enqueue(
        message, command, WriteAnswer(command), [&] { return CheckWriteImage(ShapeOf(memory), message); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, in = command.payload.data(), rect = memory->image->RectAt(message.origin),
                  box = memory->image->BytesOf(message.region)] {
            CopyBox(in, Packed(box), memory->bytes, rect, box);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueCopyImage& message, const Command& command) {
    const auto source = FindImage(message.source.handle);
    const auto destination = FindImage(message.destination.handle);
    Enqueue(
        message, command, {}, [&] { return CheckCopyImage(ShapeOf(source), ShapeOf(destination), message); },
        [&]() -> std::function<std::int32_t()> {
          return [source, destination, from = source->image->RectAt(message.source_origin),
                  to = destination->image->RectAt(message.destination_origin),
                  box = source->image->BytesOf(message.region)] {
            CopyBox(source->bytes, from, destination->bytes, to, box);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueFillImage& message, const Command& command) {
    const auto memory = FindImage(message.image.handle);
    Enqueue(
        message, command, {}, [&] { return CheckFillImage(ShapeOf(memory), message); },
        [&]() -> std::function<std::int32_t()> {
          return [memory, pixel = MakePixel(memory->image->format, message.color.bytes).value_or(Pixel{}),
                  rect = memory->image->RectAt(message.origin), region = message.region] {
            const std::size_t pixel_bytes = memory->image->pixel_bytes;
            for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
              for (std::uint64_t row = 0; row < region[1]; ++row) {
                std::byte* out = memory->bytes + rect.offset_bytes + slice * rect.slice_pitch_bytes +
                                 row * rect.row_pitch_bytes;
                for (std::uint64_t i = 0; i < region[0]; ++i, out += pixel_bytes)
                  std::memcpy(out, pixel.bytes.data(), pixel_bytes);
              }
            }
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueCopyImageToBuffer& message, const Command& command) {
    const auto image = FindImage(message.image.handle);
    const auto buffer = FindMemory(message.buffer.handle);
    Enqueue(
        message, command, {}, [&] { return CheckCopyImageToBuffer(ShapeOf(image), buffer.get(), message); },
        [&]() -> std::function<std::int32_t()> {
          return [image, buffer, rect = image->image->RectAt(message.origin),
                  box = image->image->BytesOf(message.region), offset = message.offset_bytes] {
            CopyBox(image->bytes, rect, buffer->bytes + offset, Packed(box), box);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::EnqueueCopyBufferToImage& message, const Command& command) {
    const auto buffer = FindMemory(message.buffer.handle);
    const auto image = FindImage(message.image.handle);
    Enqueue(
        message, command, {}, [&] { return CheckCopyBufferToImage(buffer.get(), ShapeOf(image), message); },
        [&]() -> std::function<std::int32_t()> {
          return [image, buffer, rect = image->image->RectAt(message.origin),
                  box = image->image->BytesOf(message.region), offset = message.offset_bytes] {
            CopyBox(buffer->bytes + offset, Packed(box), image->bytes, rect, box);
            return 0;
          };
        });
  }

  void Run(const wire::opencl::CreateUserEvent& message, const Command& command) {
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

  void Run(const wire::opencl::SetUserEventStatus& message, const Command& command) {
    Event* const event = table_.Find<Event>(message.event.handle);
    if (event == nullptr) return Report(command, status::kInvalidEvent);
    if (message.status > 0) return Report(command, status::kInvalidValue);
    if (!event->user || event->state->status != kRunning) return Report(command, status::kInvalidOperation);
    event->state->status = message.status;
    ReportDone(completions_, command);
  }

 private:
  std::function<void(std::int32_t)> ReadAnswer(const Command& command, std::uint64_t size) {
    return [this, opcode = command.opcode, sequence = command.sequence, size](std::int32_t result) {
      const std::uint64_t bytes = result == 0 ? size : 0;
      SendReply(completions_, opcode, sequence, wire::opencl::EnqueueReadReply{result, {bytes}}, bytes);
    };
  }
  std::function<void(std::int32_t)> WriteAnswer(const Command& command) {
    return [this, sequence = command.sequence](std::int32_t) { completions_.PayloadDone(sequence); };
  }

  bool InjectFailure() {
    return options_.failures_per_million != 0 && random_.Below(2'000'000) < options_.failures_per_million;
  }

  // For commands that are not enqueued.
  void Report(const Command& command, std::int32_t result) {
    if (result == 0) return ReportDone(completions_, command);
    ReportFailed(completions_, command, result);
  }

  template <typename T>
  std::int32_t Insert(Handle handle, std::unique_ptr<T> object) {
    if (injected_ != 0) return injected_;
    return table_.Insert(handle, object) ? 0 : status::kInvalidValue;
  }

  // Gives a buffer or image fresh memory of its own, and a name.
  std::int32_t InsertMemory(const Command& command, Handle handle, std::uint64_t size,
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
  // The same for one that lies in its parent's memory.
  std::int32_t InsertPart(Handle handle, std::uint64_t offset_bytes, std::shared_ptr<Memory> memory) {
    memory->completions = &completions_;
    memory->used_bytes = &used_bytes_;
    memory->bytes = memory->parent->bytes + offset_bytes;
    auto buffer = std::make_unique<Buffer>();
    buffer->memory = std::move(memory);
    return Insert(handle, std::move(buffer));
  }

  std::shared_ptr<Memory> FindAny(Handle handle) const {
    const Buffer* const buffer = table_.Find<Buffer>(handle);
    return buffer == nullptr ? nullptr : buffer->memory;
  }
  // Null also for an image.
  std::shared_ptr<Memory> FindMemory(Handle handle) const {
    auto memory = FindAny(handle);
    return memory != nullptr && memory->image.has_value() ? nullptr : memory;
  }
  // Null also for a buffer.
  std::shared_ptr<Memory> FindImage(Handle handle) const {
    auto memory = FindAny(handle);
    return memory != nullptr && memory->image.has_value() ? memory : nullptr;
  }
  static const ImageShape* ShapeOf(const std::shared_ptr<Memory>& memory) {
    return memory == nullptr ? nullptr : &*memory->image;
  }

  std::int32_t SetArg(const wire::opencl::SetKernelArg& message) {
    Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
    if (kernel == nullptr) return status::kInvalidKernel;
    const NullKernel& known = *kernel->kernel;
    if (message.index >= (known.takes_anything ? wire::kMaxKernelArgs : known.args.size()))
      return status::kInvalidArgIndex;
    if (!known.takes_anything &&
        (known.args[message.index].is_sampler || known.args[message.index].kind != message.kind.value)) {
      return status::kInvalidArgValue;
    }
    Kernel::Arg arg;
    switch (message.kind.value) {
      case ArgKind::kMemory: {
        const auto memory = FindAny(message.memory.handle);
        if (!message.memory.handle.null() && memory == nullptr) return status::kInvalidMemObject;
        if (!known.takes_anything) {
          std::optional<wire::opencl::ImageType> given;
          if (memory != nullptr && memory->image.has_value()) given = memory->image->type;
          if (given != known.args[message.index].image) return status::kInvalidArgValue;
        }
        arg.memory = message.memory.handle;
        break;
      }
      case ArgKind::kLocal:
        if (message.local_bytes == 0 || message.local_bytes > kLocalMemoryBytes)
          return status::kInvalidArgSize;
        break;
      case ArgKind::kValue: {
        const ByteView value = message.value.bytes;
        if (value.empty()) return status::kInvalidArgSize;
        if (!known.takes_anything && known.args[message.index].type_name == "uint" &&
            value.size() != sizeof(std::uint32_t)) {
          return status::kInvalidArgSize;
        }
        arg.value.assign(value.begin(), value.end());
        break;
      }
    }
    if (injected_ != 0) return injected_;
    kernel->args[message.index] = std::move(arg);
    return 0;
  }

  std::int32_t SetArg(const wire::opencl::SetSamplerArg& message) {
    Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
    if (kernel == nullptr) return status::kInvalidKernel;
    const NullKernel& known = *kernel->kernel;
    if (message.index >= (known.takes_anything ? wire::kMaxKernelArgs : known.args.size()))
      return status::kInvalidArgIndex;
    if (!known.takes_anything && !known.args[message.index].is_sampler) return status::kInvalidArgValue;
    if (table_.Find<Sampler>(message.sampler.handle) == nullptr) return status::kInvalidSampler;
    if (injected_ != 0) return injected_;
    kernel->args[message.index] = {.sampler = message.sampler.handle};
    return 0;
  }

  std::int32_t CheckKernel(const wire::opencl::EnqueueKernel& message, const Kernel* kernel) const {
    if (kernel == nullptr) return status::kInvalidKernel;
    if (const std::int32_t result = CheckRange(message); result != 0) return result;
    std::uint64_t group = 1;
    for (std::uint32_t i = 0; i < message.work_dim; ++i) {
      if (message.local_size[i] == 0) continue;
      if (message.local_size[i] > kMaxWorkGroupSize || message.global_size[i] % message.local_size[i] != 0) {
        return status::kInvalidWorkGroupSize;
      }
      group *= message.local_size[i];
      if (group > kMaxWorkGroupSize) return status::kInvalidWorkGroupSize;
    }
    if (kernel->args.size() < kernel->kernel->args.size()) return status::kInvalidKernelArgs;
    for (const auto& [index, arg] : kernel->args) {
      if (!arg.memory.null() && FindAny(arg.memory) == nullptr) return status::kInvalidKernelArgs;
      if (!arg.sampler.null() && table_.Find<Sampler>(arg.sampler) == nullptr)
        return status::kInvalidKernelArgs;
    }
    return 0;
  }

  // The kernel's arguments are those of now.
  std::function<std::int32_t()> KernelBody(const wire::opencl::EnqueueKernel& message,
                                           const Kernel& kernel) const {
    std::vector<std::shared_ptr<Memory>> used;  // as a driver would: they live until the command has run
    for (const auto& [index, arg] : kernel.args) {
      if (!arg.memory.null()) used.push_back(FindAny(arg.memory));
    }
    if (kernel.kernel->name == "null_copy_image") return CopyImageBody(message, kernel);
    const BuiltIn op = FindBuiltIn(kernel.kernel->name);
    const auto data = kernel.args.find(0);
    const auto value = kernel.args.find(1);
    if (op == nullptr || used.empty() || data == kernel.args.end() || data->second.memory.null() ||
        value == kernel.args.end() || value->second.value.size() != sizeof(std::uint32_t)) {
      return [used] { return 0; };
    }
    std::uint32_t operand = 0;
    std::memcpy(&operand, value->second.value.data(), sizeof operand);
    return [used, op, operand, memory = used.front(), begin = message.global_offset[0],
            count = message.global_size[0]] {
      const std::uint64_t elements = memory->size_bytes / sizeof operand;
      for (std::uint64_t i = begin; i < elements && i - begin < count; ++i) {
        std::uint32_t element = 0;
        std::memcpy(&element, memory->bytes + i * sizeof element, sizeof element);
        element = op(element, operand);
        std::memcpy(memory->bytes + i * sizeof element, &element, sizeof element);
      }
      return 0;
    };
  }

  // Global id (x, y) copies that pixel, where both images have it, and the same format.
  std::function<std::int32_t()> CopyImageBody(const wire::opencl::EnqueueKernel& message,
                                              const Kernel& kernel) const {
    const auto image = [&](std::uint32_t index) {
      const auto arg = kernel.args.find(index);
      return arg == kernel.args.end() ? nullptr : FindImage(arg->second.memory);
    };
    return [source = image(0), destination = image(1), origin = message.global_offset,
            size = message.global_size] {
      if (source == nullptr || destination == nullptr || source->image->format != destination->image->format)
        return 0;
      wire::Vec3 region = {1, 1, 1};
      for (std::size_t i = 0; i < 2; ++i) {
        const std::uint64_t most = std::min(source->image->extents[i], destination->image->extents[i]);
        if (origin[i] >= most || size[i] == 0) return 0;
        region[i] = std::min(size[i], most - origin[i]);
      }
      const wire::Vec3 at = {origin[0], origin[1], 0};
      CopyBox(source->bytes, source->image->RectAt(at), destination->bytes, destination->image->RectAt(at),
              source->image->BytesOf(region));
      return 0;
    };
  }

  // `check()` says what is wrong with the message beyond its queue, waits and event; `body()` is what to run.
  template <typename M, typename Check, typename Body>
  void Enqueue(const M& message, const Command& command, std::function<void(std::int32_t)> answer,
               const Check& check, const Body& body) {
    Queue* const queue = table_.Find<Queue>(message.queue.handle);
    const Handle event = message.event.handle;
    std::shared_ptr<Transfer> transfer;
    bool last_piece = true;
    std::int32_t result = queue == nullptr ? status::kInvalidCommandQueue : 0;
    if constexpr (requires { message.transfer; }) {
      last_piece = message.more == 0;
      if (result == 0) result = CheckPiece(message);
      if (result == 0 && message.transfer != 0)
        transfer = FindTransfer(*queue, message.transfer, !last_piece, &result);
    }
    if (result == 0) result = check();
    Waiting waiting;
    if (result == 0) result = GatherWaits(message.waits, &waiting.waits);
    if (result == 0 && waiting_ >= kMaxWaiting) result = status::kOutOfResources;
    if (result == 0 && !event.null() && !table_.IsFree(event)) result = status::kInvalidEvent;
    if (result == 0) result = injected_;
    if (transfer != nullptr && last_piece)
      std::erase_if(queue->transfers, [&](const auto& t) { return t.second == transfer; });

    if (result != 0) {
      if (transfer != nullptr) transfer->failed = result;
      ReportFailed(completions_, command, result);
      if (event.null() || !table_.IsFree(event)) return;
      auto object = std::make_unique<Event>();
      object->placeholder = true;
      object->state->status = result;
      table_.Insert(event, object);
      if (transfer == nullptr || transfer->last == nullptr || transfer->last->status != kRunning) {
        completed_.push_back({event, result});
        return;
      }
      // Its earlier pieces are still under way: the event completes behind them.
      waiting.waits = {transfer->last};
      waiting.run = [result] { return result; };
      waiting.event = event;
      Push(*queue, std::move(waiting));
      return;
    }

    waiting.run = body();
    if (InjectFailure()) waiting.run = [] { return status::kOutOfResources; };
    waiting.answer = std::move(answer);
    waiting.event = event;
    if constexpr (std::same_as<M, wire::opencl::EnqueueSync>) {
      waiting.after_all = message.waits.items.empty();
      waiting.barrier = message.kind.value == wire::opencl::SyncKind::kBarrier;
    }
    if (transfer != nullptr) {
      if (transfer->last != nullptr) waiting.waits.push_back(transfer->last);
      transfer->last = waiting.state;
      waiting.transfer = std::move(transfer);
    }
    if (!event.null()) {
      auto object = std::make_unique<Event>();
      object->state = waiting.state;
      table_.Insert(event, object);
    }
    Push(*queue, std::move(waiting));
    ReportDone(completions_, command);
  }

  static std::shared_ptr<Transfer> FindTransfer(Queue& queue, std::uint64_t number, bool more,
                                                std::int32_t* result) {
    const auto found = queue.transfers.find(number);
    if (found != queue.transfers.end()) {
      *result = found->second->failed;
      return found->second;
    }
    if (!more) return nullptr;
    if (queue.transfers.size() == kMaxOpenTransfers) {
      *result = status::kOutOfResources;
      return nullptr;
    }
    return queue.transfers.emplace(number, std::make_shared<Transfer>()).first->second;
  }

  std::int32_t GatherWaits(const wire::WaitList& waits, std::vector<EventPointer>* states) const {
    for (const auto& wait : waits.items) {
      const Event* const event = table_.Find<Event>(wait.handle);
      if (event == nullptr) return status::kInvalidEventWaitList;
      if (event->placeholder || (event->user && event->state->status < 0)) {
        return status::kExecStatusErrorForEventsInWaitList;
      }
      states->push_back(event->state);
    }
    return 0;
  }

  void Push(Queue& queue, Waiting waiting) {
    waiting.queued_ns = ++now_ns_;
    if (queue.waiting.empty()) active_.push_back(&queue);
    queue.waiting.push_back(std::move(waiting));
    ++waiting_;
  }

  // The first command of the queue that may run; end() when none may.
  static std::deque<Waiting>::iterator FindReady(Queue& queue) {
    for (auto it = queue.waiting.begin(); it != queue.waiting.end(); ++it) {
      const bool first = it == queue.waiting.begin();
      const bool waited = std::all_of(it->waits.begin(), it->waits.end(),
                                      [](const EventPointer& event) { return event->status != kRunning; });
      if (waited && (first || !it->after_all)) return it;
      if (queue.in_order || it->barrier) break;
    }
    return queue.waiting.end();
  }

  bool StepOnce() {
    for (Queue* const queue : active_) {
      if (!StepQueue(*queue)) continue;
      if (queue->waiting.empty()) {
        std::erase(active_, queue);
        std::erase_if(retired_, [queue](const auto& retired) { return retired.get() == queue; });
      }
      return true;
    }
    return false;
  }

  bool StepQueue(Queue& queue) {
    const auto ready = FindReady(queue);
    if (ready == queue.waiting.end()) return false;
    const Waiting command = std::move(*ready);
    queue.waiting.erase(ready);
    --waiting_;
    const bool failed = std::any_of(command.waits.begin(), command.waits.end(),
                                    [](const EventPointer& event) { return event->status < 0; });
    EventCompletion completion{command.event};
    if (queue.profiles) {
      completion.queued_ns = command.queued_ns;
      completion.submitted_ns = ++now_ns_;
      completion.started_ns = ++now_ns_;
    }
    completion.status = failed ? status::kExecStatusErrorForEventsInWaitList : command.run();
    if (queue.profiles) completion.ended_ns = ++now_ns_;
    if (command.answer) command.answer(completion.status);
    command.state->status = completion.status;
    if (command.transfer != nullptr) MergePiece(completion, *command.transfer, &completion);
    if (!command.event.null()) completed_.push_back(completion);
    return true;
  }

  // A transfer's times run from its first piece to its last; its status is the first error.
  static void MergePiece(const EventCompletion& piece, Transfer& transfer, EventCompletion* whole) {
    EventCompletion& sum = transfer.completion;
    if (sum.queued_ns == 0) {
      const std::int32_t before = sum.status;
      sum = piece;
      if (before != 0) sum.status = before;
    }
    if (sum.status == 0) sum.status = piece.status;
    sum.ended_ns = piece.ended_ns;
    sum.event = piece.event;
    *whole = sum;
  }

  void SendEvents() {
    for (std::size_t begin = 0; begin < completed_.size(); begin += wire::kMaxEventsPerNotice) {
      const std::size_t count = std::min<std::size_t>(wire::kMaxEventsPerNotice, completed_.size() - begin);
      SendNotice(completions_, wire::opencl::EventsCompleted{{std::span(completed_).subspan(begin, count)}});
    }
    completed_.clear();
  }

  const Options options_;
  Completions& completions_;
  SeededRandom random_;
  wire::Arena arena_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t now_ns_ = 0;
  std::int32_t injected_ = 0;  // what the command at hand is to fail with
  std::size_t waiting_ = 0;
  std::vector<EventCompletion> completed_;  // not reported yet
  ObjectTable<Object> table_;
  std::vector<std::unique_ptr<Queue>> retired_;  // destroyed with commands in them
  std::vector<Queue*> active_;                   // those with commands in them
};
static_assert(HandlesEveryDeviceCommand<NullBackend>());

class NullCompiler final : public Compiler {
 public:
  CompileOutput Compile(wire::opencl::ProgramKind kind, ByteView text, const std::string&) override {
    return CompileNull(kind, text);
  }
};

class NullDriver final : public Driver {
 public:
  explicit NullDriver(const Options& options) : options_(options) {}

  Result<std::vector<DeviceInfo>> Probe(bool) override {
    DeviceInfo info;
    info.api = "OPENCL";
    info.name = kDeviceName;
    info.vendor = kVendor;
    info.platform = "null";
    info.driver_version = kDriverVersion;
    info.type = "GPU";
    info.memory_bytes = options_.memory_bytes;
    info.max_allocation_bytes = options_.max_allocation_bytes;
    info.compute_units = kComputeUnits;
    info.clock_mhz = 1000;
    info.protects_memory = true;
    return std::vector{info};
  }
  Result<std::unique_ptr<Backend>> OpenDevice(std::uint32_t index, Completions* completions) override {
    if (index != 0) return NoDevice(index);
    return std::unique_ptr<Backend>(MakeBackend(options_, completions));
  }
  Result<std::unique_ptr<Compiler>> OpenCompiler(std::uint32_t index) override {
    if (index != 0) return NoDevice(index);
    return std::unique_ptr<Compiler>(std::make_unique<NullCompiler>());
  }

 private:
  static Error NoDevice(std::uint32_t index) {
    return Error{Code::kNotFound, "there is no null device " + std::to_string(index) + ": the only one is 0",
                 Scope::kDevice};
  }

  const Options options_;
};

}  // namespace

std::unique_ptr<SteppedBackend> MakeBackend(const Options& options, Completions* completions) {
  return std::make_unique<NullBackend>(options, completions);
}

std::unique_ptr<Driver> OpenDriver(const Options& options) { return std::make_unique<NullDriver>(options); }

}  // namespace tulle::gpu::null
