// Composes the worker with sandboxed processes: its executors and builders are gpu/isolated's.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tulle/sandbox/launcher.h"
#include "tulle/vm/machine.h"
#include "tulle/wire/schema/node.h"
#include "tulle/worker/worker.h"

namespace tulle::app {

// What every child is started with besides its role.
struct ChildArguments {
  std::vector<std::string> arguments;  // "--log-level=...": the same for all
  std::string cuda_library;            // of GPUs' executors of CUDA (CudaSettings::library)
  vm::Settings machine;                // of executors in virtual machines
  std::size_t max_sessions = 0;
  // The vGPU's control groups, as sandbox::ControlGroup::Open takes them; empty: it has none.
  std::string executors_group, builders_group;
};

// `launcher` and `control`, the socket to the node, must outlive the device. kFailedPrecondition where the
// vGPU is to have virtual machines and there can be none.
Result<worker::Device> MakeIsolatedDevice(sandbox::Launcher* launcher, int control,
                                          const wire::node::AssignVGpu& assignment,
                                          const ChildArguments& children);

}  // namespace tulle::app
