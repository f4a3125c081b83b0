#include "apps/tulle-worker/softcuda.h"

#include <algorithm>
#include <thread>

#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/softcuda/memory.h"
#include "tulle/gpu/softcuda/soft_device.h"
#include "tulle/shim/cuda/driver.h"

namespace tulle::app {
namespace {

// For OpenDevices, which cannot be given anything.
gpu::softcuda::SoftDeviceOptions g_options;
std::uint64_t g_address_bytes = 0;

}  // namespace

int RunSoftCudaExecutor(const SoftCudaSettings& settings) {
  g_options.memory_bytes = settings.memory_bytes;
  g_options.threads =
      (std::max(std::thread::hardware_concurrency(), 1u) * settings.compute_percent + 99) / 100;
  const gpu::cuda::Library library = gpu::cuda::LinkedLibrary([](std::uint64_t address, std::uint64_t bytes) {
    g_options.address = address;
    g_address_bytes = bytes;
  });
  return gpu::isolated::RunExecutor(
      [&](std::uint32_t, gpu::Completions* completions) -> Result<std::unique_ptr<gpu::Backend>> {
        return gpu::cuda::OpenBackend(library, completions);
      });
}

}  // namespace tulle::app

namespace tulle::shim::cuda {

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  if (app::g_options.address == 0 ||
      app::g_address_bytes / gpu::softcuda::DeviceMemory::kAddressFactor < app::g_options.memory_bytes) {
    return Error{Code::kInvalidArgument,
                 "the program's range of addresses is too small for the device's memory"};
  }
  TULLE_ASSIGN_OR_RETURN(auto device, gpu::softcuda::MakeSoftDevice(app::g_options));
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(device));
  return devices;
}

}  // namespace tulle::shim::cuda
