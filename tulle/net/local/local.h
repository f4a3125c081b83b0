// Between processes of one host: a unix socket in the file system, over which descriptors can go, too.
//
// An endpoint names the host (by its kernel's boot id, so that nobody looks for a socket that is on another
// one), the user whose process listens (so that nobody else can pose as it), and the socket's path.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/transport.h"

namespace tulle::net {

// Longer ones do not fit into a socket's address.
inline constexpr std::size_t kMaxLocalPathBytes = 107;

struct LocalEndpoint {
  std::string boot_id;  // of the host; as BootId() has it
  uid_t uid = 0;        // of who listens
  std::string path;     // absolute
};

// "local:BOOT-ID:UID:PATH".
bool IsLocalEndpoint(std::string_view text);
Result<LocalEndpoint> ParseLocalEndpoint(std::string_view text);
std::string FormatLocalEndpoint(const LocalEndpoint& endpoint);

// What tells this boot of this host from all others; empty where the kernel does not say.
std::string BootId();

// kUnavailable: it is on another host, or not to be seen from here (a container), nobody listens, or it is
// not that user who does.
Result<UniqueFd> ConnectLocal(const LocalEndpoint& endpoint);

// Listens there, for every user that may reach the folder; non-blocking. Takes the place of a socket that was
// left behind; kAlreadyExists when somebody listens there. Whoever closes it unlinks the path.
Result<UniqueFd> ListenLocal(const std::string& path);

// Whether the socket was accepted by such a listener.
bool IsLocalSocket(int socket);

// Who is at the other end, as the kernel says.
struct LocalPeer {
  pid_t pid = 0;
  uid_t uid = 0;
};
Result<LocalPeer> PeerOf(int socket);
// A pidfd of that process: readable once it has ended. Invalid where it is not to be seen from here.
UniqueFd ProcessOf(int socket);

// The Transport over a connected one. Where `takes_descriptors` is false, those that the peer sends are
// dropped.
std::unique_ptr<Transport> MakeLocalTransport(UniqueFd socket, bool takes_descriptors);

}  // namespace tulle::net
