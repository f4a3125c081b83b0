// Views of bytes. A view never owns; whoever hands one out says how long it lives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tulle {

using ByteView = std::span<const std::byte>;
using MutableByteView = std::span<std::byte>;
using ByteVector = std::vector<std::byte>;

inline ByteView AsBytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }
inline std::string_view AsText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The first `bytes` bytes of UTF-8 text, or a few fewer, so that no character is cut in two.
std::string CutText(std::string_view text, std::size_t bytes);

// Lower-case hexadecimal, two digits a byte.
std::string ToHex(ByteView bytes);

// The reverse; nothing but exactly 2 * out.size() hexadecimal digits is accepted.
bool FromHex(std::string_view text, MutableByteView out);

// Memory and data sizes as people write them: "512", "64KiB", "1.5GiB", "2GB" (decimal units too).
// False when the text is not one or does not fit in 64 bits.
bool ParseSize(std::string_view text, std::uint64_t* size_bytes);

// "3.5GiB": the largest binary unit that keeps the number at or above 1; at most one decimal, rounded down.
std::string FormatSize(std::uint64_t size_bytes);

}  // namespace tulle
