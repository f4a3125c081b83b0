// What the benchmarks' OpenCL programs share. They are ordinary ones: the same binary runs natively and on a
// vGPU.
#pragma once

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

inline void Must(cl_int status, const char* call) {
  if (status == CL_SUCCESS) return;
  std::fprintf(stderr, "%s: OpenCL status %d\n", call, status);
  std::exit(1);
}

inline double NowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Bytes of which no compression saves any, rounded up to words: they are compared with bare copies.
inline std::vector<std::uint64_t> Noise(std::size_t size_bytes) {
  std::vector<std::uint64_t> words((size_bytes + 7) / 8);
  std::generate(words.begin(), words.end(), std::mt19937_64(1));
  return words;
}
