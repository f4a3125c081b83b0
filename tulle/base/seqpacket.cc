#include "tulle/base/seqpacket.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "tulle/base/check.h"

namespace tulle {
namespace {

constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(int) * kMaxPacketFds);

}  // namespace

Result<SeqPacketPair> MakeSeqPacketPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoError("socketpair", errno);
  return SeqPacketPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Status SendPacket(int socket, ByteView packet, std::span<const int> fds) {
  TULLE_CHECK(!packet.empty() && fds.size() <= kMaxPacketFds);
  iovec piece{const_cast<std::byte*>(packet.data()), packet.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[kControlBytes] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  for (;;) {
    if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return OkStatus();
    if (errno == EINTR) continue;
    Error error = ErrnoError("cannot send a packet", errno);
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      error.code = Code::kResourceExhausted;
      error.retry = Retry::kSame;
    } else if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
      error.code = Code::kUnavailable;
    }
    return error;
  }
}

Result<ReceivedPacket> ReceivePacket(int socket, MutableByteView out) {
  iovec piece{out.data(), out.size()};
  alignas(cmsghdr) char control[kControlBytes];
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = 0;
  do {
    size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);

  ReceivedPacket received;
  if (size < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      received.none = true;
      return received;
    }
    Error error = ErrnoError("cannot receive a packet", errno);
    if (errno == ECONNRESET || errno == ENOTCONN) error.code = Code::kUnavailable;
    return error;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      received.fds.emplace_back(fd);
    }
  }
  if (size == 0) return Error{Code::kUnavailable, "the peer closed its end of the socket"};
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return Error{Code::kInvalidArgument, "a packet was longer than " + std::to_string(out.size()) +
                                             " bytes or carried more than " + std::to_string(kMaxPacketFds) +
                                             " descriptors"};
  }
  received.size_bytes = static_cast<std::size_t>(size);
  return received;
}

}  // namespace tulle
