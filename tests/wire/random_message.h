// Makes messages of any type by visiting their fields: valid ones by seed, and ones that are wrong in
// exactly one place. Shared by the row tests and the fuzzers' seed corpora.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/wire/codec.h"

namespace tulle::wire::testing {

// Which single place of a message to break. Places are counted in the order of the fields, nested ones
// included, over fields where the defect is possible.
enum class Defect { kNone, kOverLimit, kBadEnumerator, kNullHandle };

class MessageMaker {
 public:
  explicit MessageMaker(Random& random) : random_(random) {}

  // A valid message when `defect` is kNone. Views in it live until the next Make.
  template <Message M>
  M Make(Defect defect = Defect::kNone, std::size_t place = 0) {
    storage_.clear();
    lists_.clear();
    defect_ = defect;
    place_ = place;
    seen_ = 0;
    M message{};
    Fill(message);
    return message;
  }

  // After Make with a defect: whether the message had such a place (places are 0 .. count - 1).
  bool planted() const { return seen_ > place_; }

 private:
  // True for the one place to break.
  bool Here(Defect defect) { return defect_ == defect && seen_++ == place_; }

  std::size_t Length(std::uint64_t max, std::uint64_t usual) {
    if (Here(Defect::kOverLimit)) return static_cast<std::size_t>(max) + 1;
    return static_cast<std::size_t>(random_.Below(std::min<std::uint64_t>(max, usual) + 1));
  }

  Handle RandomHandle() {
    return {1 + static_cast<U32>(random_.Below(kMaxObjects)),
            1 + static_cast<U32>(random_.Below(0xffffffff))};
  }

  ByteView RandomBytes(std::size_t size) {
    ByteVector& bytes = storage_.emplace_back(size);
    random_.Fill(bytes);
    return bytes;
  }

  template <typename T>
  void Fill(T& field) {
    using namespace internal;
    if constexpr (std::same_as<T, Handle>) {
      field = RandomHandle();
    } else if constexpr (Scalar<T>) {
      random_.Fill(std::as_writable_bytes(std::span(&field, 1)));
    } else if constexpr (IsHandle<T>::value) {
      field.handle = RandomHandle();
      constexpr bool optional = T::kUse == Use::kOptRef || T::kUse == Use::kOptNew;
      if constexpr (optional) {
        if (random_.Below(3) == 0) field.handle = {};
      } else if (Here(Defect::kNullHandle)) {
        field.handle = {};
      }
    } else if constexpr (std::same_as<T, Drop>) {
      field.kind = static_cast<ObjectKind>(1 + random_.Below(7));
      field.handle = RandomHandle();
      if (Here(Defect::kBadEnumerator)) field.kind = static_cast<ObjectKind>(200);
      if (Here(Defect::kNullHandle)) field.handle = {};
    } else if constexpr (IsEnum<T>::value) {
      using E = typename IsEnum<T>::Type;
      do {
        field.value = static_cast<E>(random_.Below(16));
      } while (!IsKnown(field.value));
      if (Here(Defect::kBadEnumerator)) field.value = static_cast<E>(250);
    } else if constexpr (IsFlags<T>::value) {
      field.bits = random_.Next() & KnownBits(typename IsFlags<T>::Type{});
      if (Here(Defect::kBadEnumerator)) field.bits |= 1ull << 63;
    } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
      field.size_bytes = Here(Defect::kOverLimit) ? T::kMax + 1 : random_.Below(T::kMax + 1);
    } else if constexpr (IsStr<T>::value) {
      field.text = AsText(RandomBytes(Length(T::kMax, 40)));
    } else if constexpr (IsBytes<T>::value) {
      field.bytes = RandomBytes(Length(T::kMax, 40));
    } else if constexpr (IsList<T>::value) {
      using Element = typename T::Element;
      const std::size_t count = Length(T::kMax, 3);
      auto items = std::make_shared<std::vector<Element>>(count);
      lists_.push_back(items);
      for (Element& item : *items) Fill(item);
      field.items = *items;
    } else {
      T::ForEachField(field, [&](std::string_view, auto& inner) { Fill(inner); });
    }
  }

  Random& random_;
  std::deque<ByteVector> storage_;
  std::vector<std::shared_ptr<void>> lists_;
  Defect defect_ = Defect::kNone;
  std::size_t place_ = 0;
  std::size_t seen_ = 0;
};

}  // namespace tulle::wire::testing
