#include "tulle/gpu/opencl/driver.h"

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>

#include "tulle/gpu/opencl/opencl_backend.h"
#include "tulle/gpu/opencl/program.h"

namespace tulle::gpu::opencl {
namespace {

using SteadyClock = std::chrono::steady_clock;

// The rate at which device memory is read and written together: the best of a few rounds of copying one
// buffer to another, in as many commands as there are compute units (a CPU device runs each on one core).
// 0 when the device refuses. Takes at most about 0.4 s.
std::uint64_t MeasureBandwidth(const NativeDevice& device, std::uint64_t max_allocation,
                               std::uint32_t units) {
  constexpr std::uint64_t kMostBytes = 128u << 20;  // well above caches
  constexpr auto kBudget = std::chrono::milliseconds(250);
  constexpr int kRounds = 8;
  const std::uint64_t slices = std::clamp<std::uint64_t>(units, 1, 64);
  const std::uint64_t slice = std::min(kMostBytes, max_allocation / 8) / slices & ~std::uint64_t{4095};
  if (slice == 0) return 0;

  cl_int status = CL_SUCCESS;
  const OwnedContext context = MakeContext(device, &status);
  if (!context) return 0;
  OwnedQueue queue(
      clCreateCommandQueue(context.get(), device.device, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &status));
  if (!queue) queue.reset(clCreateCommandQueue(context.get(), device.device, 0, &status));
  const OwnedMemory from(clCreateBuffer(context.get(), CL_MEM_READ_WRITE, slice * slices, nullptr, &status));
  const OwnedMemory to(clCreateBuffer(context.get(), CL_MEM_READ_WRITE, slice * slices, nullptr, &status));
  if (!queue || !from || !to) return 0;

  const auto start = SteadyClock::now();
  double best = 0;
  for (int round = 0; round < kRounds && (round < 2 || SteadyClock::now() - start < kBudget); ++round) {
    const auto begin = SteadyClock::now();
    for (std::uint64_t i = 0; i < slices; ++i) {
      status = clEnqueueCopyBuffer(queue.get(), from.get(), to.get(), i * slice, i * slice, slice, 0, nullptr,
                                   nullptr);
      if (status != CL_SUCCESS) break;
    }
    if (clFinish(queue.get()) != CL_SUCCESS || status != CL_SUCCESS) return 0;
    const double seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
    // The first round touches the memory for the first time.
    if (round > 0 && seconds > 0) best = std::max(best, 2.0 * static_cast<double>(slice * slices) / seconds);
  }
  return static_cast<std::uint64_t>(best);
}

// What the CPU of this host can do, in few characters.
std::string CpuFeatures() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
    char text[24];
    std::snprintf(text, sizeof text, "%zx", std::hash<std::string>()(line));
    return text;
  }
  return "unknown";
}

DeviceInfo Describe(std::uint32_t index, const NativeDevice& device) {
  DeviceInfo info;
  info.index = index;
  info.api = "OPENCL";
  info.name = DeviceText(device.device, CL_DEVICE_NAME);
  info.vendor = DeviceText(device.device, CL_DEVICE_VENDOR);
  info.platform = PlatformText(device.platform, CL_PLATFORM_NAME);
  info.driver_version = DeviceText(device.device, CL_DRIVER_VERSION);
  const auto type = DeviceValue<cl_device_type>(device.device, CL_DEVICE_TYPE);
  info.type = (type & CL_DEVICE_TYPE_CPU) != 0   ? "CPU"
              : (type & CL_DEVICE_TYPE_GPU) != 0 ? "GPU"
                                                 : "ACCELERATOR";
  info.memory_bytes = DeviceValue<cl_ulong>(device.device, CL_DEVICE_GLOBAL_MEM_SIZE);
  info.max_allocation_bytes = DeviceValue<cl_ulong>(device.device, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  info.compute_units = DeviceValue<cl_uint>(device.device, CL_DEVICE_MAX_COMPUTE_UNITS);
  info.clock_mhz = DeviceValue<cl_uint>(device.device, CL_DEVICE_MAX_CLOCK_FREQUENCY);
  info.protects_memory = !device.host_memory;
  info.compiler =
      PlatformText(device.platform, CL_PLATFORM_VERSION) + "; " + info.name + "; " + info.driver_version;
  if (info.type == "CPU") info.compiler += "; CPU features " + CpuFeatures();
  return info;
}

class OpenClDriver final : public Driver {
 public:
  explicit OpenClDriver(const DriverOptions& options) : options_(options) {}

  Result<std::vector<DeviceInfo>> Probe(bool measure_bandwidth) override {
    const std::vector<NativeDevice> devices = List();
    if (devices.empty()) return NoDevices();
    std::vector<DeviceInfo> infos;
    for (const NativeDevice& device : devices) {
      DeviceInfo& info = infos.emplace_back(Describe(static_cast<std::uint32_t>(infos.size()), device));
      if (measure_bandwidth) {
        info.memory_bandwidth_bytes_per_s =
            MeasureBandwidth(device, info.max_allocation_bytes, info.compute_units);
      }
    }
    return infos;
  }

  Result<std::unique_ptr<Backend>> OpenDevice(std::uint32_t index, Completions* completions) override {
    TULLE_ASSIGN_OR_RETURN(const NativeDevice device, Select(index));
    return MakeBackend(device, completions);
  }

  Result<std::unique_ptr<Compiler>> OpenCompiler(std::uint32_t index) override {
    TULLE_ASSIGN_OR_RETURN(const NativeDevice device, Select(index));
    return MakeCompiler(device);
  }

 private:
  std::vector<NativeDevice> List() const {
    std::vector<NativeDevice> devices = ListDevices();
    if (options_.assume_own_memory) {
      for (NativeDevice& device : devices) device.host_memory = device.svm = false;
    }
    return devices;
  }

  static Error NoDevices() {
    return Error{
        Code::kNotFound,
        "this host has no OpenCL device: install a vendor's driver (on Debian, pocl-opencl-icd is one for "
        "the CPU), or let OCL_ICD_VENDORS name the directory of its .icd file",
        Scope::kNode};
  }

  Result<NativeDevice> Select(std::uint32_t index) const {
    const std::vector<NativeDevice> devices = List();
    if (devices.empty()) return NoDevices();
    if (index >= devices.size()) {
      return Error{Code::kNotFound,
                   "there is no OpenCL device " + std::to_string(index) + ": this host has " +
                       std::to_string(devices.size()) + ", numbered from 0",
                   Scope::kDevice};
    }
    return devices[index];
  }

  const DriverOptions options_;
};

}  // namespace

std::unique_ptr<Driver> OpenDriver(const DriverOptions& options) {
  // PoCL then makes binaries that run at every local size, and runs them as they are. Otherwise it would
  // start a linker at the first enqueue of each local size, and abort the process where it cannot.
  setenv("POCL_WORK_GROUP_SPECIALIZATION", "0", 1);
  return std::make_unique<OpenClDriver>(options);
}

}  // namespace tulle::gpu::opencl
