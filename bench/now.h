// The time, for what benchmarks' programs measure.
#pragma once

#include <chrono>

inline double NowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
