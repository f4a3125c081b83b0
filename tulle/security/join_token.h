// What an administrator hands to a host that is to join the mesh, or to a user who is to log in: a one-time
// secret, and the fingerprint of the mesh's CA, by which the bearer knows that it talks to that mesh before
// it has any certificate. As text, to be pasted: "tulle1.<id>.<secret>.<fingerprint>", all three hexadecimal.
#pragma once

#include <string>
#include <string_view>

#include "tulle/base/random.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"

namespace tulle::security {

struct JoinToken {
  std::string id;           // 16 digits; not secret
  Secret secret;            // 16 bytes
  std::string fingerprint;  // of the CA: FingerprintOf

  static JoinToken Make(const std::string& ca_pem, Random& random);
  // kInvalidArgument for anything else; the message does not show it.
  static Result<JoinToken> Parse(std::string_view text);
  std::string Text() const;
};

// What is kept of a token's secret: SHA-256, 64 hexadecimal digits. The secret is random, so nobody can guess
// it from that.
std::string DigestOf(const Secret& secret);

// SHA-256 of a certificate in PEM, 64 hexadecimal digits; empty when the text is not one.
std::string FingerprintOf(const std::string& certificate_pem);

// The certificate with that fingerprint among those that the server at `endpoint` (host:port) shows, in PEM.
// Nothing else that it says is believed. kUnavailable when it cannot be reached within 10 s,
// kPermissionDenied when it shows another.
Result<std::string> FetchAuthority(const std::string& endpoint, const std::string& fingerprint);

}  // namespace tulle::security
