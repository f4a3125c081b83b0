// Fatbins: what NVIDIA's compilers make of one source for several GPUs. The format is not documented; this
// follows what others have found ("cuda-fatbin-decompression" of N. Eiling, "fatbinary" of J. Chen).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"

namespace tulle::gpu::cuda_image {

bool IsFatbin(ByteView image);

// Calls f with each PTX and each cubin in it, decompressed, until one returns an error, which is returned.
// Else kInvalidArgument: it is damaged; kResourceExhausted: one is too large.
Status ForEachImage(ByteView fatbin, const std::function<Status(ByteView image)>& f);

// The newest PTX in it that a device of this capability (7.0: 70) can compile. kInvalidArgument: it is
// damaged; kNotFound: it has none, and says what it has instead; kResourceExhausted: it is too large.
Result<std::string> PtxIn(ByteView fatbin, std::uint32_t capability);

}  // namespace tulle::gpu::cuda_image
