// For tests only: a client's and a worker's session, connected to each other in one process over a
// socketpair, with a fixed grant. Nothing of it is built into a program.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <thread>

#include "tulle/base/check.h"
#include "tulle/base/random.h"
#include "tulle/session/client_session.h"
#include "tulle/session/server_session.h"

namespace tulle::session {

inline Target TestTarget() {
  Target target;
  target.vgpu = "vgpu-1";
  target.grant = "grant-1";
  for (std::size_t i = 0; i < target.key.size(); ++i) target.key[i] = static_cast<std::byte>(i * 7 + 1);
  return target;
}

// Knows TestTarget()'s grant and no other.
inline Result<GrantKey> TestKeys(const std::string& vgpu, const std::string& grant) {
  const Target target = TestTarget();
  if (vgpu != target.vgpu || grant != target.grant) return Error{Code::kNotFound, "unknown grant"};
  return target.key;
}

struct SocketPair {
  UniqueFd client;
  UniqueFd server;
};
inline SocketPair MakeSocketPair() {
  int fds[2];
  TULLE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

struct SessionPair {
  std::unique_ptr<ServerSession> server;
  std::unique_ptr<ClientSession> client;
};
// The server side belongs to the caller's thread from here on.
inline Result<SessionPair> MakeSessionPair(ClientHandler* handler, ServerLimits limits = {},
                                           bool tls = true) {
  SocketPair sockets = MakeSocketPair();
  limits.allow_plain_tcp |= !tls;
  Result<std::unique_ptr<ServerSession>> server = Error{};
  std::thread accepting([&] { server = ServerSession::Accept(std::move(sockets.server), limits, TestKeys); });
  SecureRandom random;
  ClientSession::Options options;
  options.target = TestTarget();
  options.target.tls = tls;
  options.program = "test";
  options.random = &random;
  auto client = ClientSession::ConnectOver(std::move(sockets.client), options, handler);
  accepting.join();
  if (!server.ok()) return server.error();
  if (!client.ok()) return client.error();
  return SessionPair{*std::move(server), *std::move(client)};
}

}  // namespace tulle::session
