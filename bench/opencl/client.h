// What the benchmarks' OpenCL programs share. They are ordinary ones: the same binary runs natively and on a
// vGPU.
#pragma once

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench/now.h"

inline void Must(cl_int status, const char* call) {
  if (status == CL_SUCCESS) return;
  std::fprintf(stderr, "%s: OpenCL status %d\n", call, status);
  std::exit(1);
}

inline cl_platform_id FirstPlatform() {
  cl_platform_id platform = nullptr;
  Must(clGetPlatformIDs(1, &platform, nullptr), "clGetPlatformIDs");
  return platform;
}

// The first device that there is, ready to be given work. Kept until the program ends.
struct FirstDevice {
  explicit FirstDevice(cl_platform_id platform = FirstPlatform()) {
    Must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), "clGetDeviceIDs");
    cl_int status = 0;
    context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &status);
    Must(status, "clCreateContext");
    queue = NewQueue();
  }
  cl_command_queue NewQueue() const {
    cl_int status = 0;
    cl_command_queue made = clCreateCommandQueue(context, device, 0, &status);
    Must(status, "clCreateCommandQueue");
    return made;
  }
  cl_device_id device = nullptr;
  cl_context context = nullptr;
  cl_command_queue queue = nullptr;
};

// Bytes of which no compression saves any, rounded up to words: they are compared with bare copies.
inline std::vector<std::uint64_t> Noise(std::size_t size_bytes) {
  std::vector<std::uint64_t> words((size_bytes + 7) / 8);
  std::generate(words.begin(), words.end(), std::mt19937_64(1));
  return words;
}
