#include "tulle/net/wait.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

namespace tulle::net {

Instant Now() { return SystemClock().Now(); }

short WaitFor(int fd, short events, Instant deadline) {
  for (;;) {
    const std::int64_t left_ns = std::max<std::int64_t>(0, (deadline - Now()).count());
    timespec timeout{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
    pollfd entry{fd, events, 0};
    const int ready = ppoll(&entry, 1, &timeout, nullptr);
    if (ready > 0) return entry.revents;
    if (ready == 0) return 0;
    if (errno != EINTR) return POLLERR;
  }
}

}  // namespace tulle::net
