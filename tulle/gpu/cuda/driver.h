// The backend on a library of CUDA's driver API. It is given sessions of CUDA only.
#pragma once

#include <memory>
#include <string>

#include "tulle/gpu/api/backend.h"
#include "tulle/gpu/cuda/library.h"

namespace tulle::gpu::cuda {

// A backend on the device at a PCI address ("0000:65:00.0"; empty: on the library's first one). What the
// driver loads and opens it has when this returns, so that the process may be locked then. kNotFound: it has
// no such device; kUnavailable: it cannot be used.
Result<std::unique_ptr<Backend>> OpenBackend(const Library& library, const std::string& pci_address,
                                             Completions* completions);

}  // namespace tulle::gpu::cuda
