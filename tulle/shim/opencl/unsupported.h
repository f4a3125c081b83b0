// The entry points that this build refuses: each with the error that the specification gives for a device
// or platform that does not offer the feature, and with the reason (a TULLE_LOG=debug line). What the call is
// about must exist all the same.
#pragma once

// clang-format off

// What a device or platform need not have, and the infos say that this one has not. Of the drivers tried none has
// pipes or queues on the device; PoCL 3.1 names built-in kernels, and builds none of them.
#define TULLE_UNSUPPORTED_OPTIONAL(X)                                                      \
  X(CreatePipe, CL_INVALID_OPERATION, "pipes are not offered")                             \
  X(GetPipeInfo, CL_INVALID_MEM_OBJECT, "there are no pipes")                              \
  X(SetDefaultDeviceCommandQueue, CL_INVALID_OPERATION, "device-side queues are not offered") \
  X(GetDeviceAndHostTimer, CL_INVALID_OPERATION, "the platform has no timer common to host and device") \
  X(GetHostTimer, CL_INVALID_OPERATION, "the platform has no timer common to host and device") \
  X(CreateProgramWithBuiltInKernels, CL_INVALID_VALUE, "built-in kernels are not offered") \
  X(SetProgramReleaseCallback, CL_INVALID_OPERATION, "programs have no global destructors") \
  X(SetCommandQueueProperty, CL_INVALID_OPERATION, "only OpenCL 1.0 has it: give properties at creation") \
  X(EnqueueNativeKernel, CL_INVALID_OPERATION, "a remote device cannot call a function of this process") \
  X(CreateSubDevicesEXT, CL_DEVICE_PARTITION_FAILED, "cl_ext_device_fission is not offered") \
  X(RetainDeviceEXT, CL_INVALID_DEVICE, "cl_ext_device_fission is not offered")            \
  X(ReleaseDeviceEXT, CL_INVALID_DEVICE, "cl_ext_device_fission is not offered")

// Interoperation with graphics interfaces of the local host.
#define TULLE_UNSUPPORTED_INTEROP(X)                                                       \
  X(CreateFromGLBuffer, CL_INVALID_OPERATION, "no graphics interoperation")                \
  X(CreateFromGLTexture2D, CL_INVALID_OPERATION, "no graphics interoperation")             \
  X(CreateFromGLTexture3D, CL_INVALID_OPERATION, "no graphics interoperation")             \
  X(CreateFromGLTexture, CL_INVALID_OPERATION, "no graphics interoperation")               \
  X(CreateFromGLRenderbuffer, CL_INVALID_OPERATION, "no graphics interoperation")          \
  X(GetGLObjectInfo, CL_INVALID_OPERATION, "no graphics interoperation")                   \
  X(GetGLTextureInfo, CL_INVALID_OPERATION, "no graphics interoperation")                  \
  X(EnqueueAcquireGLObjects, CL_INVALID_OPERATION, "no graphics interoperation")           \
  X(EnqueueReleaseGLObjects, CL_INVALID_OPERATION, "no graphics interoperation")           \
  X(GetGLContextInfoKHR, CL_INVALID_OPERATION, "no graphics interoperation")               \
  X(CreateEventFromGLsyncKHR, CL_INVALID_OPERATION, "no graphics interoperation")          \
  X(CreateFromEGLImageKHR, CL_INVALID_OPERATION, "no graphics interoperation")             \
  X(EnqueueAcquireEGLObjectsKHR, CL_INVALID_OPERATION, "no graphics interoperation")       \
  X(EnqueueReleaseEGLObjectsKHR, CL_INVALID_OPERATION, "no graphics interoperation")       \
  X(CreateEventFromEGLSyncKHR, CL_INVALID_OPERATION, "no graphics interoperation")

// The same for Windows' interfaces, which have no prototype on this system.
#define TULLE_UNSUPPORTED_UNTYPED(X)                                                       \
  X(GetDeviceIDsFromD3D10KHR) X(CreateFromD3D10BufferKHR) X(CreateFromD3D10Texture2DKHR)   \
  X(CreateFromD3D10Texture3DKHR) X(EnqueueAcquireD3D10ObjectsKHR) X(EnqueueReleaseD3D10ObjectsKHR) \
  X(GetDeviceIDsFromD3D11KHR) X(CreateFromD3D11BufferKHR) X(CreateFromD3D11Texture2DKHR)   \
  X(CreateFromD3D11Texture3DKHR) X(CreateFromDX9MediaSurfaceKHR) X(EnqueueAcquireD3D11ObjectsKHR) \
  X(EnqueueReleaseD3D11ObjectsKHR) X(GetDeviceIDsFromDX9MediaAdapterKHR)                   \
  X(EnqueueAcquireDX9MediaSurfacesKHR) X(EnqueueReleaseDX9MediaSurfacesKHR)
// clang-format on
