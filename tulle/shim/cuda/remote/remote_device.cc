#include "tulle/shim/cuda/remote/remote_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "tulle/base/log.h"
#include "tulle/base/random.h"
#include "tulle/shim/cuda/remote/remote_objects.h"

namespace tulle::shim::cuda {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

namespace {

// Addresses that are tried before the device is given up.
constexpr int kPlaces = 8;
// More addresses than memory, so that holes between allocations do not fail the next; and how the range is
// aligned, which is what devices have memory in multiples of.
constexpr std::uint64_t kAddressFactor = 2, kAlignment = 2u << 20;

// Addresses of this process that nothing is at; 0: there are not so many. At random where processes have
// nothing of their own, if the kernel grants that: so that they are likely to be free in the process of the
// device, too, and others each time.
std::uint64_t ReserveAligned(std::uint64_t bytes) {
  constexpr std::uint64_t kFirst = 0x3000'0000'0000, kSpread = 0x1000'0000'0000;
  SecureRandom random;
  void* const wanted = At(kFirst + random.Below(kSpread / kAlignment) * kAlignment);
  const std::uint64_t more = bytes + kAlignment;
  void* const place = mmap(wanted, more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return 0;
  const auto begin = reinterpret_cast<std::uint64_t>(place);
  const std::uint64_t aligned = (begin + kAlignment - 1) / kAlignment * kAlignment;
  if (aligned != begin) munmap(place, aligned - begin);
  munmap(At(aligned + bytes), kAlignment - (aligned - begin));
  return aligned;
}

// Kept until the end, so that the next ones are others.
class Places {
 public:
  Places() = default;
  ~Places() {
    for (const auto& [address, bytes] : all_) munmap(At(address), bytes);
  }
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;
  void Add(std::uint64_t address, std::uint64_t bytes) { all_.emplace_back(address, bytes); }

 private:
  std::vector<std::pair<std::uint64_t, std::uint64_t>> all_;
};

}  // namespace

bool IsSticky(CUresult result) {
  switch (result) {
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED: return true;
    default: return false;
  }
}

Result<std::unique_ptr<RemoteDevice>> RemoteDevice::Open(Connection::Options options) {
  options.capabilities = wire::CudaCapabilities();
  options.lost_status = -kLost;
  std::unique_ptr<RemoteDevice> device(new RemoteDevice(std::move(options)));
  TULLE_RETURN_IF_ERROR(device->Start());
  return device;
}

RemoteDevice::~RemoteDevice() {
  if (arena_bytes_ != 0) munmap(At(arena_address_), arena_bytes_);
}

RemoteDevice::RemoteDevice(Connection::Options options)
    : options_(std::move(options)), pending_(std::make_shared<Pending>()) {}

Status RemoteDevice::Start() {
  TULLE_ASSIGN_OR_RETURN(connection_, Connection::Open(options_));
  if (!wire::Has(connection_->limits().capabilities, wire::Capability::kCuda)) {
    return Error{Code::kFailedPrecondition, "vGPU " + options_.target.vgpu + " has no CUDA", Scope::kDevice};
  }
  return Describe();
}

Status RemoteDevice::Describe() {
  properties_.memory_bytes = connection_->limits().memory_limit_bytes;
  const std::uint64_t wanted =
      (properties_.memory_bytes * kAddressFactor + kAlignment - 1) / kAlignment * kAlignment;
  std::uint64_t granule_bytes = 0;
  std::int32_t status = CUDA_ERROR_ALREADY_MAPPED;
  Places tried;
  for (int i = 0; i < kPlaces && status == CUDA_ERROR_ALREADY_MAPPED; ++i) {
    const std::uint64_t place = ReserveAligned(wanted);
    if (place == 0) {
      return Error{Code::kResourceExhausted, "this process has no " + FormatSize(wanted) +
                                                 " of free addresses for the vGPU's memory (see "
                                                 "`ulimit -v`)"};
    }
    if (arena_bytes_ != 0) tried.Add(arena_address_, arena_bytes_);
    arena_address_ = place;
    arena_bytes_ = wanted;
    WaitFor<wire::cuda::DescribeDeviceReply, std::function<void(const wire::cuda::DescribeDeviceReply&)>>
        wait([&](const wire::cuda::DescribeDeviceReply& reply) {
          status = reply.status;
          properties_.name = reply.name.text;
          if (reply.uuid.bytes.size() == sizeof properties_.uuid)
            std::memcpy(&properties_.uuid, reply.uuid.bytes.data(), sizeof properties_.uuid);
          const std::size_t count = std::min(reply.attributes.items.size(), properties_.attributes.size());
          for (std::size_t k = 0; k < count; ++k)
            properties_.attributes[k] = static_cast<int>(reply.attributes.items[k]);
          granule_bytes = reply.granule_bytes;
        });
    if (!connection_->Call(wire::cuda::DescribeDevice{arena_address_, arena_bytes_}, wait))
      return Error{Code::kUnavailable, "the vGPU was lost at the first question", Scope::kSession};
  }
  const bool fits =
      granule_bytes != 0 && (granule_bytes & (granule_bytes - 1)) == 0 && arena_bytes_ % granule_bytes == 0;
  if (status == CUDA_SUCCESS && !fits) status = CUDA_ERROR_NOT_SUPPORTED;
  if (status != CUDA_SUCCESS) {
    return Error{Code::kFailedPrecondition,
                 "the vGPU's device could not be opened (CUresult " + std::to_string(status) + ")",
                 Scope::kDevice};
  }
  // The vGPU cannot reach this host's memory, whatever its device can do on its own.
  properties_.attributes[CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY] = 0;
  // Its memory is had with addresses only.
  properties_.attributes[CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED] = 0;
  vgpu_memory_ = std::make_unique<VgpuMemory>(connection_.get(), arena_address_, arena_bytes_, granule_bytes);
  return OkStatus();
}

std::shared_ptr<RemoteDevice::RemoteContext> RemoteDevice::Find(ContextId context) const {
  const std::shared_lock lock(mutex_);
  const auto it = contexts_.find(context);
  return it == contexts_.end() ? nullptr : it->second;
}

std::shared_ptr<RemoteDevice::RemoteContext> RemoteDevice::Find(const Stream& stream,
                                                                wire::Handle* handle) const {
  auto context = Find(stream.context);
  if (context != nullptr)
    *handle = stream.id == kLegacyStream ? context->legacy : ToHandle(static_cast<std::uint64_t>(stream.id));
  return context;
}

CUresult RemoteDevice::Heard(RemoteContext& context, std::int32_t status) const {
  const CUresult result = static_cast<CUresult>(status);
  CUresult none = CUDA_SUCCESS;
  if (IsSticky(result)) context.error.compare_exchange_strong(none, result);
  return result != CUDA_SUCCESS ? result : context.error.load();
}

// --- contexts

CUresult RemoteDevice::CreateContext(ContextId* id) {
  auto context = std::make_shared<RemoteContext>(pending_);
  context->handle = connection_->NewHandle();
  context->legacy = connection_->NewHandle();
  if (context->handle.null() || context->legacy.null()) return CUDA_ERROR_OUT_OF_MEMORY;
  // Where that fails, so does what is asked of the context.
  if (!connection_->Submit(wire::cuda::CreateContext{{context->handle}, {context->legacy}})) return kLost;
  const std::lock_guard lock(mutex_);
  *id = ContextId{++last_id_};
  contexts_.emplace(*id, std::move(context));
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::DestroyContext(ContextId id) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  (void)SynchronizeContext(id);
  std::vector<std::pair<wire::ObjectKind, wire::Handle>> retired;
  std::vector<CUdeviceptr> freed;
  std::vector<Ref<Event>> events;
  {
    const std::lock_guard lock(mutex_);
    contexts_.erase(id);
    std::erase_if(memory_, [&](const auto& entry) {
      if (entry.second.context != id) return false;
      if (!entry.second.is_variable()) freed.push_back(entry.first);
      return true;
    });
    std::erase_if(modules_, [&](const auto& entry) {
      if (entry.second->context != id) return false;
      for (const wire::Handle function : entry.second->functions)
        retired.emplace_back(wire::ObjectKind::kKernel, function);
      retired.emplace_back(wire::ObjectKind::kProgram, entry.second->handle);
      return true;
    });
    std::erase_if(events_, [&](auto& entry) {
      if (entry.second.context != id) return false;
      events.push_back(std::move(entry.second.recorded));
      return true;
    });
  }
  events.clear();
  for (const CUdeviceptr address : freed) vgpu_memory_->Free(address);
  for (const auto& [kind, handle] : retired) connection_->Retire(kind, handle);
  {
    const std::lock_guard lock(context->mutex);
    for (const std::uint64_t stream : context->streams)
      connection_->Retire(wire::ObjectKind::kQueue, ToHandle(stream));
  }
  connection_->Retire(wire::ObjectKind::kQueue, context->legacy);
  connection_->Retire(wire::ObjectKind::kContext, context->handle);
  connection_->Flush();
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::SynchronizeContext(ContextId id) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const std::uint64_t begun = context->begun;
  StatusWait wait;
  if (!connection_->Call(wire::cuda::SynchronizeContext{{context->handle}}, wait))
    return Heard(*context, kLost);
  context->ended = begun;
  vgpu_memory_->FreePassed();
  // Of a command that had been taken for done.
  const std::int32_t failure = connection_->TakeFailure(context->legacy);
  return Heard(*context, wait.status != 0 ? wait.status : failure);
}

// --- memory

CUresult RemoteDevice::GetMemoryInfo(ContextId id, std::uint64_t* free_bytes, std::uint64_t* total_bytes) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  vgpu_memory_->FreePassed();
  const auto take = [&](const wire::cuda::GetMemoryInfoReply& reply) {
    *free_bytes = reply.free_bytes;
    *total_bytes = reply.total_bytes;
  };
  WaitFor<wire::cuda::GetMemoryInfoReply, decltype(take)> wait(take);
  if (!connection_->Call(wire::cuda::GetMemoryInfo{}, wait)) return Heard(*context, kLost);
  return context->error;
}

CUresult RemoteDevice::Allocate(ContextId id, std::uint64_t bytes, CUdeviceptr* address) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  if (const CUresult result = vgpu_memory_->Allocate(bytes, address); result != CUDA_SUCCESS)
    return Heard(*context, result);
  const std::lock_guard lock(mutex_);
  memory_.emplace(*address, Memory{.bytes = bytes, .context = id});
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::Forget(ContextId context, CUdeviceptr address) {
  const std::lock_guard lock(mutex_);
  const auto it = memory_.find(address);
  if (it == memory_.end() || it->second.context != context || it->second.is_variable())
    return CUDA_ERROR_INVALID_VALUE;
  memory_.erase(it);
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::Free(ContextId id, CUdeviceptr address) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  TULLE_CUDA_RETURN_IF_ERROR(Forget(id, address));
  const CUresult result = context->begun == context->ended ? context->error.load() : SynchronizeContext(id);
  vgpu_memory_->Free(address);
  return result;
}

CUresult RemoteDevice::FreeAsync(const Stream& stream, CUdeviceptr address) {
  wire::Handle queue;
  const auto context = Find(stream, &queue);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  TULLE_CUDA_RETURN_IF_ERROR(Forget(stream.context, address));
  context->pending->functions.Pass(ToBits(queue), ToBits(context->legacy), 2);
  vgpu_memory_->FreeAfter(queue, address);
  return context->error;
}

bool RemoteDevice::FindMemory(CUdeviceptr address, ContextId* context, CUdeviceptr* base,
                              std::uint64_t* bytes) {
  const std::shared_lock lock(mutex_);
  auto it = memory_.upper_bound(address);
  if (it == memory_.begin()) return false;
  --it;
  if (address - it->first >= it->second.bytes) return false;
  *context = it->second.context;
  *base = it->first;
  *bytes = it->second.bytes;
  return true;
}

// --- modules

CUresult RemoteDevice::LoadModule(ContextId id, ByteView image, ModuleId* module_id, std::string* log) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->error != CUDA_SUCCESS) return context->error;
  auto module = std::make_shared<RemoteModule>();
  module->context = id;
  module->handle = connection_->NewHandle();
  if (module->handle.null()) return CUDA_ERROR_OUT_OF_MEMORY;
  bool sent = connection_->Submit(wire::cuda::CreateModule{{context->handle}, {module->handle}});
  while (sent && !image.empty()) {
    const ByteView piece = image.first(std::min<std::size_t>(image.size(), wire::kMaxPayloadBytes));
    image = image.subspan(piece.size());
    Attached attached;
    attached.payload = {&piece, 1};
    sent = connection_->Submit(wire::cuda::ModuleImage{{module->handle}, {piece.size()}}, attached);
  }
  std::int32_t status = 0;
  const auto take = [&](const wire::cuda::LoadModuleReply& reply) {
    status = reply.status;
    *log = reply.log.text;
  };
  // The vGPU's memory has room for its variables, or this process has leased it and does not use it.
  do {
    WaitFor<wire::cuda::LoadModuleReply, decltype(take)> wait(take);
    if (!sent || !connection_->Call(wire::cuda::LoadModule{{module->handle}}, wait))
      return Heard(*context, kLost);
  } while (status == CUDA_ERROR_OUT_OF_MEMORY && connection_->ReturnUnusedMemory());
  if (status != 0) {
    connection_->Retire(wire::ObjectKind::kProgram, module->handle);
    return Heard(*context, status);
  }
  const std::lock_guard lock(mutex_);
  *module_id = ModuleId{++last_id_};
  modules_.emplace(*module_id, std::move(module));
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::UnloadModule(ContextId id, ModuleId module_id) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  (void)SynchronizeContext(id);  // for those kernels of it that are under way
  std::shared_ptr<RemoteModule> module;
  {
    const std::lock_guard lock(mutex_);
    const auto it = modules_.find(module_id);
    if (it == modules_.end()) return CUDA_ERROR_INVALID_HANDLE;
    module = it->second;
    modules_.erase(it);
    std::erase_if(memory_, [&](const auto& entry) { return entry.second.module == module_id; });
  }
  for (const wire::Handle function : module->functions)
    connection_->Retire(wire::ObjectKind::kKernel, function);
  connection_->Retire(wire::ObjectKind::kProgram, module->handle);
  return context->error;
}

CUresult RemoteDevice::FindFunction(ContextId id, ModuleId module_id, const std::string& name,
                                    FunctionId* function, FunctionInfo* info) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (name.size() > wire::kMaxNameBytes) return CUDA_ERROR_NOT_FOUND;
  std::shared_ptr<RemoteModule> module;
  {
    const std::shared_lock lock(mutex_);
    const auto it = modules_.find(module_id);
    if (it == modules_.end()) return CUDA_ERROR_INVALID_HANDLE;
    module = it->second;
  }
  const wire::Handle handle = connection_->NewHandle();
  if (handle.null()) return CUDA_ERROR_OUT_OF_MEMORY;
  std::int32_t status = 0;
  const auto take = [&](const wire::cuda::GetFunctionReply& reply) {
    status = reply.status;
    const std::size_t count = reply.parameter_offsets.items.size();
    const auto bad = [&](std::size_t i) {
      return reply.parameter_offsets.items[i] > reply.parameter_bytes ||
             reply.parameter_sizes.items[i] > reply.parameter_bytes - reply.parameter_offsets.items[i];
    };
    if (reply.parameter_sizes.items.size() != count || reply.parameter_bytes > wire::kMaxArgBytes) {
      if (status == 0) status = CUDA_ERROR_NOT_SUPPORTED;
      return;
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (bad(i)) {
        status = CUDA_ERROR_UNKNOWN;
        return;
      }
      info->parameters.push_back({reply.parameter_offsets.items[i], reply.parameter_sizes.items[i]});
    }
    info->parameter_bytes = reply.parameter_bytes;
    info->max_threads = reply.max_threads;
    info->shared_bytes = reply.shared_bytes;
    info->constant_bytes = reply.constant_bytes;
    info->local_bytes = reply.local_bytes;
    info->registers = reply.registers;
    info->ptx_version = reply.ptx_version;
    info->binary_version = reply.binary_version;
  };
  WaitFor<wire::cuda::GetFunctionReply, decltype(take)> wait(take);
  if (!connection_->Call(wire::cuda::GetFunction{{module->handle}, {handle}, {name}}, wait))
    return Heard(*context, kLost);
  if (status != 0) {
    connection_->Retire(wire::ObjectKind::kKernel, handle);
    return Heard(*context, status);
  }
  const std::lock_guard lock(mutex_);
  module->functions.push_back(handle);
  *function = FunctionId{ToBits(handle)};
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::FindVariable(ContextId id, ModuleId module_id, const std::string& name,
                                    CUdeviceptr* address, std::uint64_t* bytes) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (name.size() > wire::kMaxNameBytes) return CUDA_ERROR_NOT_FOUND;
  wire::Handle module;
  {
    const std::shared_lock lock(mutex_);
    const auto it = modules_.find(module_id);
    if (it == modules_.end()) return CUDA_ERROR_INVALID_HANDLE;
    module = it->second->handle;
  }
  wire::cuda::GetVariableReply got;
  const auto take = [&](const wire::cuda::GetVariableReply& reply) { got = reply; };
  WaitFor<wire::cuda::GetVariableReply, decltype(take)> wait(take);
  if (!connection_->Call(wire::cuda::GetVariable{{module}, {name}}, wait)) return Heard(*context, kLost);
  if (got.status != 0) return Heard(*context, got.status);
  if (got.size_bytes > properties_.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  TULLE_CUDA_RETURN_IF_ERROR(vgpu_memory_->KeepClear(got.address, got.size_bytes));
  const std::lock_guard lock(mutex_);
  memory_.emplace(got.address, Memory{.bytes = got.size_bytes, .context = id, .module = module_id});
  *address = got.address;
  *bytes = got.size_bytes;
  return CUDA_SUCCESS;
}

}  // namespace tulle::shim::cuda
