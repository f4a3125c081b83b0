#include "tulle/node/data_port.h"

#include <netdb.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <utility>

#include "tulle/base/log.h"
#include "tulle/net/local/local.h"
#include "tulle/session/secure.h"

namespace tulle::node {
namespace {

constexpr auto kLogInterval = std::chrono::seconds(5);
// After accept() failed for want of descriptors or memory, and for a worker that is being started.
constexpr auto kRetryPause = std::chrono::milliseconds(50);

std::string PeerText(int fd, const sockaddr_storage& address, socklen_t size) {
  if (address.ss_family == AF_UNIX) {
    const auto peer = net::PeerOf(fd);
    return peer.ok() ? "process " + std::to_string(peer->pid) + " of user " + std::to_string(peer->uid) : "?";
  }
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  return std::string(host) + " port " + port;
}

}  // namespace

Result<std::unique_ptr<DataPort>> DataPort::Open(Loop& loop, const Options& options, Route route) {
  TULLE_ASSIGN_OR_RETURN(Listener listener, ListenTcp(options.listen));
  UniqueFd local;
  if (!options.socket.empty()) {
    auto made = net::ListenLocal(options.socket);
    if (made.ok()) {
      local = *std::move(made);
    } else {
      Log(LogLevel::kWarn, "node",
          "no data socket: programs of this host connect to the data port as others do",
          {{"error", made.error().message}});
    }
  }
  return std::unique_ptr<DataPort>(
      new DataPort(loop, options, std::move(listener), std::move(local), std::move(route)));
}

DataPort::DataPort(Loop& loop, const Options& options, Listener listener, UniqueFd local, Route route)
    : loop_(loop),
      options_(options),
      listener_(std::move(listener)),
      local_(std::move(local)),
      route_(std::move(route)),
      log_limit_(loop.clock(), kLogInterval) {
  Listen();
}

void DataPort::Listen() {
  accepting_ = true;
  for (const int fd : {listener_.fd.get(), local_.get()}) {
    if (fd >= 0) loop_.Watch(fd, EPOLLIN, [this, fd](std::uint32_t) { Accept(fd); });
  }
}

void DataPort::StopListening() {
  if (!std::exchange(accepting_, false)) return;
  for (const int fd : {listener_.fd.get(), local_.get()}) {
    if (fd >= 0) loop_.Unwatch(fd);
  }
}

DataPort::~DataPort() {
  loop_.Cancel(timer_);
  StopListening();
  if (local_.valid()) unlink(options_.socket.c_str());
  for (const Waiting& waiting : waiting_) loop_.Unwatch(waiting.fd.get());
}

DataPort::Counters DataPort::counters() const {
  Counters counters = counters_;
  counters.waiting = waiting_.size();
  return counters;
}

void DataPort::Accept(int listener) {
  // A few a turn, so that a flood of connections does not keep the loop from its other duties.
  for (int i = 0; i < 32; ++i) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    UniqueFd fd(
        accept4(listener, reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED) return;
      if (const auto left_out = log_limit_.Allow()) {
        Log(LogLevel::kError, "node", ErrnoError("cannot accept a connection", errno).message,
            {{"left_out", *left_out}});
      }
      StopListening();
      ArmTimer();
      return;
    }
    ++counters_.accepted;
    if (waiting_.size() >= kMaxWaiting)
      Close(waiting_.begin(), &counters_.too_slow, "pushed out by newer connections");
    std::string peer = PeerText(fd.get(), address, size);
    const WaitingIt it = waiting_.insert(
        waiting_.end(),
        Waiting{std::move(fd), std::move(peer), loop_.clock().Now() + options_.hello_timeout});
    // Edge-triggered: peeked bytes stay in the socket, and would be reported for ever.
    loop_.Watch(it->fd.get(), EPOLLIN | EPOLLRDHUP | EPOLLET,
                [this, it](std::uint32_t events) { Look(it, events); });
    if (waiting_.size() == 1) ArmTimer();
  }
}

void DataPort::Look(WaitingIt it, std::uint32_t events) {
  std::array<std::byte, session::kMaxClientHelloBytes> seen;
  ssize_t size;
  do {
    size = recv(it->fd.get(), seen.data(), seen.size(), MSG_PEEK);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
  if (size <= 0) return Close(it, &counters_.hung_up, "hung up before it said anything");
  session::PskIdentity identity;
  switch (session::PeekPskIdentity(ByteView(seen).first(static_cast<std::size_t>(size)), &identity)) {
    case session::PeekResult::kMore:
      if (static_cast<std::size_t>(size) == seen.size())
        return Close(it, &counters_.garbage, "hello is too long");
      if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
        return Close(it, &counters_.hung_up, "hung up in the middle of its hello");
      }
      return;
    case session::PeekResult::kInvalid:
      return Close(it, &counters_.garbage, "is no client of a vGPU: its first bytes are not such a hello");
    case session::PeekResult::kFound: break;
  }
  loop_.Unwatch(it->fd.get());
  it->identity = std::move(identity);
  Hand(it);
}

void DataPort::Hand(WaitingIt it) {
  const Status routed = route_(*it->identity, it->fd.get());
  if (!routed.ok() && routed.error().code == Code::kUnavailable) return ArmTimer();
  if (!routed.ok()) {
    session::RefuseUnread(it->fd.get());
    return Close(it, &counters_.refused, routed.error().message);
  }
  ++counters_.routed;
  waiting_.erase(it);
}

void DataPort::Close(WaitingIt it, std::uint64_t* counter, const std::string& why) {
  ++*counter;
  if (const auto left_out = log_limit_.Allow()) {
    Log(LogLevel::kWarn, "node", "closed a connection on the data port",
        {{"peer", it->peer}, {"why", why}, {"left_out", *left_out}});
  }
  loop_.Unwatch(it->fd.get());
  waiting_.erase(it);
}

void DataPort::ArmTimer() {
  loop_.Cancel(timer_);
  const Instant now = loop_.clock().Now();
  if (accepting_ && waiting_.empty()) return;
  const bool early = !accepting_ || std::any_of(waiting_.begin(), waiting_.end(), [](const Waiting& waiting) {
    return waiting.identity.has_value();
  });
  timer_ = loop_.After(early ? Duration(kRetryPause) : waiting_.front().deadline - now, [this] {
    while (!waiting_.empty() && waiting_.front().deadline <= loop_.clock().Now()) {
      const WaitingIt oldest = waiting_.begin();
      if (oldest->identity) {
        Close(oldest, &counters_.refused, "vGPU " + oldest->identity->vgpu + " was not ready in time");
      } else {
        Close(oldest, &counters_.too_slow, "showed no whole hello in time");
      }
    }
    for (WaitingIt it = waiting_.begin(); it != waiting_.end();) {
      const WaitingIt next = std::next(it);
      if (it->identity) Hand(it);
      it = next;
    }
    if (!accepting_) Listen();
    ArmTimer();
  });
}

}  // namespace tulle::node
