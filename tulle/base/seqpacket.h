// Datagrams over a SOCK_SEQPACKET unix socket, with file descriptors beside them: how processes of one host
// that were started together talk (node and worker). A packet arrives whole or not at all.
//
// Functions on a descriptor that the caller owns; any thread, packets are atomic.
#pragma once

#include <span>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle {

// More than any packet between our processes needs; a fixed bound keeps the receiver's ancillary buffer
// small.
inline constexpr std::size_t kMaxPacketFds = 4;

struct SeqPacketPair {
  UniqueFd parent;  // close-on-exec, as everything of ours
  UniqueFd child;   // the same: the spawner decides under which number the child gets it
};
Result<SeqPacketPair> MakeSeqPacketPair();

// Sends one packet; the peer gets duplicates of `fds` (at most kMaxPacketFds), the caller keeps its own.
// Never raises SIGPIPE and never blocks: kUnavailable when the peer is gone, kResourceExhausted when the
// socket's buffer is full (the packet was not sent; wait for POLLOUT or give up).
Status SendPacket(int socket, ByteView packet, std::span<const int> fds = {});

// Receives one packet into `out` without blocking.
struct ReceivedPacket {
  std::size_t size_bytes = 0;
  bool none = false;          // nothing has arrived: wait for POLLIN
  std::vector<UniqueFd> fds;  // close-on-exec
};
// kUnavailable when the peer has closed; kInvalidArgument when the packet was longer than `out` or carried
// more descriptors than kMaxPacketFds (it is gone, what came with it is closed). An empty packet cannot be
// told from the end of the stream, so it counts as one.
Result<ReceivedPacket> ReceivePacket(int socket, MutableByteView out);

}  // namespace tulle
