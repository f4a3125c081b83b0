#include "tulle/gpu/api/device_nodes.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>

namespace tulle::gpu {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kNvidia = "0x10de", kAmd = "0x1002";

std::string FirstWord(const fs::path& file) {
  std::string word;
  std::ifstream(file) >> word;
  return word;
}

// "Device Minor: 3" of what NVIDIA's driver tells of a GPU.
std::string NvidiaMinor(const fs::path& information) {
  std::ifstream file(information);
  for (std::string line; std::getline(file, line);) {
    constexpr std::string_view kKey = "Device Minor:";
    if (!line.starts_with(kKey)) continue;
    line.erase(0, line.find_first_not_of(" \t", kKey.size()));
    if (!line.empty() &&
        std::all_of(line.begin(), line.end(), [](unsigned char c) { return std::isdigit(c); }))
      return line;
  }
  return "";
}

}  // namespace

std::vector<std::string> DeviceNodesOf(std::string_view pci_address, const std::string& root) {
  const bool is_address =
      !pci_address.empty() && std::all_of(pci_address.begin(), pci_address.end(), [](unsigned char c) {
        return std::isxdigit(c) != 0 || c == ':' || c == '.';
      });
  if (!is_address) return {};
  std::string address(pci_address);
  std::transform(address.begin(), address.end(), address.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::vector<std::string> wanted;
  const fs::path device = root + "/sys/bus/pci/devices/" + address;
  const std::string vendor = FirstWord(device / "vendor");
  if (vendor == kNvidia) {
    const std::string minor = NvidiaMinor(root + "/proc/driver/nvidia/gpus/" + address + "/information");
    if (!minor.empty()) wanted.push_back("/dev/nvidia" + minor);
    for (const char* shared : {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"})
      wanted.emplace_back(shared);
  } else {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(device / "drm", error)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("renderD")) wanted.push_back("/dev/dri/" + name);
    }
    if (vendor == kAmd) wanted.emplace_back("/dev/kfd");
  }
  std::erase_if(wanted, [&](const std::string& path) {
    std::error_code error;
    return !fs::exists(root + path, error);
  });
  return wanted;
}

}  // namespace tulle::gpu
