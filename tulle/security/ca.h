// The mesh's own certificate authority (ECDSA P-256): one folder with ca.pem and ca.key, readable by its
// owner only. It issues a certificate for each identity, with a fresh key or for a key of whoever asks. Used
// by the controller; once made, thread-safe.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/security/credentials.h"
#include "tulle/security/identity.h"

namespace tulle::security {

struct IssueOptions {
  // Extra host names and IP addresses, for the controller's own certificate (curl and browsers check these).
  std::vector<std::string> hosts;
  std::chrono::hours validity = std::chrono::hours(24 * 365);
};

Result<std::string> ToPem(X509* certificate);

// A new ECDSA P-256 key, both halves in PEM.
struct KeyPair {
  std::string private_pem;
  std::string public_pem;
};
Result<KeyPair> MakeKeyPair();
// kInvalidArgument unless it is the public half of such a key.
Status CheckPublicKey(const std::string& public_key_pem);

class CertificateAuthority {
 public:
  // Loads the authority in `directory`, or makes one there. Fails when the folder or the key may be read by
  // others, and when only one of the two files is there (a lost key is never replaced silently: every
  // certificate would die).
  static Result<CertificateAuthority> OpenOrCreate(const std::string& directory, const Clock& clock,
                                                   Random& random);

  // A new key pair and its certificate, valid from an hour ago (clocks differ) for `validity`. For role
  // controller it may serve and carries kControllerTlsName; the others may only be clients.
  Result<PemBundle> Issue(const Identity& identity, const IssueOptions& options = {});

  // A certificate, in PEM, for whoever has the key that belongs to this public one (PEM, ECDSA P-256, as
  // MakeKeyPair makes it). kInvalidArgument for another sort of key.
  Result<std::string> Certify(const Identity& identity, const std::string& public_key_pem,
                              const IssueOptions& options = {});

  const std::string& certificate_pem() const { return certificate_pem_; }

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  CertificateAuthority(const Clock& clock, Random& random) : clock_(&clock), random_(&random) {}

  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();  // one signature at a time
  const Clock* clock_;
  Random* random_;
  std::unique_ptr<EVP_PKEY, Free> key_;
  std::unique_ptr<X509, Free> certificate_;
  std::string certificate_pem_;
};

// When a certificate (PEM) of such an authority was issued, in microseconds since 1970, to the second.
// kInvalidArgument when the text is not one.
Result<std::int64_t> IssuedAt(std::string_view certificate_pem);

// Credentials for `identity` in `directory`, made by `authority` when they are not there yet, are for another
// authority, or expire within 30 days: <role>-<name>.pem, <role>-<name>.key and ca.pem. Returns what names
// them, with empty endpoints.
Result<Credentials> EnsureCredentials(CertificateAuthority& authority, const std::string& directory,
                                      const Identity& identity, const Clock& clock,
                                      const IssueOptions& options = {});

}  // namespace tulle::security
