// TLS under the mesh's CA for servers that bring their own OpenSSL context.
#pragma once

#include <string>

#include "tulle/base/result.h"
#include "tulle/security/credentials.h"
#include "tulle/security/identity.h"

struct ssl_st;      // SSL
struct ssl_ctx_st;  // SSL_CTX

namespace tulle::security {

// TLS 1.2 or later, `pem`'s certificate and key; clients that show a certificate of another CA do not get
// through, those that show none do, and are nobody. On each connection anew (no session is resumed). False
// when the texts cannot be used.
bool ConfigureServer(ssl_ctx_st& context, const PemBundle& pem);

// Who is at the other end, and the certificate by which that is known, in PEM (or nothing). Precondition: the
// handshake is over. `connection` may be null: nobody is.
Result<Identity> IdentityOfPeer(const ssl_st* connection);
std::string CertificateOfPeer(const ssl_st* connection);

// Whether the other end has closed the connection. Any thread that uses it.
bool PeerIsGone(const ssl_st* connection);

}  // namespace tulle::security
