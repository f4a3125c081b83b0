#include "tulle/node/host_load.h"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <sstream>
#include <string>

namespace tulle::node {
namespace {

std::string ReadProc(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Takes the next number off `text`, over blanks. Nothing when there is none.
std::optional<std::uint64_t> TakeNumber(std::string_view* text) {
  text->remove_prefix(std::min(text->find_first_not_of(' '), text->size()));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc()) return std::nullopt;
  text->remove_prefix(static_cast<std::size_t>(end - text->data()));
  return number;
}

bool ReadKibibytes(std::string_view text, std::string_view key, std::uint64_t* bytes) {
  const std::size_t at = text.find(key);
  if (at == std::string_view::npos) return false;
  text.remove_prefix(at + key.size());
  const auto number = TakeNumber(&text);
  if (!number) return false;
  *bytes = *number * 1024;
  return true;
}

}  // namespace

std::optional<CpuTicks> ParseProcStat(std::string_view text) {
  if (!text.starts_with("cpu ")) return std::nullopt;
  text.remove_prefix(4);
  text = text.substr(0, text.find('\n'));
  CpuTicks ticks;
  // user nice system idle iowait irq softirq steal; guest times are in user already.
  for (int i = 0; i < 8; ++i) {
    const auto number = TakeNumber(&text);
    if (!number) return std::nullopt;
    ticks.total += *number;
    if (i != 3 && i != 4) ticks.busy += *number;
  }
  return ticks;
}

bool ParseProcMeminfo(std::string_view text, HostLoad* load) {
  return ReadKibibytes(text, "MemTotal:", &load->memory_total_bytes) &&
         ReadKibibytes(text, "MemAvailable:", &load->memory_available_bytes);
}

HostLoad HostLoadSampler::Sample() {
  HostLoad load{.cpus = static_cast<std::uint32_t>(sysconf(_SC_NPROCESSORS_ONLN))};
  if (const auto ticks = ParseProcStat(ReadProc("/proc/stat"))) {
    if (last_.total != 0 && ticks->total > last_.total) {
      load.cpu_percent = 100.0F * static_cast<float>(ticks->busy - last_.busy) /
                         static_cast<float>(ticks->total - last_.total);
    }
    last_ = *ticks;
  }
  ParseProcMeminfo(ReadProc("/proc/meminfo"), &load);
  return load;
}

// proc(5), /proc/net/route: names of interfaces with their destinations, in hexadecimal digits.
std::uint64_t DefaultLinkBytesPerS() {
  std::ifstream routes("/proc/net/route");
  std::string line;
  while (std::getline(routes, line)) {
    std::istringstream fields(line);
    std::string link, destination;
    if (!(fields >> link >> destination) || destination != "00000000") continue;
    std::ifstream file("/sys/class/net/" + link + "/speed");
    std::int64_t megabits = 0;
    return file >> megabits && megabits > 0 ? static_cast<std::uint64_t>(megabits) * 1'000'000 / 8 : 0;
  }
  return 0;
}

}  // namespace tulle::node
