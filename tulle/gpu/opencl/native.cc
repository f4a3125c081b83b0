#include "tulle/gpu/opencl/native.h"

#include <algorithm>

#include "tulle/gpu/api/svm_memory.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu::opencl {
namespace {

template <typename Get>
std::string Text(Get get) {
  std::size_t size = 0;
  if (get(0, nullptr, &size) != CL_SUCCESS || size == 0) return {};
  std::string text(size, '\0');
  if (get(size, text.data(), nullptr) != CL_SUCCESS) return {};
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

}  // namespace

std::string DeviceText(cl_device_id device, cl_device_info name) {
  return Text([&](std::size_t size, void* out, std::size_t* needed) {
    return clGetDeviceInfo(device, name, size, out, needed);
  });
}

std::string PlatformText(cl_platform_id platform, cl_platform_info name) {
  return Text([&](std::size_t size, void* out, std::size_t* needed) {
    return clGetPlatformInfo(platform, name, size, out, needed);
  });
}

bool HasVersion(cl_device_id device, std::string_view version) {
  constexpr std::string_view kBefore = "OpenCL ";
  const std::string text = DeviceText(device, CL_DEVICE_VERSION);
  return text.size() > kBefore.size() && std::string_view(text).substr(kBefore.size()) >= version;
}

std::vector<NativeDevice> ListDevices() {
  cl_uint count = 0;
  if (clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS || count == 0) return {};
  std::vector<cl_platform_id> ids(count);
  if (clGetPlatformIDs(count, ids.data(), nullptr) != CL_SUCCESS) return {};

  // The loader's order is that of a directory listing; names do not change with it.
  std::vector<std::pair<std::string, cl_platform_id>> platforms;
  for (cl_platform_id id : ids) platforms.emplace_back(PlatformText(id, CL_PLATFORM_NAME), id);
  std::erase_if(platforms, [](const auto& platform) { return platform.first == "tulle"; });
  std::stable_sort(platforms.begin(), platforms.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });

  std::vector<NativeDevice> devices;
  for (const auto& [name, platform] : platforms) {
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count) != CL_SUCCESS || count == 0)
      continue;
    std::vector<cl_device_id> found(count);
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, found.data(), nullptr) != CL_SUCCESS) continue;
    for (cl_device_id device : found) {
      const auto type = DeviceValue<cl_device_type>(device, CL_DEVICE_TYPE);
      const bool is_cpu = (type & CL_DEVICE_TYPE_CPU) != 0;
      // A CPU's driver that has any of it passes pointers on as they are.
      const auto svm = DeviceValue<cl_device_svm_capabilities>(device, CL_DEVICE_SVM_CAPABILITIES);
      const bool is_pocl = name == "Portable Computing Language";
      devices.push_back({.platform = platform,
                         .device = device,
                         .host_memory = is_cpu,
                         .svm = is_cpu && svm != 0 && CanMapSvm(),
                         .compiler_survives_copies = is_cpu && is_pocl,
                         .fails_silently = is_pocl,
                         .markers_wait_for_all = is_pocl});
    }
  }
  return devices;
}

OwnedContext MakeContext(cl_platform_id platform, const std::vector<cl_device_id>& devices, cl_int* status) {
  const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                              reinterpret_cast<cl_context_properties>(platform), 0};
  return OwnedContext(clCreateContext(properties, static_cast<cl_uint>(devices.size()), devices.data(),
                                      nullptr, nullptr, status));
}

std::string BuildLog(cl_program program, cl_device_id device) {
  std::string log = Text([&](std::size_t size, void* out, std::size_t* needed) {
    return clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, out, needed);
  });
  if (log.size() > wire::kMaxBuildLogBytes) {
    const std::string note = "\n[the log was longer; cut by tulle]\n";
    log.resize(wire::kMaxBuildLogBytes - note.size());
    log += note;
  }
  return log;
}

}  // namespace tulle::gpu::opencl
