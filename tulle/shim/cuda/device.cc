// Devices and their primary contexts.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

// The place of a device of ours: domain 0, bus its number.
std::string PciText(CUdevice device) {
  char text[16];
  std::snprintf(text, sizeof text, "0000:%02x:00.0", static_cast<unsigned>(device) & 0xff);
  return text;
}

CUresult PutText(const std::string& text, char* out, int length) {
  if (out == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t bytes = std::min(text.size(), static_cast<std::size_t>(length) - 1);
  std::memcpy(out, text.data(), bytes);
  out[bytes] = '\0';
  return CUDA_SUCCESS;
}

constexpr unsigned kSchedulingFlags = CU_CTX_SCHED_SPIN | CU_CTX_SCHED_YIELD | CU_CTX_SCHED_BLOCKING_SYNC;

}  // namespace

CUresult cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = kApiVersion;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Device* found = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &found));
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  const Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = static_cast<int>(driver->devices.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  return PutText(device->properties().name, name, length);
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice ordinal) { return cuDeviceGetUuid_v2(uuid, ordinal); }

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *uuid = device->properties().uuid;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (value == nullptr || attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  *value = attribute == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID ? ordinal : device->properties().attribute(attribute);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *bytes = device->properties().memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice ordinal) {
  TULLE_CUDA_RETURN_IF_ERROR(
      cuDeviceGetAttribute(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ordinal));
  return cuDeviceGetAttribute(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, ordinal);
}

CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  return PutText(PciText(ordinal), text, length);
}

CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  const Driver* const driver = TheDriver();
  if (driver == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (device == nullptr || text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (CUdevice i = 0; static_cast<std::size_t>(i) < driver->devices.size(); ++i) {
    if (PciText(i) != text) continue;
    *device = i;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceCanAccessPeer(int* can, CUdevice ordinal, CUdevice peer) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(peer, &device));
  if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *can = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice ordinal,
                                 CUdevice peer) {
  if (attribute < CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK ||
      attribute > CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (ordinal == peer) return CUDA_ERROR_INVALID_DEVICE;
  return cuDeviceCanAccessPeer(value, ordinal, peer);
}

// A kernel sees the memory of its own device alone; copies go between all.
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (TheDriver()->contexts.Find(peer) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
}
CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (TheDriver()->contexts.Find(peer) == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

// There is nothing that would profile.
CUresult cuProfilerStart() { return TheDriver() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS; }
CUresult cuProfilerStop() { return TheDriver() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.primaries_mutex);
  Driver::Primary& primary = driver.primaries[static_cast<std::size_t>(ordinal)];
  if (primary.handle == nullptr) {
    TULLE_CUDA_RETURN_IF_ERROR(driver.CreateContext(ordinal, primary.flags, true, &primary.handle));
  }
  ++primary.users;
  *context = primary.handle;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice ordinal) { return cuDevicePrimaryCtxRelease_v2(ordinal); }

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.primaries_mutex);
  Driver::Primary& primary = driver.primaries[static_cast<std::size_t>(ordinal)];
  if (primary.users == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (--primary.users != 0) return CUDA_SUCCESS;
  return driver.DestroyContext(std::exchange(primary.handle, nullptr));
}

CUresult cuDevicePrimaryCtxReset(CUdevice ordinal) { return cuDevicePrimaryCtxReset_v2(ordinal); }

CUresult cuDevicePrimaryCtxReset_v2(CUdevice ordinal) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.primaries_mutex);
  Driver::Primary& primary = driver.primaries[static_cast<std::size_t>(ordinal)];
  primary.users = 0;
  if (primary.handle == nullptr) return CUDA_SUCCESS;
  return driver.DestroyContext(std::exchange(primary.handle, nullptr));
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice ordinal, unsigned flags) {
  return cuDevicePrimaryCtxSetFlags_v2(ordinal, flags);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice ordinal, unsigned flags) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if ((flags & ~unsigned{CU_CTX_FLAGS_MASK}) != 0 || std::popcount(flags & kSchedulingFlags) > 1)
    return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.primaries_mutex);
  Driver::Primary& primary = driver.primaries[static_cast<std::size_t>(ordinal)];
  primary.flags = flags;
  if (primary.handle != nullptr) {
    if (const auto context = driver.contexts.Find(primary.handle)) context->flags = flags;
  }
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned* flags, int* active) {
  Device* device = nullptr;
  TULLE_CUDA_RETURN_IF_ERROR(FindDevice(ordinal, &device));
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Driver& driver = *TheDriver();
  const std::lock_guard lock(driver.primaries_mutex);
  const Driver::Primary& primary = driver.primaries[static_cast<std::size_t>(ordinal)];
  *flags = primary.flags;
  *active = primary.handle != nullptr ? 1 : 0;
  return CUDA_SUCCESS;
}
