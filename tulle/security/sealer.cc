#include "tulle/security/sealer.h"

#include <openssl/evp.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"
#include "tulle/security/files.h"

namespace tulle::security {
namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kNonceBytes = 12;
constexpr std::size_t kTagBytes = 16;
constexpr std::size_t kMaxKeyFileBytes = 4'096;

struct Free {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, Free>;

unsigned char* Bytes(void* data) { return static_cast<unsigned char*>(data); }
const unsigned char* Bytes(const void* data) { return static_cast<const unsigned char*>(data); }

}  // namespace

Result<Sealer> Sealer::OpenOrCreate(const std::string& path, Random& random) {
  if (!std::filesystem::exists(path)) {
    Secret key = Secret::OfSize(kKeyBytes);
    random.Fill(key.Mutable());
    TULLE_RETURN_IF_ERROR(WritePrivateFile(path, ToHex(key.Expose()) + "\n"));
    return Sealer(std::move(key), random);
  }
  TULLE_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxKeyFileBytes));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  Secret key = Secret::OfSize(kKeyBytes);
  if (!FromHex(text, key.Mutable())) {
    return Error{.code = Code::kDataLoss,
                 .message = path + " is not a key of " + std::to_string(2 * kKeyBytes) +
                            " hexadecimal digits; restore it from a copy"};
  }
  return Sealer(std::move(key), random);
}

std::string Sealer::Seal(ByteView secret, std::string_view context) const {
  std::string sealed(kNonceBytes + secret.size() + kTagBytes, '\0');
  random_->Fill({reinterpret_cast<std::byte*>(sealed.data()), kNonceBytes});
  const Context cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  TULLE_CHECK(cipher != nullptr &&
              EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key_.Expose().data()),
                                 Bytes(sealed.data())) == 1 &&
              EVP_EncryptUpdate(cipher.get(), nullptr, &size, Bytes(context.data()),
                                static_cast<int>(context.size())) == 1 &&
              EVP_EncryptUpdate(cipher.get(), Bytes(sealed.data() + kNonceBytes), &size, Bytes(secret.data()),
                                static_cast<int>(secret.size())) == 1 &&
              EVP_EncryptFinal_ex(cipher.get(), Bytes(sealed.data() + kNonceBytes + size), &size) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes,
                                  sealed.data() + kNonceBytes + secret.size()) == 1);
  return sealed;
}

Result<Secret> Sealer::Unseal(std::string_view sealed, std::string_view context) const {
  const Error wrong{
      .code = Code::kDataLoss,
      .message = "a secret in the store was not sealed with this controller's key, or is damaged"};
  if (sealed.size() < kNonceBytes + kTagBytes) return wrong;
  Secret secret = Secret::OfSize(sealed.size() - kNonceBytes - kTagBytes);
  std::string tag(sealed.substr(sealed.size() - kTagBytes));
  const Context cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool good =
      cipher != nullptr &&
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key_.Expose().data()),
                         Bytes(sealed.data())) == 1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &size, Bytes(context.data()),
                        static_cast<int>(context.size())) == 1 &&
      EVP_DecryptUpdate(cipher.get(), Bytes(secret.Mutable().data()), &size,
                        Bytes(sealed.data() + kNonceBytes), static_cast<int>(secret.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), Bytes(secret.Mutable().data() + size), &size) == 1;
  if (!good) return wrong;
  return secret;
}

}  // namespace tulle::security
