// The vocabulary in which messages are declared: a field's type says what may be in it.
//
// A message is a plain struct of these types with one TULLE_MESSAGE line that repeats its field names;
// everything else (codec, checks, tests, schema.lock) is derived from that line by visiting the fields.
// There is no raw pointer, size_t, bool, long or unbounded type: WireField rejects them at compile time.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "tulle/base/bytes.h"
#include "tulle/wire/handle.h"
#include "tulle/wire/limits.h"

namespace tulle::wire {

using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;
using I32 = std::int32_t;

// Text of at most Max bytes; no zero byte inside is promised. The view is the caller's while encoding, and
// lives as long as the frame after decoding. (So do the views of Bytes and List.)
template <U32 Max>
struct Str {
  std::string_view text;
  static constexpr U32 kMax = Max;
};

// Small opaque bytes inside the body.
template <U32 Max>
struct Bytes {
  ByteView bytes;
  static constexpr U32 kMax = Max;
};

// At most Max elements of a fixed-width integer, a handle, or a nested struct.
template <typename T, U32 Max>
struct List {
  std::span<const T> items;
  using Element = T;
  static constexpr U32 kMax = Max;
};

// This message's frame carries exactly size_bytes of payload behind its body.
template <U64 Max>
struct Payload {
  U64 size_bytes = 0;
  static constexpr U64 kMax = Max;
};

// The reply to this message shall carry size_bytes of payload.
template <U64 Max>
struct Wanted {
  U64 size_bytes = 0;
  static constexpr U64 kMax = Max;
};

// One of the enumerators; E declares `constexpr bool IsKnown(E)` beside itself.
template <typename E>
struct Enum {
  E value{};
};

// A set of bits; E is an enum whose enumerators are masks and declares `constexpr U64 KnownBits(E)`.
template <typename E>
struct Flags {
  U64 bits = 0;
  bool has(E flag) const { return (bits & static_cast<U64>(flag)) != 0; }
};

using WaitList = List<Ref<ObjectKind::kEvent>, kMaxWaitList>;
using NewEvent = OptNew<ObjectKind::kEvent>;

// Three extents or offsets (unused ones 0 or 1, as OpenCL has them).
using Vec3 = std::array<U64, 3>;

namespace internal {

struct AnyField {
  template <typename T>
  constexpr operator T() const;  // NOLINT: converts to anything, never called
};
template <typename T, typename... Fields>
concept BraceConstructible = requires {
  T{std::declval<Fields>()...};
};
template <typename T, typename... Fields>
constexpr std::size_t CountFields() {
  if constexpr (BraceConstructible<T, Fields..., AnyField>) {
    return CountFields<T, Fields..., AnyField>();
  } else {
    return sizeof...(Fields);
  }
}

}  // namespace internal

// A struct that was declared with TULLE_MESSAGE (or is nested in one that was).
template <typename T>
concept Message = requires {
  T::kMessageName;
};

}  // namespace tulle::wire

// Applies `macro` to each argument (up to 24, enough for any message).
#define TULLE_FE_1(m, a) m(a)
#define TULLE_FE_2(m, a, ...) m(a) TULLE_FE_1(m, __VA_ARGS__)
#define TULLE_FE_3(m, a, ...) m(a) TULLE_FE_2(m, __VA_ARGS__)
#define TULLE_FE_4(m, a, ...) m(a) TULLE_FE_3(m, __VA_ARGS__)
#define TULLE_FE_5(m, a, ...) m(a) TULLE_FE_4(m, __VA_ARGS__)
#define TULLE_FE_6(m, a, ...) m(a) TULLE_FE_5(m, __VA_ARGS__)
#define TULLE_FE_7(m, a, ...) m(a) TULLE_FE_6(m, __VA_ARGS__)
#define TULLE_FE_8(m, a, ...) m(a) TULLE_FE_7(m, __VA_ARGS__)
#define TULLE_FE_9(m, a, ...) m(a) TULLE_FE_8(m, __VA_ARGS__)
#define TULLE_FE_10(m, a, ...) m(a) TULLE_FE_9(m, __VA_ARGS__)
#define TULLE_FE_11(m, a, ...) m(a) TULLE_FE_10(m, __VA_ARGS__)
#define TULLE_FE_12(m, a, ...) m(a) TULLE_FE_11(m, __VA_ARGS__)
#define TULLE_FE_13(m, a, ...) m(a) TULLE_FE_12(m, __VA_ARGS__)
#define TULLE_FE_14(m, a, ...) m(a) TULLE_FE_13(m, __VA_ARGS__)
#define TULLE_FE_15(m, a, ...) m(a) TULLE_FE_14(m, __VA_ARGS__)
#define TULLE_FE_16(m, a, ...) m(a) TULLE_FE_15(m, __VA_ARGS__)
#define TULLE_FE_PICK(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, name, ...) name
#define TULLE_FOR_EACH(m, ...)                                                                             \
  TULLE_FE_PICK(__VA_ARGS__, TULLE_FE_16, TULLE_FE_15, TULLE_FE_14, TULLE_FE_13, TULLE_FE_12, TULLE_FE_11, \
                TULLE_FE_10, TULLE_FE_9, TULLE_FE_8, TULLE_FE_7, TULLE_FE_6, TULLE_FE_5, TULLE_FE_4,       \
                TULLE_FE_3, TULLE_FE_2, TULLE_FE_1)                                                        \
  (m, __VA_ARGS__)
#define TULLE_VISIT_FIELD(field) tulle_visit(std::string_view(#field), tulle_self.field);
#define TULLE_COUNT_FIELD(field) +1

// TULLE_MESSAGE(CreateBuffer, context, buffer, size_bytes): the last line of a message struct, naming all of
// its fields in wire order. Every codec instantiation checks that none was forgotten.
#define TULLE_MESSAGE(name, ...)                                                               \
  static constexpr std::string_view kMessageName = #name;                                      \
  static constexpr std::size_t kFieldCount = 0 TULLE_FOR_EACH(TULLE_COUNT_FIELD, __VA_ARGS__); \
  template <typename Self, typename Visit>                                                     \
  static constexpr void ForEachField(Self&& tulle_self, Visit&& tulle_visit) {                 \
    static_assert(kFieldCount == ::tulle::wire::internal::CountFields<name>(),                 \
                  "TULLE_MESSAGE(" #name ") must name every field");                           \
    TULLE_FOR_EACH(TULLE_VISIT_FIELD, __VA_ARGS__)                                             \
  }

// The same for a message with no fields.
#define TULLE_EMPTY_MESSAGE(name)                                     \
  static constexpr std::string_view kMessageName = #name;             \
  static constexpr std::size_t kFieldCount = 0;                       \
  template <typename Self, typename Visit>                            \
  static constexpr void ForEachField(Self&&, Visit&&) {               \
    static_assert(::tulle::wire::internal::CountFields<name>() == 0); \
  }
