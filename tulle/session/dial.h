// A client's way to its worker: the endpoints of the attach file in order, the handshake over each, at first
// and whenever the connection was lost.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "tulle/base/clock.h"
#include "tulle/base/random.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/transport.h"
#include "tulle/session/attach.h"
#include "tulle/session/channel.h"
#include "tulle/session/psk_identity.h"
#include "tulle/wire/link.h"

namespace tulle::session {

class Dialer {
 public:
  // Draws the session's id.
  Dialer(const Target& target, Random* random);

  // What to do with a connection whose worker has proved the key.
  using Greet = std::function<Status(std::unique_ptr<net::Transport> connection, Instant deadline)>;

  // Tries the endpoints in order until one is greeted. The error says for each what went wrong;
  // kPermissionDenied and kUnauthenticated: a worker answered, and refused the grant.
  Status Dial(Instant deadline, const Greet& greet) const;
  // The same over one connected stream socket of which nothing was read, as if it led to another host.
  Status DialOver(UniqueFd socket, Instant deadline, const Greet& greet) const {
    return DialOver(std::move(socket), target_.tls ? Channel::kTls : Channel::kTcp, deadline, greet);
  }

  struct Resumed {
    std::unique_ptr<net::Transport> connection;
    std::uint64_t received_bytes = 0;  // by the worker
  };
  // Asks a worker to go on with this session; `received_bytes`: of the worker's stream. kAborted: it has the
  // session no more. What else is worth another attempt: see IsFinal.
  Result<Resumed> Resume(const wire::LinkResume& request, std::uint64_t received_bytes,
                         Instant deadline) const;
  // Of an error of Resume: no later attempt can succeed.
  static bool IsFinal(const Error& error);

  bool can_dial() const { return !target_.endpoints.empty(); }

 private:
  Status DialOver(UniqueFd socket, Channel channel, Instant deadline, const Greet& greet) const;

  const Target target_;
  PskIdentity identity_;
};

}  // namespace tulle::session
