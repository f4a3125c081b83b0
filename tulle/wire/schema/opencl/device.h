// OpenCL devices and contexts. Status values are OpenCL's (0 success, negative errors).
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::opencl {

// One answer of clGetDeviceInfo, as the device gave it (sizes are of a 64-bit host).
struct InfoValue {
  U32 name = 0;  // CL_DEVICE_...
  Bytes<kMaxInfoBytes> value;
  TULLE_MESSAGE(InfoValue, name, value)
};

// Everything that the device says of itself, asked once per session and answered locally from then on.
struct DescribeDevice {
  TULLE_EMPTY_MESSAGE(DescribeDevice)
};
struct DescribeDeviceReply {
  I32 status = 0;
  List<InfoValue, kMaxDeviceInfos> infos;
  TULLE_MESSAGE(DescribeDeviceReply, status, infos)
};

struct CreateContext {
  New<ObjectKind::kContext> context;
  TULLE_MESSAGE(CreateContext, context)
};

// Into how many parts clCreateSubDevices would divide the vGPU's device, or a part of it.
struct CountSubDevices {
  OptRef<ObjectKind::kDevice> parent;
  List<U64, kMaxPartitionProperties>
      properties;  // cl_device_partition_property, without the 0 that ends them
  TULLE_MESSAGE(CountSubDevices, parent, properties)
};
struct CountSubDevicesReply {
  I32 status = 0;
  U32 count = 0;
  TULLE_MESSAGE(CountSubDevicesReply, status, count)
};

// Names one of these parts.
struct CreateSubDevice {
  OptRef<ObjectKind::kDevice> parent;
  List<U64, kMaxPartitionProperties> properties;
  U32 index = 0;
  New<ObjectKind::kDevice> device;
  TULLE_MESSAGE(CreateSubDevice, parent, properties, index, device)
};

// The answer is a DescribeDeviceReply.
struct DescribeSubDevice {
  Ref<ObjectKind::kDevice> device;
  TULLE_MESSAGE(DescribeSubDevice, device)
};

// A context of these devices, of which null is the vGPU's own.
struct CreateContextOn {
  New<ObjectKind::kContext> context;
  List<OptRef<ObjectKind::kDevice>, kMaxContextDevices> devices;
  TULLE_MESSAGE(CreateContextOn, context, devices)
};

}  // namespace tulle::wire::opencl
