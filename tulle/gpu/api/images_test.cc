// The checks of images, and colors as pixels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tulle/gpu/api/image_checks.h"
#include "tulle/gpu/api/pixel.h"

namespace tulle::gpu {
namespace {

using namespace wire::opencl;

constexpr std::uint64_t kMost = ~std::uint64_t{0};
constexpr ImageLimits kLimits = {.width_2d = 100,
                                 .height_2d = 50,
                                 .width_3d = 20,
                                 .height_3d = 20,
                                 .depth_3d = 20,
                                 .layers = 10,
                                 .width_of_buffer = 1'000};

CreateImage Image(ImageType type, const wire::Vec3& extents) {
  CreateImage message;
  message.type = {type};
  message.format = {kOrderRgba, kFloat};
  message.extents = extents;
  return message;
}

TEST(ImageChecks, LimitsAreOfEachType) {
  const auto check = [](ImageType type, const wire::Vec3& extents) {
    ImageShape shape;
    return CheckCreateImage(Image(type, extents), nullptr, kLimits, 1u << 30, &shape);
  };
  EXPECT_EQ(check(ImageType::k2D, {100, 50, 1}), 0);
  EXPECT_EQ(check(ImageType::k2D, {101, 50, 1}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k2D, {100, 51, 1}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k1D, {100, 1, 1}), 0);
  EXPECT_EQ(check(ImageType::k1D, {100, 2, 1}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k1DArray, {100, 10, 1}), 0);
  EXPECT_EQ(check(ImageType::k1DArray, {100, 11, 1}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k2DArray, {100, 50, 10}), 0);
  EXPECT_EQ(check(ImageType::k2DArray, {100, 50, 11}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k3D, {20, 20, 20}), 0);
  EXPECT_EQ(check(ImageType::k3D, {21, 20, 20}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k3D, {0, 1, 1}), cl_status::kInvalidImageSize);
  EXPECT_EQ(check(ImageType::k3D, {kMost, kMost, kMost}), cl_status::kInvalidImageSize);
}

TEST(ImageChecks, NoDeviceIsTooLarge) {
  ImageShape shape;
  const ImageLimits boundless = {kMost, kMost, kMost, kMost, kMost, kMost, kMost};
  for (const ImageType type : {ImageType::k2D, ImageType::k3D, ImageType::k2DArray}) {
    EXPECT_EQ(CheckCreateImage(Image(type, {1ull << 40, 1ull << 40, 1}), nullptr, boundless, kMost, &shape),
              cl_status::kInvalidImageSize);
    EXPECT_EQ(CheckCreateImage(Image(type, {1ull << 60, 1, 1}), nullptr, boundless, kMost, &shape),
              cl_status::kInvalidImageSize);
  }
  EXPECT_EQ(CheckCreateImage(Image(ImageType::k2D, {64, 64, 1}), nullptr, boundless, 65'535, &shape),
            cl_status::kInvalidImageSize);
  EXPECT_EQ(CheckCreateImage(Image(ImageType::k2D, {64, 64, 1}), nullptr, boundless, 65'536, &shape), 0);

  // In a buffer: rows as far apart as a peer likes.
  BufferShape buffer;
  buffer.size_bytes = 4'096;
  CreateImage image = Image(ImageType::k2D, {4, 4, 1});
  image.buffer = {{1, 1}};
  for (const std::uint64_t pitch : {std::uint64_t{0}, std::uint64_t{64}, std::uint64_t{1'344}}) {
    image.row_pitch_bytes = pitch;
    EXPECT_EQ(CheckCreateImage(image, &buffer, boundless, kMost, &shape), 0) << pitch;
    EXPECT_EQ(shape.row_pitch_bytes, pitch == 0 ? 64 : pitch);
  }
  for (const std::uint64_t pitch : {std::uint64_t{1'360}, kMost - 15, kMost / 4 - 15}) {
    image.row_pitch_bytes = pitch;
    EXPECT_EQ(CheckCreateImage(image, &buffer, boundless, kMost, &shape), cl_status::kInvalidImageSize)
        << pitch;
  }
  image.extents = {256, 1, 1};
  image.row_pitch_bytes = kMost - 15;  // of a single row it does not matter
  EXPECT_EQ(CheckCreateImage(image, &buffer, boundless, kMost, &shape), 0);
  image.extents = {257, 1, 1};
  EXPECT_EQ(CheckCreateImage(image, &buffer, boundless, kMost, &shape), cl_status::kInvalidImageSize);
}

TEST(ImageChecks, ShapesSayWhereRegionsLie) {
  ImageShape shape;
  ASSERT_EQ(CheckCreateImage(Image(ImageType::k3D, {5, 6, 7}), nullptr, kLimits, 1u << 30, &shape), 0);
  EXPECT_EQ(shape.RectAt({1, 2, 3}).offset_bytes, 16u * (1 + 5 * (2 + 6 * 3)));
  EXPECT_EQ(shape.BytesOf({2, 3, 4}), (wire::Vec3{32, 3, 4}));
  EXPECT_EQ(shape.PackedBytes({2, 3, 4}), 16u * 24);
  EXPECT_TRUE(shape.Contains({4, 5, 6}, {1, 1, 1}));
  EXPECT_FALSE(shape.Contains({5, 0, 0}, {1, 1, 1}));
  EXPECT_FALSE(shape.Contains({kMost, 0, 0}, {2, 1, 1}));
  EXPECT_FALSE(shape.Contains({2, 0, 0}, {kMost, 1, 1}));
  EXPECT_FALSE(shape.Contains({0, 0, 0}, {1, 0, 1}));
  // Every corner has its bytes.
  const Rect last = shape.RectAt({4, 5, 6});
  EXPECT_EQ(last.offset_bytes + 16, OwnBytes(Image(ImageType::k3D, {5, 6, 7})));
}

TEST(ImageFormats, HaveTheSizesThatOpenClGivesThem) {
  const auto size = [](std::uint32_t order, std::uint32_t type) { return PixelBytes({order, type}); };
  EXPECT_EQ(size(kOrderR, kUnormInt8), 1u);
  EXPECT_EQ(size(kOrderRg, kHalfFloat), 4u);
  EXPECT_EQ(size(kOrderRgba, kFloat), 16u);
  EXPECT_EQ(size(kOrderBgra, kUnormInt8), 4u);
  EXPECT_EQ(size(kOrderBgra, kFloat), 0u);
  EXPECT_EQ(size(kOrderRgb, kUnormShort565), 2u);
  EXPECT_EQ(size(kOrderRgb, kUnormInt101010), 4u);
  EXPECT_EQ(size(kOrderRgb, kUnormInt8), 0u);
  EXPECT_EQ(size(kOrderR, kUnormShort565), 0u);
  EXPECT_EQ(size(kOrderDepth, kFloat), 4u);
  EXPECT_EQ(size(kOrderDepth, kUnormInt8), 0u);
  EXPECT_EQ(size(kOrderSrgba, kUnormInt8), 4u);
  EXPECT_EQ(size(kOrderLuminance, kSignedInt8), 0u);
  EXPECT_EQ(size(0, 0), 0u);
  EXPECT_EQ(size(~0u, ~0u), 0u);
}

template <typename T>
T Channel(const ImageFormat& format, std::size_t index, const std::array<float, 4>& color) {
  const auto pixel = MakePixel(format, std::as_bytes(std::span(color)));
  EXPECT_TRUE(pixel.has_value());
  T value{};
  if (pixel.has_value()) std::memcpy(&value, pixel->bytes.data() + index * sizeof value, sizeof value);
  return value;
}

TEST(Pixels, AreRoundedAndSaturated) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Channel<std::uint8_t>({kOrderR, kUnormInt8}, 0, {0.5F}), 128);  // 127.5, to even
  EXPECT_EQ(Channel<std::uint8_t>({kOrderR, kUnormInt8}, 0, {7.0F}), 255);
  EXPECT_EQ(Channel<std::uint8_t>({kOrderR, kUnormInt8}, 0, {-7.0F}), 0);
  EXPECT_EQ(Channel<std::uint8_t>({kOrderR, kUnormInt8}, 0, {nan}), 0);
  EXPECT_EQ(Channel<std::int16_t>({kOrderR, kSnormInt16}, 0, {-1.0F}), -32767);
  EXPECT_EQ(Channel<std::uint8_t>({kOrderBgra, kUnormInt8}, 0, {0.0F, 0.0F, 1.0F, 0.0F}), 255);
  EXPECT_EQ(Channel<std::uint8_t>({kOrderArgb, kUnormInt8}, 0, {0.0F, 0.0F, 0.0F, 1.0F}), 255);
  EXPECT_EQ(Channel<float>({kOrderA, kFloat}, 0, {1.0F, 2.0F, 3.0F, 4.0F}), 4.0F);
  EXPECT_EQ(MakePixel({kOrderRgb, kUnormShort565}, ByteVector(16)), std::nullopt);
  EXPECT_EQ(MakePixel({kOrderRgba, kFloat}, ByteVector(15)), std::nullopt);
}

TEST(Pixels, HalfFloats) {
  const auto half = [](float value) { return Channel<std::uint16_t>({kOrderR, kHalfFloat}, 0, {value}); };
  EXPECT_EQ(half(0.0F), 0x0000);
  EXPECT_EQ(half(-0.0F), 0x8000);
  EXPECT_EQ(half(1.0F), 0x3c00);
  EXPECT_EQ(half(-2.5F), 0xc100);
  EXPECT_EQ(half(65504.0F), 0x7bff);
  EXPECT_EQ(half(65519.0F), 0x7bff);
  EXPECT_EQ(half(65520.0F), 0x7c00);
  EXPECT_EQ(half(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(half(std::numeric_limits<float>::quiet_NaN()) & 0x7e00, 0x7e00);
  EXPECT_EQ(half(std::ldexp(1.0F, -14)), 0x0400);
  EXPECT_EQ(half(std::ldexp(1.0F, -24)), 0x0001);
  EXPECT_EQ(half(std::ldexp(1.0F, -25)), 0x0000);         // half of the least, to even
  EXPECT_EQ(half(std::ldexp(3.0F, -25)), 0x0002);         // one and a half of it
  EXPECT_EQ(half(std::ldexp(2047.9F, -25)), 0x0400);      // rounds up to the least normal one
  EXPECT_EQ(half(1.0F + std::ldexp(1.0F, -11)), 0x3c00);  // halfway, to even
  EXPECT_EQ(half(1.0F + std::ldexp(3.0F, -11)), 0x3c02);
}

}  // namespace
}  // namespace tulle::gpu
