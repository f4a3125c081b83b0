// Bytes that nobody else shall see: cleansed when they go, compared in constant time, never printed (there is
// no operator<<, and Expose is easy to search for). Each copy cleanses itself. Not thread-safe, like
// std::vector.
#pragma once

#include <cstring>
#include <utility>

#include "tulle/base/bytes.h"

namespace tulle {

// Equal length and equal bytes, in a time that depends on the length only.
inline bool ConstantTimeEqual(ByteView a, ByteView b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  const volatile std::byte* left = a.data();
  const volatile std::byte* right = b.data();
  for (std::size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned>(left[i] ^ right[i]);
  return difference == 0;
}

class Secret {
 public:
  Secret() = default;
  explicit Secret(ByteView bytes) : bytes_(bytes.begin(), bytes.end()) {}
  // `size_bytes` zero bytes, to be filled through Mutable().
  static Secret OfSize(std::size_t size_bytes) {
    Secret secret;
    secret.bytes_.resize(size_bytes);
    return secret;
  }
  Secret(const Secret&) = default;
  Secret(Secret&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Secret& operator=(const Secret& other) {
    if (this != &other) *this = Secret(other);
    return *this;
  }
  Secret& operator=(Secret&& other) noexcept {
    Scrub();
    bytes_ = std::exchange(other.bytes_, {});
    return *this;
  }
  ~Secret() { Scrub(); }

  // Valid until the secret changes or goes.
  ByteView Expose() const { return bytes_; }
  MutableByteView Mutable() { return bytes_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  friend bool operator==(const Secret& a, const Secret& b) { return ConstantTimeEqual(a.bytes_, b.bytes_); }

 private:
  void Scrub() {
    // Not empty(): that the pointer is not null then is more than the compiler sees in every build.
    if (bytes_.data() != nullptr) explicit_bzero(bytes_.data(), bytes_.size());
  }
  ByteVector bytes_;  // sized once, so that it never leaves a copy behind by growing
};

}  // namespace tulle
