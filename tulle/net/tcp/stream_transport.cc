#include "tulle/net/tcp/stream_transport.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace tulle::net {
namespace {

constexpr std::size_t kMaxPieces = 64;  // of one sendmsg; more are left for the next call

// A peer whose host is gone is noticed on an idle connection after 10 + 4 * 5 seconds. Not TCP_USER_TIMEOUT,
// which would also end a connection whose live peer takes nothing for a while.
constexpr int kKeepIdleSeconds = 10;
constexpr int kKeepIntervalSeconds = 5;
constexpr int kKeepProbes = 4;

Error ConnectionError(const char* what, int error_number) {
  Error error = ErrnoError(what, error_number);
  error.code = Code::kUnavailable;
  error.scope = Scope::kSession;
  return error;
}

class StreamTransport final : public Transport {
 public:
  explicit StreamTransport(UniqueFd socket) : socket_(std::move(socket)) {
    PrepareStreamSocket(socket_.get());
  }

  Result<std::size_t> Read(MutableByteView out) override { return ReceiveSome(socket_.get(), out); }
  Result<std::size_t> Write(std::span<const iovec> pieces) override {
    return SendSome(socket_.get(), pieces);
  }
  int fd() const override { return socket_.get(); }
  short read_events() const override { return POLLIN; }
  short write_events() const override { return POLLOUT; }
  bool has_buffered_input() const override { return false; }
  void Shutdown() override { ::shutdown(socket_.get(), SHUT_RDWR); }

 private:
  UniqueFd socket_;
};

}  // namespace

void PrepareStreamSocket(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags >= 0) fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  const int on = 1;
  // These fail on a unix socket, which never delays and whose peer cannot vanish without a word.
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepIdleSeconds, sizeof kKeepIdleSeconds);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepIntervalSeconds, sizeof kKeepIntervalSeconds);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &kKeepProbes, sizeof kKeepProbes);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

Result<std::size_t> ReceiveSome(int fd, MutableByteView out) {
  if (out.empty()) return std::size_t{0};
  for (;;) {
    const ssize_t got = recv(fd, out.data(), out.size(), MSG_DONTWAIT);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0) {
      return Error{Code::kUnavailable, "the peer closed the connection", Scope::kSession};
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::size_t{0};
    if (errno != EINTR) return ConnectionError("receive", errno);
  }
}

Result<std::size_t> SendSome(int fd, std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = std::min(pieces.size(), kMaxPieces);
  if (message.msg_iovlen == 0) return std::size_t{0};
  for (;;) {
    const ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::size_t{0};
    if (errno != EINTR) return ConnectionError("send", errno);
  }
}

std::unique_ptr<Transport> MakeStreamTransport(UniqueFd socket) {
  return std::make_unique<StreamTransport>(std::move(socket));
}

}  // namespace tulle::net
