// Software CUDA devices as a driver of their own.
//
//   TULLE_SOFTCUDA_DEVICES  how many there are [1]
//   TULLE_SOFTCUDA_MEMORY   memory of each, such as 4GiB [together half of what the host has left]
//   TULLE_SOFTCUDA_THREADS  threads of the host that kernels of each run on [all]
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

// A number from 1 to `most`, if the environment has one.
Status ReadNumber(const char* name, unsigned long most, std::uint32_t* number) {
  const char* const text = std::getenv(name);
  if (text == nullptr) return OkStatus();
  char* end = nullptr;
  const unsigned long value = std::strtoul(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value == 0 || value > most)
    return Invalid(name, text, ("a number from 1 to " + std::to_string(most) + " is needed").c_str());
  *number = static_cast<std::uint32_t>(value);
  return OkStatus();
}

}  // namespace

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  LogLevel level = LogLevel::kOff;
  if (const char* text = std::getenv("TULLE_LOG"); text != nullptr && ParseLogLevel(text, &level))
    SetLogSink(&StderrLogSink, level);
  std::uint32_t count = 1;
  gpu::softcuda::SoftDeviceOptions options;
  options.threads = std::max(std::thread::hardware_concurrency(), 1u);
  TULLE_RETURN_IF_ERROR(ReadNumber("TULLE_SOFTCUDA_DEVICES", 16, &count));
  TULLE_RETURN_IF_ERROR(ReadNumber("TULLE_SOFTCUDA_THREADS", 1024, &options.threads));
  options.memory_bytes = static_cast<std::uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
                         static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 2 / count;
  if (const char* text = std::getenv("TULLE_SOFTCUDA_MEMORY")) {
    if (!ParseSize(text, &options.memory_bytes) || options.memory_bytes == 0)
      return Invalid("TULLE_SOFTCUDA_MEMORY", text, "a size is needed, such as 4GiB");
  }
  std::vector<std::unique_ptr<Device>> devices;
  while (devices.size() < count) {
    TULLE_ASSIGN_OR_RETURN(auto device, gpu::softcuda::MakeSoftDevice(options));
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace tulle::shim::cuda
