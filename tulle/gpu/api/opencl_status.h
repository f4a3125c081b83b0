// OpenCL's status values that a backend or worker answers by itself, for code that has no vendor header.
#pragma once

#include <cstdint>

namespace tulle::gpu::cl_status {

inline constexpr std::int32_t kSuccess = 0;
inline constexpr std::int32_t kMemObjectAllocationFailure = -4;
inline constexpr std::int32_t kOutOfResources = -5;
inline constexpr std::int32_t kOutOfHostMemory = -6;
inline constexpr std::int32_t kMemCopyOverlap = -8;
inline constexpr std::int32_t kImageFormatMismatch = -9;
inline constexpr std::int32_t kImageFormatNotSupported = -10;
inline constexpr std::int32_t kBuildProgramFailure = -11;
inline constexpr std::int32_t kMisalignedSubBufferOffset = -13;
inline constexpr std::int32_t kExecStatusErrorForEventsInWaitList = -14;
inline constexpr std::int32_t kInvalidValue = -30;
inline constexpr std::int32_t kInvalidDevice = -33;
inline constexpr std::int32_t kInvalidContext = -34;
inline constexpr std::int32_t kInvalidCommandQueue = -36;
inline constexpr std::int32_t kInvalidMemObject = -38;
inline constexpr std::int32_t kInvalidImageFormatDescriptor = -39;
inline constexpr std::int32_t kInvalidImageSize = -40;
inline constexpr std::int32_t kInvalidSampler = -41;
inline constexpr std::int32_t kInvalidBinary = -42;
inline constexpr std::int32_t kInvalidProgram = -44;
inline constexpr std::int32_t kInvalidProgramExecutable = -45;
inline constexpr std::int32_t kInvalidKernelName = -46;
inline constexpr std::int32_t kInvalidKernel = -48;
inline constexpr std::int32_t kInvalidArgIndex = -49;
inline constexpr std::int32_t kInvalidArgValue = -50;
inline constexpr std::int32_t kInvalidArgSize = -51;
inline constexpr std::int32_t kInvalidKernelArgs = -52;
inline constexpr std::int32_t kInvalidWorkDimension = -53;
inline constexpr std::int32_t kInvalidWorkGroupSize = -54;
inline constexpr std::int32_t kInvalidGlobalWorkSize = -63;
inline constexpr std::int32_t kInvalidGlobalOffset = -56;
inline constexpr std::int32_t kInvalidEventWaitList = -57;
inline constexpr std::int32_t kInvalidEvent = -58;
inline constexpr std::int32_t kInvalidOperation = -59;
inline constexpr std::int32_t kInvalidBufferSize = -61;
inline constexpr std::int32_t kInvalidImageDescriptor = -65;

}  // namespace tulle::gpu::cl_status
