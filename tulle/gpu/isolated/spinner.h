// How long to look before sleeping. A wake-up across cores costs 10 to 30 us, so looking pays when what is
// awaited comes sooner than that, and only then: the time that recent waits took decides. On a busy machine
// looking is worse than useless: who looks uses up its turn, and waits for the next one while others run,
// whereas who sleeps is let in when it is woken. So the first sign of having been put aside ends the looking,
// for a while that grows each time.
#pragma once

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
    auto last_look = wait_begin_;
    while (true) {
      for (int i = 0; i < 16; ++i) {
        if (ready()) {
          Came();
          busy_for_ = std::max(busy_for_ - busy_for_ / 256, kShortestBusy);
          return true;
        }
        Pause();
      }
      const auto now = Now();
      if (now - last_look > kPutAside) {
        busy_for_ = std::min(2 * busy_for_, kLongestBusy);
        busy_until_ = now + busy_for_;
        return ready();
      }
      if (now >= give_up) return false;
      last_look = now;
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
  static constexpr std::chrono::nanoseconds kPutAside{20'000};  // between two looks, which take about 1
  static constexpr std::chrono::nanoseconds kShortestBusy{2'000'000};
  static constexpr std::chrono::nanoseconds kLongestBusy{256'000'000};

  std::chrono::nanoseconds usual_wait_{kLongest / 2};
  std::chrono::nanoseconds busy_for_{kShortestBusy};
  Time wait_begin_{}, busy_until_{};
  bool waiting_ = false;
};

}  // namespace tulle::gpu::isolated
