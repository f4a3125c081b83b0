#include "apps/tulle-worker/cuda.h"

#include <algorithm>
#include <thread>

#include "tulle/base/log.h"
#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/cuda/probe.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/softcuda/soft_device.h"
#include "tulle/shim/cuda/driver.h"

namespace tulle::app {
namespace {

// For OpenDevices, which cannot be given anything.
gpu::softcuda::SoftDeviceOptions g_options;

}  // namespace

void ProbeCuda(const CudaSettings& settings, bool measure, std::vector<gpu::DeviceInfo>* devices) {
  for (gpu::DeviceInfo& device : *devices) {
    if (device.type == "CPU") device.cuda_device = gpu::kSoftwareCuda;
  }
  if (settings.library == "none") return;
  const auto library = gpu::cuda::OpenLibrary(settings.library);
  const auto found = library.ok() ? gpu::cuda::Probe(*library, measure)
                                  : Result<std::vector<gpu::DeviceInfo>>(library.error());
  if (found.ok()) return gpu::cuda::Join(*found, devices);
  // Most hosts have none, which is worth a word only where one was named.
  const bool expected = settings.library == CudaSettings().library && found.error().code == Code::kNotFound;
  Log(expected ? LogLevel::kDebug : LogLevel::kWarn, "probe", "no GPUs by CUDA",
      {{"library", settings.library}, {"why", found.error().message}});
}

int RunCudaExecutor(const CudaSettings& settings, const gpu::isolated::Place& place) {
  // What programs allocate is counted by the worker; modules' variables have as much again.
  g_options.memory_bytes = 2 * settings.memory_bytes;
  // All threads, as the share is held by time, and may grow.
  g_options.threads = std::max(std::thread::hardware_concurrency(), 1u);
  g_options.multiprocessors = (g_options.threads * settings.compute_percent + 99) / 100;
  const auto library =
      settings.device.empty() ? gpu::cuda::LinkedLibrary() : gpu::cuda::OpenLibrary(settings.library);
  return gpu::isolated::RunExecutor(
      [&](std::uint32_t, gpu::Completions* completions) -> Result<std::unique_ptr<gpu::Backend>> {
        if (!library.ok()) return library.error();
        return gpu::cuda::OpenBackend(*library, settings.device, completions);
      },
      place);
}

}  // namespace tulle::app

namespace tulle::shim::cuda {

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  TULLE_ASSIGN_OR_RETURN(auto device, gpu::softcuda::MakeSoftDevice(app::g_options));
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::move(device));
  return devices;
}

}  // namespace tulle::shim::cuda
