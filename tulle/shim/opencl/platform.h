// The platform, and everything of this process behind it: the attach file, the devices, the callback thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/shim/core/callbacks.h"
#include "tulle/shim/opencl/api.h"
#include "tulle/shim/opencl/svm_space.h"

namespace tulle::shim::opencl {

class Device;

// There is one, at a fixed address: the ICD loader keeps it for the life of the process and its children.
class Platform final : public Object {
 public:
  Platform() : Object(&Dispatch(), ObjectType::kPlatform) {}
};
TULLE_API_OBJECT(Platform, cl_platform_id, ObjectType::kPlatform, CL_INVALID_PLATFORM);

cl_platform_id ThePlatform();
// Also when it was inherited through fork().
inline bool IsPlatform(cl_platform_id platform) { return platform == ThePlatform(); }

// What one process has, from its first use of the platform to its end; a child of fork() makes its own.
// Never destroyed: threads of the program may use it while the process exits.
struct Process {
  SecureRandom random;
  CallbackThread callbacks;
  bool attached = false;  // TULLE_ATTACH is set: there is a platform
  std::string program;
  std::string trace_directory;  // TULLE_TRACE; empty: no traces
  bool trace_payloads = false;
  SvmSpace svm;
  std::vector<std::unique_ptr<Device>> devices;  // fixed; one for each vGPU of the attach file
};
Process& TheProcess();

}  // namespace tulle::shim::opencl
