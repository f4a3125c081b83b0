// What `tulle-worker --probe` prints.
#pragma once

#include <string>

#include "tulle/gpu/api/backend.h"

namespace tulle::app {

// One line: a JSON object whose members are named as DeviceInfo's.
std::string ProbeLine(const gpu::DeviceInfo& device);

}  // namespace tulle::app
