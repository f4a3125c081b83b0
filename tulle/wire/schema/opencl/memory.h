// OpenCL memory objects.
#pragma once

#include "tulle/wire/fields.h"

namespace tulle::wire::opencl {

// cl_mem_flags that mean something to the device; the host-pointer ones stay in the client. OpenCL's values.
enum class MemFlag : U64 {
  kReadWrite = 1u << 0,
  kWriteOnly = 1u << 1,
  kReadOnly = 1u << 2,
  kHostWriteOnly = 1u << 7,
  kHostReadOnly = 1u << 8,
  kHostNoAccess = 1u << 9,
  kExportable = U64{1} << 40,  // ours (cl_ext_tulle.h), of CreateBuffer only, with Capability::kExports
};
constexpr U64 KnownBits(MemFlag) { return 0x387 | U64{1} << 40; }

// What a memory object takes of its session's lease, and of the vGPU's memory: whole pages. Sizes that no
// lease can hold stay so.
inline constexpr U64 kMemoryGranuleBytes = 4096;
constexpr U64 ChargedBytes(U64 size_bytes) {
  const U64 rest = size_bytes % kMemoryGranuleBytes;
  if (rest == 0) return size_bytes;
  return size_bytes > ~U64{0} - kMemoryGranuleBytes ? ~U64{0} : size_bytes - rest + kMemoryGranuleBytes;
}

// Fresh memory reads as zero.
struct CreateBuffer {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kMemory> buffer;
  Flags<MemFlag> flags;
  U64 size_bytes = 0;
  TULLE_MESSAGE(CreateBuffer, context, buffer, flags, size_bytes)
};

// A buffer that is all of the memory of an export which the session has opened. It takes nothing of a lease.
struct ImportBuffer {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kMemory> buffer;
  Flags<MemFlag> flags;
  Str<kMaxExportTokenBytes> token;
  TULLE_MESSAGE(ImportBuffer, context, buffer, flags, token)
};

// A piece of the contents that the program gave at creation. Precedes any other use of the buffer.
struct InitBuffer {
  Ref<ObjectKind::kMemory> buffer;
  U64 offset_bytes = 0;
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(InitBuffer, buffer, offset_bytes, data)
};

// A part of a buffer that is no part itself, or of shared virtual memory, where it may begin anywhere. It has
// no memory of its own, so a lease is not charged for it.
struct CreateSubBuffer {
  Ref<ObjectKind::kMemory> parent;
  New<ObjectKind::kMemory> buffer;
  Flags<MemFlag> flags;
  U64 offset_bytes = 0;
  U64 size_bytes = 0;
  TULLE_MESSAGE(CreateSubBuffer, parent, buffer, flags, offset_bytes, size_bytes)
};

}  // namespace tulle::wire::opencl
