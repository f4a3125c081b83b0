// Small helpers over the C API: owners of native objects, queries as values, the devices of this host.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/gpu/opencl/cl.h"

namespace tulle::gpu::opencl {

// One reference to a native object.
template <typename T, cl_int(CL_API_CALL* kRelease)(T)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(T native) : native_(native) {}
  Owned(Owned&& other) noexcept : native_(std::exchange(other.native_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) reset(std::exchange(other.native_, nullptr));
    return *this;
  }
  ~Owned() { reset(); }

  T get() const { return native_; }
  explicit operator bool() const { return native_ != nullptr; }
  T release() { return std::exchange(native_, nullptr); }
  void reset(T native = nullptr) {
    if (native_ != nullptr) kRelease(native_);
    native_ = native;
  }

 private:
  T native_ = nullptr;
};
using OwnedDevice = Owned<cl_device_id, clReleaseDevice>;
using OwnedContext = Owned<cl_context, clReleaseContext>;
using OwnedQueue = Owned<cl_command_queue, clReleaseCommandQueue>;
using OwnedMemory = Owned<cl_mem, clReleaseMemObject>;
using OwnedProgram = Owned<cl_program, clReleaseProgram>;
using OwnedKernel = Owned<cl_kernel, clReleaseKernel>;
using OwnedEvent = Owned<cl_event, clReleaseEvent>;
using OwnedSampler = Owned<cl_sampler, clReleaseSampler>;

struct NativeDevice {
  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;
  // Kernels and buffers live in this process's memory: a buffer can be put on memory that is given, and a
  // kernel can reach all of it.
  bool host_memory = false;
  // Pointers of the program can be had, and kernels follow them: shared virtual memory.
  bool svm = false;
  // PoCL (3.1): builds happen in the thread that asks for them, and its other threads sleep meanwhile, so
  // that a copy of the process can compile on. Of other drivers it is not known.
  bool compiler_survives_copies = false;
  // PoCL (3.1): when a user event is set to an error, the commands that wait for it fail before that call
  // returns, but nobody is called back for them; a command that waits for one of those never ends; and other
  // commands still refer to their events, so that those must not be deleted.
  bool fails_silently = false;
  // PoCL (3.1): a marker in an out-of-order queue waits for everything before it, whatever its wait list
  // says.
  bool markers_wait_for_all = false;
};

// Every device of every platform but tulle's own, in an order that depends only on what is installed.
std::vector<NativeDevice> ListDevices();

// A text property; empty when the driver does not answer.
std::string DeviceText(cl_device_id device, cl_device_info name);
std::string PlatformText(cl_platform_id platform, cl_platform_info name);

// Whether the device speaks this version of OpenCL ("2.1") or a later one.
bool HasVersion(cl_device_id device, std::string_view version);

// A property of fixed size; `fallback` when the driver does not answer.
template <typename T>
T DeviceValue(cl_device_id device, cl_device_info name, T fallback = {}) {
  T value{};
  return clGetDeviceInfo(device, name, sizeof value, &value, nullptr) == CL_SUCCESS ? value : fallback;
}

// An OpenCL context on these devices; null and *status set when the driver refuses.
OwnedContext MakeContext(cl_platform_id platform, const std::vector<cl_device_id>& devices, cl_int* status);
// On just this one.
inline OwnedContext MakeContext(const NativeDevice& device, cl_int* status) {
  return MakeContext(device.platform, {device.device}, status);
}

// The log of the program's last build, at most wire::kMaxBuildLogBytes; a longer one is cut and says so.
std::string BuildLog(cl_program program, cl_device_id device);

}  // namespace tulle::gpu::opencl
