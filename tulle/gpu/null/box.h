// Copies of boxes, between memories or from and to the packed bytes that travel.
#pragma once

#include <cstring>

#include "tulle/base/bytes.h"
#include "tulle/wire/schema/opencl/rect.h"

namespace tulle::gpu::null {

inline wire::opencl::Rect Packed(const wire::Vec3& region) { return {0, region[0], region[0] * region[1]}; }

inline void CopyBox(const std::byte* source, const wire::opencl::Rect& from, std::byte* destination,
                    const wire::opencl::Rect& to, const wire::Vec3& region) {
  for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
    for (std::uint64_t row = 0; row < region[1]; ++row) {
      // Two images in one buffer may overlap.
      std::memmove(destination + to.offset_bytes + slice * to.slice_pitch_bytes + row * to.row_pitch_bytes,
                   source + from.offset_bytes + slice * from.slice_pitch_bytes + row * from.row_pitch_bytes,
                   region[0]);
    }
  }
}

}  // namespace tulle::gpu::null
