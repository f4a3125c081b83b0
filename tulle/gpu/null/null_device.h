// What the null device says of itself.
#pragma once

#include "tulle/gpu/null/driver.h"

namespace tulle::gpu::null {

inline constexpr std::uint32_t kComputeUnits = 4;
inline constexpr std::uint64_t kMaxWorkGroupSize = 1024;
inline constexpr std::uint64_t kSubGroupSize = 32;
inline constexpr std::uint64_t kLocalMemoryBytes = 64u << 10;
inline constexpr std::uint32_t kBaseAddressAlignBytes = 128;
inline constexpr std::string_view kDeviceName = "tulle null device";
inline constexpr std::string_view kVendor = "tulle";
inline constexpr std::string_view kDriverVersion = "1.0";

// An encoded DescribeDeviceReply.
ByteVector EncodeDeviceInfos(const Options& options);

}  // namespace tulle::gpu::null
