// Does the other end of a TCP connection still live? Not a question to its process, which may be stopped in a
// debugger for an hour: to its host, whose kernel answers what is sent to it.
#pragma once

namespace tulle::net {

enum class PeerState {
  kNothingUnderWay,  // nothing was sent that waits for an answer; keepalive looks after such a connection
  kUnderWay,         // it may still come
  kSilent,           // it should have come long ago: the host or the way to it is gone
};
// Of a socket that is not TCP always kNothingUnderWay.
PeerState LookAtPeer(int fd);

}  // namespace tulle::net
