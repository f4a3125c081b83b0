#include "tulle/gpu/opencl/images.h"

#include <algorithm>

namespace tulle::gpu::opencl {
namespace {

using wire::opencl::ImageAccess;
using wire::opencl::ImageType;

cl_mem_object_type NativeType(ImageType type) {
  return wire::opencl::kImageTypeBase + static_cast<cl_mem_object_type>(type);
}
static_assert(wire::opencl::kImageTypeBase + static_cast<cl_mem_object_type>(ImageType::k2D) ==
                  CL_MEM_OBJECT_IMAGE2D &&
              wire::opencl::kImageTypeBase + static_cast<cl_mem_object_type>(ImageType::k1DBuffer) ==
                  CL_MEM_OBJECT_IMAGE1D_BUFFER);
static_assert(wire::opencl::kOrderR == CL_R && wire::opencl::kOrderAbgr == CL_ABGR &&
              wire::opencl::kSnormInt8 == CL_SNORM_INT8 &&
              wire::opencl::kUnormInt101010_2 == CL_UNORM_INT_101010_2);
static_assert(wire::opencl::kAddressingBase == CL_ADDRESS_NONE &&
              wire::opencl::kFilterBase == CL_FILTER_NEAREST);

}  // namespace

wire::opencl::ImageLimits LimitsOf(cl_device_id device) {
  if (DeviceValue<cl_bool>(device, CL_DEVICE_IMAGE_SUPPORT) == CL_FALSE) return {};
  const auto limit = [device](cl_device_info name) { return DeviceValue<std::size_t>(device, name); };
  return {.width_2d = limit(CL_DEVICE_IMAGE2D_MAX_WIDTH),
          .height_2d = limit(CL_DEVICE_IMAGE2D_MAX_HEIGHT),
          .width_3d = limit(CL_DEVICE_IMAGE3D_MAX_WIDTH),
          .height_3d = limit(CL_DEVICE_IMAGE3D_MAX_HEIGHT),
          .depth_3d = limit(CL_DEVICE_IMAGE3D_MAX_DEPTH),
          .layers = limit(CL_DEVICE_IMAGE_MAX_ARRAY_SIZE),
          .width_of_buffer = limit(CL_DEVICE_IMAGE_MAX_BUFFER_SIZE)};
}

std::int32_t SupportedFormats(cl_context context, ImageAccess access, ImageType type,
                              std::vector<wire::opencl::ImageFormat>* formats) {
  cl_mem_flags flags = CL_MEM_READ_WRITE;
  switch (access) {
    case ImageAccess::kReadWrite: break;
    case ImageAccess::kWriteOnly: flags = CL_MEM_WRITE_ONLY; break;
    case ImageAccess::kReadOnly: flags = CL_MEM_READ_ONLY; break;
    case ImageAccess::kKernelReadAndWrite: flags = CL_MEM_KERNEL_READ_AND_WRITE; break;
  }
  std::vector<cl_image_format> native(wire::kMaxImageFormats);
  cl_uint count = 0;
  const cl_int status = clGetSupportedImageFormats(
      context, flags, NativeType(type), static_cast<cl_uint>(native.size()), native.data(), &count);
  if (status != CL_SUCCESS) return status;
  native.resize(std::min<std::size_t>(count, native.size()));
  for (const cl_image_format& format : native) {
    const wire::opencl::ImageFormat known{format.image_channel_order, format.image_channel_data_type};
    // What a vendor has added has pixels of a size that nobody here knows.
    if (wire::opencl::PixelBytes(known) != 0) formats->push_back(known);
  }
  return CL_SUCCESS;
}

NativeImage::NativeImage(const wire::opencl::CreateImage& message, cl_mem buffer) {
  format_ = {message.format.channel_order, message.format.channel_type};
  desc_.image_type = NativeType(message.type.value);
  const auto [width, rows, slices] = message.extents;
  desc_.image_width = width;
  switch (message.type.value) {
    case ImageType::k2D: desc_.image_height = rows; break;
    case ImageType::k3D:
      desc_.image_height = rows;
      desc_.image_depth = slices;
      break;
    case ImageType::k2DArray:
      desc_.image_height = rows;
      desc_.image_array_size = slices;
      break;
    case ImageType::k1DArray: desc_.image_array_size = rows; break;
    case ImageType::k1D:
    case ImageType::k1DBuffer: break;
  }
  desc_.image_row_pitch = message.type.value == ImageType::k2D ? message.row_pitch_bytes : 0;
  desc_.buffer = buffer;
}

cl_mem NativeImage::Create(cl_context context, cl_mem_flags flags, void* bytes, cl_int* status) const {
  return clCreateImage(context, flags, &format_, &desc_, bytes, status);
}

}  // namespace tulle::gpu::opencl
