// For tests: a bad network in one process. Programs connect to the relay instead of the real port; it passes
// bytes on, late if so asked, and cuts connections at any byte, in either of the ways in which they end. From
// outside it looks like a program that moves to another address each time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "tulle/base/clock.h"
#include "tulle/base/unique_fd.h"
#include "tulle/net/tcp/socket.h"

namespace tulle::net {

class Relay {
 public:
  struct Options {
    Endpoint target;
    std::uint64_t seed = 1;
    // Each connection is cut after up to so many bytes, both directions together; 0: never.
    std::uint64_t cut_within_bytes = 0;
    std::uint64_t spared_bytes = 0;   // of each connection: not within them
    std::uint64_t spared = 0;         // of the first connections: never
    std::uint64_t most_cuts = ~0ull;  // then no more
    Duration delay{};                 // each way
    std::uint64_t bytes_per_s = 0;    // each way of each connection; 0: as fast as it can
  };
  // Listens on 127.0.0.1, and serves on a thread of its own.
  static Result<std::unique_ptr<Relay>> Start(const Options& options);
  ~Relay();

  std::uint16_t port() const { return port_; }
  std::uint64_t cuts() const { return cuts_.load(); }
  std::uint64_t connections() const { return connections_.load(); }
  // Cuts every connection; when this returns there is none. Refuses new ones if `refuse`, until the next
  // call.
  void CutAll(bool refuse);

 private:
  struct Connection;
  Relay(const Options& options, Listener listener);
  void Run();
  void Wake();

  const Options options_;
  const UniqueFd listener_;
  const std::uint16_t port_;
  UniqueFd wake_;
  std::atomic<bool> stop_{false}, cut_all_{false}, refuse_{false};
  std::atomic<std::uint64_t> cuts_{0}, connections_{0};
  std::thread thread_;
};

}  // namespace tulle::net
