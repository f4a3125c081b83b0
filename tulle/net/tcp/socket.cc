#include "tulle/net/tcp/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

constexpr std::size_t kMaxAddresses = 16;  // of one host name
constexpr int kBacklog = 512;

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

struct Resolution {
  int status = 0;  // of getaddrinfo
  std::vector<Address> addresses;
};

Resolution Resolve(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  Resolution out;
  out.status =
      getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (out.status != 0) return out;
  for (const addrinfo* entry = list; entry != nullptr && out.addresses.size() < kMaxAddresses;
       entry = entry->ai_next) {
    Address address;
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
    out.addresses.push_back(address);
  }
  freeaddrinfo(list);
  return out;
}

// getaddrinfo has no deadline of its own, so a name is looked up on a thread that may outlive the caller.
struct Lookup {
  std::string host;
  std::uint16_t port = 0;
  std::mutex mutex;
  std::condition_variable ready;
  bool done = false;
  Resolution result;
};

void* RunLookup(void* argument) {
  const std::unique_ptr<std::shared_ptr<Lookup>> lookup(static_cast<std::shared_ptr<Lookup>*>(argument));
  Resolution result = Resolve((*lookup)->host, (*lookup)->port, 0);
  const std::lock_guard lock((*lookup)->mutex);
  (*lookup)->result = std::move(result);
  (*lookup)->done = true;
  (*lookup)->ready.notify_one();
  return nullptr;
}

Result<std::vector<Address>> ResolveUntil(const Endpoint& endpoint, Instant deadline) {
  if (Resolution numeric = Resolve(endpoint.host, endpoint.port, AI_NUMERICHOST); numeric.status == 0) {
    return std::move(numeric.addresses);
  }
  auto lookup = std::make_shared<Lookup>();
  lookup->host = endpoint.host;
  lookup->port = endpoint.port;
  auto handed = std::make_unique<std::shared_ptr<Lookup>>(lookup);
  // The thread lives in a program that is not ours: none of its signals may land on it.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = pthread_create(&thread, nullptr, RunLookup, handed.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return ErrnoError("start a thread to look up " + endpoint.host, error);
  [[maybe_unused]] auto* owned_by_thread = handed.release();
  pthread_detach(thread);

  std::unique_lock lock(lookup->mutex);
  const auto until = std::chrono::steady_clock::time_point(Duration(deadline.ns));
  if (!lookup->ready.wait_until(lock, until, [&] { return lookup->done; })) {
    return Error{Code::kDeadlineExceeded, "looking up the name " + endpoint.host + " took too long",
                 Scope::kRequest, Retry::kSame};
  }
  if (lookup->result.status != 0) {
    return Error{Code::kUnavailable,
                 "the host name " + endpoint.host + " is not known: " + gai_strerror(lookup->result.status)};
  }
  return std::move(lookup->result.addresses);
}

Result<UniqueFd> ConnectAddress(const Address& address, Instant deadline) {
  const auto* name = reinterpret_cast<const sockaddr*>(&address.storage);
  UniqueFd socket(::socket(name->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError("create a socket", errno);
  // An interrupted connect goes on in the background, as one in progress does.
  if (connect(socket.get(), name, address.length) == 0) return socket;
  if (errno != EINPROGRESS && errno != EINTR) {
    Error error = ErrnoError("connect", errno);
    error.code = Code::kUnavailable;
    return error;
  }
  if (WaitFor(socket.get(), POLLOUT, deadline) == 0) {
    return Error{Code::kDeadlineExceeded, "connect: no answer in time", Scope::kRequest, Retry::kSame};
  }
  int outcome = 0;
  socklen_t size = sizeof outcome;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &outcome, &size) != 0) outcome = errno;
  if (outcome == 0) return socket;
  Error error = ErrnoError("connect", outcome);
  error.code = Code::kUnavailable;
  return error;
}

}  // namespace

Result<Endpoint> ParseEndpoint(std::string_view text) {
  const auto bad = [&] {
    return Error{
        Code::kInvalidArgument,
        "'" + std::string(text) + "' is not an endpoint: write host:port, or [address]:port for IPv6"};
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad();
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad();
  }
  unsigned port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size() || port == 0 || port > 65535) return bad();
  if (host.empty() || host.size() > 255 || host.find_first_of("[] \t\r\n") != std::string_view::npos)
    return bad();
  return Endpoint{std::string(host), static_cast<std::uint16_t>(port)};
}

std::string FormatEndpoint(const Endpoint& endpoint) {
  const bool v6 = endpoint.host.find(':') != std::string::npos;
  return (v6 ? "[" + endpoint.host + "]" : endpoint.host) + ":" + std::to_string(endpoint.port);
}

Result<UniqueFd> ConnectTcp(const Endpoint& endpoint, Instant deadline) {
  TULLE_ASSIGN_OR_RETURN(const std::vector<Address> addresses, ResolveUntil(endpoint, deadline));
  Result<UniqueFd> last = Error{Code::kUnavailable, "the host name " + endpoint.host + " has no address"};
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    // An address that never answers must not use up the time of those behind it.
    const Instant now = Now();
    const Duration share = (deadline - now) / static_cast<std::int64_t>(addresses.size() - i);
    last = ConnectAddress(addresses[i], now + share);
    if (last.ok()) break;
  }
  return last;
}

Result<Listener> ListenTcp(const std::string& address, std::uint16_t port) {
  const std::string where = FormatEndpoint({address, port});
  const Resolution resolved = Resolve(address, port, AI_NUMERICHOST | AI_PASSIVE);
  if (resolved.status != 0 || resolved.addresses.empty()) {
    return Error{Code::kInvalidArgument,
                 "cannot listen on " + where + ": '" + address +
                     "' is not an address of this host; use 127.0.0.1, 0.0.0.0 or ::"};
  }
  const Address& chosen = resolved.addresses.front();
  const auto* name = reinterpret_cast<const sockaddr*>(&chosen.storage);
  UniqueFd socket(::socket(name->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError("create a socket", errno);
  const int on = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(socket.get(), name, chosen.length) != 0) return ErrnoError("listen on " + where, errno);
  if (listen(socket.get(), kBacklog) != 0) return ErrnoError("listen on " + where, errno);
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    return ErrnoError("listen on " + where, errno);
  }
  const in_port_t bound_port = bound.ss_family == AF_INET6
                                   ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                   : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
  return Listener{std::move(socket), ntohs(bound_port)};
}

}  // namespace tulle::net
