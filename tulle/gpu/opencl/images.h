// What the OpenCL backend asks the driver about images, and how it has one made.
#pragma once

#include <vector>

#include "tulle/gpu/opencl/native.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::gpu::opencl {

// All 0 when the device has no images.
wire::opencl::ImageLimits LimitsOf(cl_device_id device);

// At most wire::kMaxImageFormats of them.
std::int32_t SupportedFormats(cl_context context, wire::opencl::ImageAccess access,
                              wire::opencl::ImageType type, std::vector<wire::opencl::ImageFormat>* formats);

// The description of an image as the driver takes it; `buffer` is null, or what the pixels lie in.
class NativeImage {
 public:
  NativeImage(const wire::opencl::CreateImage& message, cl_mem buffer);
  // `bytes`: null, or packed pixels that the image shall use.
  cl_mem Create(cl_context context, cl_mem_flags flags, void* bytes, cl_int* status) const;

 private:
  cl_image_format format_{};
  cl_image_desc desc_{};
};

}  // namespace tulle::gpu::opencl
