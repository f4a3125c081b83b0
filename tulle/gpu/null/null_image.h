// The images of the null device: its formats and limits.
#pragma once

#include <span>

#include "tulle/wire/schema/opencl/image.h"

namespace tulle::gpu::null {

inline constexpr wire::opencl::ImageLimits kImageLimits = {.width_2d = 8192,
                                                           .height_2d = 8192,
                                                           .width_3d = 2048,
                                                           .height_3d = 2048,
                                                           .depth_3d = 2048,
                                                           .layers = 2048,
                                                           .width_of_buffer = 1u << 20};

// The same for every type of image and access. All are such as MakePixel knows.
std::span<const wire::opencl::ImageFormat> ImageFormats();

}  // namespace tulle::gpu::null
