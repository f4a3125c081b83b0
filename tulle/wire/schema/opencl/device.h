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

}  // namespace tulle::wire::opencl
