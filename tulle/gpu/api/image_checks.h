// What every backend checks of images and samplers itself, before any driver or memory sees the command:
// sizes, formats, regions. Each answers OpenCL's status, 0 when the command is good.
#pragma once

#include "tulle/gpu/api/checks.h"

namespace tulle::gpu {

// A live image, as far as checks and copies need to know it.
struct ImageShape {
  wire::opencl::ImageType type{};
  wire::opencl::ImageFormat format;
  wire::Vec3 extents{};
  wire::Flags<wire::opencl::MemFlag> flags;
  std::uint32_t pixel_bytes = 0;
  std::uint64_t row_pitch_bytes = 0;
  std::uint64_t slice_pitch_bytes = 0;

  bool Contains(const wire::Vec3& origin, const wire::Vec3& region) const {
    return wire::opencl::BoxContains(extents, origin, region);
  }
  bool HostMayRead() const { return BufferShape{.flags = flags}.HostMayRead(); }
  bool HostMayWrite() const { return BufferShape{.flags = flags}.HostMayWrite(); }

  // Preconditions of these: the image contains the region.
  std::uint64_t PackedBytes(const wire::Vec3& region) const {
    return pixel_bytes * region[0] * region[1] * region[2];
  }
  // Its bytes of a row, rows, slices, as rectangular transfers have them, and where they lie.
  wire::Vec3 BytesOf(const wire::Vec3& region) const {
    return {pixel_bytes * region[0], region[1], region[2]};
  }
  wire::opencl::Rect RectAt(const wire::Vec3& origin) const {
    return {origin[0] * pixel_bytes + origin[1] * row_pitch_bytes + origin[2] * slice_pitch_bytes,
            row_pitch_bytes, slice_pitch_bytes};
  }
};

// Fills in the shape of a good one. `buffer`: what the message names as its pixels' buffer, null when there
// is no such buffer. `most_bytes`: what one image with memory of its own may have.
inline std::int32_t CheckCreateImage(const wire::opencl::CreateImage& message, const BufferShape* buffer,
                                     const wire::opencl::ImageLimits& limits, std::uint64_t most_bytes,
                                     ImageShape* shape) {
  using wire::opencl::ImageType;
  const ImageType type = message.type.value;
  const std::uint32_t pixel_bytes = wire::opencl::PixelBytes(message.format);
  if (pixel_bytes == 0) return cl_status::kInvalidImageFormatDescriptor;
  if (!wire::opencl::BoxContains(limits.Most(type), {}, message.extents)) return cl_status::kInvalidImageSize;
  const std::uint64_t bytes = wire::opencl::OwnBytes(message);
  if (bytes == 0) return cl_status::kInvalidImageSize;
  const auto [width, rows, slices] = message.extents;
  const bool in_buffer = !message.buffer.handle.null();
  // With these bounds no product below overflows: the packed bytes fit.
  const std::uint64_t packed_row = width * pixel_bytes;
  std::uint64_t row_pitch = packed_row;
  if (in_buffer) {
    if (type != ImageType::k1DBuffer && type != ImageType::k2D) return cl_status::kInvalidImageDescriptor;
    if (buffer == nullptr) return cl_status::kInvalidMemObject;
    if (message.row_pitch_bytes != 0) row_pitch = message.row_pitch_bytes;
    if (row_pitch < packed_row || row_pitch % pixel_bytes != 0) return cl_status::kInvalidImageDescriptor;
    const wire::opencl::Rect rect{0, row_pitch, row_pitch};
    // Rows as slices of one row: pitches that no rectangle has are refused with the rest.
    if (!buffer->Contains(rect, {packed_row, 1, rows})) return cl_status::kInvalidImageSize;
  } else {
    if (type == ImageType::k1DBuffer || message.row_pitch_bytes != 0)
      return cl_status::kInvalidImageDescriptor;
    if (bytes > most_bytes) return cl_status::kInvalidImageSize;
  }
  shape->type = type;
  shape->format = message.format;
  shape->extents = message.extents;
  shape->flags = message.flags;
  shape->pixel_bytes = pixel_bytes;
  shape->row_pitch_bytes = row_pitch;
  shape->slice_pitch_bytes = row_pitch * rows;
  return 0;
}

// In all of these a null image or buffer is one that does not exist, or is something else.
inline std::int32_t CheckImageRegion(const ImageShape* image, const wire::Vec3& origin,
                                     const wire::Vec3& region) {
  if (image == nullptr) return cl_status::kInvalidMemObject;
  return image->Contains(origin, region) ? 0 : cl_status::kInvalidValue;
}

inline std::int32_t CheckInitImage(const ImageShape* image, const wire::opencl::InitImage& message) {
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  return message.data.size_bytes == image->PackedBytes(message.region) ? 0 : cl_status::kInvalidValue;
}

// `room_bytes` is what the command has for the data.
inline std::int32_t CheckReadImage(const ImageShape* image, const wire::opencl::EnqueueReadImage& message,
                                   std::uint64_t room_bytes) {
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  if (!image->HostMayRead()) return cl_status::kInvalidOperation;
  const std::uint64_t size = message.data.size_bytes;
  return size <= room_bytes && size == image->PackedBytes(message.region) ? 0 : cl_status::kInvalidValue;
}

inline std::int32_t CheckWriteImage(const ImageShape* image, const wire::opencl::EnqueueWriteImage& message) {
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  if (!image->HostMayWrite()) return cl_status::kInvalidOperation;
  return message.data.size_bytes == image->PackedBytes(message.region) ? 0 : cl_status::kInvalidValue;
}

inline std::int32_t CheckFillImage(const ImageShape* image, const wire::opencl::EnqueueFillImage& message) {
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  return message.color.bytes.size() == wire::kFillColorBytes ? 0 : cl_status::kInvalidValue;
}

inline std::int32_t CheckCopyImage(const ImageShape* source, const ImageShape* destination,
                                   const wire::opencl::EnqueueCopyImage& message) {
  if (source == nullptr || destination == nullptr) return cl_status::kInvalidMemObject;
  if (source->format != destination->format) return cl_status::kImageFormatMismatch;
  if (!source->Contains(message.source_origin, message.region) ||
      !destination->Contains(message.destination_origin, message.region)) {
    return cl_status::kInvalidValue;
  }
  return source == destination &&
                 wire::opencl::BoxesOverlap(message.source_origin, message.destination_origin, message.region)
             ? cl_status::kMemCopyOverlap
             : 0;
}

inline std::int32_t CheckCopyImageToBuffer(const ImageShape* image, const BufferShape* buffer,
                                           const wire::opencl::EnqueueCopyImageToBuffer& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  return buffer->Contains(message.offset_bytes, image->PackedBytes(message.region))
             ? 0
             : cl_status::kInvalidValue;
}

inline std::int32_t CheckCopyBufferToImage(const BufferShape* buffer, const ImageShape* image,
                                           const wire::opencl::EnqueueCopyBufferToImage& message) {
  if (buffer == nullptr) return cl_status::kInvalidMemObject;
  const std::int32_t status = CheckImageRegion(image, message.origin, message.region);
  if (status != 0) return status;
  return buffer->Contains(message.offset_bytes, image->PackedBytes(message.region))
             ? 0
             : cl_status::kInvalidValue;
}

inline std::int32_t CheckSampler(const wire::opencl::CreateSampler& message) {
  using wire::opencl::Addressing;
  const bool repeats = message.addressing.value == Addressing::kRepeat ||
                       message.addressing.value == Addressing::kMirroredRepeat;
  return message.normalized > 1 || (repeats && message.normalized == 0) ? cl_status::kInvalidValue : 0;
}

}  // namespace tulle::gpu
