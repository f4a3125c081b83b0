// What happens on a connection before its first frame: the client names its grant and proves the key, both
// ends get a Transport. Normally TLS 1.3 with the key; or, within a host, and over plain TCP where the
// operator allows it, the bytes as they are once the ends have proved the key to each other (nonces and
// HMAC).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/tls/crypto.h"
#include "tulle/net/transport.h"
#include "tulle/session/attach.h"
#include "tulle/session/channel.h"
#include "tulle/session/psk_identity.h"

namespace tulle::session {

// The key of one stream of a session: HKDF-SHA256 of the grant's key, so that no two connections share one.
Result<net::SecretKey> DeriveStreamKey(const net::Crypto& crypto, const GrantKey& key,
                                       const PskIdentity& identity);

// The client's side, over a connected socket. kPermissionDenied: the worker does not know the grant;
// kUnauthenticated: it has another key; kFailedPrecondition: it does not allow plain TCP.
Result<std::unique_ptr<net::Transport>> SecureClient(UniqueFd socket, const GrantKey& key,
                                                     const PskIdentity& identity, Channel channel,
                                                     Instant deadline);

struct SecuredPeer {
  std::unique_ptr<net::Transport> transport;
  PskIdentity identity;
  Channel channel = Channel::kTls;
};
// The worker's side, over an accepted socket. `keys` says the grant's key or why there is none; the client
// learns only that.
Result<SecuredPeer> SecureServer(
    UniqueFd socket, bool allow_plain,
    const std::function<Result<GrantKey>(const std::string&, const std::string&)>& keys, Instant deadline);

// For who holds a connection that asks for what is not here, and has read nothing of it: says so in the
// clear, as the worker would whose grant it is not. The client then does not try again. Blocks never.
void RefuseUnread(int socket);

}  // namespace tulle::session
