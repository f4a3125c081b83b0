// The same handlers for processors with AVX2 and FMA.
#pragma once

#include "tulle/gpu/softcuda/machine.h"

namespace tulle::gpu::softcuda::v3 {

Handler FindHandler(const Spec& spec);

}  // namespace tulle::gpu::softcuda::v3
