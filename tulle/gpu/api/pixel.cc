#include "tulle/gpu/api/pixel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tulle::gpu {
namespace {

using namespace wire::opencl;

// Which of red, green, blue, alpha the channels of a pixel are, as they lie in memory; empty: see MakePixel.
std::string_view Channels(std::uint32_t channel_order) {
  using namespace std::string_view_literals;
  switch (channel_order) {
    case kOrderR:
    case kOrderIntensity:
    case kOrderLuminance:
    case kOrderDepth: return "\0"sv;
    case kOrderA: return "\3"sv;
    case kOrderRg: return "\0\1"sv;
    case kOrderRa: return "\0\3"sv;
    case kOrderRgba: return "\0\1\2\3"sv;
    case kOrderBgra: return "\2\1\0\3"sv;
    case kOrderArgb: return "\3\0\1\2"sv;
    case kOrderAbgr: return "\3\2\1\0"sv;
    default: return {};
  }
}

// Rounds to nearest even, as the conversions of pixels do; what is too large is infinite.
std::uint16_t ToHalf(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);   // no number
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // below the least normal number: a multiple of 2^-24
    const float scaled = std::ldexp(std::bit_cast<float>(magnitude), 24);
    return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::nearbyint(scaled)));
  }
  const std::uint32_t rebiased = magnitude - 0x38000000u;
  const std::uint32_t rounded = rebiased + 0xfffu + ((rebiased >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | (rounded >> 13));
}

template <typename T>
void Put(const T& value, std::byte* out) {
  std::memcpy(out, &value, sizeof value);
}

// One channel out of the four bytes of a color's component.
void PutChannel(std::uint32_t type, const std::byte* component, std::byte* out) {
  float real = 0;
  std::int32_t integer = 0;
  std::uint32_t natural = 0;
  std::memcpy(&real, component, sizeof real);
  std::memcpy(&integer, component, sizeof integer);
  std::memcpy(&natural, component, sizeof natural);
  // Out of range is the nearest, and what is no number is 0.
  const auto scaled = [real](float least, float most) {
    const float value = std::isnan(real) ? 0.0F : std::clamp(real, least, 1.0F);
    return static_cast<std::int32_t>(std::nearbyint(value * most));
  };
  switch (type) {
    case kSnormInt8: return Put(static_cast<std::int8_t>(scaled(-1, 127)), out);
    case kSnormInt16: return Put(static_cast<std::int16_t>(scaled(-1, 32767)), out);
    case kUnormInt8: return Put(static_cast<std::uint8_t>(scaled(0, 255)), out);
    case kUnormInt16: return Put(static_cast<std::uint16_t>(scaled(0, 65535)), out);
    case kSignedInt8: return Put(static_cast<std::int8_t>(std::clamp(integer, -128, 127)), out);
    case kSignedInt16: return Put(static_cast<std::int16_t>(std::clamp(integer, -32768, 32767)), out);
    case kUnsignedInt8: return Put(static_cast<std::uint8_t>(std::min(natural, 255u)), out);
    case kUnsignedInt16: return Put(static_cast<std::uint16_t>(std::min(natural, 65535u)), out);
    case kHalfFloat: return Put(ToHalf(real), out);
    default: std::memcpy(out, component, 4); return;  // 32 bits: as they are
  }
}

}  // namespace

std::optional<Pixel> MakePixel(const ImageFormat& format, ByteView color) {
  const std::string_view channels = Channels(format.channel_order);
  const std::uint32_t channel_bytes = ChannelBytes(format.channel_type);
  if (channels.empty() || channel_bytes == 0 || color.size() != wire::kFillColorBytes) return std::nullopt;
  Pixel pixel;
  for (const char from : channels) {
    PutChannel(format.channel_type, color.data() + 4 * from, pixel.bytes.data() + pixel.size_bytes);
    pixel.size_bytes += channel_bytes;
  }
  return pixel;
}

}  // namespace tulle::gpu
