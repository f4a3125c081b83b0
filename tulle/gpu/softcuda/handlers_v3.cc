#include "tulle/gpu/softcuda/handlers_v3.h"

#ifdef __x86_64__

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

// From here on, so that what headers define stays for all processors.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace tulle::gpu::softcuda::v3 {

#define TULLE_HANDLERS_HAVE_AVX2
#include "tulle/gpu/softcuda/handlers.inc"

Handler FindHandler(const Spec& spec) { return Find(spec); }

}  // namespace tulle::gpu::softcuda::v3

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
