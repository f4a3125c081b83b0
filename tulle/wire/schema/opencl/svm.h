// Shared virtual memory of OpenCL: buffers whose address is the same in the program and in its kernels, so
// that pointers may lie in them. Coarse-grained: each side sees what the other wrote at maps and unmaps only.
#pragma once

#include "tulle/wire/schema/opencl/memory.h"

namespace tulle::wire::opencl {

// Where they lie. The program's side picks the address, wherever the vGPU runs and later moves to: a range
// that no loader, heap or stack of a 64-bit Linux process comes near, and AddressSanitizer leaves alone.
inline constexpr U64 kSvmBase = 0x2000'0000'0000;
inline constexpr U64 kSvmBytes = 0x1000'0000'0000;
// ThreadSanitizer maps nothing there; with it there is no shared virtual memory.
#ifdef __SANITIZE_THREAD__
inline constexpr bool kSvmMayBe = false;
#else
inline constexpr bool kSvmMayBe = true;
#endif

// Whether an allocation may be there. No sum is formed: a peer's numbers are as absurd as it likes.
constexpr bool IsSvmRange(U64 address, U64 size_bytes) {
  return address >= kSvmBase && address % kMemoryGranuleBytes == 0 && address - kSvmBase <= kSvmBytes &&
         size_bytes <= kSvmBytes - (address - kSvmBase);
}

// A buffer like any other for transfers, copies and fills; it is charged to the lease in the same way.
struct CreateSvm {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kMemory> memory;
  Flags<MemFlag> flags;
  U64 address = 0;
  U64 size_bytes = 0;
  TULLE_MESSAGE(CreateSvm, context, memory, flags, address, size_bytes)
};

// An argument that points into such a buffer, or at nothing.
struct SetSvmArg {
  Ref<ObjectKind::kKernel> kernel;
  U32 index = 0;
  OptRef<ObjectKind::kMemory> memory;
  U64 offset_bytes = 0;
  TULLE_MESSAGE(SetSvmArg, kernel, index, memory, offset_bytes)
};

}  // namespace tulle::wire::opencl
