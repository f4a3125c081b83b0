#include "tulle/gpu/opencl/device_infos.h"

#include <cstring>

namespace tulle::gpu::opencl {
namespace {

// Core properties are numbered from CL_DEVICE_TYPE without gaps worth a list; a driver refuses the rest.
constexpr cl_device_info kFirst = CL_DEVICE_TYPE;
constexpr cl_device_info kLast = 0x107f;
constexpr cl_device_info kDeviceUuid = 0x106a;      // cl_khr_device_uuid: up to
constexpr cl_device_info kDeviceNodeMask = 0x106e;  // this
constexpr cl_device_info kSpirVersions = 0x40e0;    // cl_khr_spir

bool IsForOthers(cl_device_info name) {
  return name != CL_DEVICE_PLATFORM && name != CL_DEVICE_PARENT_DEVICE &&
         !(name >= kDeviceUuid && name <= kDeviceNodeMask);
}

}  // namespace

ByteVector EncodeDeviceInfos(const NativeDevice& native) {
  const cl_device_id device = native.device;
  std::vector<std::pair<cl_device_info, ByteVector>> values;
  std::size_t total = 0;
  const auto ask = [&](cl_device_info name) {
    std::size_t size = 0;
    if (clGetDeviceInfo(device, name, 0, nullptr, &size) != CL_SUCCESS || size > wire::kMaxInfoBytes) return;
    ByteVector value(size);
    if (size != 0 && clGetDeviceInfo(device, name, size, value.data(), nullptr) != CL_SUCCESS) return;
    total += size + 2 * sizeof(std::uint32_t);
    if (name == CL_DEVICE_SVM_CAPABILITIES && size == sizeof(cl_device_svm_capabilities)) {
      const cl_device_svm_capabilities ours = native.svm ? CL_DEVICE_SVM_COARSE_GRAIN_BUFFER : 0;
      std::memcpy(value.data(), &ours, sizeof ours);
    }
    if (total > wire::kMaxBodyBytes / 2 || values.size() == wire::kMaxDeviceInfos) return;
    values.emplace_back(name, std::move(value));
  };
  for (cl_device_info name = kFirst; name <= kLast; ++name) {
    if (IsForOthers(name)) ask(name);
  }
  ask(kSpirVersions);

  std::vector<wire::opencl::InfoValue> infos;
  for (const auto& [name, value] : values) infos.push_back({name, {value}});
  const wire::opencl::DescribeDeviceReply reply{CL_SUCCESS, {infos}};
  ByteVector body(wire::EncodedSize(reply));
  wire::Encode(reply, body);
  return body;
}

}  // namespace tulle::gpu::opencl
