// gpu::Backend on one native OpenCL device.
#pragma once

#include <memory>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/opencl/native.h"

namespace tulle::gpu::opencl {

// `completions` must outlive the backend.
std::unique_ptr<Backend> MakeBackend(const NativeDevice& device, Completions* completions);

}  // namespace tulle::gpu::opencl
