#include "tulle/net/local/local.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "tulle/net/tcp/stream_transport.h"

namespace tulle::net {
namespace {

constexpr std::string_view kScheme = "local:";
constexpr std::size_t kBootIdBytes = 36;  // a UUID
constexpr int kBacklog = 512;
constexpr int kPeerPidFd = 77;          // SO_PEERPIDFD, which older headers do not have
constexpr std::size_t kMaxPieces = 64;  // of one sendmsg; more are left for the next call

Result<UniqueFd> MakeSocket(const std::string& path, sockaddr_un* address) {
  if (path.empty() || path.front() != '/' || path.size() > kMaxLocalPathBytes) {
    return Error{Code::kInvalidArgument,
                 "'" + path + "' is no path for a socket: it must be absolute and have at most " +
                     std::to_string(kMaxLocalPathBytes) + " bytes"};
  }
  *address = {};
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoError("create a socket", errno);
  return socket;
}

Error CannotConnect(const std::string& path, int error_number) {
  Error error = ErrnoError("connect to " + path, error_number);
  error.code = Code::kUnavailable;
  return error;
}

class LocalTransport final : public Transport {
 public:
  LocalTransport(UniqueFd socket, bool takes_descriptors)
      : socket_(std::move(socket)), takes_descriptors_(takes_descriptors) {
    PrepareStreamSocket(socket_.get());
  }

  Result<std::size_t> Read(MutableByteView out) override {
    if (!takes_descriptors_) return ReceiveSome(socket_.get(), out);
    if (out.empty()) return std::size_t{0};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))];
    for (;;) {
      iovec piece{out.data(), out.size()};
      msghdr message{};
      message.msg_iov = &piece;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      const ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (got > 0) {
        const cmsghdr* header = CMSG_FIRSTHDR(&message);
        if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
            header->cmsg_len == CMSG_LEN(sizeof(int))) {
          int fd = -1;
          std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
          received_.reset(fd);
        }
        return static_cast<std::size_t>(got);
      }
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::size_t{0};
      return ReceiveSome(socket_.get(), out);  // says what has happened
    }
  }

  Result<std::size_t> Write(std::span<const iovec> pieces) override {
    if (!passed_.valid()) return SendSome(socket_.get(), pieces);
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces.data());
    message.msg_iovlen = std::min(pieces.size(), kMaxPieces);
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (std::all_of(pieces.begin(), pieces.end(), [](const iovec& piece) { return piece.iov_len == 0; })) {
      return std::size_t{0};
    }
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = passed_.get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    for (;;) {
      const ssize_t sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) passed_.reset();
      if (sent >= 0) return static_cast<std::size_t>(sent);
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return std::size_t{0};
      return SendSome(socket_.get(), pieces);
    }
  }

  int fd() const override { return socket_.get(); }
  short read_events() const override { return POLLIN; }
  short write_events() const override { return POLLOUT; }
  bool has_buffered_input() const override { return false; }
  void Shutdown() override { ::shutdown(socket_.get(), SHUT_RDWR); }

  bool PassDescriptor(int fd) override {
    passed_.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return passed_.valid();
  }
  bool carries_descriptors() const override { return takes_descriptors_; }
  UniqueFd TakeDescriptor() override { return std::move(received_); }

 private:
  const UniqueFd socket_;
  const bool takes_descriptors_;
  UniqueFd passed_;    // the writer's: goes with its next byte
  UniqueFd received_;  // the reader's
};

}  // namespace

bool IsLocalEndpoint(std::string_view text) { return text.starts_with(kScheme); }

Result<LocalEndpoint> ParseLocalEndpoint(std::string_view text) {
  const auto bad = [&] {
    return Error{Code::kInvalidArgument,
                 "'" + std::string(text) + "' is not a local endpoint: write local:BOOT-ID:UID:/PATH"};
  };
  if (!IsLocalEndpoint(text)) return bad();
  std::string_view rest = text.substr(kScheme.size());
  LocalEndpoint endpoint;
  endpoint.boot_id = rest.substr(0, std::min(rest.size(), kBootIdBytes));
  const auto is_id_byte = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '-'; };
  if (endpoint.boot_id.size() != kBootIdBytes ||
      !std::all_of(endpoint.boot_id.begin(), endpoint.boot_id.end(), is_id_byte)) {
    return bad();
  }
  rest.remove_prefix(kBootIdBytes);
  if (!rest.starts_with(':')) return bad();
  rest.remove_prefix(1);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), endpoint.uid);
  if (error != std::errc()) return bad();
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  if (!rest.starts_with(":/")) return bad();
  endpoint.path = rest.substr(1);
  const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  if (endpoint.path.size() > kMaxLocalPathBytes ||
      std::any_of(endpoint.path.begin(), endpoint.path.end(), is_control)) {
    return bad();
  }
  return endpoint;
}

std::string FormatLocalEndpoint(const LocalEndpoint& endpoint) {
  return std::string(kScheme) + endpoint.boot_id + ":" + std::to_string(endpoint.uid) + ":" + endpoint.path;
}

std::string BootId() {
  const UniqueFd file(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[kBootIdBytes];
  if (!file.valid() || read(file.get(), text, sizeof text) != static_cast<ssize_t>(sizeof text)) return "";
  return {text, sizeof text};
}

Result<UniqueFd> ConnectLocal(const LocalEndpoint& endpoint) {
  if (endpoint.boot_id != BootId()) return Error{Code::kUnavailable, endpoint.path + " is on another host"};
  sockaddr_un address;
  TULLE_ASSIGN_OR_RETURN(UniqueFd socket, MakeSocket(endpoint.path, &address));
  // It is connected at once, or not at all: EAGAIN says that too many wait to be accepted.
  int result;
  do {
    result = connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return CannotConnect(endpoint.path, errno);
  TULLE_ASSIGN_OR_RETURN(const LocalPeer peer, PeerOf(socket.get()));
  if (peer.uid != endpoint.uid) {
    return Error{Code::kUnavailable, endpoint.path + " is served by user " + std::to_string(peer.uid) +
                                         ", not " + std::to_string(endpoint.uid)};
  }
  return socket;
}

Result<UniqueFd> ListenLocal(const std::string& path) {
  sockaddr_un address;
  TULLE_ASSIGN_OR_RETURN(UniqueFd socket, MakeSocket(path, &address));
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  int bound = bind(socket.get(), name, sizeof address);
  if (bound != 0 && errno == EADDRINUSE) {
    TULLE_ASSIGN_OR_RETURN(const UniqueFd probe, MakeSocket(path, &address));
    if (connect(probe.get(), name, sizeof address) == 0 || errno != ECONNREFUSED) {
      return Error{Code::kAlreadyExists, "another process listens on " + path + ", or it is not a socket"};
    }
    unlink(path.c_str());
    bound = bind(socket.get(), name, sizeof address);
  }
  if (bound != 0 || chmod(path.c_str(), 0666) != 0 || listen(socket.get(), kBacklog) != 0) {
    return ErrnoError("listen on " + path, errno);
  }
  return socket;
}

bool IsLocalSocket(int socket) {
  sockaddr_un address{};
  socklen_t size = sizeof address;
  return getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
         address.sun_family == AF_UNIX && size > offsetof(sockaddr_un, sun_path) &&
         address.sun_path[0] == '/';
}

Result<LocalPeer> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoError("ask who is at the other end of a socket", errno);
  }
  return LocalPeer{credentials.pid, credentials.uid};
}

UniqueFd ProcessOf(int socket) {
  int fd = -1;
  socklen_t size = sizeof fd;
  if (getsockopt(socket, SOL_SOCKET, kPeerPidFd, &fd, &size) == 0) return UniqueFd(fd);
  if (errno != ENOPROTOOPT) return {};
  // Before Linux 6.5: the process is as likely there still as its number is still its.
  const auto peer = PeerOf(socket);
  if (!peer.ok() || peer->pid <= 0) return {};
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, peer->pid, 0)));
}

std::unique_ptr<Transport> MakeLocalTransport(UniqueFd socket, bool takes_descriptors) {
  return std::make_unique<LocalTransport>(std::move(socket), takes_descriptors);
}

}  // namespace tulle::net
