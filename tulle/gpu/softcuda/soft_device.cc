#include "tulle/gpu/softcuda/soft_device.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "tulle/base/log.h"
#include "tulle/gpu/cuda_image/fatbin.h"
#include "tulle/gpu/softcuda/module.h"
#include "tulle/gpu/softcuda/streams.h"

namespace tulle::gpu::softcuda {
namespace {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

using SteadyClock = std::chrono::steady_clock;

// PTX that is compiled for it may use what compute capability 7.0 has.
constexpr int kCapabilityMajor = 7, kCapabilityMinor = 0;
// What fits a multiprocessor, of which each thread of the host is one: a block at a time.
constexpr int kRegistersPerBlock = 65536;

constexpr std::uint64_t kMaxStreams = 4096;  // each may have a thread

CUresult ResultOf(Fault fault) {
  switch (fault) {
    case Fault::kNone: return CUDA_SUCCESS;
    case Fault::kIllegalAddress: return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Fault::kMisaligned: return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Fault::kTrap: return CUDA_ERROR_LAUNCH_FAILED;
    case Fault::kDeadlock: return CUDA_ERROR_LAUNCH_TIMEOUT;
    case Fault::kStopped: return CUDA_ERROR_LAUNCH_FAILED;
    case Fault::kAssert: return CUDA_ERROR_ASSERT;
    case Fault::kInvalidPc: return CUDA_ERROR_INVALID_PC;
    case Fault::kStackOverflow: return CUDA_ERROR_HARDWARE_STACK_ERROR;
  }
  return CUDA_ERROR_UNKNOWN;
}

CUresult ResultOf(const Error& error) {
  Log(LogLevel::kInfo, "softcuda", "memory could not be had so", {{"why", error.message}});
  switch (error.code) {
    case Code::kResourceExhausted: return CUDA_ERROR_OUT_OF_MEMORY;
    case Code::kUnimplemented: return CUDA_ERROR_NOT_SUPPORTED;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}
CUresult ResultOf(const Status& status) { return status.ok() ? CUDA_SUCCESS : ResultOf(status.error()); }
CUresult Made(const Result<MemoryNumber>& made, MemoryId* memory) {
  if (!made.ok()) return ResultOf(made.error());
  *memory = MemoryId{static_cast<std::uint64_t>(*made)};
  return CUDA_SUCCESS;
}
MemoryNumber NumberOf(MemoryId memory) { return MemoryNumber{static_cast<std::uint64_t>(memory)}; }

// To the process's standard output, where programs expect it; each text at once.
const std::function<void(std::string_view)> kPrint = [](std::string_view text) {
  flockfile(stdout);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  funlockfile(stdout);
};

std::byte* At(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

void CopyRows(const CopyShape& shape) {
  if (shape.height == 1 && shape.depth == 1) {
    std::memmove(At(shape.to.address), At(shape.from.address), shape.width);
    return;
  }
  for (std::uint64_t z = 0; z < shape.depth; ++z) {
    for (std::uint64_t y = 0; y < shape.height; ++y) {
      std::memmove(At(shape.to.address + z * shape.to.slice + y * shape.to.pitch),
                   At(shape.from.address + z * shape.from.slice + y * shape.from.pitch), shape.width);
    }
  }
}

void FillRows(const FillShape& shape) {
  for (std::uint64_t y = 0; y < shape.height; ++y) {
    std::byte* const row = At(shape.address + y * shape.pitch);
    switch (shape.element_bytes) {
      case 1: std::memset(row, static_cast<int>(shape.value & 0xff), shape.width); break;
      case 2:
        std::fill_n(reinterpret_cast<std::uint16_t*>(row), shape.width,
                    static_cast<std::uint16_t>(shape.value));
        break;
      default: std::fill_n(reinterpret_cast<std::uint32_t*>(row), shape.width, shape.value);
    }
  }
}

struct SoftStream {
  std::shared_ptr<Streams::Queue> queue;
  bool blocking = true;  // waits for the legacy stream, and that for it
};

struct SoftModule {
  std::unique_ptr<Module> module;
};
struct SoftFunction {
  std::shared_ptr<SoftModule> module;
  const Program* program = nullptr;
};

struct SoftEvent {
  Streams::Mark mark;                             // of no queue: never recorded
  std::shared_ptr<SteadyClock::time_point> when;  // written before the mark is reached
};

struct SoftContext {
  std::atomic<CUresult> error{CUDA_SUCCESS};
  SoftStream legacy;
  std::unordered_map<StreamId, SoftStream> streams;
  std::unordered_map<EventId, SoftEvent> events;
  std::unordered_map<ModuleId, std::shared_ptr<SoftModule>> modules;
  std::unordered_map<FunctionId, SoftFunction> functions;
  std::map<std::pair<ModuleId, std::string>, FunctionId> found_functions;
};

class SoftDevice final : public Device {
 public:
  SoftDevice(std::unique_ptr<DeviceMemory> memory, std::uint32_t threads, std::uint32_t multiprocessors,
             std::uint32_t stream_places)
      : memory_(std::move(memory)), threads_(threads), stream_places_(stream_places) {
    properties_.name = "tulle software CUDA device";
    std::memcpy(properties_.uuid.bytes, "tulle-softcuda-0", sizeof properties_.uuid.bytes);
    properties_.memory_bytes = memory_->total_bytes();
    properties_.granule_bytes = DeviceMemory::kGranule;
    const auto set = [this](CUdevice_attribute which, int value) {
      properties_.attributes[static_cast<std::size_t>(which)] = value;
    };
    set(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kMaxBlockThreads);
    set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024);
    set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024);
    set(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64);
    set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fff'ffff);
    set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 0xffff);
    set(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 0xffff);
    set(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, kMaxSharedBytes);
    set(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, kMaxSharedBytes);
    set(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, kMaxSharedBytes);
    set(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10);
    set(CU_DEVICE_ATTRIBUTE_WARP_SIZE, kLanes);
    set(CU_DEVICE_ATTRIBUTE_MAX_PITCH, 0x7fff'ffff);
    set(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, kRegistersPerBlock);
    set(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, kRegistersPerBlock);
    set(CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1'000'000);
    set(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512);
    set(CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1);
    set(CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2);
    set(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, static_cast<int>(multiprocessors));
    set(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, kMaxBlockThreads);
    set(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 1);
    set(CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1);
    set(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1);
    set(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, kCapabilityMajor);
    set(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, kCapabilityMinor);
    set(CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1);
    set(CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1);
    set(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1);
    set(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH,
        1);  // a block is one thread of the host, and all of a launch are woken
    set(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1);
  }
  ~SoftDevice() override {
    while (!contexts_.empty()) (void)DestroyContext(contexts_.begin()->first);
  }

  const DeviceProperties& properties() const override { return properties_; }

  CUresult CreateContext(ContextId* context) override {
    const std::lock_guard lock(mutex_);
    auto made = std::make_shared<SoftContext>();
    made->legacy.queue = streams_.Open();
    *context = NewId<ContextId>();
    contexts_.emplace(*context, std::move(made));
    return CUDA_SUCCESS;
  }

  CUresult DestroyContext(ContextId id) override {
    std::shared_ptr<SoftContext> context;
    std::vector<Streams::Mark> marks;
    {
      const std::lock_guard lock(mutex_);
      const auto it = contexts_.find(id);
      if (it == contexts_.end()) return CUDA_ERROR_INVALID_CONTEXT;
      context = it->second;
      contexts_.erase(it);
      marks = Marks(*context);
    }
    for (const Streams::Mark& mark : marks) streams_.Wait(mark);
    const std::lock_guard lock(mutex_);
    streams_.Close(context->legacy.queue);
    for (auto& [name, stream] : context->streams) streams_.Close(stream.queue);
    context->functions.clear();
    context->modules.clear();  // and with them their variables
    for (auto it = owners_.begin(); it != owners_.end();) {
      if (it->second.context != id) {
        ++it;
        continue;
      }
      if (!it->second.is_variable) (void)memory_->Free(it->first);
      it = owners_.erase(it);
    }
    return CUDA_SUCCESS;
  }

  CUresult SynchronizeContext(ContextId id) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    WaitForAll(*context);
    return context->error;
  }

  CUresult GetMemoryInfo(ContextId id, std::uint64_t* free_bytes, std::uint64_t* total_bytes) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *free_bytes = memory_->free_bytes();
    *total_bytes = memory_->total_bytes();
    return context->error;
  }

  CUresult Allocate(ContextId id, std::uint64_t bytes, CUdeviceptr* address) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->error != CUDA_SUCCESS) return context->error;
    const auto allocated = memory_->Allocate(bytes);
    if (!allocated.ok()) {
      Log(LogLevel::kInfo, "softcuda", "out of memory", {{"why", allocated.error().message}});
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    const std::lock_guard lock(mutex_);
    owners_.emplace(*allocated, Owner{id, false});
    *address = *allocated;
    return CUDA_SUCCESS;
  }

  CUresult Free(ContextId id, CUdeviceptr address) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (const CUresult result = Disown(id, address); result != CUDA_SUCCESS) return result;
    WaitForAll(*context);
    (void)memory_->Free(address);
    return context->error;
  }

  CUresult FreeAsync(const Stream& stream, CUdeviceptr address) override {
    if (const CUresult result = Disown(stream.context, address); result != CUDA_SUCCESS) return result;
    return Add(stream, {}, true, [this, address] { (void)memory_->Free(address); });
  }

  bool FindMemory(CUdeviceptr address, ContextId* context, CUdeviceptr* base, std::uint64_t* bytes) override {
    std::uint64_t begin = 0;
    if (!memory_->Find(address, &begin, bytes)) return false;
    *base = begin;
    const std::lock_guard lock(mutex_);
    const auto it = owners_.find(begin);
    if (it == owners_.end()) return false;  // it is being freed
    *context = it->second.context;
    return true;
  }

  CUresult ReserveAddresses(std::uint64_t bytes, CUdeviceptr wanted, CUdeviceptr* address) override {
    const auto reserved = memory_->ReserveAddresses(bytes, wanted);
    if (!reserved.ok()) return ResultOf(reserved.error());
    *address = *reserved;
    return CUDA_SUCCESS;
  }
  CUresult FreeAddresses(CUdeviceptr address, std::uint64_t bytes) override {
    std::vector<std::shared_ptr<SoftContext>> contexts;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, context] : contexts_) contexts.push_back(context);
    }
    for (const auto& context : contexts) WaitForAll(*context);
    return ResultOf(memory_->FreeAddresses(address, bytes));
  }
  CUresult CreateMemory(std::uint64_t bytes, bool shareable, MemoryId* memory) override {
    return Made(memory_->CreateMemory(bytes, shareable), memory);
  }
  CUresult ExportMemory(MemoryId memory, int* fd) override {
    auto exported = memory_->Export(NumberOf(memory));
    if (!exported.ok()) return ResultOf(exported.error());
    *fd = exported->release();
    return CUDA_SUCCESS;
  }
  CUresult ImportMemory(int fd, MemoryId* memory) override {
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return copy.valid() ? Made(memory_->Import(std::move(copy)), memory) : CUDA_ERROR_INVALID_VALUE;
  }
  CUresult ReleaseMemory(MemoryId memory) override {
    return ResultOf(memory_->ReleaseMemory(NumberOf(memory)));
  }
  CUresult MapMemory(CUdeviceptr address, std::uint64_t bytes, MemoryId memory) override {
    TULLE_CUDA_RETURN_IF_ERROR(ResultOf(memory_->Map(address, bytes, NumberOf(memory))));
    const std::lock_guard lock(mutex_);
    owners_.emplace(address, Owner{ContextId{}, true});
    return CUDA_SUCCESS;
  }
  CUresult UnmapMemory(CUdeviceptr address, std::uint64_t bytes) override {
    TULLE_CUDA_RETURN_IF_ERROR(ResultOf(memory_->Unmap(address, bytes)));
    const std::lock_guard lock(mutex_);
    owners_.erase(owners_.lower_bound(address), owners_.lower_bound(address + bytes));
    return CUDA_SUCCESS;
  }
  CUresult SetAccess(CUdeviceptr address, std::uint64_t bytes, CUmemAccess_flags access) override {
    using Access = DeviceMemory::Access;
    return ResultOf(memory_->SetAccess(address, bytes,
                                       access == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? Access::kReadWrite
                                       : access == CU_MEM_ACCESS_FLAGS_PROT_READ    ? Access::kRead
                                                                                    : Access::kNone));
  }

  CUresult LoadModule(ContextId id, ByteView image, ModuleId* module, std::string* log) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->error != CUDA_SUCCESS) return context->error;
    std::string_view text(reinterpret_cast<const char*>(image.data()), image.size());
    std::string inside;
    if (text.starts_with("\x7f"
                         "ELF")) {
      *log = "this device runs PTX; the image is a cubin, machine code of a GPU";
      return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    if (cuda_image::IsFatbin(image)) {
      auto ptx = cuda_image::PtxIn(image, kCapabilityMajor * 10 + kCapabilityMinor);
      if (!ptx.ok()) {
        *log = ptx.error().message;
        return ptx.error().code == Code::kNotFound ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE;
      }
      text = inside = *std::move(ptx);
    }
    auto loaded = Module::Load(text, *memory_);
    if (!loaded.ok()) {
      *log = loaded.error().message;
      return loaded.error().code == Code::kResourceExhausted ? CUDA_ERROR_OUT_OF_MEMORY
                                                             : CUDA_ERROR_INVALID_PTX;
    }
    const std::lock_guard lock(mutex_);
    for (const auto& [name, variable] : (*loaded)->variables())
      owners_.emplace(variable.address, Owner{id, true});
    *module = NewId<ModuleId>();
    context->modules.emplace(*module, std::make_shared<SoftModule>(SoftModule{*std::move(loaded)}));
    return CUDA_SUCCESS;
  }

  CUresult UnloadModule(ContextId id, ModuleId module) override {
    const auto context = Find(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    WaitForAll(*context);  // for those kernels of it that are under way
    const std::lock_guard lock(mutex_);
    const auto it = context->modules.find(module);
    if (it == context->modules.end()) return CUDA_ERROR_INVALID_HANDLE;
    for (const auto& [name, variable] : it->second->module->variables()) owners_.erase(variable.address);
    std::erase_if(context->functions, [&](const auto& f) { return f.second.module == it->second; });
    std::erase_if(context->found_functions, [&](const auto& f) { return f.first.first == module; });
    context->modules.erase(it);
    return CUDA_SUCCESS;
  }

  CUresult FindFunction(ContextId id, ModuleId module, const std::string& name, FunctionId* function,
                        FunctionInfo* info) override {
    const std::lock_guard lock(mutex_);
    const auto found = FindModule(id, module);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const Program* const program = found->module->FindKernel(name);
    if (program == nullptr) return CUDA_ERROR_NOT_FOUND;
    SoftContext& context = *contexts_.at(id);
    const auto [it, is_new] = context.found_functions.try_emplace({module, name});
    if (is_new) {
      it->second = NewId<FunctionId>();
      context.functions.emplace(it->second, SoftFunction{found, program});
    }
    *function = it->second;
    *info = {.parameter_bytes = program->parameter_bytes,
             .max_threads = program->max_threads,
             .shared_bytes = program->dynamic_shared_at,
             .local_bytes = program->stack_at,
             .registers = 32,
             .ptx_version = found->module->ptx_version(),
             .binary_version = found->module->target()};
    for (const Program::Parameter& p : program->parameters) info->parameters.push_back({p.offset, p.bytes});
    return CUDA_SUCCESS;
  }

  CUresult FindVariable(ContextId id, ModuleId module, const std::string& name, CUdeviceptr* address,
                        std::uint64_t* bytes) override {
    const std::lock_guard lock(mutex_);
    const auto found = FindModule(id, module);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const Module::Variable* const variable = found->module->FindVariable(name);
    if (variable == nullptr) return CUDA_ERROR_NOT_FOUND;
    *address = variable->address;
    *bytes = variable->bytes;
    return CUDA_SUCCESS;
  }

  CUresult CreateStream(ContextId id, unsigned flags, int, StreamId* stream) override {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->error != CUDA_SUCCESS) return context->error;
    if (context->streams.size() >= kMaxStreams) return CUDA_ERROR_OUT_OF_MEMORY;
    *stream = NewId<StreamId>();
    context->streams.emplace(*stream, SoftStream{streams_.Open(), (flags & CU_STREAM_NON_BLOCKING) == 0});
    return CUDA_SUCCESS;
  }

  CUresult DestroyStream(const Stream& stream) override {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(stream.context);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    const auto it = context->streams.find(stream.id);
    if (it == context->streams.end()) return CUDA_ERROR_INVALID_HANDLE;
    if (it->second.blocking) {
      // The legacy stream goes on waiting for what it still does.
      streams_.Add(context->legacy.queue, {streams_.End(it->second.queue)}, [] {});
    }
    leaving_.push_back(streams_.End(it->second.queue));
    std::erase_if(leaving_, [this](const Streams::Mark& mark) { return streams_.Reached(mark); });
    streams_.Close(it->second.queue);
    context->streams.erase(it);
    return CUDA_SUCCESS;
  }

  CUresult SynchronizeStream(const Stream& stream) override {
    Streams::Mark mark;
    const auto context = EndOf(stream, &mark);
    if (context == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    streams_.Wait(mark);
    return context->error;
  }

  CUresult QueryStream(const Stream& stream) override {
    Streams::Mark mark;
    const auto context = EndOf(stream, &mark);
    if (context == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (context->error != CUDA_SUCCESS) return context->error;
    return streams_.Reached(mark) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  }

  CUresult Launch(const Stream& stream, FunctionId id, const LaunchShape& shape,
                  ByteView parameters) override {
    SoftFunction function;
    std::shared_ptr<SoftContext> context;
    {
      const std::lock_guard lock(mutex_);
      context = FindLocked(stream.context);
      if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
      const auto it = context->functions.find(id);
      if (it == context->functions.end()) return CUDA_ERROR_INVALID_HANDLE;
      function = it->second;
    }
    return Add(stream, {}, false,
               [this, context = context.get(), function, shape,
                parameters = ByteVector(parameters.begin(), parameters.end())] {
                 Run(*context, function, shape, parameters);
               });
  }

  CUresult Copy(const Stream& stream, const CopyShape& shape, CopyMode mode) override {
    for (const CopyShape::Place* place : {&shape.to, &shape.from}) {
      std::uint64_t extent = 0;
      const auto access = place == &shape.to ? DeviceMemory::Access::kReadWrite : DeviceMemory::Access::kRead;
      if (!place->on_host &&
          (!shape.ExtentOf(*place, &extent) || !memory_->Contains(place->address, extent, access))) {
        return CUDA_ERROR_INVALID_VALUE;
      }
    }
    if (shape.bytes() == 0) return CUDA_SUCCESS;
    if (mode == CopyMode::kStaged && shape.from.on_host && !shape.to.on_host) {
      // The program's memory as it is now.
      auto staged = std::make_shared<ByteVector>(shape.bytes());
      CopyShape packed = shape;
      packed.to = {.address = reinterpret_cast<std::uint64_t>(staged->data()),
                   .on_host = true,
                   .pitch = shape.width,
                   .slice = shape.width * shape.height};
      CopyRows(packed);
      CopyShape later = shape;
      later.from = packed.to;
      return Add(stream, {}, false, [this, later, staged] { CopyAndNote(later); });
    }
    const bool waits = mode == CopyMode::kBlocking || (mode == CopyMode::kStaged && shape.to.on_host);
    const auto copy = [this, shape] { CopyAndNote(shape); };
    return waits ? AddAndWait(stream, copy) : Add(stream, {}, false, copy);
  }

  CUresult Fill(const Stream& stream, const FillShape& shape) override {
    std::uint64_t extent = 0;
    if (!shape.Extent(&extent)) return CUDA_ERROR_INVALID_VALUE;
    if (extent == 0) return CUDA_SUCCESS;
    if (!memory_->Contains(shape.address, extent, DeviceMemory::Access::kReadWrite))
      return CUDA_ERROR_INVALID_VALUE;
    return Add(stream, {}, false, [this, shape, extent] {
      FillRows(shape);
      memory_->NoteWritten(shape.address, extent);
    });
  }

  CUresult CallHost(const Stream& stream, void (*function)(void*, CUresult), void* argument) override {
    const auto context = Find(stream.context);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    return Add(stream, {}, true,
               [context = context.get(), function, argument] { function(argument, context->error); });
  }

  CUresult CreateEvent(ContextId id, unsigned, EventId* event) override {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (context->error != CUDA_SUCCESS) return context->error;
    *event = NewId<EventId>();
    context->events.emplace(*event, SoftEvent());
    return CUDA_SUCCESS;
  }

  CUresult DestroyEvent(ContextId id, EventId event) override {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(id);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    return context->events.erase(event) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  }

  CUresult RecordEvent(const Stream& stream, EventId event) override {
    auto when = std::make_shared<SteadyClock::time_point>();
    Streams::Mark mark;
    const CUresult result = Add(
        stream, {}, true, [when] { *when = SteadyClock::now(); }, &mark);
    if (result != CUDA_SUCCESS) return result;
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(stream.context);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    const auto it = context->events.find(event);
    if (it == context->events.end()) return CUDA_ERROR_INVALID_HANDLE;
    it->second = {mark, when};
    return CUDA_SUCCESS;
  }

  CUresult WaitForEvent(const Stream& stream, EventId event) override {
    Streams::Mark mark;
    {
      const std::lock_guard lock(mutex_);
      bool found = false;
      for (const auto& [id, context] : contexts_) {
        const auto it = context->events.find(event);
        if (it == context->events.end()) continue;
        mark = it->second.mark;
        found = true;
      }
      if (!found) return CUDA_ERROR_INVALID_HANDLE;
    }
    return Add(stream, {mark}, true, [] {});
  }

  CUresult QueryEvent(ContextId id, EventId event) override {
    SoftEvent found;
    const auto context = FindEvent(id, event, &found);
    if (context == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (context->error != CUDA_SUCCESS) return context->error;
    return streams_.Reached(found.mark) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  }

  CUresult SynchronizeEvent(ContextId id, EventId event) override {
    SoftEvent found;
    const auto context = FindEvent(id, event, &found);
    if (context == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    streams_.Wait(found.mark);
    return context->error;
  }

  CUresult GetElapsedTime(ContextId id, EventId start, EventId end, float* milliseconds) override {
    SoftEvent first, last;
    const auto context = FindEvent(id, start, &first);
    if (context == nullptr || FindEvent(id, end, &last) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (first.when == nullptr || last.when == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (context->error != CUDA_SUCCESS) return context->error;
    if (!streams_.Reached(first.mark) || !streams_.Reached(last.mark)) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(*last.when - *first.when).count();
    return CUDA_SUCCESS;
  }

 private:
  // Of memory: which context it goes with, and whether a module has it.
  struct Owner {
    ContextId context{};
    bool is_variable = false;
  };

  void CopyAndNote(const CopyShape& shape) {
    CopyRows(shape);
    std::uint64_t extent = 0;
    if (!shape.to.on_host && shape.ExtentOf(shape.to, &extent))
      memory_->NoteWritten(shape.to.address, extent);
  }

  template <typename Id>
  Id NewId() {
    return Id{++last_id_};
  }
  std::shared_ptr<SoftContext> FindLocked(ContextId id) const {
    const auto it = contexts_.find(id);
    return it == contexts_.end() ? nullptr : it->second;
  }
  std::shared_ptr<SoftContext> Find(ContextId id) const {
    const std::lock_guard lock(mutex_);
    return FindLocked(id);
  }
  std::shared_ptr<SoftModule> FindModule(ContextId id, ModuleId module) const {
    const auto context = FindLocked(id);
    if (context == nullptr) return nullptr;
    const auto it = context->modules.find(module);
    return it == context->modules.end() ? nullptr : it->second;
  }
  std::shared_ptr<SoftContext> FindEvent(ContextId id, EventId event, SoftEvent* found) const {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(id);
    if (context == nullptr) return nullptr;
    const auto it = context->events.find(event);
    if (it == context->events.end()) return nullptr;
    *found = it->second;
    return context;
  }

  static SoftStream* StreamOf(SoftContext& context, StreamId id) {
    if (id == kLegacyStream) return &context.legacy;
    const auto it = context.streams.find(id);
    return it == context.streams.end() ? nullptr : &it->second;
  }

  // The ends of all streams of the context.
  std::vector<Streams::Mark> Marks(SoftContext& context) {
    std::vector<Streams::Mark> marks = {streams_.End(context.legacy.queue)};
    for (auto& [id, stream] : context.streams) marks.push_back(streams_.End(stream.queue));
    marks.insert(marks.end(), leaving_.begin(), leaving_.end());
    return marks;
  }
  void WaitForAll(SoftContext& context) {
    std::vector<Streams::Mark> marks;
    {
      const std::lock_guard lock(mutex_);
      marks = Marks(context);
    }
    for (const Streams::Mark& mark : marks) streams_.Wait(mark);
  }

  // The place behind all that the stream has to do; for the legacy one, what the blocking ones have, too.
  std::shared_ptr<SoftContext> EndOf(const Stream& stream, Streams::Mark* mark) {
    const std::lock_guard lock(mutex_);
    const auto context = FindLocked(stream.context);
    SoftStream* const found = context == nullptr ? nullptr : StreamOf(*context, stream.id);
    if (found == nullptr) return nullptr;
    if (stream.id == kLegacyStream) {
      std::vector<Streams::Mark> others = BlockingEnds(*context);
      if (!others.empty()) {
        *mark = streams_.Add(found->queue, std::move(others), [] {});
        return context;
      }
    }
    *mark = streams_.End(found->queue);
    return context;
  }
  std::vector<Streams::Mark> BlockingEnds(SoftContext& context) {
    std::vector<Streams::Mark> ends;
    for (auto& [id, other] : context.streams) {
      if (!other.blocking) continue;
      Streams::Mark end = streams_.End(other.queue);
      if (!streams_.Reached(end)) ends.push_back(std::move(end));
    }
    return ends;
  }

  void WaitForPlace(const Stream& stream) {
    std::shared_ptr<Streams::Queue> queue;
    {
      const std::lock_guard lock(mutex_);
      const auto context = FindLocked(stream.context);
      SoftStream* const found = context == nullptr ? nullptr : StreamOf(*context, stream.id);
      if (found == nullptr) return;
      queue = found->queue;
    }
    streams_.WaitForPlace(queue, stream_places_);
  }

  // `always`: also when the context has failed meanwhile.
  CUresult Add(const Stream& stream, std::vector<Streams::Mark> after, bool always, Streams::Work work,
               Streams::Mark* mark = nullptr) {
    if (stream_places_ != 0) WaitForPlace(stream);
    const std::lock_guard lock(mutex_);
    Target target;
    TULLE_CUDA_RETURN_IF_ERROR(Aim(stream, &target, &after));
    const Streams::Mark at = streams_.Add(target.queue, std::move(after),
                                          [context = target.context, always, work = std::move(work)] {
                                            if (always || context->error == CUDA_SUCCESS) work();
                                          });
    if (mark != nullptr) *mark = at;
    return CUDA_SUCCESS;
  }

  CUresult AddAndWait(const Stream& stream, const Streams::Work& work) {
    Target target;
    std::vector<Streams::Mark> after;
    {
      const std::lock_guard lock(mutex_);
      TULLE_CUDA_RETURN_IF_ERROR(Aim(stream, &target, &after));
    }
    streams_.Run(target.queue, std::move(after), [&] {
      if (target.context->error == CUDA_SUCCESS) work();
    });
    return target.context->error;
  }

  // Where work of the stream goes, and what it has to wait for besides. With mutex_ held.
  struct Target {
    std::shared_ptr<SoftContext> context;
    std::shared_ptr<Streams::Queue> queue;
  };
  CUresult Aim(const Stream& stream, Target* target, std::vector<Streams::Mark>* after) {
    target->context = FindLocked(stream.context);
    SoftStream* const found = target->context == nullptr ? nullptr : StreamOf(*target->context, stream.id);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (target->context->error != CUDA_SUCCESS) return target->context->error;
    target->queue = found->queue;
    if (stream.id == kLegacyStream) {
      for (Streams::Mark& end : BlockingEnds(*target->context)) after->push_back(std::move(end));
    } else if (found->blocking) {
      after->push_back(streams_.End(target->context->legacy.queue));
    }
    return CUDA_SUCCESS;
  }

  CUresult Disown(ContextId id, CUdeviceptr address) {
    const std::lock_guard lock(mutex_);
    const auto it = owners_.find(address);
    if (it == owners_.end() || it->second.context != id || it->second.is_variable)
      return CUDA_ERROR_INVALID_VALUE;
    owners_.erase(it);
    return CUDA_SUCCESS;
  }

  void Run(SoftContext& context, const SoftFunction& function, const LaunchShape& shape,
           ByteView parameters) {
    const auto dim = [](const Dimensions& d) { return Dim3{d.x, d.y, d.z}; };
    const auto end = RunKernel(*function.program, *memory_,
                               {.grid = dim(shape.grid),
                                .block = dim(shape.block),
                                .dynamic_shared_bytes = shape.shared_bytes,
                                .parameters = parameters,
                                .threads = &threads_,
                                .print = &kPrint});
    const CUresult result = end.ok() ? ResultOf(end->fault) : CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) return;
    CUresult none = CUDA_SUCCESS;
    context.error.compare_exchange_strong(none, result);
    if (end.ok()) {
      Log(LogLevel::kWarn, "softcuda", "a kernel failed",
          {{"kernel", function.program->name},
           {"result", static_cast<int>(result)},
           {"ptx_line", end->line},
           {"address", end->address}});
    } else {
      Log(LogLevel::kWarn, "softcuda", "a kernel could not be launched",
          {{"kernel", function.program->name}, {"why", end.error().message}});
    }
  }

  DeviceProperties properties_;
  const std::unique_ptr<DeviceMemory> memory_;
  HostThreads threads_;
  const std::uint32_t stream_places_;  // 0: no end
  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> last_id_{0};
  std::map<ContextId, std::shared_ptr<SoftContext>> contexts_;
  std::map<CUdeviceptr, Owner> owners_;  // by where the memory begins
  std::vector<Streams::Mark> leaving_;   // ends of streams that were destroyed with work to do
  Streams streams_;
};

}  // namespace

Result<std::unique_ptr<tulle::cuda::Device>> MakeSoftDevice(const SoftDeviceOptions& options) {
  TULLE_ASSIGN_OR_RETURN(auto memory, DeviceMemory::Reserve(options.memory_bytes));
  const std::uint32_t threads = std::max(options.threads, 1u);
  return std::unique_ptr<tulle::cuda::Device>(std::make_unique<SoftDevice>(
      std::move(memory), threads, options.multiprocessors == 0 ? threads : options.multiprocessors,
      options.stream_places));
}

}  // namespace tulle::gpu::softcuda
