// Memory apart from its addresses, which a program maps where it wants it.
#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

// A range of addresses belongs to the first device that has such; memory of another cannot be mapped there.
CUresult FindMapper(Device** mapper) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  for (const auto& device : TheDriver()->devices) {
    if (device->properties().granule_bytes == 0) continue;
    *mapper = device.get();
    return CUDA_SUCCESS;
  }
  return NotSupported("memory apart from its addresses");
}

CUresult FindOwner(const CUmemAllocationProp* properties, Device** device) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (properties == nullptr || properties->type != 1 || properties->location.type != 1)
    return CUDA_ERROR_INVALID_VALUE;
  if ((properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
    return NotSupported("memory for other processes in other ways than as a descriptor");
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(properties->location.id, device));
  Device* mapper = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&mapper));
  return *device == mapper ? CUDA_SUCCESS
                           : NotSupported("memory of several devices apart from its addresses");
}

}  // namespace

CUresult cuMemAddressReserve(CUdeviceptr* address, std::size_t bytes, std::size_t alignment,
                             CUdeviceptr wanted, unsigned long long flags) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  if (address == nullptr || flags != 0 || (alignment & (alignment - 1)) != 0 ||
      alignment > device->properties().granule_bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return device->ReserveAddresses(bytes, wanted, address);
}

CUresult cuMemAddressFree(CUdeviceptr address, std::size_t bytes) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  return device->FreeAddresses(address, bytes);
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* memory, std::size_t bytes,
                     const CUmemAllocationProp* properties, unsigned long long flags) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindOwner(properties, &device));
  if (memory == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  MemoryId id{};
  TULLE_CUDA_RETURN_IF_ERROR(device->CreateMemory(bytes, properties->requestedHandleTypes != 0, &id));
  *memory = static_cast<CUmemGenericAllocationHandle>(id);
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle memory) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  return device->ReleaseMemory(MemoryId{memory});
}

CUresult cuMemExportToShareableHandle(void* handle, CUmemGenericAllocationHandle memory,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return NotSupported("memory for other processes in other ways than as a descriptor");
  return device->ExportMemory(MemoryId{memory}, static_cast<int*>(handle));
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* memory, void* handle,
                                        CUmemAllocationHandleType type) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return NotSupported("memory of other processes in other ways than as a descriptor");
  MemoryId id{};
  TULLE_CUDA_RETURN_IF_ERROR(
      device->ImportMemory(static_cast<int>(reinterpret_cast<std::intptr_t>(handle)), &id));
  *memory = static_cast<CUmemGenericAllocationHandle>(id);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                  CUmemGenericAllocationHandle memory, unsigned long long flags) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  if (offset != 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;  // as the API has it
  return device->MapMemory(address, bytes, MemoryId{memory});
}

CUresult cuMemUnmap(CUdeviceptr address, std::size_t bytes) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  return device->UnmapMemory(address, bytes);
}

CUresult cuMemSetAccess(CUdeviceptr address, std::size_t bytes, const CUmemAccessDesc* access,
                        std::size_t count) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindMapper(&device));
  if (access == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) {
    Device* whose = nullptr;
    if (access[i].location.type != 1) return CUDA_ERROR_INVALID_VALUE;
    TULLE_CUDA_RETURN_IF_ERROR(FindDevice(access[i].location.id, &whose));
    if (whose != device) return NotSupported("memory that several devices may use");
    switch (access[i].flags) {
      case CU_MEM_ACCESS_FLAGS_PROT_NONE:
      case CU_MEM_ACCESS_FLAGS_PROT_READ:
      case CU_MEM_ACCESS_FLAGS_PROT_READWRITE: break;
      default: return CUDA_ERROR_INVALID_VALUE;
    }
    TULLE_CUDA_RETURN_IF_ERROR(device->SetAccess(address, bytes, access[i].flags));
  }
  return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp* properties,
                                       CUmemAllocationGranularity_flags option) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindOwner(properties, &device));
  if (granularity == nullptr || option < CU_MEM_ALLOC_GRANULARITY_MINIMUM ||
      option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *granularity = device->properties().granule_bytes;
  return CUDA_SUCCESS;
}
