// gpu::Driver over the OpenCL platforms installed on this host. tulle's own platform is never one of them,
// whatever OCL_ICD_VENDORS says. Open it once, early, on the process's only thread (it sets environment
// variables that drivers read); afterwards it is thread-safe.
//
// What kernels printf goes to descriptor 1 of this process: a process that runs tenants' kernels points it
// somewhere harmless first.
#pragma once

#include <memory>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::opencl {

struct DriverOptions {
  // Treat every device as one with its own memory: buffers are never put on the memory that a command
  // brings. For tests of that path where there is no such device.
  bool assume_own_memory = false;
};

// Loads no driver yet; the first call of Probe or Open... does.
std::unique_ptr<Driver> OpenDriver(const DriverOptions& options = {});

}  // namespace tulle::gpu::opencl
