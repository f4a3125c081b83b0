#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "tulle/gpu/softcuda/handlers_v3.h"
#include "tulle/gpu/softcuda/machine.h"

namespace tulle::gpu::softcuda {

#include "tulle/gpu/softcuda/handlers.inc"

Handler FindHandler(const Spec& spec) {
  if (spec.op == Op::kSystem) return SystemCall(spec.mode);
#ifdef __x86_64__
  static const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_v3) return v3::FindHandler(spec);
#endif
  return Find(spec);
}

}  // namespace tulle::gpu::softcuda
