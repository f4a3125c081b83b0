// Writes to a buffer and reads back what different programs move: blocking transfers, on the first device.
// Prints one JSON object: GB/s, the median of a few.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bench/opencl/client.h"

namespace {

constexpr std::size_t kBytes = 16u << 20;
constexpr int kTransfers = 3;
using Bytes = std::vector<char>;

std::mt19937_64 g_random(1);

// Words in an order of their own.
Bytes Text() {
  std::vector<std::string> words(2000);
  for (std::string& word : words) {
    word.resize(2 + g_random() % 8);
    for (char& letter : word) letter = static_cast<char>('a' + g_random() % 26);
  }
  Bytes bytes;
  while (bytes.size() < kBytes) {
    const std::string& word = words[std::min(g_random() % words.size(), g_random() % words.size())];
    bytes.insert(bytes.end(), word.begin(), word.end());
    bytes.push_back(' ');
  }
  bytes.resize(kBytes);
  return bytes;
}

// Numbers of which nine in ten are 0, as in a matrix with few entries.
Bytes Sparse() {
  Bytes bytes(kBytes);
  for (std::size_t at = 0; at + sizeof(float) <= kBytes; at += sizeof(float)) {
    if (g_random() % 10 != 0) continue;
    const float value = static_cast<float>(g_random() % 1'000'000) / 7;
    std::memcpy(&bytes[at], &value, sizeof value);
  }
  return bytes;
}

// A picture in RGBA, of areas with a little noise.
Bytes Image() {
  constexpr std::size_t kWidth = 2048;
  Bytes bytes(kBytes);
  for (std::size_t i = 0; i < kBytes / 4; ++i) {
    const std::size_t area = (i % kWidth) / 64 + (i / kWidth) / 64 * (kWidth / 64);
    for (std::size_t channel = 0; channel < 3; ++channel) {
      bytes[4 * i + channel] = static_cast<char>(area * (channel + 3) * 37 + (g_random() % 8 == 0 ? 1 : 0));
    }
    bytes[4 * i + 3] = static_cast<char>(255);
  }
  return bytes;
}

// Numbers that are results: nothing repeats.
Bytes Floats() {
  Bytes bytes(kBytes);
  for (std::size_t at = 0; at + sizeof(float) <= kBytes; at += sizeof(float)) {
    const float value = std::sin(static_cast<float>(at) * 0.001f) * 3;
    std::memcpy(&bytes[at], &value, sizeof value);
  }
  return bytes;
}

Bytes Random() {
  const std::vector<std::uint64_t> words = Noise(kBytes);
  Bytes bytes(kBytes);
  std::memcpy(bytes.data(), words.data(), kBytes);
  return bytes;
}

template <typename Transfer>
double GbPerS(const Transfer& transfer) {
  std::vector<double> times_us;
  transfer();  // which bytes these are has to be found out
  for (int i = 0; i < kTransfers; ++i) {
    const double start_us = NowUs();
    transfer();
    times_us.push_back(NowUs() - start_us);
  }
  std::sort(times_us.begin(), times_us.end());
  return kBytes / times_us[kTransfers / 2] / 1e3;
}

}  // namespace

int main() {
  cl_int status = 0;
  const FirstDevice first;
  cl_mem buffer = clCreateBuffer(first.context, CL_MEM_READ_WRITE, kBytes, nullptr, &status);
  Must(status, "clCreateBuffer");
  Bytes back(kBytes);
  const char* separator = "{";
  for (const auto& [name, bytes] :
       {std::pair("text", Text()), std::pair("sparse", Sparse()), std::pair("image", Image()),
        std::pair("floats", Floats()), std::pair("random", Random())}) {
    const double write = GbPerS([&] {
      Must(clEnqueueWriteBuffer(first.queue, buffer, CL_TRUE, 0, kBytes, bytes.data(), 0, nullptr, nullptr),
           "clEnqueueWriteBuffer");
    });
    const double read = GbPerS([&] {
      Must(clEnqueueReadBuffer(first.queue, buffer, CL_TRUE, 0, kBytes, back.data(), 0, nullptr, nullptr),
           "clEnqueueReadBuffer");
    });
    if (back != bytes) Must(1, "comparing what was read with what was written");
    std::printf("%s\"write %s\": {\"value\": %.5f}, \"read %s\": {\"value\": %.5f}", separator, name, write,
                name, read);
    separator = ", ";
  }
  std::printf("}\n");
}
