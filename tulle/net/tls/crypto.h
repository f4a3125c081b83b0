// This project's own instance of OpenSSL: separate from whatever else in the process uses the library, with
// no configuration file read and no exit handler left behind. Each secured connection shares one.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string_view>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"

struct ossl_lib_ctx_st;
struct ossl_provider_st;

namespace tulle::net {

// 32 secret bytes, overwritten when they go.
class SecretKey {
 public:
  static constexpr std::size_t kBytes = 32;
  SecretKey() = default;
  SecretKey(const SecretKey&) = default;
  SecretKey& operator=(const SecretKey&) = default;
  ~SecretKey();
  ByteView bytes() const { return bytes_; }
  MutableByteView mutable_bytes() { return bytes_; }

 private:
  std::array<std::byte, kBytes> bytes_{};
};

// In time that depends on the sizes only.
bool SecretsEqual(ByteView a, ByteView b);

// Thread-safe.
class Crypto {
 public:
  static Result<std::shared_ptr<Crypto>> Create();
  ~Crypto();
  Crypto(const Crypto&) = delete;
  Crypto& operator=(const Crypto&) = delete;

  // HKDF with SHA-256 (RFC 5869), extract and expand.
  Result<SecretKey> Hkdf(ByteView key, ByteView salt, std::string_view info) const;
  // HMAC-SHA-256 of the pieces one after the other.
  Result<SecretKey> Hmac(ByteView key, std::span<const ByteView> pieces) const;

  ossl_lib_ctx_st* library() const { return library_; }

  // Whoever has drawn random bytes with this instance, as a handshake does, says so before it goes on: what
  // OpenSSL keeps for the thread would be freed when the thread ends, which may be long after this instance.
  void LeaveThread() const;

 private:
  explicit Crypto(ossl_lib_ctx_st* library) : library_(library) {}
  ossl_lib_ctx_st* library_;
  ossl_provider_st* provider_ = nullptr;
};

// What OpenSSL has to say about the call of this thread that just failed; empties its error queue.
std::string TakeOpenSslErrors();

}  // namespace tulle::net
