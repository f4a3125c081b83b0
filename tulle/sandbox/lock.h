// The second half of the sandbox, applied by the jailed process to itself once its driver is loaded: a
// seccomp filter over all of its threads, and Landlock where the kernel has it. From then on the process has
// only what its role needs; no way back exists.
#pragma once

#include "tulle/base/result.h"

namespace tulle::sandbox {

enum class Role {
  kExecutor,  // runs tenants' kernels: threads, memory, files below /tmp; no process, no exec, no socket
  kBuilder,   // compiles: starts tools (ld, clang) besides; no socket
};

struct LockOptions {
  bool best_effort = false;     // a layer that cannot be had is left out
  bool drives_devices = false;  // the jail has device nodes of a GPU (ChildSpec): its driver's requests pass
};

// Applies to every thread of the process, also those that drivers made. kFailedPrecondition names the layer
// that failed and its fix; nothing of a tenant's may run then.
Status Lock(Role role, const LockOptions& options = {});

}  // namespace tulle::sandbox
