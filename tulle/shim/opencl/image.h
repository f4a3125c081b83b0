// Images: memory objects whose contents are pixels. Transfers of them are boxes of packed pixels.
#pragma once

#include "tulle/shim/opencl/box.h"
#include "tulle/shim/opencl/memory.h"
#include "tulle/shim/opencl/queue.h"
#include "tulle/wire/schema/opencl/image.h"

namespace tulle::shim::opencl {

// What a memory object is besides, if it is an image. Fixed.
struct Image {
  wire::opencl::ImageType type{};
  cl_image_format format{};
  wire::Vec3 extents{};  // as the wire has them
  std::size_t pixel_bytes = 0;
  // Of the pixels in the program's memory: in its own, in a mirror. As the API has them: a slice is a layer
  // of any array; 0 where there is none.
  std::size_t row_pitch = 0;
  std::size_t slice_pitch = 0;

  bool is_array() const {
    return type == wire::opencl::ImageType::k1DArray || type == wire::opencl::ImageType::k2DArray;
  }
  // Rows of layers, or of depth.
  bool has_slices() const { return is_array() || type == wire::opencl::ImageType::k3D; }
  // Precondition: the image contains the region.
  std::size_t PackedBytes(const wire::Vec3& region) const {
    return pixel_bytes * region[0] * region[1] * region[2];
  }
  cl_mem_object_type object_type() const {
    return wire::opencl::kImageTypeBase + static_cast<cl_mem_object_type>(type);
  }

  // A box of the image in memory of the program that has these pitches.
  HostBox BoxAt(std::byte* bytes, const wire::Vec3& region, std::size_t row, std::size_t slice) const;
  // The same in memory that is laid out as the image's own, of which `whole` is the start.
  HostBox BoxIn(std::byte* whole, const wire::Vec3& origin, const wire::Vec3& region) const;
};

// Null also for a buffer.
Memory* ImageFromHandle(cl_mem handle);

// The unmap of an image that was mapped for writing.
cl_int UploadMapping(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping);

}  // namespace tulle::shim::opencl
