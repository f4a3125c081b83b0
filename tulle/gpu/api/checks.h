// What every backend checks of a command itself, before any driver or memory sees it: ranges, patterns,
// what the host may do with a buffer. Each answers OpenCL's status, 0 when the command is good.
#pragma once

#include <bit>

#include "tulle/gpu/api/opencl_status.h"
#include "tulle/wire/command_table.h"

namespace tulle::gpu {

// A live buffer, as far as checks need to know it.
struct BufferShape {
  std::uint64_t size_bytes = 0;
  wire::Flags<wire::opencl::MemFlag> flags;
  wire::Handle root;               // the buffer that this is a part of, or itself
  std::uint64_t origin_bytes = 0;  // where in that
  bool is_svm = false;             // the program has it at the same address

  // No sum is formed: offsets are as absurd as a peer likes.
  bool Contains(std::uint64_t offset_bytes, std::uint64_t count_bytes) const {
    return offset_bytes <= size_bytes && count_bytes <= size_bytes - offset_bytes;
  }
  bool Contains(const wire::opencl::Rect& rect, const wire::Vec3& region) const {
    const auto span = wire::opencl::SpanOf(rect, region);
    return span.has_value() && Contains(rect.offset_bytes, *span);
  }
  bool HostMayRead() const {
    using wire::opencl::MemFlag;
    return !flags.has(MemFlag::kHostWriteOnly) && !flags.has(MemFlag::kHostNoAccess);
  }
  bool HostMayWrite() const {
    using wire::opencl::MemFlag;
    return !flags.has(MemFlag::kHostReadOnly) && !flags.has(MemFlag::kHostNoAccess);
  }
};

// In all of these a null buffer is one that does not exist.
inline std::int32_t CheckInit(const BufferShape* buffer, const wire::opencl::InitBuffer& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  return buffer->Contains(message.offset_bytes, message.data.size_bytes) ? 0 : cl_status::kInvalidValue;
}

// A part lies in a buffer that is none itself. Which offsets are aligned is the driver's to know;
// in shared virtual memory a part may begin anywhere.
inline std::int32_t CheckSubBuffer(const BufferShape* parent, const wire::opencl::CreateSubBuffer& message) {
  if (parent == nullptr || parent->root != message.parent.handle) return cl_status::kInvalidMemObject;
  if (message.size_bytes == 0) return cl_status::kInvalidBufferSize;
  return parent->Contains(message.offset_bytes, message.size_bytes) ? 0 : cl_status::kInvalidValue;
}

// A pointer as an argument: into shared virtual memory, or null.
inline std::int32_t CheckSvmArg(const BufferShape* memory, const wire::opencl::SetSvmArg& message) {
  if (message.memory.handle.null()) return 0;
  return memory != nullptr && memory->is_svm && message.offset_bytes < memory->size_bytes
             ? 0
             : cl_status::kInvalidArgValue;
}

// `room_bytes` is what the command has for the data.
inline std::int32_t CheckRead(const BufferShape* buffer, const wire::opencl::EnqueueRead& message,
                              std::uint64_t room_bytes) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  if (!buffer->HostMayRead()) return cl_status::kInvalidOperation;
  const std::uint64_t size = message.data.size_bytes;
  return size != 0 && size <= room_bytes && buffer->Contains(message.offset_bytes, size)
             ? 0
             : cl_status::kInvalidValue;
}

inline std::int32_t CheckReadRect(const BufferShape* buffer, const wire::opencl::EnqueueReadRect& message,
                                  std::uint64_t room_bytes) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  if (!buffer->HostMayRead()) return cl_status::kInvalidOperation;
  const std::uint64_t size = message.data.size_bytes;
  return size <= room_bytes && buffer->Contains(message.rect, message.region) &&
                 size == wire::opencl::PackedBytes(message.region)
             ? 0
             : cl_status::kInvalidValue;
}

inline std::int32_t CheckWrite(const BufferShape* buffer, const wire::opencl::EnqueueWrite& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  if (!buffer->HostMayWrite()) return cl_status::kInvalidOperation;
  const std::uint64_t size = message.data.size_bytes;
  return size != 0 && buffer->Contains(message.offset_bytes, size) ? 0 : cl_status::kInvalidValue;
}

inline std::int32_t CheckWriteRect(const BufferShape* buffer, const wire::opencl::EnqueueWriteRect& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  if (!buffer->HostMayWrite()) return cl_status::kInvalidOperation;
  return buffer->Contains(message.rect, message.region) &&
                 message.data.size_bytes == wire::opencl::PackedBytes(message.region)
             ? 0
             : cl_status::kInvalidValue;
}

inline std::int32_t CheckCopy(const BufferShape* source, const BufferShape* destination,
                              const wire::opencl::EnqueueCopy& message) {
  if (source == nullptr || destination == nullptr) return cl_status::kInvalidMemObject;
  const std::uint64_t size = message.size_bytes;
  if (size == 0 || !source->Contains(message.source_offset_bytes, size) ||
      !destination->Contains(message.destination_offset_bytes, size)) {
    return cl_status::kInvalidValue;
  }
  const std::uint64_t from = source->origin_bytes + message.source_offset_bytes;
  const std::uint64_t to = destination->origin_bytes + message.destination_offset_bytes;
  if (source->root == destination->root && from < to + size && to < from + size)
    return cl_status::kMemCopyOverlap;
  return 0;
}

// A box of a buffer as one of the buffer that it is a part of.
inline wire::opencl::Rect InRoot(wire::opencl::Rect rect, const BufferShape& buffer) {
  rect.offset_bytes += buffer.origin_bytes;
  return rect;
}

inline std::int32_t CheckCopyRect(const BufferShape* source, const BufferShape* destination,
                                  const wire::opencl::EnqueueCopyRect& message) {
  if (source == nullptr || destination == nullptr) return cl_status::kInvalidMemObject;
  if (!source->Contains(message.from, message.region) || !destination->Contains(message.to, message.region))
    return cl_status::kInvalidValue;
  const bool overlap =
      source->root == destination->root &&
      wire::opencl::Overlap(InRoot(message.from, *source), InRoot(message.to, *destination), message.region);
  return overlap ? cl_status::kMemCopyOverlap : 0;
}

inline std::int32_t CheckFill(const BufferShape* buffer, const wire::opencl::EnqueueFill& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  const std::uint64_t pattern = message.pattern.bytes.size();
  if (!std::has_single_bit(pattern) || message.size_bytes == 0 || message.offset_bytes % pattern != 0 ||
      message.size_bytes % pattern != 0 || !buffer->Contains(message.offset_bytes, message.size_bytes)) {
    return cl_status::kInvalidValue;
  }
  return 0;
}

// `in_place`: the buffer lies in the memory that was given for it.
inline std::int32_t CheckMap(const BufferShape* buffer, bool in_place,
                             const wire::opencl::EnqueueMap& message) {
  using wire::opencl::MapAccess;
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  const bool reads = message.access.has(MapAccess::kRead);
  const bool writes = message.access.has(MapAccess::kWrite) || message.access.has(MapAccess::kOverwrite);
  if (!in_place || (reads && !buffer->HostMayRead()) || (writes && !buffer->HostMayWrite()))
    return cl_status::kInvalidOperation;
  return (reads || writes) && message.size_bytes != 0 &&
                 buffer->Contains(message.offset_bytes, message.size_bytes)
             ? 0
             : cl_status::kInvalidValue;
}

// The dimensions only; what a device or kernel limits is the driver's to know.
inline std::int32_t CheckRange(const wire::opencl::EnqueueKernel& message) {
  if (message.work_dim < 1 || message.work_dim > 3) return cl_status::kInvalidWorkDimension;
  const bool any_local = message.local_size != wire::Vec3{};
  for (std::uint32_t i = 0; i < message.work_dim; ++i) {
    if (any_local && message.local_size[i] == 0) return cl_status::kInvalidWorkGroupSize;
    if (message.global_size[i] > ~message.global_offset[i]) return cl_status::kInvalidGlobalOffset;
  }
  return 0;
}

// A transfer's piece: see wire/schema/opencl/queue.h.
template <typename M>
std::int32_t CheckPiece(const M& message) {
  if (message.more == 0) return 0;
  return message.transfer != 0 && message.event.handle.null() ? 0 : cl_status::kInvalidValue;
}

// Transfers of one queue whose last piece has not come: one per thread of the program, and then some.
inline constexpr std::size_t kMaxOpenTransfers = 1024;

}  // namespace tulle::gpu
