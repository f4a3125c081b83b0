// The backend on a library of CUDA's driver API. It is given sessions of CUDA only.
#pragma once

#include <memory>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/cuda/library.h"

namespace tulle::gpu::cuda {

// A backend on the library's first device, which is opened with the session's first command.
std::unique_ptr<Backend> OpenBackend(const Library& library, Completions* completions);

}  // namespace tulle::gpu::cuda
