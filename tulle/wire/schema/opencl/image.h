// OpenCL images and samplers.
//
// Whatever its type, an image is a box of pixels here: {width, rows, slices}, in the order of OpenCL's
// origins and regions. The layers of a 1D array are its rows and those of a 2D array its slices; what an
// image does not have is 1. Pixels travel packed: row behind row, slice behind slice.
#pragma once

#include <optional>

#include "tulle/wire/fields.h"
#include "tulle/wire/schema/opencl/memory.h"

namespace tulle::wire::opencl {

// OpenCL's CL_MEM_OBJECT_IMAGE..., less kImageTypeBase.
enum class ImageType : U8 { k2D = 1, k3D = 2, k2DArray = 3, k1D = 4, k1DArray = 5, k1DBuffer = 6 };
inline constexpr U32 kImageTypeBase = 0x10F0;
constexpr bool IsKnown(ImageType t) { return t >= ImageType::k2D && t <= ImageType::k1DBuffer; }

// The type of an image that OpenCL C calls so ("image2d_array_t"); none for any other type, and for those
// with more than one sample a pixel.
constexpr std::optional<ImageType> ImageTypeNamed(std::string_view name) {
  if (name == "image2d_t" || name == "image2d_depth_t") return ImageType::k2D;
  if (name == "image3d_t") return ImageType::k3D;
  if (name == "image2d_array_t" || name == "image2d_array_depth_t") return ImageType::k2DArray;
  if (name == "image1d_t") return ImageType::k1D;
  if (name == "image1d_array_t") return ImageType::k1DArray;
  if (name == "image1d_buffer_t") return ImageType::k1DBuffer;
  return std::nullopt;
}

// How large the images of a device may be, in pixels.
struct ImageLimits {
  U64 width_2d = 0, height_2d = 0;  // of one layer; a 1D image is as wide
  U64 width_3d = 0, height_3d = 0, depth_3d = 0;
  U64 layers = 0;
  U64 width_of_buffer = 0;

  constexpr Vec3 Most(ImageType type) const {
    switch (type) {
      case ImageType::k2D: return {width_2d, height_2d, 1};
      case ImageType::k3D: return {width_3d, height_3d, depth_3d};
      case ImageType::k2DArray: return {width_2d, height_2d, layers};
      case ImageType::k1D: return {width_2d, 1, 1};
      case ImageType::k1DArray: return {width_2d, layers, 1};
      case ImageType::k1DBuffer: return {width_of_buffer, 1, 1};
    }
    return {};
  }
};

// Whether a box of some size lies within another that begins at 0. No sum is formed: a peer's numbers are as
// absurd as it likes.
constexpr bool BoxContains(const Vec3& outer, const Vec3& origin, const Vec3& region) {
  for (std::size_t i = 0; i < outer.size(); ++i) {
    if (region[i] == 0 || origin[i] > outer[i] || region[i] > outer[i] - origin[i]) return false;
  }
  return true;
}
// Whether two boxes of one size share pixels. Precondition: some box contains both.
constexpr bool BoxesOverlap(const Vec3& a, const Vec3& b, const Vec3& region) {
  for (std::size_t i = 0; i < region.size(); ++i) {
    if (a[i] + region[i] <= b[i] || b[i] + region[i] <= a[i]) return false;
  }
  return true;
}

// cl_channel_order and cl_channel_type, as OpenCL numbers them.
struct ImageFormat {
  U32 channel_order = 0;
  U32 channel_type = 0;
  TULLE_MESSAGE(ImageFormat, channel_order, channel_type)
  friend bool operator==(const ImageFormat&, const ImageFormat&) = default;
};

// The channel orders and types that code here tells apart.
inline constexpr U32 kOrderR = 0x10B0, kOrderA = 0x10B1, kOrderRg = 0x10B2, kOrderRa = 0x10B3,
                     kOrderRgb = 0x10B4, kOrderRgba = 0x10B5, kOrderBgra = 0x10B6, kOrderArgb = 0x10B7,
                     kOrderIntensity = 0x10B8, kOrderLuminance = 0x10B9, kOrderRx = 0x10BA,
                     kOrderRgx = 0x10BB, kOrderRgbx = 0x10BC, kOrderDepth = 0x10BD, kOrderSrgb = 0x10BF,
                     kOrderSrgbx = 0x10C0, kOrderSrgba = 0x10C1, kOrderSbgra = 0x10C2, kOrderAbgr = 0x10C3;
inline constexpr U32 kSnormInt8 = 0x10D0, kSnormInt16 = 0x10D1, kUnormInt8 = 0x10D2, kUnormInt16 = 0x10D3,
                     kUnormShort565 = 0x10D4, kUnormShort555 = 0x10D5, kUnormInt101010 = 0x10D6,
                     kSignedInt8 = 0x10D7, kSignedInt16 = 0x10D8, kSignedInt32 = 0x10D9,
                     kUnsignedInt8 = 0x10DA, kUnsignedInt16 = 0x10DB, kUnsignedInt32 = 0x10DC,
                     kHalfFloat = 0x10DD, kFloat = 0x10DE, kUnormInt101010_2 = 0x10E0;

// Bytes of one channel; 0: no such type, or its channels share the bytes of a pixel.
constexpr U32 ChannelBytes(U32 channel_type) {
  switch (channel_type) {
    case kSnormInt8:
    case kUnormInt8:
    case kSignedInt8:
    case kUnsignedInt8: return 1;
    case kSnormInt16:
    case kUnormInt16:
    case kSignedInt16:
    case kUnsignedInt16:
    case kHalfFloat: return 2;
    case kSignedInt32:
    case kUnsignedInt32:
    case kFloat: return 4;
    default: return 0;
  }
}

// Bytes of one pixel; 0: OpenCL has no such format.
constexpr U32 PixelBytes(const ImageFormat& format) {
  const U32 type = format.channel_type;
  const U32 channel = ChannelBytes(type);
  const bool is_integer = type >= kSignedInt8 && type <= kUnsignedInt32;
  switch (format.channel_order) {
    case kOrderR:
    case kOrderA: return channel;
    case kOrderRg:
    case kOrderRa:
    case kOrderRx: return 2 * channel;
    case kOrderRgx: return 3 * channel;
    case kOrderRgba: return type == kUnormInt101010_2 ? 4 : 4 * channel;
    case kOrderRgb:
    case kOrderRgbx:
      if (type == kUnormShort565 || type == kUnormShort555) return 2;
      return type == kUnormInt101010 ? 4 : 0;
    case kOrderBgra:
    case kOrderArgb:
    case kOrderAbgr: return channel == 1 ? 4 : 0;
    case kOrderIntensity:
    case kOrderLuminance: return is_integer ? 0 : channel;
    case kOrderDepth: return type == kUnormInt16 || type == kFloat ? channel : 0;
    case kOrderSrgb: return type == kUnormInt8 ? 3 : 0;
    case kOrderSrgbx:
    case kOrderSrgba:
    case kOrderSbgra: return type == kUnormInt8 ? 4 : 0;
    default: return 0;
  }
}

// Bytes of a box of packed pixels; none when 64 bits are too few.
constexpr std::optional<U64> BoxBytes(U32 pixel_bytes, const Vec3& box) {
  U64 bytes = pixel_bytes;
  for (const U64 extent : box) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

enum class ImageAccess : U8 { kReadWrite = 0, kWriteOnly = 1, kReadOnly = 2, kKernelReadAndWrite = 3 };
constexpr bool IsKnown(ImageAccess a) { return a <= ImageAccess::kKernelReadAndWrite; }

// What the device has formats for.
struct GetImageFormats {
  Ref<ObjectKind::kContext> context;
  Enum<ImageAccess> access;
  Enum<ImageType> type{ImageType::k2D};
  TULLE_MESSAGE(GetImageFormats, context, access, type)
};
struct GetImageFormatsReply {
  I32 status = 0;
  List<ImageFormat, kMaxImageFormats> formats;
  TULLE_MESSAGE(GetImageFormatsReply, status, formats)
};

// Fresh memory reads as zero.
struct CreateImage {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kMemory> image;
  Flags<MemFlag> flags;
  Enum<ImageType> type{ImageType::k2D};
  ImageFormat format;
  Vec3 extents{};
  // The buffer whose bytes are the pixels (k1DBuffer; k2D where the device can): no lease is charged for it.
  OptRef<ObjectKind::kMemory> buffer;
  U64 row_pitch_bytes = 0;  // of a 2D image in a buffer; 0: packed
  TULLE_MESSAGE(CreateImage, context, image, flags, type, format, extents, buffer, row_pitch_bytes)
};

// The packed pixels of an image with memory of its own: their ChargedBytes are what it takes of a lease, and
// what a device that puts its images elsewhere (in tiles, say) is taken to need. 0: no such image can be.
constexpr U64 OwnBytes(const CreateImage& message) {
  return BoxBytes(PixelBytes(message.format), message.extents).value_or(0);
}

// A box of the contents that the program gave at creation. Precedes any other use of the image.
struct InitImage {
  Ref<ObjectKind::kMemory> image;
  Vec3 origin{};
  Vec3 region{};
  Payload<kMaxPayloadBytes> data;
  TULLE_MESSAGE(InitImage, image, origin, region, data)
};

// OpenCL's CL_ADDRESS_..., less kAddressingBase, and CL_FILTER_..., less kFilterBase.
enum class Addressing : U8 { kNone = 0, kClampToEdge = 1, kClamp = 2, kRepeat = 3, kMirroredRepeat = 4 };
inline constexpr U32 kAddressingBase = 0x1130;
constexpr bool IsKnown(Addressing a) { return a <= Addressing::kMirroredRepeat; }
enum class Filter : U8 { kNearest = 0, kLinear = 1 };
inline constexpr U32 kFilterBase = 0x1140;
constexpr bool IsKnown(Filter f) { return f <= Filter::kLinear; }

struct CreateSampler {
  Ref<ObjectKind::kContext> context;
  New<ObjectKind::kSampler> sampler;
  U8 normalized = 0;  // coordinates go from 0 to 1
  Enum<Addressing> addressing;
  Enum<Filter> filter;
  TULLE_MESSAGE(CreateSampler, context, sampler, normalized, addressing, filter)
};

// Images are set by SetKernelArg, as any memory.
struct SetSamplerArg {
  Ref<ObjectKind::kKernel> kernel;
  U32 index = 0;
  Ref<ObjectKind::kSampler> sampler;
  TULLE_MESSAGE(SetSamplerArg, kernel, index, sampler)
};

// A transfer's pieces are boxes: see queue.h.
struct EnqueueReadImage {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> image;
  Vec3 origin{};
  Vec3 region{};
  Wanted<kMaxPayloadBytes> data;  // the region's bytes. The reply is EnqueueReadReply
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueReadImage, queue, image, origin, region, data, transfer, more, waits, event)
};

struct EnqueueWriteImage {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> image;
  Vec3 origin{};
  Vec3 region{};
  Payload<kMaxPayloadBytes> data;  // the region's bytes
  U64 transfer = 0;
  U8 more = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueWriteImage, queue, image, origin, region, data, transfer, more, waits, event)
};

struct EnqueueCopyImage {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> source;
  Ref<ObjectKind::kMemory> destination;
  Vec3 source_origin{};
  Vec3 destination_origin{};
  Vec3 region{};
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueCopyImage, queue, source, destination, source_origin, destination_origin, region,
                waits, event)
};

struct EnqueueFillImage {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> image;
  Bytes<kFillColorBytes> color;  // just so many: four floats or integers, as the format has it
  Vec3 origin{};
  Vec3 region{};
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueFillImage, queue, image, color, origin, region, waits, event)
};

// The buffer's part is packed.
struct EnqueueCopyImageToBuffer {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> image;
  Ref<ObjectKind::kMemory> buffer;
  Vec3 origin{};
  Vec3 region{};
  U64 offset_bytes = 0;
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueCopyImageToBuffer, queue, image, buffer, origin, region, offset_bytes, waits, event)
};
struct EnqueueCopyBufferToImage {
  Ref<ObjectKind::kQueue> queue;
  Ref<ObjectKind::kMemory> buffer;
  Ref<ObjectKind::kMemory> image;
  U64 offset_bytes = 0;
  Vec3 origin{};
  Vec3 region{};
  WaitList waits;
  NewEvent event;
  TULLE_MESSAGE(EnqueueCopyBufferToImage, queue, buffer, image, offset_bytes, origin, region, waits, event)
};

}  // namespace tulle::wire::opencl
