// A library of CUDA's driver API: NVIDIA's, or that of the software device.
#pragma once

#include <string>

#include "tulle/base/result.h"
#include "tulle/cuda/driver_api.h"

namespace tulle::gpu::cuda {

// The functions that the backend uses, by what they are exported as.
// clang-format off
#define TULLE_CUDA_USED(X)                                                                                     \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetByPCIBusId) X(cuDeviceGetPCIBusId) \
  X(cuDeviceTotalMem_v2) X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuStreamSynchronize) X(cuDeviceGetName) X(cuDeviceGetUuid_v2) X(cuDeviceGetAttribute)                    \
  X(cuCtxCreate_v2) X(cuCtxDestroy_v2) X(cuCtxSetCurrent) X(cuMemHostRegister_v2) X(cuMemHostAlloc) X(cuMemFreeHost) \
  X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemGetAllocationGranularity)                                  \
  X(cuMemCreate) X(cuMemImportFromShareableHandle) X(cuMemRelease) X(cuMemMap) X(cuMemUnmap) X(cuMemSetAccess)                                   \
  X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoDAsync_v2) X(cuMemcpy3DAsync_v2)                \
  X(cuMemsetD2D8Async) X(cuMemsetD2D16Async) X(cuMemsetD2D32Async)                                             \
  X(cuModuleLoadDataEx) X(cuModuleUnload) X(cuModuleGetFunction) X(cuModuleGetGlobal_v2)                       \
  X(cuFuncGetAttribute) X(cuFuncSetAttribute) X(cuFuncGetParamInfo) X(cuLaunchKernelEx) X(cuLaunchHostFunc)    \
  X(cuStreamCreateWithPriority) X(cuStreamDestroy_v2) X(cuStreamQuery) X(cuStreamWaitEvent)                    \
  X(cuStreamAddCallback) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventRecord)
// clang-format on

struct Library {
#define TULLE_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  TULLE_CUDA_USED(TULLE_CUDA_MEMBER)
#undef TULLE_CUDA_MEMBER
};

// The functions that this program is linked with.
inline Result<Library> LinkedLibrary() {
  return Library{
#define TULLE_CUDA_ADDRESS(name) .name = &::name,
      TULLE_CUDA_USED(TULLE_CUDA_ADDRESS)
#undef TULLE_CUDA_ADDRESS
  };
}

// Those of a shared library ("libcuda.so.1", or a path), which stays loaded. kNotFound: it cannot be loaded;
// kFailedPrecondition: it lacks one of them, as drivers of CUDA before 12.4 do.
Result<Library> OpenLibrary(const std::string& path);

}  // namespace tulle::gpu::cuda
