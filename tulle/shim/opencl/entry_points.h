// The entry points that do something, one list: declared here, defined in the file of their object, put into
// the dispatch table by dispatch.cc. Names and types are OpenCL's, without the "cl".
#pragma once

#include "tulle/shim/opencl/api.h"

// clang-format off
#define TULLE_ENTRY_POINTS(X)                                                                                 \
  X(GetPlatformIDs) X(GetPlatformInfo) X(GetExtensionFunctionAddress) X(GetExtensionFunctionAddressForPlatform) \
  X(UnloadCompiler) X(UnloadPlatformCompiler)                                                                 \
  X(GetDeviceIDs) X(GetDeviceInfo) X(RetainDevice) X(ReleaseDevice) X(CreateSubDevices)                       \
  X(CreateContext) X(CreateContextFromType) X(RetainContext) X(ReleaseContext) X(GetContextInfo)              \
  X(SetContextDestructorCallback)                                                                             \
  X(CreateBuffer) X(CreateBufferWithProperties) X(RetainMemObject) X(ReleaseMemObject) X(GetMemObjectInfo)    \
  X(SetMemObjectDestructorCallback) X(EnqueueReadBuffer) X(EnqueueWriteBuffer) X(EnqueueCopyBuffer)           \
  X(EnqueueFillBuffer) X(EnqueueMapBuffer) X(EnqueueUnmapMemObject) X(EnqueueMigrateMemObjects)               \
  X(CreateSubBuffer) X(EnqueueReadBufferRect) X(EnqueueWriteBufferRect) X(EnqueueCopyBufferRect)              \
  X(CreateImage) X(CreateImageWithProperties) X(CreateImage2D) X(CreateImage3D) X(GetSupportedImageFormats)   \
  X(GetImageInfo) X(EnqueueReadImage) X(EnqueueWriteImage) X(EnqueueCopyImage) X(EnqueueFillImage)            \
  X(EnqueueCopyImageToBuffer) X(EnqueueCopyBufferToImage) X(EnqueueMapImage)                                  \
  X(SVMAlloc) X(SVMFree) X(EnqueueSVMFree) X(EnqueueSVMMemcpy) X(EnqueueSVMMemFill) X(EnqueueSVMMap)          \
  X(EnqueueSVMUnmap) X(EnqueueSVMMigrateMem) X(SetKernelArgSVMPointer) X(SetKernelExecInfo)                   \
  X(CreateSampler) X(CreateSamplerWithProperties) X(RetainSampler) X(ReleaseSampler) X(GetSamplerInfo)        \
  X(CreateProgramWithSource) X(CreateProgramWithBinary) X(RetainProgram) X(ReleaseProgram) X(BuildProgram)    \
  X(CompileProgram) X(LinkProgram) X(GetProgramInfo) X(GetProgramBuildInfo)                                   \
  X(CreateProgramWithIL) X(SetProgramSpecializationConstant)                                                  \
  X(CreateKernel) X(CreateKernelsInProgram) X(CloneKernel) X(RetainKernel) X(ReleaseKernel) X(SetKernelArg)   \
  X(GetKernelInfo) X(GetKernelWorkGroupInfo) X(GetKernelArgInfo) X(EnqueueNDRangeKernel) X(EnqueueTask)       \
  X(GetKernelSubGroupInfo) X(GetKernelSubGroupInfoKHR)                                                        \
  X(CreateCommandQueue) X(CreateCommandQueueWithProperties) X(RetainCommandQueue) X(ReleaseCommandQueue)      \
  X(GetCommandQueueInfo) X(Flush) X(Finish) X(EnqueueMarker) X(EnqueueBarrier) X(EnqueueWaitForEvents)        \
  X(EnqueueMarkerWithWaitList) X(EnqueueBarrierWithWaitList)                                                  \
  X(WaitForEvents) X(GetEventInfo) X(RetainEvent) X(ReleaseEvent) X(GetEventProfilingInfo) X(CreateUserEvent) \
  X(SetUserEventStatus) X(SetEventCallback)
// clang-format on

namespace tulle::shim::opencl {

#define TULLE_DECLARE_ENTRY_POINT(name) std::remove_pointer_t<cl_api_cl##name> name;
TULLE_ENTRY_POINTS(TULLE_DECLARE_ENTRY_POINT)
#undef TULLE_DECLARE_ENTRY_POINT

}  // namespace tulle::shim::opencl
