// How long a blocking read of 4 bytes takes: alone, and beside another thread that writes, or reads, 64 MiB
// at a time on a queue and a buffer of its own; and how much that thread moves meanwhile. Prints one JSON
// object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "bench/opencl/client.h"

namespace {

constexpr std::size_t kLargeBytes = 64u << 20;
constexpr double kBeginsUs = 3e5, kLastsUs = 2e6;
constexpr auto kPause = std::chrono::milliseconds(2);

enum class Large { kNone, kWrites, kReads };

cl_mem BufferOf(const FirstDevice& first, std::size_t size_bytes) {
  cl_int status = 0;
  cl_mem buffer = clCreateBuffer(first.context, CL_MEM_READ_WRITE, size_bytes, nullptr, &status);
  Must(status, "clCreateBuffer");
  return buffer;
}

void Measure(const FirstDevice& first, cl_mem small, cl_mem large, std::vector<std::uint64_t>& words,
             Large kind, const char* name) {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> moved_bytes{0};
  std::thread other;
  if (kind != Large::kNone) {
    other = std::thread([&] {
      cl_command_queue queue = first.NewQueue();
      while (!stop) {
        if (kind == Large::kWrites) {
          Must(clEnqueueWriteBuffer(queue, large, CL_TRUE, 0, kLargeBytes, words.data(), 0, nullptr, nullptr),
               "clEnqueueWriteBuffer");
        } else {
          Must(clEnqueueReadBuffer(queue, large, CL_TRUE, 0, kLargeBytes, words.data(), 0, nullptr, nullptr),
               "clEnqueueReadBuffer");
        }
        moved_bytes += kLargeBytes;
      }
      clReleaseCommandQueue(queue);
    });
  }
  const double began_us = NowUs();
  while (NowUs() < began_us + kBeginsUs) std::this_thread::sleep_for(kPause);
  std::vector<double> times_us;
  moved_bytes = 0;
  const double start_us = NowUs();
  while (NowUs() < start_us + kLastsUs) {
    std::uint32_t value = 0;
    const double call_us = NowUs();
    Must(clEnqueueReadBuffer(first.queue, small, CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr),
         "clEnqueueReadBuffer");
    times_us.push_back(NowUs() - call_us);
    std::this_thread::sleep_for(kPause);
  }
  const double moved = static_cast<double>(moved_bytes) / (NowUs() - start_us) / 1e3;
  stop = true;
  if (other.joinable()) other.join();
  std::sort(times_us.begin(), times_us.end());
  std::printf("\"read-4B %s\": {\"value\": %.1f, \"p99\": %.1f}", name, times_us[times_us.size() / 2],
              times_us[times_us.size() * 99 / 100]);
  if (kind != Large::kNone) std::printf(", \"%s\": {\"value\": %.3f}", name, moved);
}

}  // namespace

int main() {
  const FirstDevice first;
  std::vector<std::uint64_t> words = Noise(kLargeBytes);
  cl_mem small = BufferOf(first, 4096), large = BufferOf(first, kLargeBytes);
  std::printf("{");
  Measure(first, small, large, words, Large::kNone, "alone");
  std::printf(", ");
  Measure(first, small, large, words, Large::kWrites, "beside-writes");
  std::printf(", ");
  Measure(first, small, large, words, Large::kReads, "beside-reads");
  std::printf("}\n");
}
