// The color of a fill as a pixel: what a device does by itself, for those who must do it in memory.
#pragma once

#include <array>
#include <optional>

#include "tulle/base/bytes.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::gpu {

struct Pixel {
  std::array<std::byte, 16> bytes{};
  std::uint32_t size_bytes = 0;
};

// `color`: kFillColorBytes. None for formats whose channels share bytes, whose color is not linear, or that
// have parts which no color sets.
std::optional<Pixel> MakePixel(const wire::opencl::ImageFormat& format, ByteView color);

}  // namespace tulle::gpu
