// How busy the host is, from /proc. Parsing is apart from reading so that it can be tested with texts.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tulle::node {

struct HostLoad {
  std::uint32_t cpus = 0;
  float cpu_percent = 0;  // of all CPUs together, since the sample before
  std::uint64_t memory_total_bytes = 0;
  std::uint64_t memory_available_bytes = 0;
};

// Clock ticks since boot, of all CPUs together.
struct CpuTicks {
  std::uint64_t busy = 0;
  std::uint64_t total = 0;
};

// From the text of /proc/stat. Nothing when it is not one.
std::optional<CpuTicks> ParseProcStat(std::string_view text);
// From the text of /proc/meminfo; false when it is not one.
bool ParseProcMeminfo(std::string_view text, HostLoad* load);

// Samples the host. Not thread-safe.
class HostLoadSampler {
 public:
  // What /proc does not tell stays 0.
  HostLoad Sample();

 private:
  CpuTicks last_;
};

// How fast the link of the default route is, in one direction, in bytes a second; 0: it does not say, or
// there is none.
std::uint64_t DefaultLinkBytesPerS();

}  // namespace tulle::node
