#include "tulle/security/tls.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <memory>

namespace tulle::security {
namespace {

using BioPtr = std::unique_ptr<BIO, int (*)(BIO*)>;
using CertificatePtr = std::unique_ptr<X509, void (*)(X509*)>;

BioPtr Reading(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free};
}

}  // namespace

bool ConfigureServer(ssl_ctx_st& context, const PemBundle& pem) {
  const CertificatePtr certificate(
      PEM_read_bio_X509(Reading(pem.certificate).get(), nullptr, nullptr, nullptr), X509_free);
  const CertificatePtr ca(PEM_read_bio_X509(Reading(pem.ca).get(), nullptr, nullptr, nullptr), X509_free);
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      PEM_read_bio_PrivateKey(Reading(pem.key).get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  if (certificate == nullptr || ca == nullptr || key == nullptr) return false;
  SSL_CTX_set_verify(&context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(&context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(&context, SSL_OP_NO_TICKET);
  return SSL_CTX_set_min_proto_version(&context, TLS1_2_VERSION) == 1 &&
         SSL_CTX_use_certificate(&context, certificate.get()) == 1 &&
         SSL_CTX_use_PrivateKey(&context, key.get()) == 1 &&
         X509_STORE_add_cert(SSL_CTX_get_cert_store(&context), ca.get()) == 1 &&
         SSL_CTX_add_client_CA(&context, ca.get()) == 1;
}

std::string CertificateOfPeer(const ssl_st* connection) {
  const CertificatePtr certificate(connection == nullptr ? nullptr : SSL_get1_peer_certificate(connection),
                                   X509_free);
  if (certificate == nullptr) return "";
  const BioPtr bio(BIO_new(BIO_s_mem()), BIO_free);
  PEM_write_bio_X509(bio.get(), certificate.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

Result<Identity> IdentityOfPeer(const ssl_st* connection) {
  const std::string pem = CertificateOfPeer(connection);
  if (pem.empty()) return Error{.code = Code::kUnauthenticated, .message = "no client certificate was shown"};
  return IdentityOfCertificate(pem);
}

bool PeerIsGone(const ssl_st* connection) {
  pollfd poll_for{.fd = SSL_get_fd(connection), .events = POLLRDHUP};
  return poll(&poll_for, 1, 0) == 1 && (poll_for.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace tulle::security
