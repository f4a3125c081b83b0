// The software CUDA device as a driver of its own.
//
//   TULLE_SOFTCUDA_MEMORY   memory of the device, such as 4GiB [half of what the host has left]
//   TULLE_SOFTCUDA_THREADS  threads of the host that kernels run on [all]
//   TULLE_LOG               least level that is logged, to standard error [off]
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/gpu/softcuda/soft_device.h"
#include "tulle/shim/cuda/driver.h"

namespace tulle::shim::cuda {
namespace {

Error Invalid(const char* name, const char* value, const char* what) {
  return {Code::kInvalidArgument, std::string(name) + "=" + value + ": " + what};
}

}  // namespace

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  LogLevel level = LogLevel::kOff;
  if (const char* text = std::getenv("TULLE_LOG"); text != nullptr && ParseLogLevel(text, &level))
    SetLogSink(&StderrLogSink, level);
  gpu::softcuda::SoftDeviceOptions options;
  options.memory_bytes = static_cast<std::uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
                         static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 2;
  options.threads = std::max(std::thread::hardware_concurrency(), 1u);
  if (const char* text = std::getenv("TULLE_SOFTCUDA_MEMORY")) {
    if (!ParseSize(text, &options.memory_bytes) || options.memory_bytes == 0)
      return Invalid("TULLE_SOFTCUDA_MEMORY", text, "a size is needed, such as 4GiB");
  }
  if (const char* text = std::getenv("TULLE_SOFTCUDA_THREADS")) {
    char* end = nullptr;
    const unsigned long threads = std::strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || threads == 0 || threads > 1024)
      return Invalid("TULLE_SOFTCUDA_THREADS", text, "a number from 1 to 1024 is needed");
    options.threads = static_cast<std::uint32_t>(threads);
  }
  TULLE_ASSIGN_OR_RETURN(auto device, gpu::softcuda::MakeSoftDevice(options));
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(device));
  return devices;
}

}  // namespace tulle::shim::cuda
