// What a device says of itself, as DescribeDevice answers it.
#pragma once

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/opencl/native.h"

namespace tulle::gpu::opencl {

// An encoded DescribeDeviceReply with every core property of OpenCL 1.0 to 3.0 (and the few of extensions
// that stand between them) that the device answers, SVM capabilities as they are from afar. Left out:
// pointers of this process, and the host's own identifiers.
ByteVector EncodeDeviceInfos(const NativeDevice& native);

}  // namespace tulle::gpu::opencl
