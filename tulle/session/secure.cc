#include "tulle/session/secure.h"

#include <openssl/crypto.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "tulle/base/random.h"
#include "tulle/net/local/local.h"
#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/tls/tls_transport.h"
#include "tulle/net/wait.h"
#include "tulle/session/frame_io.h"

namespace tulle::session {
namespace {

// The plain exchange. Client: identity, line feed. Server: kProceed and a nonce. Client: a nonce and its
// proof. Server: kProceed and its own proof. Any other byte from the server is a refusal.
enum class PlainAnswer : std::uint8_t {
  kProceed = 'P',
  kNotAllowed = 'N',
  kUnknownGrant = 'U',
  kWrongKey = 'K'
};
using Nonce = std::array<std::byte, 32>;

Result<net::SecretKey> PlainProof(const net::Crypto& crypto, const net::SecretKey& key, std::string_view role,
                                  const std::string& identity, const Nonce& server, const Nonce& client) {
  const ByteView pieces[] = {AsBytes(role), AsBytes(identity), server, client};
  return crypto.Hmac(key.bytes(), pieces);
}
constexpr std::byte kTlsHandshake{22};  // the first byte of a TLS connection
constexpr std::string_view kClientRole = "tulle plain client\n";
constexpr std::string_view kServerRole = "tulle plain server\n";

Error Refused(Code code, std::string message) { return {code, std::move(message), Scope::kSession}; }

Status ReadAnswer(net::Transport& transport, Instant deadline) {
  std::byte answer{};
  TULLE_RETURN_IF_ERROR(ReadAll(transport, {&answer, 1}, deadline));
  switch (static_cast<PlainAnswer>(answer)) {
    case PlainAnswer::kProceed: return OkStatus();
    case PlainAnswer::kNotAllowed:
      return Refused(Code::kFailedPrecondition, "the worker does not allow connections without TLS");
    case PlainAnswer::kUnknownGrant:
      return Refused(Code::kPermissionDenied, "the worker does not know the grant");
    case PlainAnswer::kWrongKey:
      return Refused(Code::kUnauthenticated, "the worker has another key for the grant");
  }
  return Refused(Code::kDataLoss, "what answers is not a worker");
}

Result<std::unique_ptr<net::Transport>> PlainClient(const net::Crypto& crypto,
                                                    std::unique_ptr<net::Transport> transport,
                                                    const std::string& identity, const net::SecretKey& key,
                                                    Instant deadline) {
  TULLE_RETURN_IF_ERROR(WriteAll(*transport, AsBytes(identity + "\n"), deadline));
  TULLE_RETURN_IF_ERROR(ReadAnswer(*transport, deadline));
  Nonce server_nonce, nonce;
  TULLE_RETURN_IF_ERROR(ReadAll(*transport, server_nonce, deadline));
  SecureRandom().Fill(nonce);
  TULLE_ASSIGN_OR_RETURN(const net::SecretKey proof,
                         PlainProof(crypto, key, kClientRole, identity, server_nonce, nonce));
  TULLE_RETURN_IF_ERROR(WriteAll(*transport, nonce, deadline));
  TULLE_RETURN_IF_ERROR(WriteAll(*transport, proof.bytes(), deadline));
  TULLE_RETURN_IF_ERROR(ReadAnswer(*transport, deadline));
  TULLE_ASSIGN_OR_RETURN(const net::SecretKey expected,
                         PlainProof(crypto, key, kServerRole, identity, server_nonce, nonce));
  net::SecretKey claimed;
  TULLE_RETURN_IF_ERROR(ReadAll(*transport, claimed.mutable_bytes(), deadline));
  if (!net::SecretsEqual(claimed.bytes(), expected.bytes())) {
    return Refused(Code::kUnauthenticated, "what answers does not have the grant's key");
  }
  return transport;
}

using KeyOf = std::function<Result<net::SecretKey>(std::string_view identity)>;

Result<std::unique_ptr<net::Transport>> PlainServer(const net::Crypto& crypto,
                                                    std::unique_ptr<net::Transport> transport, bool allowed,
                                                    const KeyOf& key_of, Instant deadline) {
  const auto answer = [&](PlainAnswer which) {
    const auto byte = static_cast<std::byte>(which);
    return WriteAll(*transport, {&byte, 1}, deadline);
  };
  std::string identity;
  for (char next = 0;;) {
    TULLE_RETURN_IF_ERROR(ReadAll(*transport, std::as_writable_bytes(std::span(&next, 1)), deadline));
    if (next == '\n') break;
    if (identity.size() == kMaxPskIdentityBytes) return Refused(Code::kDataLoss, "no identity line");
    identity += next;
  }
  if (!allowed) {
    TULLE_RETURN_IF_ERROR(answer(PlainAnswer::kNotAllowed));
    return Refused(Code::kPermissionDenied, "the client came without TLS");
  }
  const Result<net::SecretKey> key = key_of(identity);
  if (!key.ok()) {
    TULLE_RETURN_IF_ERROR(answer(PlainAnswer::kUnknownGrant));
    return key.error();
  }
  Nonce nonce, client_nonce;
  SecureRandom().Fill(nonce);
  TULLE_RETURN_IF_ERROR(answer(PlainAnswer::kProceed));
  TULLE_RETURN_IF_ERROR(WriteAll(*transport, nonce, deadline));
  TULLE_RETURN_IF_ERROR(ReadAll(*transport, client_nonce, deadline));
  net::SecretKey claimed;
  TULLE_RETURN_IF_ERROR(ReadAll(*transport, claimed.mutable_bytes(), deadline));
  TULLE_ASSIGN_OR_RETURN(const net::SecretKey expected,
                         PlainProof(crypto, *key, kClientRole, identity, nonce, client_nonce));
  if (!net::SecretsEqual(claimed.bytes(), expected.bytes())) {
    TULLE_RETURN_IF_ERROR(answer(PlainAnswer::kWrongKey));
    return Refused(Code::kUnauthenticated, "the client has another key");
  }
  TULLE_ASSIGN_OR_RETURN(const net::SecretKey proof,
                         PlainProof(crypto, *key, kServerRole, identity, nonce, client_nonce));
  TULLE_RETURN_IF_ERROR(answer(PlainAnswer::kProceed));
  TULLE_RETURN_IF_ERROR(WriteAll(*transport, proof.bytes(), deadline));
  return transport;
}

// The first byte tells TLS from plain; it stays in the socket.
Result<std::byte> PeekFirstByte(int fd, Instant deadline) {
  for (;;) {
    if (net::WaitFor(fd, POLLIN, deadline) == 0) {
      return Refused(Code::kDeadlineExceeded, "the client sent nothing in time");
    }
    std::byte first{};
    const ssize_t got = recv(fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got == 1) return first;
    if (got == 0) return Refused(Code::kUnavailable, "the peer closed the connection");
    if (errno != EINTR && errno != EAGAIN) return ErrnoError("receive", errno);
  }
}

}  // namespace

Result<net::SecretKey> DeriveStreamKey(const net::Crypto& crypto, const GrantKey& key,
                                       const PskIdentity& identity) {
  std::array<std::byte, kSessionIdBytes> salt;
  if (!FromHex(identity.session_id, salt))
    return Error{Code::kInvalidArgument, "a session id is 32 hex digits"};
  return crypto.Hkdf(key, salt, "tulle stream " + std::to_string(identity.stream));
}

Result<std::unique_ptr<net::Transport>> SecureClient(UniqueFd socket, const GrantKey& key,
                                                     const PskIdentity& identity, Channel channel,
                                                     Instant deadline) {
  TULLE_ASSIGN_OR_RETURN(auto crypto, net::Crypto::Create());
  TULLE_ASSIGN_OR_RETURN(const net::SecretKey stream_key, DeriveStreamKey(*crypto, key, identity));
  const std::string name = FormatPskIdentity(identity);
  if (channel == Channel::kTls) {
    return net::ConnectTls(std::move(crypto), std::move(socket), name, stream_key, deadline);
  }
  auto transport = channel == Channel::kLocal
                       ? net::MakeLocalTransport(std::move(socket), /*takes_descriptors=*/true)
                       : net::MakeStreamTransport(std::move(socket));
  return PlainClient(*crypto, std::move(transport), name, stream_key, deadline);
}

void RefuseUnread(int socket) {
  // What was not read would turn the end of the connection into a reset, which may overtake the answer.
  std::array<std::byte, kMaxClientHelloBytes> hello;
  const ssize_t got = recv(socket, hello.data(), hello.size(), MSG_DONTWAIT);
  if (got <= 0) return;
  // A fatal alert, unknown_psk_identity (RFC 8446, 6.2), in a record of its own.
  constexpr std::array<unsigned char, 7> kAlert = {21, 3, 3, 0, 2, 2, 115};
  const auto plain = static_cast<unsigned char>(PlainAnswer::kUnknownGrant);
  if (hello[0] == kTlsHandshake) {
    (void)send(socket, kAlert.data(), kAlert.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  } else {
    (void)send(socket, &plain, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}

Result<SecuredPeer> SecureServer(
    UniqueFd socket, bool allow_plain,
    const std::function<Result<GrantKey>(const std::string&, const std::string&)>& keys, Instant deadline) {
  TULLE_ASSIGN_OR_RETURN(const std::byte first, PeekFirstByte(socket.get(), deadline));
  TULLE_ASSIGN_OR_RETURN(auto crypto, net::Crypto::Create());
  SecuredPeer peer;
  const KeyOf key_of = [&, crypto = crypto.get()](std::string_view name) -> Result<net::SecretKey> {
    auto identity = ParsePskIdentity(name);
    if (!identity) return Refused(Code::kPermissionDenied, "the client's identity is malformed");
    Result<GrantKey> grant_key = keys(identity->vgpu, identity->grant);
    if (!grant_key.ok()) {
      return Refused(Code::kPermissionDenied, grant_key.error().message);
    }
    auto stream_key = DeriveStreamKey(*crypto, *grant_key, *identity);
    OPENSSL_cleanse(grant_key->data(), grant_key->size());
    peer.identity = *std::move(identity);
    return stream_key;
  };
  if (first == kTlsHandshake) {
    TULLE_ASSIGN_OR_RETURN(peer.transport,
                           net::AcceptTls(std::move(crypto), std::move(socket), key_of, deadline));
  } else if (first == std::byte{'t'}) {
    const bool local = net::IsLocalSocket(socket.get());
    peer.channel = local ? Channel::kLocal : Channel::kTcp;
    auto transport = local ? net::MakeLocalTransport(std::move(socket), /*takes_descriptors=*/false)
                           : net::MakeStreamTransport(std::move(socket));
    TULLE_ASSIGN_OR_RETURN(
        peer.transport, PlainServer(*crypto, std::move(transport), local || allow_plain, key_of, deadline));
  } else {
    return Refused(Code::kDataLoss, "neither TLS nor a tulle identity arrived");
  }
  return peer;
}

}  // namespace tulle::session
