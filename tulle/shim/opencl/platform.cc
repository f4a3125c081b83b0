#include "tulle/shim/opencl/platform.h"

#include <cerrno>
#include <cstdlib>
#include <new>

#include "tulle/base/log.h"
#include "tulle/session/attach.h"
#include "tulle/shim/opencl/device.h"
#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/exports.h"

namespace tulle::shim::opencl {
namespace {

constexpr std::string_view kVersion = "OpenCL 3.0 tulle " TULLE_VERSION;
constexpr cl_name_version kExtensions[] = {{CL_MAKE_VERSION(1, 0, 0), "cl_khr_icd"},
                                           {CL_MAKE_VERSION(1, 0, 0), CL_TULLE_MEMORY_EXPORT_EXTENSION_NAME}};
constexpr char kExtensionNames[] = "cl_khr_icd " CL_TULLE_MEMORY_EXPORT_EXTENSION_NAME;

// How long the end of the process may wait to say goodbye to its workers.
constexpr Duration kLeaveLimit = std::chrono::milliseconds(200);

// The roots of everything, since an ICD has no main(). Neither has a destructor that runs.
alignas(Platform) std::byte g_platform[sizeof(Platform)];
std::atomic<Process*> g_process{nullptr};
alignas(std::mutex) std::byte g_starting[sizeof(std::mutex)];

std::mutex& Starting() { return *std::launder(reinterpret_cast<std::mutex*>(g_starting)); }

void ReadLogLevel() {
  LogLevel level = LogLevel::kOff;
  const char* text = std::getenv("TULLE_LOG");
  if (text != nullptr && ParseLogLevel(text, &level)) SetLogSink(&StderrLogSink, level);
}

// The child has no objects, no connections and no threads; what the parent had is leaked in its memory.
void InChild() {
  if (const Process* process = g_process.exchange(nullptr)) {
    for (const auto& device : process->devices) device->AbandonAfterFork();
  }
  new (g_starting) std::mutex;  // another thread of the parent may have held it
}

Process* StartProcess() {
  auto process = std::make_unique<Process>();
  process->program = program_invocation_short_name;
  if (const char* directory = std::getenv(session::kTraceEnv)) process->trace_directory = directory;
  process->trace_payloads = std::getenv(session::kTracePayloadsEnv) != nullptr;
  const char* path = std::getenv(session::kAttachEnv);
  process->attached = path != nullptr && *path != '\0';
  if (process->attached) {
    auto targets = session::ReadAttachFile(path);
    if (targets.ok()) {
      for (const session::Target& target : *targets) {
        process->devices.push_back(std::make_unique<Device>(*process, target));
      }
    } else {
      Log(LogLevel::kError, "shim", "cannot read the file that TULLE_ATTACH names: there are no devices",
          {{"path", path}, {"error", ToString(targets.error())}});
    }
  }
  return process.release();
}

__attribute__((constructor)) void Load() {
  new (g_starting) std::mutex;
  new (g_platform) Platform;
  WatchForks(&InChild);
}

__attribute__((destructor)) void Unload() {
  Process* process = g_process.load();
  if (process == nullptr) return;
  const SystemClock clock;
  const Instant end = clock.Now() + kLeaveLimit;
  for (const auto& device : process->devices) {
    const Duration left = end - clock.Now();
    if (left.count() > 0) device->Leave(left);
  }
}

}  // namespace

cl_platform_id ThePlatform() { return reinterpret_cast<cl_platform_id>(g_platform); }

Process& TheProcess() {
  Process* process = g_process.load(std::memory_order_acquire);
  if (process != nullptr) return *process;
  const std::lock_guard lock(Starting());
  process = g_process.load(std::memory_order_acquire);
  if (process == nullptr) {
    ReadLogLevel();
    process = StartProcess();
    g_process.store(process, std::memory_order_release);
  }
  return *process;
}

cl_int GetPlatformIDs(cl_uint num_entries, cl_platform_id* platforms, cl_uint* num_platforms) {
  if ((num_entries == 0 && platforms != nullptr) || (platforms == nullptr && num_platforms == nullptr)) {
    return CL_INVALID_VALUE;
  }
  if (!TheProcess().attached) {
    if (num_platforms != nullptr) *num_platforms = 0;
    return CL_PLATFORM_NOT_FOUND_KHR;
  }
  if (platforms != nullptr) platforms[0] = ThePlatform();
  if (num_platforms != nullptr) *num_platforms = 1;
  return CL_SUCCESS;
}

cl_int GetPlatformInfo(cl_platform_id platform, cl_platform_info name, std::size_t size, void* value,
                       std::size_t* size_ret) {
  if (!IsPlatform(platform)) return CL_INVALID_PLATFORM;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_PLATFORM_PROFILE: return out.Text("FULL_PROFILE");
    case CL_PLATFORM_VERSION: return out.Text(kVersion);
    case CL_PLATFORM_NUMERIC_VERSION: return out.Value<cl_version>(CL_MAKE_VERSION(3, 0, 0));
    case CL_PLATFORM_NAME: return out.Text("tulle");
    case CL_PLATFORM_VENDOR: return out.Text("tulle");
    case CL_PLATFORM_EXTENSIONS: return out.Text(kExtensionNames);
    case CL_PLATFORM_EXTENSIONS_WITH_VERSION: return out.Array(std::span<const cl_name_version>(kExtensions));
    case CL_PLATFORM_HOST_TIMER_RESOLUTION: return out.Value<cl_ulong>(0);
    case CL_PLATFORM_ICD_SUFFIX_KHR: return out.Text("TULLE");
    default: return CL_INVALID_VALUE;
  }
}

// What a loader asks for when it does not find it as a symbol.
void* GetExtensionFunctionAddress(const char* name) {
  if (name == nullptr) return nullptr;
  const std::string_view text = name;
  if (text == "clIcdGetPlatformIDsKHR") return reinterpret_cast<void*>(Dispatch().clGetPlatformIDs);
  if (text == "clGetPlatformInfo") return reinterpret_cast<void*>(Dispatch().clGetPlatformInfo);
  if (text == "clCreateProgramWithILKHR") return reinterpret_cast<void*>(Dispatch().clCreateProgramWithIL);
  if (text == "clGetKernelSubGroupInfoKHR")
    return reinterpret_cast<void*>(Dispatch().clGetKernelSubGroupInfoKHR);
  if (text == "clExportMemTULLE") return reinterpret_cast<void*>(&ExportMem);
  if (text == "clImportMemTULLE") return reinterpret_cast<void*>(&ImportMem);
  if (text == "clRevokeExportTULLE") return reinterpret_cast<void*>(&RevokeExport);
  return nullptr;
}

void* GetExtensionFunctionAddressForPlatform(cl_platform_id platform, const char* name) {
  return IsPlatform(platform) ? GetExtensionFunctionAddress(name) : nullptr;
}

// Compilers run on the vGPU's host; there is nothing to unload here.
cl_int UnloadCompiler() { return CL_SUCCESS; }
cl_int UnloadPlatformCompiler(cl_platform_id platform) {
  return IsPlatform(platform) ? CL_SUCCESS : CL_INVALID_PLATFORM;
}

}  // namespace tulle::shim::opencl
