#include "tulle/net/tcp/peer.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace tulle::net {
namespace {

// Unanswered attempts to send something again, or to learn whether there is room; the pauses double, so that
// five take 6 s where the round trip is short.
constexpr int kSilentAttempts = 5;

}  // namespace

PeerState LookAtPeer(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return PeerState::kNothingUnderWay;
  // Both are 0 again after any answer: a peer whose process takes nothing has a kernel that says so.
  if (info.tcpi_retransmits >= kSilentAttempts || info.tcpi_probes >= kSilentAttempts)
    return PeerState::kSilent;
  int queued_bytes = 0;
  if (ioctl(fd, SIOCOUTQ, &queued_bytes) != 0 || queued_bytes == 0) return PeerState::kNothingUnderWay;
  return PeerState::kUnderWay;
}

}  // namespace tulle::net
