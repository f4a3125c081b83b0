#include "tulle/gpu/opencl/driver.h"

#include <CL/cl_ext.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>

#include "tulle/gpu/opencl/measure.h"
#include "tulle/gpu/opencl/opencl_backend.h"
#include "tulle/gpu/opencl/program.h"

namespace tulle::gpu::opencl {
namespace {

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

// "0000:65:00.0"; empty: the driver does not tell. By the extension that all may have, or by NVIDIA's
// (cl_nv_device_attribute_query), whose slot is the device's number and the function's.
std::string PciAddress(const NativeDevice& device) {
  const std::string extensions = " " + DeviceText(device.device, CL_DEVICE_EXTENSIONS) + " ";
  const auto has = [&](const char* name) {
    return extensions.find(" " + std::string(name) + " ") != std::string::npos;
  };
  cl_device_pci_bus_info_khr at{};
  if (has("cl_khr_pci_bus_info")) {
    at = DeviceValue<cl_device_pci_bus_info_khr>(device.device, CL_DEVICE_PCI_BUS_INFO_KHR);
  } else if (has("cl_nv_device_attribute_query")) {
    constexpr cl_device_info kBus = 0x4008, kSlot = 0x4009, kDomain = 0x400a;
    const auto slot = DeviceValue<cl_uint>(device.device, kSlot);
    at = {DeviceValue<cl_uint>(device.device, kDomain), DeviceValue<cl_uint>(device.device, kBus), slot >> 3,
          slot & 7};
  } else {
    return "";
  }
  char text[48];
  std::snprintf(text, sizeof text, "%04x:%02x:%02x.%x", at.pci_domain, at.pci_bus, at.pci_device,
                at.pci_function);
  return text;
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
  info.pci_address = PciAddress(device);
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

  Result<std::vector<DeviceInfo>> Probe(bool measure) override {
    const std::vector<NativeDevice> devices = List();
    if (devices.empty()) return NoDevices();
    std::vector<DeviceInfo> infos;
    for (const NativeDevice& device : devices) {
      DeviceInfo& info = infos.emplace_back(Describe(static_cast<std::uint32_t>(infos.size()), device));
      if (measure) {
        info.memory_bandwidth_bytes_per_s = MeasureBandwidth(device);
        info.fp32_flops = MeasureFlops(device);
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
    std::vector<DeviceInfo> infos;
    for (const NativeDevice& device : devices)
      infos.push_back(Describe(static_cast<std::uint32_t>(infos.size()), device));
    const auto chosen = ChooseDevice(infos, index, options_);
    if (!chosen.has_value()) {
      return Error{Code::kNotFound,
                   "there is no OpenCL device " + std::to_string(index) +
                       (options_.pci_address.empty() ? "" : " at " + options_.pci_address) +
                       ": this process sees " + std::to_string(devices.size()) + ", numbered from 0",
                   Scope::kDevice};
    }
    return devices[*chosen];
  }

  const DriverOptions options_;
};

}  // namespace

std::optional<std::size_t> ChooseDevice(const std::vector<DeviceInfo>& devices, std::uint32_t index,
                                        const DriverOptions& options) {
  const auto is_it = [&](const DeviceInfo& device) {
    return options.pci_address.empty() ? device.compiler.starts_with(options.compiler)
                                       : device.pci_address == options.pci_address;
  };
  if (index < devices.size() && is_it(devices[index])) return index;
  if (options.pci_address.empty() && options.compiler.empty()) return std::nullopt;
  const auto first = std::find_if(devices.begin(), devices.end(), is_it);
  if (first == devices.end()) return std::nullopt;
  return static_cast<std::size_t>(first - devices.begin());
}

std::unique_ptr<Driver> OpenDriver(const DriverOptions& options) {
  // PoCL then makes binaries that run at every local size, and runs them as they are. Otherwise it would
  // start a linker at the first enqueue of each local size, and abort the process where it cannot.
  setenv("POCL_WORK_GROUP_SPECIALIZATION", "0", 1);
  return std::make_unique<OpenClDriver>(options);
}

}  // namespace tulle::gpu::opencl
