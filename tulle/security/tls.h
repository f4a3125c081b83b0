// Mutual TLS under the mesh's CA for servers that bring their own OpenSSL context.
#pragma once

#include <string>

#include "tulle/base/result.h"
#include "tulle/security/credentials.h"
#include "tulle/security/identity.h"

struct ssl_st;      // SSL
struct ssl_ctx_st;  // SSL_CTX

namespace tulle::security {

// TLS 1.2 or later, `pem`'s certificate and key; only clients that show a certificate of its CA get through,
// on each connection anew (no session is resumed). False when the texts cannot be used.
bool ConfigureServer(ssl_ctx_st& context, const PemBundle& pem);

// Who is at the other end, and the certificate by which that is known, in PEM (or nothing). Precondition: the
// handshake is over. `connection` may be null: nobody is.
Result<Identity> IdentityOfPeer(const ssl_st* connection);
std::string CertificateOfPeer(const ssl_st* connection);

}  // namespace tulle::security
