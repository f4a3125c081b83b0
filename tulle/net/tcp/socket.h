// TCP sockets by name: connect with a deadline, listen. Used by whoever starts a connection (a program's
// session, a node's port); holds nothing. Every socket is close-on-exec.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle::net {

struct Endpoint {
  std::string host;  // a name or an address, without brackets
  std::uint16_t port = 0;
};

// "host:port", "192.0.2.1:port" or "[2001:db8::1]:port"; the port is 1 to 65535.
Result<Endpoint> ParseEndpoint(std::string_view text);
std::string FormatEndpoint(const Endpoint& endpoint);

// Tries each address of the host until one answers. Blocks up to the deadline, name resolution included
// (a resolver that takes longer is left to end by itself on a thread of its own).
Result<UniqueFd> ConnectTcp(const Endpoint& endpoint, Instant deadline);

// A listening socket on an address ("127.0.0.1", "::", "0.0.0.0") and port (0: the system chooses).
struct Listener {
  UniqueFd socket;  // non-blocking
  std::uint16_t port = 0;
};
Result<Listener> ListenTcp(const std::string& address, std::uint16_t port);

}  // namespace tulle::net
