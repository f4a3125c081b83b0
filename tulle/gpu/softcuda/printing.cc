#include "tulle/gpu/softcuda/printing.h"

#include <cstdio>
#include <string_view>

namespace tulle::gpu::softcuda {
namespace {

constexpr std::string_view kFlags = "-+ #0", kSigned = "di", kUnsigned = "ouxX", kFloat = "aAeEfFgG";
// Wider fields than this are cut: a kernel's number could ask for any.
constexpr int kMaxField = 4096;

bool IsIn(std::string_view set, char c) { return set.find(c) != std::string_view::npos; }

// Takes arguments one after the other.
class Arguments {
 public:
  Arguments(const ReadMemory& read, std::uint64_t at) : read_(read), at_(at) {}
  template <typename T>
  bool Take(T* value) {
    at_ = (at_ + sizeof(T) - 1) / sizeof(T) * sizeof(T);
    const bool there = read_(at_, value, sizeof(T));
    at_ += sizeof(T);
    ++count_;
    return there;
  }
  int count() const { return count_; }

 private:
  const ReadMemory& read_;
  std::uint64_t at_;
  int count_ = 0;
};

template <typename... Values>
void Append(std::string* text, const std::string& conversion, Values... values) {
  char buffer[512];
  const int length = std::snprintf(buffer, sizeof buffer, conversion.c_str(), values...);
  if (length < 0) return;
  if (static_cast<std::size_t>(length) < sizeof buffer) {
    text->append(buffer, static_cast<std::size_t>(length));
    return;
  }
  std::string large(static_cast<std::size_t>(length) + 1, '\0');
  std::snprintf(large.data(), large.size(), conversion.c_str(), values...);
  text->append(large, 0, static_cast<std::size_t>(length));
}

// A number of a field: digits, or an argument.
bool Field(std::string_view format, std::size_t* at, Arguments* arguments, std::string* conversion) {
  int value = 0;
  if (*at < format.size() && format[*at] == '*') {
    ++*at;
    if (!arguments->Take(&value)) return false;
    if (value < -kMaxField || value > kMaxField) value = 0;
  } else {
    const std::size_t begin = *at;
    while (*at < format.size() && format[*at] >= '0' && format[*at] <= '9') {
      value = value > kMaxField ? value : value * 10 + (format[*at] - '0');
      ++*at;
    }
    if (*at == begin) return true;
    if (value > kMaxField) value = kMaxField;
  }
  *conversion += std::to_string(value);
  return true;
}

}  // namespace

bool ReadText(const ReadMemory& read, std::uint64_t address, std::string* text) {
  for (char c = 0; text->size() < kMaxPrintedBytes; text->push_back(c)) {
    if (!read(address + text->size(), &c, 1)) return false;
    if (c == '\0') break;
  }
  return true;
}

bool FormatPrinted(const ReadMemory& read, std::uint64_t format_address, std::uint64_t argument_address,
                   std::string* text, int* count) {
  std::string format;
  if (!ReadText(read, format_address, &format)) return false;
  Arguments arguments(read, argument_address);
  for (std::size_t at = 0; at < format.size();) {
    const std::size_t begin = at;
    if (format[at++] != '%') {
      text->push_back(format[begin]);
      continue;
    }
    std::string conversion = "%";
    while (at < format.size() && IsIn(kFlags, format[at])) conversion += format[at++];
    if (!Field(format, &at, &arguments, &conversion)) return false;
    if (at < format.size() && format[at] == '.') {
      conversion += format[at++];
      if (!Field(format, &at, &arguments, &conversion)) return false;
    }
    bool is_long = false;
    while (at < format.size() && (format[at] == 'h' || format[at] == 'l')) is_long = format[at++] == 'l';
    const char kind = at < format.size() ? format[at++] : '\0';
    bool there = true;
    if (IsIn(kSigned, kind) && kind != '\0') {
      long long value = 0;
      int narrow = 0;
      there = is_long ? arguments.Take(&value) : arguments.Take(&narrow);
      Append(text, conversion + "ll" + kind, is_long ? value : static_cast<long long>(narrow));
    } else if (IsIn(kUnsigned, kind) && kind != '\0') {
      unsigned long long value = 0;
      unsigned narrow = 0;
      there = is_long ? arguments.Take(&value) : arguments.Take(&narrow);
      Append(text, conversion + "ll" + kind, is_long ? value : static_cast<unsigned long long>(narrow));
    } else if (IsIn(kFloat, kind) && kind != '\0') {
      double value = 0;
      there = arguments.Take(&value);
      Append(text, conversion + kind, value);
    } else if (kind == 'c') {
      int value = 0;
      there = arguments.Take(&value);
      Append(text, conversion + kind, value);
    } else if (kind == 'p') {
      std::uint64_t value = 0;
      there = arguments.Take(&value);
      Append(text, conversion + kind, reinterpret_cast<void*>(value));
    } else if (kind == 's') {
      std::uint64_t address = 0;
      std::string value;
      there = arguments.Take(&address) && ReadText(read, address, &value);
      Append(text, conversion + kind, value.c_str());
    } else if (kind == '%') {
      text->push_back('%');
    } else {
      text->append(format, begin, at - begin);
    }
    if (!there) return false;
    if (text->size() > kMaxPrintedBytes) break;
  }
  *count = arguments.count();
  return true;
}

}  // namespace tulle::gpu::softcuda
