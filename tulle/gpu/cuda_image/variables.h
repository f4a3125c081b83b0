// What a module takes of a device's memory, told from its image before it is loaded: a vGPU's memory is
// counted before it is used, and drivers do not say.
#pragma once

#include <cstdint>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"

namespace tulle::gpu::cuda_image {

// Bytes of the variables of PTX that are in global and constant memory; of a cubin (ELF), of all sections
// that a device keeps: code, constants, variables; of a fatbin, of the largest image in it, which is more
// than the device's own at most. Code that a driver has still to make of PTX is not counted. UINT64_MAX: more
// than can be counted. kInvalidArgument: a fatbin or cubin is damaged, or a variable is of a type, or a size,
// that is not understood. What else is wrong with PTX is for whoever compiles it to say.
Result<std::uint64_t> VariableBytes(ByteView image);

}  // namespace tulle::gpu::cuda_image
