// delayed US: a round trip of 64 bytes over plain TCP through a relay that keeps everything for so many
// microseconds, each way. Prints a JSON object with the median and the 99th percentile in microseconds.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "tulle/net/testing/relay.h"
#include "tulle/net/wait.h"

namespace {

using namespace tulle;

constexpr int kPings = 60;
using Ping = std::array<char, 64>;

bool Transfer(int socket, Ping& ping, bool sends) {
  for (std::size_t done = 0; done < ping.size();) {
    if (net::WaitFor(socket, sends ? POLLOUT : POLLIN, net::Now() + std::chrono::seconds(10)) == 0)
      return false;
    const ssize_t moved = sends ? send(socket, ping.data() + done, ping.size() - done, MSG_NOSIGNAL)
                                : recv(socket, ping.data() + done, ping.size() - done, 0);
    if (moved <= 0) return false;
    done += static_cast<std::size_t>(moved);
  }
  return true;
}

void SendAtOnce(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s MICROSECONDS\n", argv[0]);
    return 2;
  }
  auto listener = net::ListenTcp("127.0.0.1", 0);
  if (!listener.ok()) return 1;
  const auto relay = net::Relay::Start(
      {.target = {"127.0.0.1", listener->port}, .delay = std::chrono::microseconds(std::atoll(argv[1]))});
  if (!relay.ok()) return 1;
  std::thread echo([&] {
    net::WaitFor(listener->socket.get(), POLLIN, net::Now() + std::chrono::seconds(10));
    const UniqueFd socket(accept(listener->socket.get(), nullptr, nullptr));
    SendAtOnce(socket.get());
    Ping ping;
    while (Transfer(socket.get(), ping, false) && Transfer(socket.get(), ping, true)) {
    }
  });
  std::vector<double> times_us;
  {
    const auto socket =
        net::ConnectTcp({"127.0.0.1", (*relay)->port()}, net::Now() + std::chrono::seconds(10));
    if (!socket.ok()) return 1;
    SendAtOnce(socket->get());
    Ping ping{};
    for (int i = 0; i < kPings; ++i) {
      const Instant start = net::Now();
      if (!Transfer(socket->get(), ping, true) || !Transfer(socket->get(), ping, false)) return 1;
      times_us.push_back(static_cast<double>((net::Now() - start).count()) / 1e3);
    }
  }
  echo.join();
  std::sort(times_us.begin(), times_us.end());
  std::printf("{\"round-trip\": {\"value\": %.3f, \"p99\": %.3f}}\n", times_us[kPings / 2],
              times_us[kPings * 99 / 100]);
  return 0;
}
