// A library of CUDA's driver API: NVIDIA's, or that of the software device.
#pragma once

#include "tulle/base/result.h"
#include "tulle/cuda/driver_api.h"

namespace tulle::gpu::cuda {

// The functions that the backend uses, by what they are exported as.
// clang-format off
#define TULLE_CUDA_USED(X)                                                                                     \
  X(cuInit) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetUuid_v2) X(cuDeviceGetAttribute)                    \
  X(cuCtxCreate_v2) X(cuCtxDestroy_v2) X(cuCtxSetCurrent)                                                      \
  X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemFreeAsync) X(cuMemHostRegister_v2)                                   \
  X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoDAsync_v2) X(cuMemcpy3DAsync_v2)                \
  X(cuMemsetD2D8Async) X(cuMemsetD2D16Async) X(cuMemsetD2D32Async)                                             \
  X(cuModuleLoadDataEx) X(cuModuleUnload) X(cuModuleGetFunction) X(cuModuleGetGlobal_v2)                       \
  X(cuFuncGetAttribute) X(cuFuncSetAttribute) X(cuFuncGetParamInfo) X(cuLaunchKernel) X(cuLaunchHostFunc)      \
  X(cuStreamCreateWithPriority) X(cuStreamDestroy_v2) X(cuStreamQuery) X(cuStreamWaitEvent)                    \
  X(cuStreamAddCallback) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventRecord)
// clang-format on

struct Library {
#define TULLE_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  TULLE_CUDA_USED(TULLE_CUDA_MEMBER)
#undef TULLE_CUDA_MEMBER
  // Before cuInit: the device's memory shall be at these addresses.
  void (*place_memory)(std::uint64_t address, std::uint64_t bytes) = nullptr;
};

// The functions that this program is linked with.
inline Library LinkedLibrary(void (*place_memory)(std::uint64_t address, std::uint64_t bytes)) {
  return {
#define TULLE_CUDA_ADDRESS(name) .name = &::name,
      TULLE_CUDA_USED(TULLE_CUDA_ADDRESS)
#undef TULLE_CUDA_ADDRESS
          .place_memory = place_memory};
}

}  // namespace tulle::gpu::cuda
