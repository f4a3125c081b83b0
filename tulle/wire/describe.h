// Messages as text: the lines of schema.lock, and what a trace shows of a decoded message.
#pragma once

#include <string>

#include "tulle/wire/codec.h"
#include "tulle/wire/frame.h"
#include "tulle/wire/row.h"

namespace tulle::wire {

// "ref<context>", "list<u64,1024>", "str<64>": the type of a field as schema.lock has it.
template <typename T>
std::string FieldTypeText() {
  using namespace internal;
  const auto sized = [](const char* name, U64 max) {
    return std::string(name) + "<" + std::to_string(max) + ">";
  };
  if constexpr (std::same_as<T, U8>) {
    return "u8";
  } else if constexpr (std::same_as<T, U16>) {
    return "u16";
  } else if constexpr (std::same_as<T, U32>) {
    return "u32";
  } else if constexpr (std::same_as<T, U64>) {
    return "u64";
  } else if constexpr (std::same_as<T, I32>) {
    return "i32";
  } else if constexpr (std::same_as<T, Vec3>) {
    return "vec3";
  } else if constexpr (std::same_as<T, Handle>) {
    return "handle";
  } else if constexpr (IsHandle<T>::value) {
    constexpr const char* kNames[] = {"ref", "optref", "new", "optnew"};
    return std::string(kNames[static_cast<int>(T::kUse)]) + "<" + std::string(KindName(T::kKind)) + ">";
  } else if constexpr (std::same_as<T, Drop>) {
    return "drop";
  } else if constexpr (IsEnum<T>::value) {
    return sized("enum", 8 * sizeof(typename IsEnum<T>::Type));
  } else if constexpr (IsFlags<T>::value) {
    return "flags";
  } else if constexpr (IsPayload<T>::value) {
    return sized("payload", T::kMax);
  } else if constexpr (IsWanted<T>::value) {
    return sized("wanted", T::kMax);
  } else if constexpr (IsStr<T>::value) {
    return sized("str", T::kMax);
  } else if constexpr (IsBytes<T>::value) {
    return sized("bytes", T::kMax);
  } else if constexpr (IsList<T>::value) {
    return "list<" + FieldTypeText<typename T::Element>() + "," + std::to_string(T::kMax) + ">";
  } else {
    std::string text = "{";
    T::ForEachField(T{}, [&](std::string_view name, const auto& field) {
      if (text.size() > 1) text += ' ';
      text += std::string(name) + ":" + FieldTypeText<std::remove_cvref_t<decltype(field)>>();
    });
    return text + "}";
  }
}

// "0x0201 CreateBuffer one-way since=1 {context:ref<context> ...} -> {status:i32}\n"
template <typename R>
std::string DescribeRow(const R& row) {
  constexpr const char* kModes[] = {"one-way", "reply", "notice"};
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x";
  for (int shift = 12; shift >= 0; shift -= 4) text += kDigits[(R::kOpcode >> shift) & 15];
  text += " " + std::string(R::Command::kMessageName) + " " + kModes[static_cast<int>(row.mode)] +
          " since=" + std::to_string(row.since) + " needs=" + std::to_string(static_cast<U64>(row.needs)) +
          " " + FieldTypeText<typename R::Command>();
  if (row.mode != Mode::kNotice) text += " -> " + FieldTypeText<typename R::Reply>();
  return text + "\n";
}

// One frame of the command table as a trace shows it: "EnqueueKernel kernel=12.1 work_dim=1 ...", a reply
// with
// "-> " before its fields. What is long is cut, what does not decode says so.
std::string DescribeFrame(const FrameHeader& header, ByteView body);

}  // namespace tulle::wire
