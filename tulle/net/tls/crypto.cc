#include "tulle/net/tls/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>

#include "tulle/net/tls/owned.h"

namespace tulle::net {
namespace {

char kSha256[] = "SHA256";

Error Failed(const char* what) { return {Code::kInternal, std::string(what) + ": " + TakeOpenSslErrors()}; }

OSSL_PARAM OctetParam(const char* name, ByteView bytes) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(bytes.data()), bytes.size());
}

}  // namespace

SecretKey::~SecretKey() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

bool SecretsEqual(ByteView a, ByteView b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string TakeOpenSslErrors() {
  std::string text;
  char line[256];
  while (const unsigned long code = ERR_get_error()) {
    ERR_error_string_n(code, line, sizeof line);
    if (!text.empty()) text += "; ";
    if (text.size() < 1024) text += line;
  }
  return text.empty() ? "unknown error of OpenSSL" : text;
}

Result<std::shared_ptr<Crypto>> Crypto::Create() {
  OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr);
  OSSL_LIB_CTX* library = OSSL_LIB_CTX_new();
  if (library == nullptr) return Failed("create an OpenSSL library context");
  std::shared_ptr<Crypto> crypto(new Crypto(library));
  // Without it OpenSSL would look for a configuration that names providers.
  crypto->provider_ = OSSL_PROVIDER_load(library, "default");
  if (crypto->provider_ == nullptr) return Failed("load OpenSSL's default provider");
  return crypto;
}

void Crypto::LeaveThread() const { OPENSSL_thread_stop_ex(library_); }

Crypto::~Crypto() {
  if (provider_ != nullptr) OSSL_PROVIDER_unload(provider_);  // the context does not do it
  OSSL_LIB_CTX_free(library_);
}

Result<SecretKey> Crypto::Hkdf(ByteView key, ByteView salt, std::string_view info) const {
  const Owned<EVP_KDF, EVP_KDF_free> kdf(EVP_KDF_fetch(library_, "HKDF", nullptr));
  const Owned<EVP_KDF_CTX, EVP_KDF_CTX_free> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, kSha256, 0),
      OctetParam(OSSL_KDF_PARAM_KEY, key),
      OctetParam(OSSL_KDF_PARAM_SALT, salt),
      OctetParam(OSSL_KDF_PARAM_INFO, AsBytes(info)),
      OSSL_PARAM_construct_end(),
  };
  SecretKey out;
  if (!context || EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(out.mutable_bytes().data()),
                                 SecretKey::kBytes, parameters) != 1) {
    return Failed("derive a key");
  }
  return out;
}

Result<SecretKey> Crypto::Hmac(ByteView key, std::span<const ByteView> pieces) const {
  const Owned<EVP_MAC, EVP_MAC_free> mac(EVP_MAC_fetch(library_, "HMAC", nullptr));
  const Owned<EVP_MAC_CTX, EVP_MAC_CTX_free> context(mac ? EVP_MAC_CTX_new(mac.get()) : nullptr);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, kSha256, 0),
      OSSL_PARAM_construct_end(),
  };
  bool good =
      context != nullptr && EVP_MAC_init(context.get(), reinterpret_cast<const unsigned char*>(key.data()),
                                         key.size(), parameters) == 1;
  for (const ByteView piece : pieces) {
    good = good && EVP_MAC_update(context.get(), reinterpret_cast<const unsigned char*>(piece.data()),
                                  piece.size()) == 1;
  }
  SecretKey out;
  std::size_t size = 0;
  good = good && EVP_MAC_final(context.get(), reinterpret_cast<unsigned char*>(out.mutable_bytes().data()),
                               &size, SecretKey::kBytes) == 1;
  if (!good || size != SecretKey::kBytes) return Failed("compute a MAC");
  return out;
}

}  // namespace tulle::net
