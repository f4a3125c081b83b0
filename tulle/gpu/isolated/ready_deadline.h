// Ends a process that is not ready in time.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

#include "tulle/sandbox/launcher.h"

namespace tulle::gpu::isolated {

class ReadyDeadline {
 public:
  // Kills `child`, which must outlive this, unless Met() is called within `time`.
  ReadyDeadline(sandbox::Child* child, std::chrono::milliseconds time)
      : watch_([this, child, time](const std::stop_token& met) {
          std::mutex mutex;
          std::unique_lock lock(mutex);
          std::condition_variable_any until;
          until.wait_for(lock, met, time, [] { return false; });
          if (met.stop_requested()) return;
          missed_ = true;
          child->Kill();
        }) {}
  void Met() { watch_.request_stop(); }
  bool missed() const { return missed_; }

 private:
  std::atomic<bool> missed_{false};
  std::jthread watch_;  // last: it uses the others
};

}  // namespace tulle::gpu::isolated
