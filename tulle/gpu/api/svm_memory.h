// Memory at an address that the program has chosen, for backends whose kernels run in this process.
#pragma once

#include <cstdint>

#include "tulle/base/bytes.h"

namespace tulle::gpu {

// Whether this process can have memory where shared virtual memory lies: nothing else is there, and no tool
// (ThreadSanitizer) keeps it.
bool CanMapSvm();

// Maps `size_bytes` at `address`, both of wire/schema/opencl/svm.h: a second view of `memory` (which must be
// shared, page-aligned and of that size), or fresh zeroed memory if that is empty. Null when something is
// there already. The caller unmaps.
void* MapSvm(std::uint64_t address, std::uint64_t size_bytes, MutableByteView memory);

}  // namespace tulle::gpu
