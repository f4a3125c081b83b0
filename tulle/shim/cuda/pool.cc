// Pools of memory in the order of streams. A pool keeps nothing back: it counts what was taken from it.
#include <algorithm>
#include <cstring>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace tulle::shim::cuda {

void Driver::TakenFrom(PoolObject& pool, CUdeviceptr address, std::uint64_t bytes) {
  const std::lock_guard lock(pool.mutex);
  pool.allocations[address] = bytes;
  pool.used += bytes;
  pool.used_high = std::max(pool.used_high, pool.used);
}

void Driver::GivenBack(CUdeviceptr address) {
  pools.ForEach([address](PoolObject& pool) {
    const std::lock_guard lock(pool.mutex);
    const auto it = pool.allocations.find(address);
    if (it == pool.allocations.end()) return;
    pool.used -= it->second;
    pool.allocations.erase(it);
  });
}

}  // namespace tulle::shim::cuda

namespace {

CUresult FindPool(CUmemoryPool handle, std::shared_ptr<PoolObject>* pool) {
  Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  *pool = driver->pools.Find(handle);
  return *pool == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult GetPool(CUmemoryPool* pool, CUdevice ordinal, std::vector<CUmemoryPool> Driver::*which) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.pools_mutex);
  *pool = (driver.*which)[static_cast<std::size_t>(ordinal)];
  return CUDA_SUCCESS;
}

CUresult AllocateFrom(CUmemoryPool handle, const StreamChoice& choice, CUdeviceptr* address,
                      std::size_t bytes) {
  std::shared_ptr<PoolObject> pool;
  TULLE_CUDA_RETURN_IF_ERROR(FindPool(handle, &pool));
  if (address == nullptr || pool->ordinal != choice.context->ordinal) return CUDA_ERROR_INVALID_VALUE;
  *address = 0;
  if (bytes == 0) return CUDA_SUCCESS;
  TULLE_CUDA_RETURN_IF_ERROR(choice.device().Allocate(choice.context->id, bytes, address));
  TheDriver()->TakenFrom(*pool, *address, bytes);
  return CUDA_SUCCESS;
}

bool IsFlag(CUmemPool_attribute attribute) {
  return attribute >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES &&
         attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
}

}  // namespace

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return GetPool(pool, ordinal, &Driver::default_pools);
}

CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice ordinal) {
  return GetPool(pool, ordinal, &Driver::current_pools);
}

CUresult cuDeviceSetMemPool(CUdevice ordinal, CUmemoryPool handle) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  std::shared_ptr<PoolObject> pool;
  TULLE_CUDA_RETURN_IF_ERROR(FindPool(handle, &pool));
  if (pool->ordinal != ordinal) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.pools_mutex);
  driver.current_pools[static_cast<std::size_t>(ordinal)] = handle;
  return CUDA_SUCCESS;
}

CUresult cuMemPoolCreate(CUmemoryPool* handle, const CUmemPoolProps* properties) {
  if (TheDriver() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (handle == nullptr || properties == nullptr || properties->allocType != 1 ||
      properties->location.type != 1)
    return CUDA_ERROR_INVALID_VALUE;
  if (properties->handleTypes != 0) return NotSupported("cuMemPoolCreate for other processes");
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(properties->location.id, &device));
  auto pool = std::make_shared<PoolObject>();
  pool->ordinal = properties->location.id;
  *handle = TheDriver()->pools.Add(std::move(pool));
  return CUDA_SUCCESS;
}

// What was taken from it stays until it is given back.
CUresult cuMemPoolDestroy(CUmemoryPool handle) {
  std::shared_ptr<PoolObject> pool;
  TULLE_CUDA_RETURN_IF_ERROR(FindPool(handle, &pool));
  if (pool->is_default) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.pools_mutex);
  const auto ordinal = static_cast<std::size_t>(pool->ordinal);
  if (driver.current_pools[ordinal] == handle) driver.current_pools[ordinal] = driver.default_pools[ordinal];
  driver.pools.Remove(handle);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool handle, std::size_t) {
  std::shared_ptr<PoolObject> pool;
  return FindPool(handle, &pool);
}

CUresult cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  std::shared_ptr<PoolObject> pool;
  TULLE_CUDA_RETURN_IF_ERROR(FindPool(handle, &pool));
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(pool->mutex);
  if (IsFlag(attribute)) {
    const int flag = static_cast<int>(pool->settings.try_emplace(attribute, 1).first->second);
    std::memcpy(value, &flag, sizeof flag);
    return CUDA_SUCCESS;
  }
  std::uint64_t number = 0;
  switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: number = pool->settings[attribute]; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: number = pool->used; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: number = pool->used_high; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  std::memcpy(value, &number, sizeof number);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  std::shared_ptr<PoolObject> pool;
  TULLE_CUDA_RETURN_IF_ERROR(FindPool(handle, &pool));
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(pool->mutex);
  if (IsFlag(attribute)) {
    int flag = 0;
    std::memcpy(&flag, value, sizeof flag);
    if (flag != 0 && flag != 1) return CUDA_ERROR_INVALID_VALUE;
    pool->settings[attribute] = static_cast<std::uint64_t>(flag);
    return CUDA_SUCCESS;
  }
  std::uint64_t number = 0;
  std::memcpy(&number, value, sizeof number);
  switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: pool->settings[attribute] = number; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      if (number != 0) return CUDA_ERROR_INVALID_VALUE;
      pool->used_high = pool->used;
      return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  CUmemoryPool pool = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(cuDeviceGetMemPool(&pool, choice.context->ordinal));
  return AllocateFrom(pool, choice, address, bytes);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, std::size_t bytes, CUmemoryPool pool,
                                 CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  return AllocateFrom(pool, choice, address, bytes);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  StreamChoice choice;
  TULLE_CUDA_RETURN_IF_ERROR(ChooseStream(stream, &choice));
  if (address == 0) return CUDA_SUCCESS;
  TULLE_CUDA_RETURN_IF_ERROR(choice.device().FreeAsync(choice.stream, address));
  TheDriver()->GivenBack(address);
  return CUDA_SUCCESS;
}
