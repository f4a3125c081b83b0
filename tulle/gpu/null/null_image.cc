#include "tulle/gpu/null/null_image.h"

#include <vector>

namespace tulle::gpu::null {

std::span<const wire::opencl::ImageFormat> ImageFormats() {
  using namespace wire::opencl;
  static const std::vector<ImageFormat> formats = [] {
    std::vector<ImageFormat> all;
    for (const std::uint32_t order : {kOrderR, kOrderA, kOrderRg, kOrderRgba}) {
      for (const std::uint32_t type :
           {kSnormInt8, kSnormInt16, kUnormInt8, kUnormInt16, kSignedInt8, kSignedInt16, kSignedInt32,
            kUnsignedInt8, kUnsignedInt16, kUnsignedInt32, kHalfFloat, kFloat}) {
        all.push_back({order, type});
      }
    }
    all.push_back({kOrderBgra, kUnormInt8});
    return all;
  }();
  return formats;
}

}  // namespace tulle::gpu::null
