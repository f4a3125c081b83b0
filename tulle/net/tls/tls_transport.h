// The Transport over TLS 1.3 with a pre-shared key (ECDHE-PSK): the key proves both ends, a fresh exchange
// keeps old sessions secret. No certificates, tickets, resumption or early data; AES-128-GCM with SHA-256.
//
// Reading and writing may happen on two threads at once: a lock inside guards the TLS state and is never
// held while waiting. Each direction gets a new key (KeyUpdate) before its cipher's limit.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/tls/crypto.h"
#include "tulle/net/transport.h"

namespace tulle::net {

// Bytes sealed under one key. AES-GCM is safe for about 2^24.5 full records (RFC 8446 5.5), 350 GiB.
inline constexpr std::uint64_t kRekeyBytes = 64ull << 30;

// The key of an identity, or an error: refused. Called during the handshake with what the client sent.
using PskLookup = std::function<Result<SecretKey>(std::string_view identity)>;

// Both do the handshake on a connected socket, blocking up to the deadline. Of the errors, kPermissionDenied
// means that the server did not accept the identity, kUnauthenticated that the keys differ.
Result<std::unique_ptr<Transport>> ConnectTls(std::shared_ptr<Crypto> crypto, UniqueFd socket,
                                              const std::string& identity, const SecretKey& key,
                                              Instant deadline, std::uint64_t rekey_bytes = kRekeyBytes);
Result<std::unique_ptr<Transport>> AcceptTls(std::shared_ptr<Crypto> crypto, UniqueFd socket,
                                             const PskLookup& lookup, Instant deadline,
                                             std::uint64_t rekey_bytes = kRekeyBytes);

}  // namespace tulle::net
