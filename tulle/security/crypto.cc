#include "tulle/security/crypto.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <memory>

#include "tulle/base/check.h"

namespace tulle::security {

Secret HkdfSha256(ByteView key, ByteView salt, ByteView info, std::size_t size_bytes) {
  struct Free {
    void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
  };
  const std::unique_ptr<EVP_KDF, Free> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  TULLE_CHECK(kdf != nullptr);
  const std::unique_ptr<EVP_KDF_CTX, Free> context(EVP_KDF_CTX_new(kdf.get()));
  TULLE_CHECK(context != nullptr);
  const auto bytes = [](ByteView view) {
    return const_cast<std::byte*>(view.data());
  };  // the API is not const
  char digest[] = "SHA256";
  OSSL_PARAM parameters[5];
  std::size_t count = 0;
  parameters[count++] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
  parameters[count++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, bytes(key), key.size());
  // OpenSSL 3.0 refuses an empty one, whose meaning is that it is absent.
  if (!salt.empty()) {
    parameters[count++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, bytes(salt), salt.size());
  }
  if (!info.empty()) {
    parameters[count++] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, bytes(info), info.size());
  }
  parameters[count] = OSSL_PARAM_construct_end();
  Secret out = Secret::OfSize(size_bytes);
  TULLE_CHECK(EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(out.Mutable().data()),
                             size_bytes, parameters) == 1);
  return out;
}

}  // namespace tulle::security
