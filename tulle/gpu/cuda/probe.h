// The devices of a library of CUDA's, and which of those that another API has found they are.
#pragma once

#include <vector>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/cuda/library.h"

namespace tulle::gpu::cuda {

// In the driver's order, numbered from 0; `cuda_device` is each one's PCI address. With `measure` how fast
// their memory and their arithmetic is, in some tenths of a second; without, or if that fails, both are 0. No
// device is no error. kUnavailable: the driver cannot be used, with its own word for why.
Result<std::vector<DeviceInfo>> Probe(const Library& library, bool measure);

// What CUDA has found joins `devices`: one that is at the same PCI address as one of those is the same GPU,
// which gets its `cuda_device`; the others are added behind them, and numbered on.
void Join(const std::vector<DeviceInfo>& cuda, std::vector<DeviceInfo>* devices);

}  // namespace tulle::gpu::cuda
