// The backend itself, for the files that carry its commands out: null_backend.cc objects, queues and events;
// kernel_commands.cc programs and kernels; transfer_commands.cc what moves bytes of buffers;
// image_commands.cc images and samplers; schedule.cc which command of which queue runs next.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/gpu/api/checks.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/null/driver.h"
#include "tulle/gpu/null/objects.h"

namespace tulle::gpu::null {

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
    if (command.lacks_memory) injected_ = status::kMemObjectAllocationFailure;
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

  void Run(const wire::DestroyObject& message, const Command& command);
  void Run(const wire::ShareMemory& message, const Command& command);
  void Run(const wire::opencl::DescribeDevice& message, const Command& command);
  void Run(const wire::opencl::CreateContext& message, const Command& command);
  void Run(const wire::opencl::CountSubDevices& message, const Command& command);
  void Run(const wire::opencl::CreateSubDevice& message, const Command& command);
  void Run(const wire::opencl::DescribeSubDevice& message, const Command& command);
  void Run(const wire::opencl::CreateContextOn& message, const Command& command);
  void Run(const wire::opencl::CreateBuffer& message, const Command& command);
  void Run(const wire::opencl::GetImageFormats& message, const Command& command);
  void Run(const wire::opencl::CreateImage& message, const Command& command);
  void Run(const wire::opencl::InitImage& message, const Command& command);
  void Run(const wire::opencl::CreateSampler& message, const Command& command);
  void Run(const wire::opencl::SetSamplerArg& message, const Command& command);
  void Run(const wire::opencl::CreateSvm& message, const Command& command);
  void Run(const wire::opencl::SetSvmArg& message, const Command& command);
  void Run(const wire::opencl::InitBuffer& message, const Command& command);
  void Run(const wire::opencl::ImportBuffer& message, const Command& command);
  void Run(const wire::opencl::CreateSubBuffer& message, const Command& command);
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
  // What is due when a read or write has run.
  std::function<void(std::int32_t)> ReadAnswer(const Command& command, std::uint64_t size);
  std::function<void(std::int32_t)> WriteAnswer(const Command& command);

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

  void MakeBuffer(const Command& command, Handle context, Handle handle,
                  wire::Flags<wire::opencl::MemFlag> flags, std::uint64_t size, bool is_svm);
  // Gives a buffer or image fresh memory of its own, and a name.
  std::int32_t InsertMemory(const Command& command, Handle handle, std::uint64_t size,
                            std::shared_ptr<Memory> memory);
  // The same for one that lies in its parent's memory.
  std::int32_t InsertPart(Handle handle, std::uint64_t offset_bytes, std::shared_ptr<Memory> memory);

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

  std::int32_t SetArg(const wire::opencl::SetKernelArg& message);
  std::int32_t SetArg(const wire::opencl::SetSamplerArg& message);
  std::int32_t SetArg(const wire::opencl::SetSvmArg& message);
  std::int32_t CheckKernel(const wire::opencl::EnqueueKernel& message, const Kernel* kernel) const;
  // The kernel's arguments are those of now.
  std::function<std::int32_t()> KernelBody(const wire::opencl::EnqueueKernel& message,
                                           const Kernel& kernel) const;
  // Global id (x, y) copies that pixel, where both images have it, and the same format.
  std::function<std::int32_t()> CopyImageBody(const wire::opencl::EnqueueKernel& message,
                                              const Kernel& kernel) const;

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
                                                std::int32_t* result);
  std::int32_t GatherWaits(const wire::WaitList& waits, std::vector<EventPointer>* states) const;
  void Push(Queue& queue, Waiting waiting);
  // The first command of the queue that may run; end() when none may.
  static std::deque<Waiting>::iterator FindReady(Queue& queue);
  bool StepOnce();
  bool StepQueue(Queue& queue);
  // A transfer's times run from its first piece to its last; its status is the first error.
  static void MergePiece(const EventCompletion& piece, Transfer& transfer, EventCompletion* whole);
  void SendEvents();

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
static_assert(HandlesEveryDeviceCommand<NullBackend>(wire::OpenClCapabilities()));

}  // namespace tulle::gpu::null
