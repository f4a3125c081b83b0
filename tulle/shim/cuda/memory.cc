// The device's memory, the host's as CUDA knows it, and what is known of pointers.
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

// Rows of cuMemAllocPitch begin at multiples of this.
constexpr std::size_t kPitch = 512;
constexpr std::size_t kHostPage = 4096;
constexpr unsigned kHostAllocFlags = 7;  // portable, device map, write combined

std::uintptr_t AddressOf(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

}  // namespace

CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::uint64_t free_bytes = 0, total_bytes = 0;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->GetMemoryInfo(context->id, &free_bytes, &total_bytes));
  *free = free_bytes;
  *total = total_bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  return context->device->Allocate(context->id, bytes, address);
}

CUresult cuMemAllocPitch_v2(CUdeviceptr* address, std::size_t* pitch, std::size_t width, std::size_t height,
                            unsigned element) {
  if (pitch == nullptr || width == 0 || height == 0 || (element != 4 && element != 8 && element != 16) ||
      width > SIZE_MAX - kPitch) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::size_t row = (width + kPitch - 1) / kPitch * kPitch;
  if (height > SIZE_MAX / row) return CUDA_ERROR_INVALID_VALUE;
  TULLE_CUDA_RETURN_IF_ERROR(cuMemAlloc_v2(address, row * height));
  *pitch = row;
  return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (address == 0) return CUDA_SUCCESS;
  ContextId owner = context->id;
  CUdeviceptr base = 0;
  std::uint64_t bytes = 0;
  if (!context->device->FindMemory(address, &owner, &base, &bytes) || owner == ContextId{})
    return CUDA_ERROR_INVALID_VALUE;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->Free(owner, address));
  TheDriver()->GivenBack(address);
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  ContextId owner{};
  CUdeviceptr begin = 0;
  std::uint64_t size = 0;
  if (!context->device->FindMemory(address, &owner, &begin, &size)) return CUDA_ERROR_NOT_FOUND;
  if (base != nullptr) *base = begin;
  if (bytes != nullptr) *bytes = size;
  return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void** memory, std::size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }

CUresult cuMemHostAlloc(void** memory, std::size_t bytes, unsigned flags) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (memory == nullptr || bytes == 0 || bytes > SIZE_MAX - kHostPage || (flags & ~kHostAllocFlags) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  const std::size_t whole = (bytes + kHostPage - 1) / kHostPage * kHostPage;
  void* const there = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (there == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  TheDriver()->host_memory.Add({AddressOf(there), whole, flags, false});
  *memory = there;
  return CUDA_SUCCESS;
}

namespace {

// Until nothing that is under way uses memory of the host any more, which all contexts may; whatever their
// errors are.
void SynchronizeAll() {
  std::vector<std::pair<Device*, ContextId>> contexts;
  TheDriver()->contexts.ForEach(
      [&](const Context& context) { contexts.emplace_back(context.device, context.id); });
  for (const auto& [device, id] : contexts) (void)device->SynchronizeContext(id);
}

}  // namespace

CUresult cuMemFreeHost(void* memory) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  HostMemory::Range range;
  if (!TheDriver()->host_memory.Find(AddressOf(memory), &range) || range.begin != AddressOf(memory) ||
      range.registered) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  SynchronizeAll();
  if (TheDriver()->host_memory.Remove(memory) != nullptr) munmap(memory, range.bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void* memory, std::size_t bytes, unsigned flags) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (memory == nullptr || bytes == 0 || bytes > SIZE_MAX - AddressOf(memory))
    return CUDA_ERROR_INVALID_VALUE;
  return TheDriver()->host_memory.Add({AddressOf(memory), bytes, flags, true})
             ? CUDA_SUCCESS
             : CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
}

CUresult cuMemHostUnregister(void* memory) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  HostMemory::Range range;
  if (!TheDriver()->host_memory.Find(AddressOf(memory), &range) || range.begin != AddressOf(memory) ||
      !range.registered) {
    return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  }
  SynchronizeAll();
  (void)TheDriver()->host_memory.Remove(memory);
  return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned* flags, void* memory) {
  const Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  HostMemory::Range range;
  if (flags == nullptr || !driver->host_memory.Find(AddressOf(memory), &range) || range.registered)
    return CUDA_ERROR_INVALID_VALUE;
  *flags = range.flags;
  return CUDA_SUCCESS;
}

namespace {

struct Pointer {
  const Device* device = nullptr;  // null: the host's memory
  CUcontext context = nullptr;
  CUdevice ordinal = 0;
  std::uint64_t begin = 0, bytes = 0;
};

bool FindPointer(std::uint64_t address, Pointer* pointer) {
  Driver& driver = *TheDriver();
  for (std::size_t i = 0; i < driver.devices.size(); ++i) {
    ContextId owner{};
    CUdeviceptr begin = 0;
    if (!driver.devices[i]->FindMemory(address, &owner, &begin, &pointer->bytes)) continue;
    pointer->device = driver.devices[i].get();
    pointer->ordinal = static_cast<CUdevice>(i);
    pointer->begin = begin;
    pointer->context = driver.contexts.FindHandle(
        [&](const Context& c) { return c.device == pointer->device && c.id == owner; });
    return true;
  }
  HostMemory::Range range;
  if (!driver.host_memory.Find(address, &range)) return false;
  std::shared_ptr<Context> current;
  if (CurrentContext(&current) == CUDA_SUCCESS) {
    pointer->context = current->handle;
    pointer->ordinal = current->ordinal;
  }
  pointer->begin = range.begin;
  pointer->bytes = range.bytes;
  return true;
}

template <typename T>
CUresult Put(void* out, T value) {
  std::memcpy(out, &value, sizeof value);
  return CUDA_SUCCESS;
}

// Values as the API has them, in its own types.
CUresult PutAttribute(const Pointer& pointer, CUpointer_attribute attribute, std::uint64_t address,
                      void* out) {
  const bool on_device = pointer.device != nullptr;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: return Put(out, pointer.context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return Put<unsigned>(out, on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST);
    // The device cannot reach the host's memory, nor the other way round.
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return on_device ? Put<CUdeviceptr>(out, address) : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return on_device ? CUDA_ERROR_INVALID_VALUE : Put<std::uint64_t>(out, address);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: return Put<unsigned>(out, 0);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: return Put<unsigned long long>(out, pointer.begin);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return Put<unsigned>(out, 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return Put<int>(out, pointer.ordinal);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return Put<CUdeviceptr>(out, pointer.begin);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return Put<std::size_t>(out, pointer.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED: return Put<unsigned>(out, on_device ? 1 : 0);
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Pointer pointer;
  if (!FindPointer(address, &pointer)) return CUDA_ERROR_INVALID_VALUE;
  return PutAttribute(pointer, attribute, address, value);
}

// Of a pointer that is not known, every value is 0; so is each that it does not have.
CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute* attributes, void** values,
                                CUdeviceptr address) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (attributes == nullptr || values == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Pointer pointer;
  const bool known = FindPointer(address, &pointer);
  for (unsigned i = 0; i < count; ++i) {
    if (values[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (known && PutAttribute(pointer, attributes[i], address, values[i]) == CUDA_SUCCESS) continue;
    switch (attributes[i]) {
      case CU_POINTER_ATTRIBUTE_CONTEXT:
      case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      case CU_POINTER_ATTRIBUTE_RANGE_SIZE: Put<std::uint64_t>(values[i], 0); break;
      case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: Put<int>(values[i], -2); break;  // as NVIDIA's driver has it
      default: Put<unsigned>(values[i], 0);
    }
  }
  return CUDA_SUCCESS;
}
