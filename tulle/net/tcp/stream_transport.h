// The Transport over a plain connected stream socket: TCP, or a unix socketpair (the in-process transport).
// Owns the socket; bytes are neither hidden nor authenticated.
#pragma once

#include <memory>

#include "tulle/base/unique_fd.h"
#include "tulle/net/transport.h"

namespace tulle::net {

// Makes the socket non-blocking and, when it is TCP, unbatched (TCP_NODELAY). Never raises SIGPIPE.
std::unique_ptr<Transport> MakeStreamTransport(UniqueFd socket);

// For any stream socket that bytes will be framed over: O_NONBLOCK, and, where they exist, TCP_NODELAY and
// keepalive probes that notice within 30 s a peer whose host is gone.
void PrepareStreamSocket(int fd);

// One recv or sendmsg, in the terms of Transport::Read and Write.
Result<std::size_t> ReceiveSome(int fd, MutableByteView out);
Result<std::size_t> SendSome(int fd, std::span<const iovec> pieces);

}  // namespace tulle::net
