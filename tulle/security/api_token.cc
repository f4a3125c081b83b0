#include "tulle/security/api_token.h"

#include <array>

#include "tulle/base/bytes.h"

namespace tulle::security {
namespace {

constexpr std::string_view kPrefix = "tulle-api.";
constexpr std::size_t kIdBytes = 8;
constexpr std::size_t kSecretBytes = 32;

}  // namespace

ApiTokenSecret ApiTokenSecret::Make(Random& random) {
  std::array<std::byte, kIdBytes> id;
  random.Fill(id);
  ApiTokenSecret token{.id = ToHex(id), .secret = Secret::OfSize(kSecretBytes)};
  random.Fill(token.secret.Mutable());
  return token;
}

Result<ApiTokenSecret> ApiTokenSecret::Parse(std::string_view text) {
  const Error bad{.code = Code::kUnauthenticated,
                  .message = "not an API token; `tulle token create --api` makes one"};
  if (!text.starts_with(kPrefix)) return bad;
  text.remove_prefix(kPrefix.size());
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos) return bad;
  std::array<std::byte, kIdBytes> id;
  ApiTokenSecret token{.secret = Secret::OfSize(kSecretBytes)};
  if (!FromHex(text.substr(0, dot), id) || !FromHex(text.substr(dot + 1), token.secret.Mutable())) return bad;
  token.id = ToHex(id);
  return token;
}

std::string ApiTokenSecret::Text() const { return std::string(kPrefix) + id + "." + ToHex(secret.Expose()); }

}  // namespace tulle::security
