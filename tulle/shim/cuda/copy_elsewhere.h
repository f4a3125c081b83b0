// Copies of memory that another device than the stream's has: between devices, or with the host. They go by
// way of this process.
#pragma once

#include "tulle/shim/cuda/driver.h"

namespace tulle::shim::cuda {

// The device that the memory at an address is of, and the context there; null: none.
Device* OwnerOf(std::uint64_t address, ContextId* owner);

// Whether a side of the copy is of another device than this one.
bool IsElsewhere(const Device& device, const CopyShape& shape);

// Precondition: the shape is of at least one byte and has an extent; `async` only where memory of the host
// stays and may be used later. CUDA_ERROR_INVALID_VALUE: a side is not the device's memory from its first to
// its last byte.
CUresult CopyElsewhere(const StreamChoice& choice, const CopyShape& shape, bool async);

}  // namespace tulle::shim::cuda
