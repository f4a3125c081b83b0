// How long to look before sleeping. A wake-up across cores costs 10 to 30 us, so looking pays when what is
// awaited comes sooner than that, and only then: the time that recent waits took decides. Backs off at once
// when the machine is busy, because then the one we wait for needs this core.
#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tulle::gpu::isolated {

class Spinner {
 public:
  // Looks for `ready()`; true when it came. One thread.
  template <typename Ready>
  bool Spin(Ready&& ready) {
    if (ready()) return true;
    wait_begin_ = Now();
    waiting_ = true;
    if (usual_wait_ > kLongest || wait_begin_ < busy_until_) return false;
    const auto give_up = wait_begin_ + std::min(kLongest, 2 * usual_wait_ + kShortest);
    while (true) {
      for (int i = 0; i < 32; ++i) {
        if (ready()) {
          Came();
          return true;
        }
        Pause();
      }
      const auto now = Now();
      if (now >= give_up) return false;
      if (now - last_yield_ > kYieldEvery) {
        sched_yield();
        last_yield_ = Now();
        // Somebody else has run meanwhile.
        if (last_yield_ - now > kYieldEvery) {
          busy_until_ = last_yield_ + kBusyFor;
          return ready();
        }
      }
    }
  }

  // What was waited for is there (after a sleep, too).
  void Came() {
    if (!waiting_) return;
    waiting_ = false;
    // A long wait counts as just too long, so that a few short ones make it worth looking again.
    const auto wait = std::min<std::chrono::nanoseconds>(Now() - wait_begin_, 4 * kLongest);
    usual_wait_ = (3 * usual_wait_ + wait) / 4;
  }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static Time Now() { return std::chrono::steady_clock::now(); }
  static void Pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  static constexpr std::chrono::nanoseconds kLongest{50'000};
  static constexpr std::chrono::nanoseconds kShortest{5'000};
  static constexpr std::chrono::nanoseconds kYieldEvery{4'000};
  static constexpr std::chrono::nanoseconds kBusyFor{2'000'000};

  std::chrono::nanoseconds usual_wait_{kLongest / 2};
  Time wait_begin_{}, last_yield_{}, busy_until_{};
  bool waiting_ = false;
};

}  // namespace tulle::gpu::isolated
