#include "tulle/node/listen.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <memory>

namespace tulle::node {
namespace {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

AddressList Resolve(const HostPort& where, int type, int flags, int* error) {
  addrinfo hints{};
  hints.ai_socktype = type;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  *error = getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &list);
  return {*error == 0 ? list : nullptr, [](addrinfo* addresses) {
            if (addresses != nullptr) freeaddrinfo(addresses);
          }};
}

// Binds and listens; on failure errno says why.
UniqueFd Bind(const sockaddr* address, socklen_t size) {
  UniqueFd fd(socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return {};
  const int on = 1, off = 0;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address->sa_family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd.get(), address, size) != 0 || listen(fd.get(), SOMAXCONN) != 0) return {};
  return fd;
}

std::uint16_t PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

}  // namespace

std::string HostPort::Text() const {
  const std::string shown = host.empty()                          ? "*"
                            : host.find(':') != std::string::npos ? "[" + host + "]"
                                                                  : host;
  return shown + ":" + std::to_string(port);
}

Result<HostPort> ParseHostPort(const std::string& text) {
  const Error error{.code = Code::kInvalidArgument,
                    .message = "'" + text + "' is not an address: write HOST:PORT, [IPV6]:PORT or :PORT"};
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return error;
  HostPort parsed{.host = text.substr(0, colon)};
  const char* end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data() + colon + 1, end, parsed.port);
  if (code != std::errc() || rest != end) return error;
  if (parsed.host.starts_with('[') && parsed.host.ends_with(']')) {
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
    in6_addr ignored;
    if (inet_pton(AF_INET6, parsed.host.c_str(), &ignored) != 1) return error;
  } else if (parsed.host.find(':') != std::string::npos) {
    return error;
  }
  if (parsed.host == "*" || parsed.host == "::" || parsed.host == "0.0.0.0") parsed.host.clear();
  return parsed;
}

Result<Listener> ListenTcp(const HostPort& where) {
  Listener listener{.address = where};
  if (where.host.empty()) {
    sockaddr_in6 any6{.sin6_family = AF_INET6, .sin6_port = htons(where.port), .sin6_addr = IN6ADDR_ANY_INIT};
    listener.fd = Bind(reinterpret_cast<sockaddr*>(&any6), sizeof any6);
    if (!listener.fd.valid() && errno != EADDRINUSE && errno != EACCES) {
      sockaddr_in any4{.sin_family = AF_INET, .sin_port = htons(where.port)};
      listener.fd = Bind(reinterpret_cast<sockaddr*>(&any4), sizeof any4);
    }
  } else {
    int error = 0;
    const AddressList addresses = Resolve(where, SOCK_STREAM, AI_PASSIVE, &error);
    if (error != 0) {
      return Error{.code = Code::kInvalidArgument,
                   .message = "cannot listen on " + where.Text() + ": " + gai_strerror(error)};
    }
    listener.fd = Bind(addresses->ai_addr, addresses->ai_addrlen);
  }
  if (!listener.fd.valid()) {
    Error error = ErrnoError("cannot listen on " + where.Text(), errno);
    error.code = errno == EADDRINUSE      ? Code::kUnavailable
                 : errno == EADDRNOTAVAIL ? Code::kInvalidArgument
                                          : Code::kPermissionDenied;
    return error;
  }
  listener.address.port = PortOf(listener.fd.get());
  return listener;
}

std::string LocalAddressTowards(const std::string& peer) {
  const auto parsed = ParseHostPort(peer);
  if (!parsed.ok()) return "";
  int error = 0;
  const AddressList addresses = Resolve(*parsed, SOCK_DGRAM, 0, &error);
  if (error != 0) return "";
  const UniqueFd fd(socket(addresses->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  char text[NI_MAXHOST];
  if (!fd.valid() || connect(fd.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&local), &size) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&local), size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) !=
          0) {
    return "";
  }
  return text;
}

}  // namespace tulle::node
