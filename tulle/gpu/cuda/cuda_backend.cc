#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "tulle/cuda/device.h"
#include "tulle/gpu/api/dispatch.h"
#include "tulle/gpu/api/object_table.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/cuda_image/variables.h"

namespace tulle::gpu::cuda {
namespace {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's
using wire::Handle;
using wire::ObjectKind;

// A module's image: programs bring some MiB.
constexpr std::size_t kMaxImageBytes = wire::kMaxProgramBytes;
constexpr std::size_t kMaxLogBytes = wire::kMaxReasonBytes;

std::uint64_t NowNs() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

struct Object {
  virtual ~Object() = default;
};
struct ContextObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kContext;
  CUcontext context = nullptr;
  CUevent blocking_copy = nullptr;  // behind the last one of its streams (see CudaBackend::blocking_copies_)
};
struct StreamObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
  Handle context;
  CUstream stream = nullptr;          // null: the context's legacy stream
  bool waits_for_legacy = true;       // and it for this one
  bool stands_aside = false;          // it waits for no blocking copies
  std::uint64_t blocking_copies = 0;  // that it waits for
  // Its continuations (see Then): how many it has, how many have begun, how many have told what they have to
  // tell, and whether there is work behind the last one.
  struct Told {
    std::atomic<std::uint64_t> begun{0}, ended{0};
  };
  std::uint64_t continuations = 0;
  std::shared_ptr<Told> told = std::make_shared<Told>();
  bool has_more_work = false;
  // Whether its work is done but for the last continuation's return; what that tells has then been told.
  bool HasToldAll() const {
    if (has_more_work || told->begun != continuations) return false;
    for (std::uint64_t ended = told->ended; ended != continuations; ended = told->ended)
      told->ended.wait(ended);
    return true;
  }
};
struct MemoryObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
};
struct ModuleObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProgram;
  Handle context;
  ByteVector image;
  bool too_large = false;
  std::string unmeasured;  // why it could not be
  CUmodule module = nullptr;
};
struct FunctionObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kKernel;
  Handle context;
  CUfunction function = nullptr;
  std::uint32_t parameter_bytes = 0;
};
// Where a stream waits for the program.
struct Gate {
  std::mutex mutex;
  std::condition_variable opened;
  bool open = false;
  // Whether it was closed.
  bool Open() {
    const std::lock_guard lock(mutex);
    opened.notify_all();
    return !std::exchange(open, true);
  }
  void Wait() {
    std::unique_lock lock(mutex);
    opened.wait(lock, [this] { return open; });
  }
};
struct EventObject final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kEvent;
  Handle context;
  CUevent event = nullptr;     // of RecordEvent
  std::shared_ptr<Gate> gate;  // of CallHost's `returned`
};

class CudaBackend final : public Backend {
 public:
  // Tells that an event is complete.
  struct Completed {
    Handle event;
    void operator()(CudaBackend& self, CUresult result) const {
      const std::uint64_t now = NowNs();
      const wire::opencl::EventCompletion completion{event, -static_cast<std::int32_t>(result), now, now, now,
                                                     now};
      SendNotice(self.completions_, wire::opencl::EventsCompleted{{std::span(&completion, 1)}});
    }
  };

  // `context`: the first that the program will ask for.
  CudaBackend(const Library& library, CUdevice device, CUcontext context, Completions* completions)
      : cu_(library), completions_(*completions), device_(device), prepared_(context) {}

  ~CudaBackend() override {
    table_.ForEach<EventObject>([](Handle, EventObject& event) {
      if (event.gate != nullptr) event.gate->Open();
    });
    if (prepared_ != nullptr) (void)cu_.cuCtxDestroy_v2(prepared_);
    // Waits for what they do.
    table_.ForEach<ContextObject>([this](Handle, ContextObject& context) {
      if (context.context != nullptr) (void)cu_.cuCtxDestroy_v2(context.context);
    });
    for (const Leaving& module : leaving_) ReportLeft(module);
    table_.ForEach<MemoryObject>(
        [this](Handle, MemoryObject& memory) { (void)cu_.cuMemUnmap(memory.address, memory.bytes); });
    if (range_bytes_ != 0) (void)cu_.cuMemAddressFree(range_address_, range_bytes_);
    if (pinned_.empty()) return;
    CUcontext context = nullptr;  // that freeing asks for
    if (cu_.cuCtxCreate_v2(&context, 0, device_) != CUDA_SUCCESS) return;
    for (const Pinned& pinned : pinned_) (void)cu_.cuMemFreeHost(pinned.memory);
    (void)cu_.cuCtxDestroy_v2(context);
  }

  void UsePayloadMemory(MutableByteView memory) override { payload_memory_ = memory; }

  void Submit(const Command& command) override {
    if (Dispatch(command, arena_, *this) != wire::WireResult::kOk)
      ReportFailed(completions_, command, CUDA_ERROR_INVALID_VALUE);
  }
  void Flush() override {}

  // --- any API's; what waits for the device has been waited for by its client, or else holds up that one
  // alone
  void Run(const wire::DestroyObject& message, const Command& command) {
    const Handle handle = message.object.handle;
    CUresult result = CUDA_SUCCESS;
    switch (message.object.kind) {
      case ObjectKind::kContext:
        if (const auto context = table_.Take<ContextObject>(handle); context != nullptr) {
          if (last_blocking_copy_ == context->blocking_copy) last_blocking_copy_ = nullptr;
          result = cu_.cuCtxDestroy_v2(context->context);
          std::erase_if(leaving_, [&](const Leaving& module) {
            if (module.context == handle) ReportLeft(module);
            return module.context == handle;
          });
        }
        break;
      case ObjectKind::kQueue:
        if (const auto stream = table_.Take<StreamObject>(handle);
            stream != nullptr && stream->stream != nullptr) {
          if (Enter(stream->context) == nullptr) break;  // it is gone with its context
          result = cu_.cuStreamDestroy_v2(stream->stream);
        }
        break;
      case ObjectKind::kMemory:
        if (const auto memory = table_.Take<MemoryObject>(handle); memory != nullptr)
          result = cu_.cuMemUnmap(memory->address, memory->bytes);
        break;
      case ObjectKind::kProgram:
        if (const auto module = table_.Take<ModuleObject>(handle);
            module != nullptr && module->module != nullptr) {
          leaving_.push_back({module->context, module->module, command.wants_status, command.sequence});
          return UnloadLeaving();
        }
        break;
      case ObjectKind::kKernel: table_.Take<FunctionObject>(handle); break;
      case ObjectKind::kEvent:
        if (const auto event = table_.Take<EventObject>(handle); event != nullptr) {
          if (event->gate != nullptr) OpenGate(*event->gate);
          if (event->event != nullptr && Enter(event->context) != nullptr)
            (void)cu_.cuEventDestroy_v2(event->event);
        }
        break;
      case ObjectKind::kSampler:
      case ObjectKind::kDevice:
      case ObjectKind::kNone: break;
    }
    (void)result;  // an error of the context's, which its own calls tell
    ReportDone(completions_, command);
  }

  // --- device, contexts, memory
  void Run(const wire::cuda::DescribeDevice& message, const Command& command) {
    if (range_bytes_ == 0) {
      if (const CUresult result = Open(message.arena_address, message.arena_bytes); result != CUDA_SUCCESS)
        return ReportFailed(completions_, command, result);
    }
    wire::cuda::DescribeDeviceReply reply;
    char name[256] = "";
    CUuuid uuid{};
    std::array<wire::U32, CU_DEVICE_ATTRIBUTE_MAX> attributes{};
    if (const CUresult result = cu_.cuDeviceGetName(name, sizeof name, device_); result != CUDA_SUCCESS)
      return ReportFailed(completions_, command, result);
    (void)cu_.cuDeviceGetUuid_v2(&uuid, device_);
    for (int i = 1; i < CU_DEVICE_ATTRIBUTE_MAX; ++i) {
      int value = 0;
      if (cu_.cuDeviceGetAttribute(&value, static_cast<CUdevice_attribute>(i), device_) == CUDA_SUCCESS)
        attributes[static_cast<std::size_t>(i)] = static_cast<wire::U32>(value);
    }
    reply.name = {name};
    reply.uuid = {AsBytes(std::string_view(uuid.bytes, sizeof uuid.bytes))};
    reply.attributes = {attributes};
    reply.granule_bytes = granule_bytes_;
    SendReply(completions_, command.opcode, command.sequence, reply);
  }

  void Run(const wire::cuda::CreateContext& message, const Command& command) {
    auto context = std::make_unique<ContextObject>();
    CUresult result = CUDA_SUCCESS;
    if (range_bytes_ == 0) {
      result = CUDA_ERROR_NOT_INITIALIZED;
    } else if (prepared_ != nullptr) {
      context->context = std::exchange(prepared_, nullptr);
      result = cu_.cuCtxSetCurrent(context->context);
    } else {
      result = cu_.cuCtxCreate_v2(&context->context, 0, device_);
    }
    if (result == CUDA_SUCCESS && payload_memory_registered_ == false && !payload_memory_.empty()) {
      payload_memory_registered_ =
          cu_.cuMemHostRegister_v2(payload_memory_.data(), payload_memory_.size(), 1) == CUDA_SUCCESS;
    }
    if (result == CUDA_SUCCESS) {
      auto legacy = std::make_unique<StreamObject>();
      legacy->context = message.context.handle;
      if (!table_.Insert(message.legacy.handle, legacy) || !table_.Insert(message.context.handle, context))
        result = CUDA_ERROR_INVALID_HANDLE;
    }
    Report(command, result);
  }

  void Run(const wire::cuda::SynchronizeContext& message, const Command& command) {
    ContextObject* const context = Enter(message.context.handle);
    if (context == nullptr) return ReportFailed(completions_, command, CUDA_ERROR_INVALID_CONTEXT);
    std::vector<StreamObject*> streams;
    table_.ForEach<StreamObject>([&](Handle, StreamObject& stream) {
      if (stream.context == message.context.handle) streams.push_back(&stream);
    });
    AnswerWhenDone(streams, command);
  }

  void Run(const wire::cuda::AllocateMemory& message, const Command& command) {
    auto memory = std::make_unique<MemoryObject>();
    memory->address = message.address;
    memory->bytes = message.size_bytes;
    CUresult result = Map(memory->address, memory->bytes);
    if (result == CUDA_SUCCESS && !table_.Insert(message.memory.handle, memory)) {
      (void)cu_.cuMemUnmap(message.address, message.size_bytes);
      result = CUDA_ERROR_INVALID_HANDLE;
    }
    Report(command, result);
  }

  // Memory that others may have, too: here all that is known of it is the file that comes with it.
  void Run(const wire::cuda::AllocateExportable& message, const Command& command) {
    MapFile(message.memory.handle, message.address, command);
  }
  void Run(const wire::cuda::ImportMemory& message, const Command& command) {
    MapFile(message.memory.handle, message.address, command);
  }

  // --- modules
  void Run(const wire::cuda::CreateModule& message, const Command& command) {
    auto module = std::make_unique<ModuleObject>();
    module->context = message.context.handle;
    Report(command, table_.Insert(message.module.handle, module) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
  }
  void Run(const wire::cuda::ModuleImage& message, const Command& command) {
    ModuleObject* const module = table_.Find<ModuleObject>(message.module.handle);
    if (module == nullptr || module->module != nullptr)
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    module->too_large = module->too_large || command.payload.size() > kMaxImageBytes - module->image.size();
    if (!module->too_large)
      module->image.insert(module->image.end(), command.payload.begin(), command.payload.end());
    if (!command.payload.empty()) completions_.PayloadDone(command.sequence);
    ReportDone(completions_, command);
  }
  void Run(const wire::exec::MeasureModule& message, const Command& command) {
    ModuleObject* const module = table_.Find<ModuleObject>(message.module);
    wire::exec::MeasureModuleReply reply;
    if (module != nullptr && !module->too_large) {
      const auto bytes = cuda_image::VariableBytes(module->image);
      if (bytes.ok()) reply.variable_bytes = *bytes;
      if (!bytes.ok()) module->unmeasured = bytes.error().message;
    }
    SendReply(completions_, command.opcode, command.sequence, reply);
  }
  void Run(const wire::cuda::LoadModule& message, const Command& command) {
    ModuleObject* const module = table_.Find<ModuleObject>(message.module.handle);
    if (module == nullptr || module->module != nullptr || Enter(module->context) == nullptr)
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    if (module->too_large || module->image.empty())
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_IMAGE);
    const auto not_measured = [&] {
      const auto why = std::string_view(module->unmeasured).substr(0, wire::kMaxReasonBytes);
      SendReply(completions_, command.opcode, command.sequence,
                wire::cuda::LoadModuleReply{CUDA_ERROR_INVALID_IMAGE, {why}});
    };
    // It could not go again now.
    if (!module->unmeasured.empty() && closed_gates_ != 0) return not_measured();
    module->image.push_back(std::byte{0});  // PTX ends so
    char log[kMaxLogBytes] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
    const CUresult result = cu_.cuModuleLoadDataEx(&module->module, module->image.data(), 2, options, values);
    module->image = {};
    log[sizeof log - 1] = '\0';
    if (result == CUDA_SUCCESS && !module->unmeasured.empty()) {
      (void)cu_.cuModuleUnload(std::exchange(module->module, nullptr));
      return not_measured();
    }
    SendReply(completions_, command.opcode, command.sequence, wire::cuda::LoadModuleReply{result, {log}});
  }
  void Run(const wire::cuda::GetFunction& message, const Command& command) {
    ModuleObject* const module = table_.Find<ModuleObject>(message.module.handle);
    if (module == nullptr || module->module == nullptr || Enter(module->context) == nullptr)
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    auto function = std::make_unique<FunctionObject>();
    function->context = module->context;
    const std::string name(message.name.text);
    if (const CUresult result = cu_.cuModuleGetFunction(&function->function, module->module, name.c_str());
        result != CUDA_SUCCESS) {
      return ReportFailed(completions_, command, result);
    }
    std::vector<wire::U32> offsets, sizes;
    std::size_t offset = 0, bytes = 0;
    while (offsets.size() < wire::kMaxKernelArgs &&
           cu_.cuFuncGetParamInfo(function->function, offsets.size(), &offset, &bytes) == CUDA_SUCCESS) {
      offsets.push_back(static_cast<wire::U32>(offset));
      sizes.push_back(static_cast<wire::U32>(bytes));
      function->parameter_bytes =
          std::max(function->parameter_bytes, static_cast<std::uint32_t>(offset + bytes));
    }
    const auto attribute = [&](CUfunction_attribute which) {
      int value = 0;
      (void)cu_.cuFuncGetAttribute(&value, which, function->function);
      return static_cast<wire::U32>(value);
    };
    // As much as the device has: what the program may use of it is checked where it asks.
    const wire::U32 shared = attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    int most = 0;
    (void)cu_.cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device_);
    (void)cu_.cuFuncSetAttribute(function->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                 std::max(0, most - static_cast<int>(shared)));
    const wire::cuda::GetFunctionReply reply{
        .status = 0,
        .parameter_offsets = {offsets},
        .parameter_sizes = {sizes},
        .parameter_bytes = function->parameter_bytes,
        .max_threads = attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
        .shared_bytes = shared,
        .constant_bytes = attribute(CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES),
        .local_bytes = attribute(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES),
        .registers = attribute(CU_FUNC_ATTRIBUTE_NUM_REGS),
        .ptx_version = attribute(CU_FUNC_ATTRIBUTE_PTX_VERSION),
        .binary_version = attribute(CU_FUNC_ATTRIBUTE_BINARY_VERSION)};
    if (!table_.Insert(message.function.handle, function))
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    SendReply(completions_, command.opcode, command.sequence, reply);
  }
  void Run(const wire::cuda::GetVariable& message, const Command& command) {
    ModuleObject* const module = table_.Find<ModuleObject>(message.module.handle);
    if (module == nullptr || module->module == nullptr || Enter(module->context) == nullptr)
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    CUdeviceptr address = 0;
    std::size_t bytes = 0;
    const CUresult result =
        cu_.cuModuleGetGlobal_v2(&address, &bytes, module->module, std::string(message.name.text).c_str());
    if (result != CUDA_SUCCESS) return ReportFailed(completions_, command, result);
    SendReply(completions_, command.opcode, command.sequence,
              wire::cuda::GetVariableReply{0, address, bytes});
  }

  // --- streams
  void Run(const wire::cuda::CreateStream& message, const Command& command) {
    ContextObject* const context = Enter(message.context.handle);
    auto stream = std::make_unique<StreamObject>();
    stream->context = message.context.handle;
    stream->waits_for_legacy = !message.flags.has(wire::cuda::StreamFlag::kNonBlocking);
    stream->stands_aside = message.flags.has(wire::cuda::StreamFlag::kStandsAside);
    CUresult result =
        context == nullptr
            ? CUDA_ERROR_INVALID_CONTEXT
            : cu_.cuStreamCreateWithPriority(
                  &stream->stream, stream->waits_for_legacy ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING,
                  message.priority);
    if (result == CUDA_SUCCESS && !table_.Insert(message.stream.handle, stream))
      result = CUDA_ERROR_INVALID_HANDLE;
    Report(command, result);
  }
  void Run(const wire::cuda::SynchronizeStream& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle, /*for_work=*/false);
    if (stream == nullptr) return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    AnswerWhenDone({stream}, command);
  }
  void Run(const wire::cuda::QueryStream& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle, /*for_work=*/false);
    CUresult result = stream == nullptr ? CUDA_ERROR_INVALID_HANDLE : cu_.cuStreamQuery(stream->stream);
    if (result == CUDA_ERROR_NOT_READY) {
      bool has_told_all = stream->HasToldAll();
      if (stream->stream == nullptr) {
        table_.ForEach<StreamObject>([&](Handle, StreamObject& other) {
          if (other.context == stream->context && other.waits_for_legacy)
            has_told_all = has_told_all && other.HasToldAll();
        });
      }
      if (has_told_all) result = CUDA_SUCCESS;
    }
    SendStatus(completions_, command.opcode, command.sequence, result);
  }

  // --- what streams do
  void Run(const wire::cuda::LaunchKernel& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    FunctionObject* const function = table_.Find<FunctionObject>(message.function.handle);
    if (stream == nullptr || function == nullptr || function->context != stream->context)
      return Report(command, CUDA_ERROR_INVALID_HANDLE);
    ByteVector parameters(message.parameters.bytes.begin(), message.parameters.bytes.end());
    std::size_t bytes = parameters.size();
    if (bytes != function->parameter_bytes) return Report(command, CUDA_ERROR_INVALID_VALUE);
    void* extra[] = {kLaunchParamBufferPointer, parameters.data(), kLaunchParamBufferSize, &bytes,
                     kLaunchParamEnd};
    const auto extent = [](std::uint64_t value) {
      return static_cast<unsigned>(std::min<std::uint64_t>(value, 0xffff'ffff));
    };
    CUlaunchAttribute cooperative{};
    cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    cooperative.value[0] = 1;  // an int
    CUlaunchConfig config{};
    config.gridDimX = extent(message.grid[0]);
    config.gridDimY = extent(message.grid[1]);
    config.gridDimZ = extent(message.grid[2]);
    config.blockDimX = extent(message.block[0]);
    config.blockDimY = extent(message.block[1]);
    config.blockDimZ = extent(message.block[2]);
    config.sharedMemBytes = message.shared_bytes;
    config.hStream = stream->stream;
    config.attrs = &cooperative;
    config.numAttrs = message.cooperative != 0 ? 1 : 0;
    Report(command, cu_.cuLaunchKernelEx(&config, function->function, nullptr, extra));
  }

  void Run(const wire::cuda::CopyToDevice& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    if (stream == nullptr) return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    if (!IsPacked(message.region, command.payload.size()))
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_VALUE);
    const Pinned between = IsPinned(command.payload) ? Pinned() : TakePinned(command.payload.size());
    if (between.memory != nullptr)
      std::memcpy(between.memory, command.payload.data(), command.payload.size());
    const Side payload{.host = between.memory != nullptr ? between.memory : command.payload.data(),
                       .rows = Packed(message.region)};
    CUresult result = Copy({.rows = message.to}, payload, message.region, stream->stream);
    const auto release = [sequence = command.sequence, between](CudaBackend& self, CUresult) {
      self.GivePinned(between);
      self.completions_.PayloadDone(sequence);
    };
    if (result == CUDA_SUCCESS && message.blocking != 0 && !stream->stands_aside)
      result = NoteBlockingCopy(*stream);
    if (result == CUDA_SUCCESS) result = Then(*stream, release);
    if (result == CUDA_SUCCESS) return ReportDone(completions_, command);
    GivePinned(between);
    ReportFailed(completions_, command, result);
  }

  void Run(const wire::cuda::CopyFromDevice& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    if (stream == nullptr) return ReportFailed(completions_, command, CUDA_ERROR_INVALID_HANDLE);
    const std::uint64_t size = message.data.size_bytes;
    if (size > command.payload.size() || !IsPacked(message.region, size))
      return ReportFailed(completions_, command, CUDA_ERROR_INVALID_VALUE);
    const Pinned between = IsPinned(command.payload) ? Pinned() : TakePinned(size);
    void* const room = command.payload.data();
    const Side payload{.host = between.memory != nullptr ? between.memory : room,
                       .rows = Packed(message.region)};
    CUresult result = Copy(payload, {.rows = message.from}, message.region, stream->stream);
    const auto answer = [opcode = command.opcode, sequence = command.sequence, size, between, room](
                            CudaBackend& self, CUresult failed) {
      if (between.memory != nullptr && failed == CUDA_SUCCESS) std::memcpy(room, between.memory, size);
      self.GivePinned(between);
      const std::uint64_t got = failed == CUDA_SUCCESS ? size : 0;
      SendReply(self.completions_, opcode, sequence, wire::cuda::CopyFromDeviceReply{failed, {got}}, got);
    };
    if (result == CUDA_SUCCESS) result = Then(*stream, answer);
    if (result == CUDA_SUCCESS) return;
    GivePinned(between);
    ReportFailed(completions_, command, result);
  }

  void Run(const wire::cuda::CopyOnDevice& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    if (stream == nullptr) return Report(command, CUDA_ERROR_INVALID_HANDLE);
    Report(command, Copy({.rows = message.to}, {.rows = message.from}, message.region, stream->stream));
  }

  void Run(const wire::cuda::FillMemory& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    if (stream == nullptr) return Report(command, CUDA_ERROR_INVALID_HANDLE);
    const auto [address, pitch, slice] = message.to;
    const std::size_t width = message.region[0], height = message.region[1];
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (message.region[2] == 1) {
      switch (message.element_bytes) {
        case 1:
          result = cu_.cuMemsetD2D8Async(address, pitch, static_cast<unsigned char>(message.value), width,
                                         height, stream->stream);
          break;
        case 2:
          result = cu_.cuMemsetD2D16Async(address, pitch, static_cast<unsigned short>(message.value), width,
                                          height, stream->stream);
          break;
        case 4:
          result = cu_.cuMemsetD2D32Async(address, pitch, message.value, width, height, stream->stream);
          break;
        default: break;
      }
    }
    Report(command, result);
  }

  // --- events
  // The client is told before any stream goes on that waits for it: whatever it hears of those comes later.
  void Run(const wire::cuda::RecordEvent& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    auto event = std::make_unique<EventObject>();
    CUresult result = stream == nullptr ? CUDA_ERROR_INVALID_HANDLE
                                        : cu_.cuEventCreate(&event->event, CU_EVENT_DISABLE_TIMING);
    const CUevent recorded = event->event;
    if (stream != nullptr) event->context = stream->context;
    // Where it cannot be recorded it exists all the same, and is complete.
    if (!table_.Insert(message.event.handle, event)) result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS) result = Then(*stream, Completed{message.event.handle});
    if (result != CUDA_SUCCESS) {
      Completed{message.event.handle}(*this, result);
    } else {
      result = cu_.cuEventRecord(recorded, stream->stream);
    }
    Report(command, result);
  }
  void Run(const wire::cuda::WaitEvent& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    EventObject* const event = table_.Find<EventObject>(message.event.handle);
    if (stream == nullptr || event == nullptr) return Report(command, CUDA_ERROR_INVALID_HANDLE);
    if (event->event == nullptr) return Report(command, CUDA_SUCCESS);
    Report(command, cu_.cuStreamWaitEvent(stream->stream, event->event, 0));
  }
  void Run(const wire::cuda::CallHost& message, const Command& command) {
    StreamObject* const stream = EnterStream(message.stream.handle);
    auto reached = std::make_unique<EventObject>();
    auto returned = std::make_unique<EventObject>();
    returned->gate = std::make_shared<Gate>();
    const std::shared_ptr<Gate> gate = returned->gate;
    const bool named =
        table_.Insert(message.reached.handle, reached) && table_.Insert(message.returned.handle, returned);
    CUresult result = stream == nullptr || !named ? CUDA_ERROR_INVALID_HANDLE
                                                  : Then(*stream, Completed{message.reached.handle});
    if (result != CUDA_SUCCESS) {
      Completed{message.reached.handle}(*this, result);
    } else {
      // It is not called when the context has failed: then there is nothing to hold up.
      auto* const waits = new std::shared_ptr<Gate>(gate);
      const CUhostFn wait = [](void* argument) {
        const std::unique_ptr<std::shared_ptr<Gate>> its(static_cast<std::shared_ptr<Gate>*>(argument));
        (*its)->Wait();
      };
      if (cu_.cuLaunchHostFunc(stream->stream, wait, waits) == CUDA_SUCCESS) {
        ++closed_gates_;
      } else {
        delete waits;
        gate->Open();
      }
      stream->has_more_work = true;
    }
    Report(command, result);
  }
  void Run(const wire::cuda::EndHostCall& message, const Command& command) {
    EventObject* const event = table_.Find<EventObject>(message.returned.handle);
    if (event == nullptr || event->gate == nullptr) return Report(command, CUDA_ERROR_INVALID_HANDLE);
    OpenGate(*event->gate);
    Completed{message.returned.handle}(*this, CUDA_SUCCESS);
    Report(command, CUDA_SUCCESS);
  }

 private:
  // The device, with the range of addresses that the program has kept free for it.
  CUresult Open(std::uint64_t address, std::uint64_t bytes) {
    const CUmemAllocationProp properties = Properties();
    TULLE_CUDA_RETURN_IF_ERROR(cu_.cuMemGetAllocationGranularity(&granule_bytes_, &properties,
                                                                 CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    if (bytes == 0 || bytes % granule_bytes_ != 0 || address == 0 || address % granule_bytes_ != 0)
      return CUDA_ERROR_INVALID_VALUE;
    CUdeviceptr reserved = 0;
    TULLE_CUDA_RETURN_IF_ERROR(cu_.cuMemAddressReserve(&reserved, bytes, 0, address, 0));
    if (reserved != address) {
      (void)cu_.cuMemAddressFree(reserved, bytes);
      return CUDA_ERROR_ALREADY_MAPPED;
    }
    range_address_ = address;
    range_bytes_ = bytes;
    return CUDA_SUCCESS;
  }

  CUmemAllocationProp Properties() const {
    CUmemAllocationProp properties{};
    properties.type = 1;  // pinned
    properties.location = {1, device_};
    return properties;
  }

  // New memory at addresses of the range at which there is none.
  CUresult Map(CUdeviceptr address, std::size_t bytes) {
    const CUmemAllocationProp properties = Properties();
    CUmemGenericAllocationHandle memory = 0;
    TULLE_CUDA_RETURN_IF_ERROR(cu_.cuMemCreate(&memory, bytes, &properties, 0));
    return Map(address, bytes, memory, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  }

  // The memory that comes with the command, likewise.
  void MapFile(Handle handle, CUdeviceptr address, const Command& command) {
    struct stat status;
    const int flags = fcntl(command.memory_fd, F_GETFL);
    if (flags < 0 || fstat(command.memory_fd, &status) != 0)
      return ReportFailed(completions_, command, CUDA_ERROR_NOT_SUPPORTED);
    auto object = std::make_unique<MemoryObject>();
    object->address = address;
    object->bytes = static_cast<std::size_t>(status.st_size);
    CUmemGenericAllocationHandle memory = 0;
    CUresult result = cu_.cuMemImportFromShareableHandle(
        &memory, reinterpret_cast<void*>(static_cast<std::intptr_t>(command.memory_fd)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (result == CUDA_SUCCESS) {
      result = Map(
          address, object->bytes, memory,
          (flags & O_ACCMODE) == O_RDWR ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ);
    }
    if (result == CUDA_SUCCESS && !table_.Insert(handle, object)) {
      (void)cu_.cuMemUnmap(object->address, object->bytes);
      result = CUDA_ERROR_INVALID_HANDLE;
    }
    Report(command, result);
  }

  // Takes the memory.
  CUresult Map(CUdeviceptr address, std::size_t bytes, CUmemGenericAllocationHandle memory,
               CUmemAccess_flags allowed) {
    if (address - range_address_ >= range_bytes_ || bytes > range_bytes_ - (address - range_address_)) {
      (void)cu_.cuMemRelease(memory);
      return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = cu_.cuMemMap(address, bytes, 0, memory, 0);
    (void)cu_.cuMemRelease(memory);  // it goes with its mapping
    if (result != CUDA_SUCCESS) return result;
    const CUmemAccessDesc access{{1, device_}, allowed};
    result = cu_.cuMemSetAccess(address, bytes, &access, 1);
    if (result != CUDA_SUCCESS) (void)cu_.cuMemUnmap(address, bytes);
    return result;
  }

  // The context, made current; null: it is gone.
  ContextObject* Enter(Handle handle) {
    ContextObject* const context = table_.Find<ContextObject>(handle);
    return context != nullptr && cu_.cuCtxSetCurrent(context->context) == CUDA_SUCCESS ? context : nullptr;
  }
  StreamObject* EnterStream(Handle handle, bool for_work = true) {
    StreamObject* const stream = table_.Find<StreamObject>(handle);
    ContextObject* const context = stream == nullptr ? nullptr : Enter(stream->context);
    if (context == nullptr) return nullptr;
    if (stream->blocking_copies != blocking_copies_ && !stream->stands_aside) {
      stream->blocking_copies = blocking_copies_;
      if (last_blocking_copy_ != nullptr) {
        (void)cu_.cuStreamWaitEvent(stream->stream, last_blocking_copy_, 0);
        stream->has_more_work = true;
      }
    }
    stream->has_more_work = stream->has_more_work || for_work;
    return stream;
  }
  CUresult NoteBlockingCopy(StreamObject& stream) {
    ContextObject& context = *table_.Find<ContextObject>(stream.context);
    CUresult result = context.blocking_copy != nullptr
                          ? CUDA_SUCCESS
                          : cu_.cuEventCreate(&context.blocking_copy, CU_EVENT_DISABLE_TIMING);
    if (result == CUDA_SUCCESS) result = cu_.cuEventRecord(context.blocking_copy, stream.stream);
    if (result != CUDA_SUCCESS) return result;
    last_blocking_copy_ = context.blocking_copy;
    stream.blocking_copies = ++blocking_copies_;
    return result;
  }

  void OpenGate(Gate& gate) {
    if (gate.Open()) --closed_gates_;
    UnloadLeaving();
  }
  // Drivers may wait there until the device has nothing left to do, and so for a stream that waits at a gate.
  void UnloadLeaving() {
    if (closed_gates_ != 0) return;
    for (const Leaving& module : std::exchange(leaving_, {})) {
      if (Enter(module.context) != nullptr) (void)cu_.cuModuleUnload(module.module);
      ReportLeft(module);
    }
  }

  // Of commands without a reply of their own, that bring nothing.
  void Report(const Command& command, CUresult result) {
    if (result != CUDA_SUCCESS) return ReportFailed(completions_, command, result);
    ReportDone(completions_, command);
  }

  // Calls f(*this, result) when the stream gets there, or its context has failed. f must make no call of
  // CUDA. What the stream is asked before f has returned, but after f has told the client, it answers as if f
  // had.
  template <typename F>
  CUresult Then(StreamObject& stream, F f) {
    struct Continuation {
      CudaBackend& self;
      std::shared_ptr<StreamObject::Told> told;
      F f;
    };
    auto continuation = std::make_unique<Continuation>(Continuation{*this, stream.told, std::move(f)});
    const CUstreamCallback call = [](CUstream, CUresult result, void* argument) {
      const std::unique_ptr<Continuation> then(static_cast<Continuation*>(argument));
      then->told->begun.fetch_add(1);
      then->f(then->self, result);
      then->told->ended.fetch_add(1);
      then->told->ended.notify_all();
    };
    const CUresult result = cu_.cuStreamAddCallback(stream.stream, call, continuation.get(), 0);
    if (result != CUDA_SUCCESS) return result;
    continuation.release();
    ++stream.continuations;
    stream.has_more_work = false;
    return result;
  }

  // Answers with a status when all of the streams have got so far.
  void AnswerWhenDone(const std::vector<StreamObject*>& streams, const Command& command) {
    struct Barrier {
      std::atomic<std::size_t> open;
      std::atomic<CUresult> result{CUDA_SUCCESS};
    };
    if (streams.empty()) return gpu::SendStatus(completions_, command.opcode, command.sequence, CUDA_SUCCESS);
    const auto barrier = std::make_shared<Barrier>();
    barrier->open = streams.size();
    const auto arrive = [barrier, opcode = command.opcode, sequence = command.sequence](CudaBackend& self,
                                                                                        CUresult result) {
      if (result != CUDA_SUCCESS) barrier->result = result;
      if (barrier->open.fetch_sub(1) == 1)
        gpu::SendStatus(self.completions_, opcode, sequence, barrier->result);
    };
    for (StreamObject* const stream : streams) {
      if (const CUresult result = Then(*stream, arrive); result != CUDA_SUCCESS) arrive(*this, result);
    }
  }

  // Memory of the host that the device reads and writes by itself; kept for the next. A copy of other memory
  // would wait until its stream gets there, and with it the session.
  struct Pinned {
    void* memory = nullptr;
    std::size_t bytes = 0;
  };
  bool IsPinned(MutableByteView payload) const {
    return payload_memory_registered_ && payload.data() >= payload_memory_.data() &&
           payload.data() + payload.size() <= payload_memory_.data() + payload_memory_.size();
  }
  // Nothing where there is no more of it.
  Pinned TakePinned(std::size_t bytes) {
    {
      const std::lock_guard lock(pinned_mutex_);
      const auto it = std::find_if(pinned_.begin(), pinned_.end(),
                                   [bytes](const Pinned& pinned) { return pinned.bytes >= bytes; });
      if (it != pinned_.end()) {
        const Pinned found = *it;
        pinned_.erase(it);
        return found;
      }
    }
    Pinned made{.bytes = std::bit_ceil(bytes)};
    return cu_.cuMemHostAlloc(&made.memory, made.bytes, 1) == CUDA_SUCCESS ? made : Pinned();
  }
  void GivePinned(const Pinned& pinned) {
    if (pinned.memory == nullptr) return;
    const std::lock_guard lock(pinned_mutex_);
    pinned_.push_back(pinned);
  }

  struct Side {
    void* host = nullptr;  // null: the device's, at rows.address
    wire::cuda::Rows rows;
  };
  static wire::cuda::Rows Packed(const wire::Vec3& region) { return {0, region[0], region[0] * region[1]}; }
  static bool IsPacked(const wire::Vec3& region, std::uint64_t bytes) {
    const auto product = [](std::uint64_t a, std::uint64_t b) {
      return a != 0 && b > ~std::uint64_t{0} / a ? 0 : a * b;
    };
    return bytes != 0 && product(product(region[0], region[1]), region[2]) == bytes;
  }

  CUresult Copy(const Side& to, const Side& from, const wire::Vec3& region, CUstream stream) {
    if (region[1] == 1 && region[2] == 1) {
      const std::size_t bytes = region[0];
      if (to.host != nullptr) return cu_.cuMemcpyDtoHAsync_v2(to.host, from.rows.address, bytes, stream);
      if (from.host != nullptr) return cu_.cuMemcpyHtoDAsync_v2(to.rows.address, from.host, bytes, stream);
      return cu_.cuMemcpyDtoDAsync_v2(to.rows.address, from.rows.address, bytes, stream);
    }
    // A plane is a whole number of rows.
    const auto rows_of = [](const wire::cuda::Rows& rows) {
      return rows.pitch_bytes == 0 ? 0 : rows.slice_bytes / rows.pitch_bytes;
    };
    CUDA_MEMCPY3D copy{};
    copy.srcMemoryType = from.host != nullptr ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    copy.srcHost = from.host;
    copy.srcDevice = from.rows.address;
    copy.srcPitch = from.rows.pitch_bytes;
    copy.srcHeight = rows_of(from.rows);
    copy.dstMemoryType = to.host != nullptr ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    copy.dstHost = to.host;
    copy.dstDevice = to.rows.address;
    copy.dstPitch = to.rows.pitch_bytes;
    copy.dstHeight = rows_of(to.rows);
    copy.WidthInBytes = region[0];
    copy.Height = region[1];
    copy.Depth = region[2];
    return cu_.cuMemcpy3DAsync_v2(&copy, stream);
  }

  // A module whose DestroyObject is answered when its memory is free.
  struct Leaving {
    Handle context;
    CUmodule module = nullptr;
    bool wants_status = false;
    std::uint64_t sequence = 0;
  };
  void ReportLeft(const Leaving& module) {
    if (module.wants_status)
      gpu::SendStatus(completions_, wire::kOpcodeOf<wire::DestroyObject>, module.sequence, CUDA_SUCCESS);
  }

  const Library cu_;
  Completions& completions_;
  wire::Arena arena_;
  ObjectTable<Object> table_;
  const CUdevice device_;
  CUcontext prepared_;  // null: the program has it
  // Copies that the program takes for done: how many, and the event that the last one is behind; null: it is
  // done. Each one's stream waits for the one before.
  std::uint64_t blocking_copies_ = 0;
  CUevent last_blocking_copy_ = nullptr;
  std::size_t closed_gates_ = 0;
  std::vector<Leaving> leaving_;  // modules, unloaded when no gate is closed
  std::size_t granule_bytes_ = 0;
  std::uint64_t range_address_ = 0, range_bytes_ = 0;  // 0 bytes: the device is not open
  MutableByteView payload_memory_;
  bool payload_memory_registered_ = false;
  std::mutex pinned_mutex_;
  std::vector<Pinned> pinned_;  // that nothing uses; guarded by pinned_mutex_
};

static_assert(HandlesEveryDeviceCommand<CudaBackend>(wire::CudaCapabilities()));

}  // namespace

Result<std::unique_ptr<Backend>> OpenBackend(const Library& library, const std::string& pci_address,
                                             Completions* completions) {
  const auto failed = [](const std::string& what, CUresult result) {
    return Error{.code = Code::kUnavailable,
                 .message = what + " returns " + std::to_string(static_cast<int>(result)),
                 .scope = Scope::kDevice};
  };
  CUdevice device = 0;
  CUcontext context = nullptr;
  if (const CUresult result = library.cuInit(0); result != CUDA_SUCCESS) return failed("cuInit", result);
  if (const CUresult result = pci_address.empty()
                                  ? library.cuDeviceGet(&device, 0)
                                  : library.cuDeviceGetByPCIBusId(&device, pci_address.c_str());
      result != CUDA_SUCCESS) {
    return Error{.code = Code::kNotFound,
                 .message = "CUDA's driver has no device " + (pci_address.empty() ? "at all" : pci_address),
                 .scope = Scope::kDevice};
  }
  if (const CUresult result = library.cuCtxCreate_v2(&context, 0, device); result != CUDA_SUCCESS)
    return failed("cuCtxCreate", result);
  return std::unique_ptr<Backend>(std::make_unique<CudaBackend>(library, device, context, completions));
}

}  // namespace tulle::gpu::cuda
