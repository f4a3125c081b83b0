// Asks a session's thread, from any thread, to end its session. The first request counts.
#pragma once

#include <sys/eventfd.h>

#include <atomic>
#include <optional>
#include <string>

#include "tulle/base/check.h"
#include "tulle/base/guarded.h"
#include "tulle/base/unique_fd.h"
#include "tulle/wire/schema/session.h"

namespace tulle::worker::exec {

class EndRequest {
 public:
  struct Why {
    wire::EndReason reason = wire::EndReason::kShuttingDown;
    std::string message;  // for the client
  };

  EndRequest() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { TULLE_CHECK(event_.valid()); }

  // Thread-safe.
  void Set(wire::EndReason reason, std::string message) {
    auto why = why_.lock();
    if (why->has_value()) return;
    *why = Why{reason, std::move(message)};
    requested_.store(true, std::memory_order_release);
    TULLE_CHECK(eventfd_write(event_.get(), 1) == 0);
  }
  bool requested() const { return requested_.load(std::memory_order_acquire); }
  std::optional<Why> Get() { return *why_.lock(); }
  int fd() const { return event_.get(); }  // readable once it is set

 private:
  UniqueFd event_;
  std::atomic<bool> requested_{false};
  Guarded<std::optional<Why>> why_;
};

}  // namespace tulle::worker::exec
