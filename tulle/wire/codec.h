// Structs to bytes and back: little-endian, packed, no padding, no tags. Both directions are derived from
// the fields of the message, so that they cannot disagree.
//
// Encoding writes into a caller's buffer. Decoding takes a private copy of the body (never memory that the
// peer can still change), checks every limit of the field types, and consumes the body exactly: one byte
// more or less is an error. Lists are copied into an Arena; text and bytes stay views of the body.
#pragma once

#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/wire/fields.h"

static_assert(std::endian::native == std::endian::little, "the codec copies integers as they lie in memory");

namespace tulle::wire {

// Why a frame was refused. Anything but kOk ends the session: a breach is never negotiated.
enum class [[nodiscard]] WireResult : std::uint8_t{
    kOk,
    kTruncated,       // the body ends inside a field
    kTrailing,        // bytes are left over
    kLimit,           // a length, count or size over its Max
    kBadEnum,         // an enumerator or flag bit that this version does not know
    kBadPayload,      // the frame's payload is not what the body says
    kUnknownOpcode,   // not in the table
    kNotNegotiated,   // in the table, but its capability was not agreed on
    kWrongDirection,  // a notice from a client, or a command from a worker
    kBadSequence,     // a gap, a repeat, or an answer to nothing
    kBadHandle,       // null where an object is required, or a slot out of range
    kWrongKind,       // the slot holds an object of another kind
    kStale,           // dead, or not newer than the slot's last generation
};
std::string_view WireResultName(WireResult result);

// Known bugs, compiled in one at a time (-DTULLE_PLANTED_BUG=n) to prove that the fuzzers find such things.
enum class PlantedBug { kNone = 0, kLimitOffByOne = 1, kShortListReadsAsZeros = 2, kStaleHandleAccepted = 3 };
#ifdef TULLE_PLANTED_BUG
inline constexpr PlantedBug kPlantedBug = static_cast<PlantedBug>(TULLE_PLANTED_BUG);
#else
inline constexpr PlantedBug kPlantedBug = PlantedBug::kNone;
#endif

// Memory for what decoding makes; freed as a whole. Not thread-safe.
class Arena {
 public:
  // Uninitialised room for `count` elements, aligned; valid until Reset().
  template <typename T>
  T* Allocate(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    return static_cast<T*>(AllocateBytes(count * sizeof(T), alignof(T)));
  }
  // Keeps the first block, so that small frames never allocate.
  void Reset();

 private:
  void* AllocateBytes(std::size_t size, std::size_t alignment);
  static constexpr std::size_t kInlineBytes = 4096;
  alignas(std::max_align_t) std::byte inline_[kInlineBytes];
  std::size_t used_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> overflow_;
};

namespace internal {

template <typename T>
struct IsList : std::false_type {};
template <typename T, U32 Max>
struct IsList<List<T, Max>> : std::true_type {};
template <typename T>
struct IsStr : std::false_type {};
template <U32 Max>
struct IsStr<Str<Max>> : std::true_type {};
template <typename T>
struct IsBytes : std::false_type {};
template <U32 Max>
struct IsBytes<Bytes<Max>> : std::true_type {};
template <typename T>
struct IsPayload : std::false_type {};
template <U64 Max>
struct IsPayload<Payload<Max>> : std::true_type {};
template <typename T>
struct IsWanted : std::false_type {};
template <U64 Max>
struct IsWanted<Wanted<Max>> : std::true_type {};
template <typename T>
struct IsEnum : std::false_type {};
template <typename E>
struct IsEnum<Enum<E>> : std::true_type {
  using Type = E;
};
template <typename T>
struct IsFlags : std::false_type {};
template <typename E>
struct IsFlags<Flags<E>> : std::true_type {
  using Type = E;
};
template <typename T>
struct IsHandle : std::false_type {};
template <ObjectKind K, Use U>
struct IsHandle<TypedHandle<K, U>> : std::true_type {};

template <typename T>
concept Scalar = std::same_as<T, U8> || std::same_as<T, U16> || std::same_as<T, U32> ||
    std::same_as<T, U64> || std::same_as<T, I32> || std::same_as<T, Vec3> || std::same_as<T, Handle>;

template <typename T>
inline constexpr bool kAlwaysFalse = false;

}  // namespace internal

// Appends to a fixed buffer. Precondition of every Put: it fits (EncodedSize() said so).
class Writer {
 public:
  explicit Writer(MutableByteView out) : out_(out) {}
  void Put(const void* data, std::size_t size) {
    CheckFits(size);
    if (size != 0) std::memcpy(out_.data() + used_, data, size);
    used_ += size;
  }
  std::size_t used() const { return used_; }

 private:
  void CheckFits(std::size_t size) const { TULLE_CHECK(size <= out_.size() - used_); }
  MutableByteView out_;
  std::size_t used_ = 0;
};

class Reader {
 public:
  explicit Reader(ByteView in) : in_(in) {}
  bool Get(void* data, std::size_t size) {
    if (size > in_.size()) return false;
    if (size != 0) std::memcpy(data, in_.data(), size);
    in_ = in_.subspan(size);
    return true;
  }
  bool View(std::size_t size, ByteView* view) {
    if (size > in_.size()) return false;
    *view = in_.first(size);
    in_ = in_.subspan(size);
    return true;
  }
  std::size_t remaining() const { return in_.size(); }

 private:
  ByteView in_;
};

// Bytes that one field takes. Also the compile-time gate of what a field may be.
template <typename T>
std::size_t FieldSize(const T& field) {
  using namespace internal;
  if constexpr (Scalar<T>) {
    return sizeof(T);
  } else if constexpr (IsHandle<T>::value) {
    return sizeof(Handle);
  } else if constexpr (std::same_as<T, Drop>) {
    return 1 + sizeof(Handle);
  } else if constexpr (IsEnum<T>::value) {
    return sizeof(typename IsEnum<T>::Type);
  } else if constexpr (IsFlags<T>::value || IsPayload<T>::value || IsWanted<T>::value) {
    return sizeof(U64);
  } else if constexpr (IsStr<T>::value) {
    return sizeof(U32) + field.text.size();
  } else if constexpr (IsBytes<T>::value) {
    return sizeof(U32) + field.bytes.size();
  } else if constexpr (IsList<T>::value) {
    std::size_t size = sizeof(U32);
    for (const auto& item : field.items) size += FieldSize(item);
    return size;
  } else if constexpr (Message<T>) {
    std::size_t size = 0;
    T::ForEachField(field, [&](std::string_view, const auto& inner) { size += FieldSize(inner); });
    return size;
  } else {
    static_assert(kAlwaysFalse<T>, "this type may not be in a message");
  }
}

template <typename T>
void PutField(Writer& writer, const T& field) {
  using namespace internal;
  if constexpr (Scalar<T>) {
    writer.Put(&field, sizeof field);
  } else if constexpr (IsHandle<T>::value) {
    writer.Put(&field.handle, sizeof field.handle);
  } else if constexpr (std::same_as<T, Drop>) {
    writer.Put(&field.kind, 1);
    writer.Put(&field.handle, sizeof field.handle);
  } else if constexpr (IsEnum<T>::value) {
    writer.Put(&field.value, sizeof field.value);
  } else if constexpr (IsFlags<T>::value) {
    writer.Put(&field.bits, sizeof field.bits);
  } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
    writer.Put(&field.size_bytes, sizeof field.size_bytes);
  } else if constexpr (IsStr<T>::value) {
    const U32 size = static_cast<U32>(field.text.size());
    writer.Put(&size, sizeof size);
    writer.Put(field.text.data(), size);
  } else if constexpr (IsBytes<T>::value) {
    const U32 size = static_cast<U32>(field.bytes.size());
    writer.Put(&size, sizeof size);
    writer.Put(field.bytes.data(), size);
  } else if constexpr (IsList<T>::value) {
    const U32 count = static_cast<U32>(field.items.size());
    writer.Put(&count, sizeof count);
    for (const auto& item : field.items) PutField(writer, item);
  } else {
    T::ForEachField(field, [&](std::string_view, const auto& inner) { PutField(writer, inner); });
  }
}

// What a decoder knows of the frame around the body.
struct DecodeContext {
  Arena& arena;
  U64 payload_bytes = 0;  // of the frame
  bool payload_claimed = false;
};

// Smallest encoding of a T: bounds what a count may make us allocate.
template <typename T>
constexpr std::size_t MinFieldSize() {
  using namespace internal;
  if constexpr (Scalar<T>) {
    return sizeof(T);
  } else if constexpr (IsHandle<T>::value) {
    return sizeof(Handle);
  } else if constexpr (std::same_as<T, Drop>) {
    return 1 + sizeof(Handle);
  } else if constexpr (IsEnum<T>::value) {
    return sizeof(typename IsEnum<T>::Type);
  } else if constexpr (IsFlags<T>::value || IsPayload<T>::value || IsWanted<T>::value) {
    return sizeof(U64);
  } else if constexpr (Message<T>) {
    std::size_t size = 0;
    T::ForEachField(T{}, [&](std::string_view, const auto& inner) {
      size += MinFieldSize<std::remove_cvref_t<decltype(inner)>>();
    });
    return size;
  } else {
    return sizeof(U32);
  }
}

template <typename T>
WireResult GetField(Reader& reader, DecodeContext& context, T& field) {
  using namespace internal;
  if constexpr (Scalar<T>) {
    return reader.Get(&field, sizeof field) ? WireResult::kOk : WireResult::kTruncated;
  } else if constexpr (IsHandle<T>::value) {
    if (!reader.Get(&field.handle, sizeof field.handle)) return WireResult::kTruncated;
    constexpr bool optional = T::kUse == Use::kOptRef || T::kUse == Use::kOptNew;
    if (field.handle.null()) {
      return optional && field.handle.generation == 0 ? WireResult::kOk : WireResult::kBadHandle;
    }
    return field.handle.slot <= kMaxObjects && field.handle.generation != 0 ? WireResult::kOk
                                                                            : WireResult::kBadHandle;
  } else if constexpr (std::same_as<T, Drop>) {
    if (!reader.Get(&field.kind, 1) || !reader.Get(&field.handle, sizeof field.handle)) {
      return WireResult::kTruncated;
    }
    if (!IsKnown(field.kind)) return WireResult::kBadEnum;
    return !field.handle.null() && field.handle.slot <= kMaxObjects && field.handle.generation != 0
               ? WireResult::kOk
               : WireResult::kBadHandle;
  } else if constexpr (IsEnum<T>::value) {
    if (!reader.Get(&field.value, sizeof field.value)) return WireResult::kTruncated;
    return IsKnown(field.value) ? WireResult::kOk : WireResult::kBadEnum;
  } else if constexpr (IsFlags<T>::value) {
    if (!reader.Get(&field.bits, sizeof field.bits)) return WireResult::kTruncated;
    return (field.bits & ~KnownBits(typename IsFlags<T>::Type{})) == 0 ? WireResult::kOk
                                                                       : WireResult::kBadEnum;
  } else if constexpr (IsPayload<T>::value) {
    if (!reader.Get(&field.size_bytes, sizeof field.size_bytes)) return WireResult::kTruncated;
    if (field.size_bytes > T::kMax) return WireResult::kLimit;
    context.payload_claimed = true;
    return field.size_bytes == context.payload_bytes ? WireResult::kOk : WireResult::kBadPayload;
  } else if constexpr (IsWanted<T>::value) {
    if (!reader.Get(&field.size_bytes, sizeof field.size_bytes)) return WireResult::kTruncated;
    return field.size_bytes <= T::kMax ? WireResult::kOk : WireResult::kLimit;
  } else if constexpr (IsStr<T>::value || IsBytes<T>::value) {
    U32 size = 0;
    if (!reader.Get(&size, sizeof size)) return WireResult::kTruncated;
    if (size > T::kMax + (kPlantedBug == PlantedBug::kLimitOffByOne ? 1 : 0)) return WireResult::kLimit;
    ByteView view;
    if (!reader.View(size, &view)) return WireResult::kTruncated;
    if constexpr (IsStr<T>::value) {
      field.text = AsText(view);
    } else {
      field.bytes = view;
    }
    return WireResult::kOk;
  } else if constexpr (IsList<T>::value) {
    using Element = typename T::Element;
    U32 count = 0;
    if (!reader.Get(&count, sizeof count)) return WireResult::kTruncated;
    if (count > T::kMax) return WireResult::kLimit;
    if (kPlantedBug != PlantedBug::kShortListReadsAsZeros &&
        count * MinFieldSize<Element>() > reader.remaining()) {
      return WireResult::kTruncated;
    }
    Element* items = context.arena.template Allocate<Element>(count);
    for (U32 i = 0; i < count; ++i) {
      Element* item = new (items + i) Element{};
      const WireResult result = GetField(reader, context, *item);
      if (kPlantedBug == PlantedBug::kShortListReadsAsZeros && result == WireResult::kTruncated) continue;
      if (result != WireResult::kOk) return result;
    }
    field.items = std::span<const Element>(items, count);
    return WireResult::kOk;
  } else {
    WireResult result = WireResult::kOk;
    T::ForEachField(field, [&](std::string_view, auto& inner) {
      if (result == WireResult::kOk) result = GetField(reader, context, inner);
    });
    return result;
  }
}

template <Message M>
std::size_t EncodedSize(const M& message) {
  return FieldSize(message);
}

// Precondition: out.size() >= EncodedSize(message). Returns the bytes written.
template <Message M>
std::size_t Encode(const M& message, MutableByteView out) {
  Writer writer(out);
  PutField(writer, message);
  return writer.used();
}

// `body` must stay unchanged as long as `message` is used; so must the arena.
template <Message M>
WireResult Decode(ByteView body, U64 payload_bytes, Arena& arena, M* message) {
  Reader reader(body);
  DecodeContext context{arena, payload_bytes};
  const WireResult result = GetField(reader, context, *message);
  if (result != WireResult::kOk) return result;
  if (reader.remaining() != 0) return WireResult::kTrailing;
  if (payload_bytes != 0 && !context.payload_claimed) return WireResult::kBadPayload;
  return WireResult::kOk;
}

// The payload that a message announces or asks for; 0 when it has no such field.
template <Message M>
U64 AnnouncedPayload(const M& message) {
  U64 size = 0;
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    if constexpr (internal::IsPayload<std::remove_cvref_t<decltype(field)>>::value) size = field.size_bytes;
  });
  return size;
}
template <Message M>
U64 WantedPayload(const M& message) {
  U64 size = 0;
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    if constexpr (internal::IsWanted<std::remove_cvref_t<decltype(field)>>::value) size = field.size_bytes;
  });
  return size;
}

}  // namespace tulle::wire
