#include "tulle/wire/describe.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "tulle/wire/command_table.h"

namespace tulle::wire {
namespace {

constexpr std::size_t kShownText = 60;  // characters
constexpr std::size_t kShownBytes = 16;
constexpr std::size_t kShownItems = 6;  // of a list

template <typename N>
void AppendNumber(std::string& out, N number, int base = 10) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number, base).ptr);
}

void AppendQuoted(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text.substr(0, kShownText)) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else {
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
  }
  out += text.size() > kShownText ? "...\"" : "\"";
}

template <typename T>
void AppendValue(std::string& out, const T& value);

template <Message M>
void AppendFields(std::string& out, const M& message) {
  bool first = true;
  M::ForEachField(message, [&](std::string_view name, const auto& field) {
    if (!std::exchange(first, false)) out += ' ';
    (out += name) += '=';
    AppendValue(out, field);
  });
}

template <typename T>
void AppendValue(std::string& out, const T& value) {
  using namespace internal;
  const auto sized = [&](U64 size) {
    AppendNumber(out, size);
    out += " B";
  };
  if constexpr (std::integral<T>) {
    AppendNumber(out, value);
  } else if constexpr (std::same_as<T, Vec3>) {
    AppendNumber(out, value[0]);
    AppendNumber(out += ',', value[1]);
    AppendNumber(out += ',', value[2]);
  } else if constexpr (std::same_as<T, Handle>) {
    if (value.null()) {
      out += '-';
    } else {
      AppendNumber(out, value.slot);
      AppendNumber(out += '.', value.generation);
    }
  } else if constexpr (IsHandle<T>::value) {
    AppendValue(out, value.handle);
  } else if constexpr (std::same_as<T, Drop>) {
    AppendValue(out, value.handle);
  } else if constexpr (IsEnum<T>::value) {
    AppendNumber(out, static_cast<U64>(value.value));
  } else if constexpr (IsFlags<T>::value) {
    AppendNumber(out += "0x", value.bits, 16);
  } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
    sized(value.size_bytes);
  } else if constexpr (IsStr<T>::value) {
    AppendQuoted(out, value.text);
  } else if constexpr (IsBytes<T>::value) {
    sized(value.bytes.size());
    if (!value.bytes.empty()) {
      (out += ':') += ToHex(value.bytes.first(std::min(value.bytes.size(), kShownBytes)));
      if (value.bytes.size() > kShownBytes) out += "...";
    }
  } else if constexpr (IsList<T>::value) {
    out += '[';
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      if (i != 0) out += ' ';
      if (i == kShownItems) {
        AppendNumber(out += "... ", value.items.size());
        break;
      }
      AppendValue(out, value.items[i]);
    }
    out += ']';
  } else {
    AppendFields(out += '{', value);
    out += '}';
  }
}

template <Message M>
void AppendDecoded(std::string& out, ByteView body, U64 payload_bytes) {
  Arena arena;
  M message{};
  const WireResult result = Decode(body, payload_bytes, arena, &message);
  if (result == WireResult::kOk) return AppendFields(out, message);
  (out += "does not decode: ") += WireResultName(result);
}

}  // namespace

std::string DescribeFrame(const FrameHeader& header, ByteView body) {
  std::string text;
  const bool known = WithRow(kCommands, header.opcode, [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    text = std::string(R::Command::kMessageName) + (header.answers != 0 ? " -> " : " ");
    if (header.answers != 0) {
      AppendDecoded<typename R::Reply>(text, body, header.payload_bytes);
    } else {
      AppendDecoded<typename R::Command>(text, body, header.payload_bytes);
    }
  });
  if (!known) {
    AppendNumber(text += "unknown opcode 0x", header.opcode, 16);
  }
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

}  // namespace tulle::wire
