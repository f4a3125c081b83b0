// What `tulle-worker --role=executor` and `--role=build-server` run. Descriptors and settings come from
// ExecutorProcess and BuildServer (protocol.h), so they need no argument but the driver.
#pragma once

#include <cstdint>
#include <functional>

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::isolated {

// As Driver::OpenDevice.
using OpenDevice =
    std::function<Result<std::unique_ptr<Backend>>(std::uint32_t index, Completions* completions)>;

// Where it runs: beside its worker, or in a virtual machine (ExecutorOptions), which has what it shares with
// the worker from this physical address on.
struct Place {
  std::uint64_t machine_address = 0;  // 0: beside its worker
};

// Opens the device, locks the sandbox, then serves the worker until it is killed (it dies with its worker).
// Returns the process's exit code when it could not start; the reason has gone to the worker then.
int RunExecutor(const OpenDevice& open_device, const Place& place = {});
inline int RunExecutor(Driver& driver, const Place& place = {}) {
  return RunExecutor(
      [&](std::uint32_t index, Completions* completions) { return driver.OpenDevice(index, completions); },
      place);
}

// A build server (build_server.h): takes orders and starts a builder for each, until the worker is gone.
// `argv` is this process's, to run it anew when it has been idle; builders have `device_nodes`
// (DeviceNodesOf). Returns the process's exit code.
int RunBuildServer(Driver& driver, char** argv, std::vector<std::string> device_nodes = {});

}  // namespace tulle::gpu::isolated
