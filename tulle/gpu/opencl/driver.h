// gpu::Driver over the OpenCL platforms installed on this host. tulle's own platform is never one of them,
// whatever OCL_ICD_VENDORS says. Open it once, early, on the process's only thread (it sets environment
// variables that drivers read); afterwards it is thread-safe.
//
// What kernels printf goes to descriptor 1 of this process: a process that runs tenants' kernels points it
// somewhere harmless first.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::opencl {

struct DriverOptions {
  // Treat every device as one with its own memory: buffers are never put on the memory that a command
  // brings. For tests of that path where there is no such device.
  bool assume_own_memory = false;
  // What is known of the device that will be opened (DeviceInfo), from a probe that may have seen more
  // devices than this process does, in whose jail others have no files; empty: nothing.
  std::string pci_address;
  std::string compiler;
};

// The place among `devices` of the one that a probe numbered `index`: the one at the address, if that is
// known; else the one of this number, if it is of the kind that is known, else the first of that kind.
// Nullopt: there is none.
std::optional<std::size_t> ChooseDevice(const std::vector<DeviceInfo>& devices, std::uint32_t index,
                                        const DriverOptions& options);

// Loads no driver yet; the first call of Probe or Open... does.
std::unique_ptr<Driver> OpenDriver(const DriverOptions& options = {});

}  // namespace tulle::gpu::opencl
