// What makes a libcuda.so.1 of the entry points: the devices are the vGPUs of the attach file.
#include <cerrno>
#include <cstdlib>
#include <new>

#include "tulle/base/log.h"
#include "tulle/session/attach.h"
#include "tulle/shim/core/object.h"
#include "tulle/shim/cuda/driver.h"
#include "tulle/shim/cuda/remote/remote_device.h"

namespace tulle::shim::cuda {
namespace {

// How long the end of the process may wait to say goodbye to its workers.
constexpr Duration kLeaveLimit = std::chrono::milliseconds(200);

// Never destroyed: threads of the program may use it while the process exits.
struct Process {
  SecureRandom random;
  CallbackThread callbacks;
  std::vector<RemoteDevice*> devices;
};
Process* g_process = nullptr;

// The child has no devices until it calls cuInit itself; what the parent had is leaked in its memory.
void InChild() {
  if (g_process != nullptr) {
    for (RemoteDevice* device : g_process->devices) device->AbandonAfterFork();
  }
  g_process = nullptr;
  ForgetDriver();
}

__attribute__((constructor)) void Load() { WatchForks(&InChild); }

__attribute__((destructor)) void Unload() {
  if (g_process == nullptr) return;
  const SystemClock clock;
  const Instant end = clock.Now() + kLeaveLimit;
  for (RemoteDevice* device : g_process->devices) {
    const Duration left = end - clock.Now();
    if (left.count() > 0) device->Leave(left);
  }
}

}  // namespace

Result<std::vector<std::unique_ptr<Device>>> OpenDevices() {
  LogLevel level = LogLevel::kOff;
  if (const char* text = std::getenv("TULLE_LOG"); text != nullptr && ParseLogLevel(text, &level))
    SetLogSink(&StderrLogSink, level);
  std::vector<std::unique_ptr<Device>> devices;
  const char* path = std::getenv(session::kAttachEnv);
  if (path == nullptr || *path == '\0') return devices;
  TULLE_ASSIGN_OR_RETURN(const auto targets, session::ReadAttachFile(path));
  if (g_process == nullptr) g_process = new Process;
  for (const session::Target& target : targets) {
    Connection::Options options;
    options.target = target;
    options.program = program_invocation_short_name;
    options.random = &g_process->random;
    options.callbacks = &g_process->callbacks;
    if (const char* directory = std::getenv(session::kTraceEnv)) options.trace_directory = directory;
    options.trace_payloads = std::getenv(session::kTracePayloadsEnv) != nullptr;
    auto device = RemoteDevice::Open(std::move(options));
    if (!device.ok()) {
      Log(LogLevel::kError, "cuda", "a vGPU is not there", {{"error", ToString(device.error())}});
      continue;
    }
    g_process->devices.push_back(device->get());
    devices.push_back(*std::move(device));
  }
  return devices;
}

}  // namespace tulle::shim::cuda
