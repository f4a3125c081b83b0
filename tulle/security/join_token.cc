#include "tulle/security/join_token.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "tulle/base/unique_fd.h"
#include "tulle/security/ca.h"

namespace tulle::security {
namespace {

constexpr char kTokenPrefix[] = "tulle1.";
constexpr std::size_t kTokenIdBytes = 8;
constexpr std::size_t kTokenSecretBytes = 16;
constexpr std::size_t kDigestBytes = 32;
constexpr time_t kPatienceSeconds = 10;

using CertificatePtr = std::unique_ptr<X509, void (*)(X509*)>;

std::string Sha256(ByteView bytes) {
  std::array<unsigned char, kDigestBytes> digest;
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) return "";
  return ToHex(std::as_bytes(std::span(digest)));
}

std::string FingerprintOf(X509* certificate) {
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate, &der);
  if (size <= 0) return "";
  std::string fingerprint = Sha256(std::as_bytes(std::span(der, static_cast<std::size_t>(size))));
  OPENSSL_free(der);
  return fingerprint;
}

Error Unreachable(const std::string& endpoint, const std::string& why) {
  return Error{.code = Code::kUnavailable,
               .message = "cannot reach a controller at " + endpoint + ": " + why};
}

Result<UniqueFd> Dial(const std::string& endpoint) {
  const std::size_t colon = endpoint.rfind(':');
  std::string host = endpoint.substr(0, colon);
  const std::string port = colon == std::string::npos ? "" : endpoint.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return Unreachable(endpoint, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  int error = 0;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    UniqueFd fd(socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol));
    if (!fd.valid()) continue;
    const timeval patience{.tv_sec = kPatienceSeconds};  // for connect, too
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd.get(), address->ai_addr, address->ai_addrlen) == 0) return fd;
    error = errno;
  }
  return Unreachable(endpoint, error == EINPROGRESS ? "no answer" : std::strerror(error));
}

}  // namespace

JoinToken JoinToken::Make(const std::string& ca_pem, Random& random) {
  std::array<std::byte, kTokenIdBytes> id;
  random.Fill(id);
  JoinToken token{
      .id = ToHex(id), .secret = Secret::OfSize(kTokenSecretBytes), .fingerprint = FingerprintOf(ca_pem)};
  random.Fill(token.secret.Mutable());
  return token;
}

Result<JoinToken> JoinToken::Parse(std::string_view text) {
  const Error wrong{
      .code = Code::kInvalidArgument,
      .message = "this is not a token of a mesh: it must be " + std::string(kTokenPrefix) +
                 " and three hexadecimal numbers with dots between them, as `tulle token create` prints it"};
  if (!text.starts_with(kTokenPrefix)) return wrong;
  text.remove_prefix(sizeof kTokenPrefix - 1);
  std::array<std::string, 3> parts;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t dot = i + 1 < parts.size() ? text.find('.') : text.size();
    if (dot == std::string_view::npos) return wrong;
    parts[i] = text.substr(0, dot);
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  constexpr std::array<std::size_t, 3> kBytes = {kTokenIdBytes, kTokenSecretBytes, kDigestBytes};
  std::array<Secret, 3> bytes;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    bytes[i] = Secret::OfSize(kBytes[i]);
    if (parts[i].size() != 2 * kBytes[i] || !FromHex(parts[i], bytes[i].Mutable())) return wrong;
  }
  return JoinToken{
      .id = ToHex(bytes[0].Expose()), .secret = std::move(bytes[1]), .fingerprint = ToHex(bytes[2].Expose())};
}

std::string JoinToken::Text() const {
  return kTokenPrefix + id + "." + ToHex(secret.Expose()) + "." + fingerprint;
}

std::string DigestOf(const Secret& secret) { return Sha256(secret.Expose()); }

std::string FingerprintOf(const std::string& certificate_pem) {
  const std::unique_ptr<BIO, int (*)(BIO*)> bio(
      BIO_new_mem_buf(certificate_pem.data(), static_cast<int>(certificate_pem.size())), BIO_free);
  const CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  return certificate == nullptr ? "" : FingerprintOf(certificate.get());
}

Result<std::string> FetchAuthority(const std::string& endpoint, const std::string& fingerprint) {
  TULLE_ASSIGN_OR_RETURN(const UniqueFd fd, Dial(endpoint));
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (context == nullptr) return Error{.code = Code::kInternal, .message = "cannot set up TLS"};
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);  // by the fingerprint, below
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  const std::unique_ptr<SSL, void (*)(SSL*)> ssl(SSL_new(context.get()), SSL_free);
  static constexpr unsigned char kAlpn[] = {2, 'h', '2'};  // as gRPC expects it
  if (ssl == nullptr || SSL_set_alpn_protos(ssl.get(), kAlpn, sizeof kAlpn) != 0 ||
      SSL_set_fd(ssl.get(), fd.get()) != 1) {
    return Error{.code = Code::kInternal, .message = "cannot set up TLS"};
  }
  const bool shaken = SSL_connect(ssl.get()) == 1;
  ERR_clear_error();
  if (!shaken) return Unreachable(endpoint, "it does not speak TLS, or did not answer in time");
  const STACK_OF(X509)* const chain = SSL_get_peer_cert_chain(ssl.get());
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    X509* const certificate = sk_X509_value(chain, i);
    const std::string shown = FingerprintOf(certificate);
    if (ConstantTimeEqual(AsBytes(shown), AsBytes(fingerprint))) return ToPem(certificate);
  }
  return Error{.code = Code::kPermissionDenied,
               .message = endpoint +
                          " is not a controller of the mesh that this token is for; check the address, and "
                          "have a new token made if the mesh was set up anew"};
}

}  // namespace tulle::security
