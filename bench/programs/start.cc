// Gets to the device, and no further: an ordinary OpenCL program. Prints one JSON object: milliseconds until
// there is a platform (the driver is loaded) and until the device has answered, MiB that this made resident,
// and how many sockets it opened.
#include <dirent.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>

#include "bench/opencl/client.h"

namespace {

double ResidentMiB() {
  std::ifstream status("/proc/self/statm");
  double all_pages = 0, resident_pages = 0;
  status >> all_pages >> resident_pages;
  return resident_pages * 4096 / (1 << 20);
}

// A socket may have several descriptors.
int OpenSockets() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  std::set<std::string> sockets;
  while (const dirent* entry = readdir(folder)) {
    char target[64] = {};
    const std::string path = std::string("/proc/self/fd/") + entry->d_name;
    if (readlink(path.c_str(), target, sizeof target - 1) <= 0) continue;
    if (std::string(target).starts_with("socket:")) sockets.insert(target);
  }
  closedir(folder);
  return static_cast<int>(sockets.size());
}

}  // namespace

int main() {
  const double resident_before_mib = ResidentMiB();
  const int sockets_before = OpenSockets();
  const double began_us = NowUs();
  const cl_platform_id platform = FirstPlatform();
  const double loaded_us = NowUs();
  const FirstDevice first(platform);
  Must(clFinish(first.queue), "clFinish");
  std::printf("{\"load\": %.3f, \"start\": %.3f, \"resident\": %.2f, \"connections\": %d}\n",
              (loaded_us - began_us) / 1e3, (NowUs() - began_us) / 1e3, ResidentMiB() - resident_before_mib,
              OpenSockets() - sockets_before);
}
