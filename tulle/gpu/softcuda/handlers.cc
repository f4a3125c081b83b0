#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "tulle/gpu/softcuda/handlers_v3.h"
#include "tulle/gpu/softcuda/machine.h"

namespace tulle::gpu::softcuda {

#include "tulle/gpu/softcuda/handlers.inc"

// Intel's manual of its processors (volume 1, 10.2.3) has MXCSR's bits.
void WithFloatControl(Warp& warp, const Inst& inst) {
#ifdef __x86_64__
  constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZeros = 1u << 6;
  constexpr unsigned kDown = 1u << 13, kUp = 2u << 13, kZero = 3u << 13;
  const unsigned before = __builtin_ia32_stmxcsr();
  unsigned control = before;
  switch (inst.floats & FloatControl::kRounding) {
    case FloatControl::kZero: control |= kZero; break;
    case FloatControl::kDown: control |= kDown; break;
    case FloatControl::kUp: control |= kUp; break;
    default: break;
  }
  if ((inst.floats & FloatControl::kFlush) != FloatControl::kNone)
    control |= kFlushToZero | kDenormalsAreZeros;
  __builtin_ia32_ldmxcsr(control);
  inst.inner(warp, inst);
  __builtin_ia32_ldmxcsr(before);
#else
  inst.inner(warp, inst);
#endif
}

Handler FindHandler(const Spec& spec) {
  if (spec.op == Op::kSystem) return SystemCall(spec.mode);
#ifdef __x86_64__
  static const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_v3) return v3::FindHandler(spec);
#endif
  return Find(spec);
}

}  // namespace tulle::gpu::softcuda
