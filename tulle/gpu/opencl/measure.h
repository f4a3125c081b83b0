// How fast a device is, measured on it. Each takes well under a second, and is 0 when the device refuses.
// They mean little while something else uses the device.
#pragma once

#include <cstdint>

#include "tulle/gpu/opencl/native.h"

namespace tulle::gpu::opencl {

// The rate in bytes per second at which device memory is read and written together: the best of a few rounds
// of copying one buffer to another, in as many commands as there are compute units (a CPU device runs each on
// one core).
std::uint64_t MeasureBandwidth(const NativeDevice& device);

// Single-precision floating-point operations per second: the best of a few runs of a kernel that does nothing
// but multiply and add (two operations), in independent chains as wide as the device's own vectors.
std::uint64_t MeasureFlops(const NativeDevice& device);

}  // namespace tulle::gpu::opencl
