// Rectangular transfers of OpenCL buffers. A box is rows of bytes in slices of rows; on the wire it is
// packed.
#pragma once

#include <optional>

#include "tulle/wire/fields.h"

namespace tulle::wire::opencl {

// Where a box lies in a buffer. How large it is stands beside: Vec3{bytes of a row, rows, slices}.
struct Rect {
  U64 offset_bytes = 0;  // of its first byte
  U64 row_pitch_bytes = 0;
  U64 slice_pitch_bytes = 0;
  TULLE_MESSAGE(Rect, offset_bytes, row_pitch_bytes, slice_pitch_bytes)
};

// Bytes of the buffer from the first of the box to its last, gaps included. None when there is no such box:
// an extent is 0, rows or slices run into each other, slices do not begin where rows do, or 64 bits are too
// few. Where there is one, the product of the extents fits in 64 bits, too.
constexpr std::optional<U64> SpanOf(const Rect& rect, const Vec3& region) {
  const auto [width, rows, slices] = region;
  U64 slice_bytes = 0;
  U64 span = 0;
  if (width == 0 || rows == 0 || slices == 0 || rect.row_pitch_bytes < width ||
      __builtin_mul_overflow(rows, rect.row_pitch_bytes, &slice_bytes) ||
      rect.slice_pitch_bytes < slice_bytes || rect.slice_pitch_bytes % rect.row_pitch_bytes != 0 ||
      __builtin_mul_overflow(slices - 1, rect.slice_pitch_bytes, &span) ||
      __builtin_add_overflow(span, (rows - 1) * rect.row_pitch_bytes + width, &span)) {
    return std::nullopt;
  }
  return span;
}

constexpr U64 PackedBytes(const Vec3& region) { return region[0] * region[1] * region[2]; }

// Whether two boxes of the same size in one buffer share bytes. Preconditions: both have a span, which ends
// within 64 bits. With unlike pitches, a gap of one that holds the other counts as shared. The algorithm is
// that of the OpenCL specification's appendix "Checking for Memory Copy Overlap".
constexpr bool Overlap(const Rect& a, const Rect& b, const Vec3& region) {
  if (a.offset_bytes + *SpanOf(a, region) <= b.offset_bytes ||
      b.offset_bytes + *SpanOf(b, region) <= a.offset_bytes) {
    return false;
  }
  if (a.row_pitch_bytes != b.row_pitch_bytes || a.slice_pitch_bytes != b.slice_pitch_bytes) return true;
  // Each lies in the gap that the other leaves in every `pitch` bytes.
  const auto interleave = [&](U64 size, U64 pitch) {
    const U64 x = a.offset_bytes % pitch;
    const U64 y = b.offset_bytes % pitch;
    return (y >= x && y - x >= size && pitch - (y - x) >= size) ||
           (x >= y && x - y >= size && pitch - (x - y) >= size);
  };
  return !interleave(region[0], a.row_pitch_bytes) &&
         !interleave((region[1] - 1) * a.row_pitch_bytes + region[0], a.slice_pitch_bytes);
}

struct EnqueueReadRect {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  Rect rect;
  Vec3 region{};
  Wanted<kMaxPayloadBytes> data;  // PackedBytes(region). The reply is EnqueueReadReply
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueReadRect, queue, memory, rect, region, data, transfer, more, waits, event)
};

struct EnqueueWriteRect {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> memory;
  Rect rect;
  Vec3 region{};
  Payload<kMaxPayloadBytes> data;  // PackedBytes(region)
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueWriteRect, queue, memory, rect, region, data, transfer, more, waits, event)
};

struct EnqueueCopyRect {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> source;
  Ref<ObjectKind::kMemory> destination;
  Rect from;
  Rect to;
  Vec3 region{};
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueCopyRect, queue, source, destination, from, to, region, waits, event)
};

}  // namespace tulle::wire::opencl
