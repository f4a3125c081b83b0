// Listening sockets and the addresses that go with them.
#pragma once

#include <cstdint>
#include <string>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle::node {

// "host:port" or "[v6]:port"; an empty host (":7410") or "*" means every address of this machine.
struct HostPort {
  std::string host;  // without brackets; empty: every address
  std::uint16_t port = 0;
  std::string Text() const;
};
// kInvalidArgument names the text and the form.
Result<HostPort> ParseHostPort(const std::string& text);

struct Listener {
  UniqueFd fd;       // non-blocking, close-on-exec
  HostPort address;  // with the real port
};
// TCP. Every address means IPv6 and IPv4 on one socket, IPv4 alone where there is no IPv6. Port 0: the
// kernel's choice. kUnavailable when the port is taken, kInvalidArgument when the host is not an address of
// this machine.
Result<Listener> ListenTcp(const HostPort& where);

// This machine's address on the way to `peer` ("host:port"): what others can reach it by. No packet is sent.
// Empty when there is no way.
std::string LocalAddressTowards(const std::string& peer);

}  // namespace tulle::node
