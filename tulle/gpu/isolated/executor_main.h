// The executor's half: what `tulle-worker --role=executor` runs. Its descriptors and settings come from
// ExecutorProcess (protocol.h), so it needs no argument but the driver.
#pragma once

#include "tulle/gpu/api/backend.h"

namespace tulle::gpu::isolated {

// Opens the device, locks the sandbox, then serves the worker until it is killed (it dies with its worker).
// Returns the process's exit code when it could not start; the reason has gone to the worker then.
int RunExecutor(Driver& driver);

// Compiles the one program that was handed in (build_process.h), inside the locked sandbox of a builder, and
// ends the process. Returns the process's exit code when nothing was handed in.
int RunBuilder(Driver& driver);

}  // namespace tulle::gpu::isolated
