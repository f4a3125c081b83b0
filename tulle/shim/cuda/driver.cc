#include "tulle/shim/cuda/driver.h"

#include <algorithm>

#include "tulle/base/log.h"

namespace tulle::shim::cuda {
namespace {

std::atomic<Driver*> g_driver{nullptr};
std::mutex g_starting;
thread_local bool g_per_thread_default = false;

}  // namespace

Driver* TheDriver() { return g_driver.load(std::memory_order_acquire); }

void ForgetDriver() {
  g_driver.store(nullptr);
  ContextStack().clear();
  new (&g_starting) std::mutex;  // another thread of the parent may have held it
}

CUresult FindDevice(CUdevice ordinal, Device** device) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= driver->devices.size())
    return CUDA_ERROR_INVALID_DEVICE;
  *device = driver->devices[static_cast<std::size_t>(ordinal)].get();
  return CUDA_SUCCESS;
}

std::vector<CUcontext>& ContextStack() {
  thread_local std::vector<CUcontext> stack;
  return stack;
}

CUresult CurrentContext(std::shared_ptr<Context>* context) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const std::vector<CUcontext>& stack = ContextStack();
  if (stack.empty() || stack.back() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  *context = driver->contexts.Find(stack.back());
  return *context == nullptr ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

CUresult ChooseStream(CUstream handle, StreamChoice* choice) {
  if (handle == nullptr) handle = g_per_thread_default ? PerThreadStream() : LegacyStream();
  if (handle == LegacyStream() || handle == PerThreadStream()) {
    TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&choice->context));
    choice->stream = {choice->context->id, kLegacyStream};
    return handle == LegacyStream() ? CUDA_SUCCESS : choice->context->ThreadStream(&choice->stream.id);
  }
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto object = driver->streams.Find(handle);
  if (object == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (object->context->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  choice->context = object->context;
  choice->stream = object->stream();
  return CUDA_SUCCESS;
}

PerThreadDefault::PerThreadDefault() : before_(g_per_thread_default) { g_per_thread_default = true; }
PerThreadDefault::~PerThreadDefault() { g_per_thread_default = before_; }

CUresult Context::ThreadStream(StreamId* stream) {
  const std::lock_guard lock(mutex);
  const auto it = thread_streams.find(std::this_thread::get_id());
  if (it != thread_streams.end()) {
    *stream = it->second;
    return CUDA_SUCCESS;
  }
  TULLE_CUDA_RETURN_IF_ERROR(device->CreateStream(id, CU_STREAM_DEFAULT, 0, stream));
  thread_streams.emplace(std::this_thread::get_id(), *stream);
  return CUDA_SUCCESS;
}

CUresult Context::TransferStreams(StreamId* its_aside, StreamId* its_behind) {
  const std::lock_guard lock(mutex);
  if (aside == StreamId{})
    TULLE_CUDA_RETURN_IF_ERROR(
        device->CreateStream(id, CU_STREAM_NON_BLOCKING | kStreamStandsAside, 0, &aside));
  if (behind == StreamId{})
    TULLE_CUDA_RETURN_IF_ERROR(device->CreateStream(id, CU_STREAM_NON_BLOCKING, 0, &behind));
  *its_aside = aside;
  *its_behind = behind;
  return CUDA_SUCCESS;
}

bool HostMemory::Add(const Range& range) {
  const std::lock_guard lock(mutex_);
  const auto next = ranges_.lower_bound(range.begin);
  if (next != ranges_.end() && next->first < range.begin + range.bytes) return false;
  if (next != ranges_.begin()) {
    const Range& before = std::prev(next)->second;
    if (before.begin + before.bytes > range.begin) return false;
  }
  ranges_.emplace(range.begin, range);
  return true;
}

std::unique_ptr<HostMemory::Range> HostMemory::Remove(const void* begin) {
  const std::lock_guard lock(mutex_);
  const auto it = ranges_.find(reinterpret_cast<std::uintptr_t>(begin));
  if (it == ranges_.end()) return nullptr;
  auto range = std::make_unique<Range>(it->second);
  ranges_.erase(it);
  return range;
}

bool HostMemory::Find(std::uintptr_t address, Range* range) const {
  const std::shared_lock lock(mutex_);
  auto it = ranges_.upper_bound(address);
  if (it == ranges_.begin()) return false;
  --it;
  if (address - it->first >= it->second.bytes) return false;
  *range = it->second;
  return true;
}

CUresult Driver::CreateContext(CUdevice ordinal, unsigned flags, bool primary, CUcontext* handle) {
  static std::atomic<unsigned long long> last_number{0};
  auto context = std::make_shared<Context>();
  context->device = devices[static_cast<std::size_t>(ordinal)].get();
  context->ordinal = ordinal;
  context->flags = flags;
  context->primary = primary;
  context->number = ++last_number;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->CreateContext(&context->id));
  *handle = contexts.Add(context);
  context->handle = *handle;
  return CUDA_SUCCESS;
}

CUresult Driver::DestroyContext(CUcontext handle) {
  const auto context = contexts.Remove(handle);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  context->destroyed = true;
  const auto its = [&](const auto& object) { return object.context == context; };
  streams.RemoveIf(its);
  events.RemoveIf(its);
  functions.RemoveIf(its);
  modules.RemoveIf(its);
  return context->device->DestroyContext(context->id);
}

CUresult NotSupported(const char* function) {
  Log(LogLevel::kWarn, "cuda", "the program calls a function that there is not", {{"function", function}});
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace tulle::shim::cuda

using namespace tulle::shim::cuda;  // NOLINT

CUresult cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(g_starting);
  if (TheDriver() == nullptr) {
    auto devices = OpenDevices();
    if (!devices.ok()) {
      tulle::Log(tulle::LogLevel::kError, "cuda", "there are no devices",
                 {{"why", tulle::ToString(devices.error())}});
      return CUDA_ERROR_NO_DEVICE;
    }
    if (devices->empty()) return CUDA_ERROR_NO_DEVICE;
    auto driver = std::make_unique<Driver>();
    driver->devices = *std::move(devices);
    driver->primaries.resize(driver->devices.size());
    for (std::size_t i = 0; i < driver->devices.size(); ++i) {
      auto pool = std::make_shared<PoolObject>();
      pool->ordinal = static_cast<CUdevice>(i);
      pool->is_default = true;
      driver->default_pools.push_back(driver->pools.Add(std::move(pool)));
    }
    driver->current_pools = driver->default_pools;
    g_driver.store(driver.release(), std::memory_order_release);
  }
  return CUDA_SUCCESS;
}
