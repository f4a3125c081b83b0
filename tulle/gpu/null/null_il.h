// Programs of SPIR-V on the null device.
#pragma once

#include <string>
#include <string_view>

#include "tulle/base/result.h"

namespace tulle::gpu::null {

// The heads of the module's kernels, and its constants, as the source that the null device reads. An error
// says why the "compiler" refuses the module: not well-formed, or of what the device has not (other arguments
// than numbers and pointers).
Result<std::string> SourceOfIl(std::string_view module);

}  // namespace tulle::gpu::null
