#include "tulle/base/bytes.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace tulle {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

struct Unit {
  std::string_view name;
  double factor;
};
constexpr Unit kUnits[] = {
    {"b", 1},
    {"", 1},
    {"k", 1024.0},
    {"kib", 1024.0},
    {"m", 1048576.0},
    {"mib", 1048576.0},
    {"g", 1073741824.0},
    {"gib", 1073741824.0},
    {"t", 1099511627776.0},
    {"tib", 1099511627776.0},
    {"kb", 1e3},
    {"mb", 1e6},
    {"gb", 1e9},
    {"tb", 1e12},
};

}  // namespace

std::string CutText(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  // The bytes of a character after its first are 10xxxxxx.
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
  return std::string(text.substr(0, bytes));
}

std::string ToHex(ByteView bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (std::byte b : bytes) {
    text.push_back(kDigits[static_cast<unsigned>(b) >> 4]);
    text.push_back(kDigits[static_cast<unsigned>(b) & 15]);
  }
  return text;
}

bool FromHex(std::string_view text, MutableByteView out) {
  if (text.size() != out.size() * 2) return false;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<std::byte>(high * 16 + low);
  }
  return true;
}

bool ParseSize(std::string_view text, std::uint64_t* size_bytes) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !(number >= 0)) return false;
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    unit.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(*c))));
  }
  for (const Unit& known : kUnits) {
    if (unit != known.name) continue;
    const double size = std::floor(number * known.factor);
    if (size >= 18446744073709551616.0) return false;
    *size_bytes = static_cast<std::uint64_t>(size);
    return true;
  }
  return false;
}

std::string FormatSize(std::uint64_t size_bytes) {
  static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double number = static_cast<double>(size_bytes);
  int unit = 0;
  while (number >= 1024 && unit < 6) {
    number /= 1024;
    ++unit;
  }
  char text[32];
  constexpr double kCutOff = 1e-6;  // what ParseSize leaves of 3.3GiB is 3.3GiB
  const double rounded = std::floor(number * 10 + kCutOff) / 10;
  std::snprintf(text, sizeof text, rounded == std::floor(rounded) ? "%.0f%s" : "%.1f%s", rounded,
                kNames[unit]);
  return text;
}

}  // namespace tulle
