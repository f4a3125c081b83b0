// The one port through which programs reach the vGPUs of a node, and for those of its own host a unix socket
// that leads to the same. It reads of each connection only what is in the clear, the TLS ClientHello with the
// PSK identity or the line that has the identity alone, and reads it without taking it (MSG_PEEK): the socket
// is then passed on untouched to whom the identity names. What shows no such hello in time is closed,
// counted, and told in one log line every few seconds at most.
//
// Lives on the loop's thread. Bounds: kMaxWaiting connections wait for their hello, each for
// Options::hello_timeout; when one more comes the oldest goes, so that silent connections cannot keep others
// out.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/node/listen.h"
#include "tulle/node/log_limiter.h"
#include "tulle/node/loop.h"
#include "tulle/session/psk_identity.h"

namespace tulle::node {

inline constexpr std::size_t kMaxWaiting = 256;

class DataPort {
 public:
  // Passes the socket on. kUnavailable: nobody takes it yet (the worker is being started); it is asked again
  // soon, for as long as the connection may wait. Another error: nobody will; it is closed and counted as
  // refused.
  using Route = std::function<Status(const session::PskIdentity& identity, int socket)>;

  struct Options {
    HostPort listen;
    std::string socket;  // path; empty: none. One that cannot be had is a warning in the log, not an error
    Duration hello_timeout = std::chrono::seconds(5);
  };

  // `loop` must outlive it.
  static Result<std::unique_ptr<DataPort>> Open(Loop& loop, const Options& options, Route route);
  ~DataPort();
  DataPort(const DataPort&) = delete;
  DataPort& operator=(const DataPort&) = delete;

  const HostPort& address() const { return listener_.address; }
  bool has_socket() const { return local_.valid(); }

  struct Counters {
    std::uint64_t accepted = 0;
    std::uint64_t routed = 0;
    std::uint64_t garbage = 0;   // not a ClientHello of ours
    std::uint64_t too_slow = 0;  // no whole hello in time, or pushed out by newer ones
    std::uint64_t refused = 0;   // no such vGPU here, or its worker takes no more
    std::uint64_t hung_up = 0;   // closed before the hello was complete
    std::size_t waiting = 0;     // now
  };
  Counters counters() const;

 private:
  struct Waiting {
    UniqueFd fd;
    std::string peer;
    Instant deadline;
    std::optional<session::PskIdentity> identity;  // known: waits for its worker
  };
  using WaitingIt = std::list<Waiting>::iterator;

  DataPort(Loop& loop, const Options& options, Listener listener, UniqueFd local, Route route);
  void Listen();
  void StopListening();
  void Accept(int listener);
  void Look(WaitingIt it, std::uint32_t events);
  void Hand(WaitingIt it);
  void Close(WaitingIt it, std::uint64_t* counter, const std::string& why);
  void ArmTimer();

  Loop& loop_;
  const Options options_;
  const Listener listener_;
  const UniqueFd local_;
  const Route route_;
  std::list<Waiting> waiting_;  // oldest first: all have the same timeout
  Loop::TimerId timer_ = 0;
  bool accepting_ = true;
  Counters counters_;
  LogLimiter log_limit_;
};

}  // namespace tulle::node
