#include "apps/tulle/doctor.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "apps/tulle/attach_dir.h"
#include "tulle/base/bytes.h"
#include "tulle/base/paths.h"
#include "tulle/base/subprocess.h"
#include "tulle/base/unique_fd.h"
#include "tulle/node/inventory.h"
#include "tulle/sandbox/control_group.h"
#include "tulle/sandbox/layers.h"
#include "tulle/sdk/client.h"

namespace tulle::cli {
namespace {

namespace fs = std::filesystem;
using Level = Check::Level;

Check Ok(std::string name, std::string finding) {
  return {Level::kOk, std::move(name), std::move(finding), ""};
}
Check Warn(std::string name, std::string finding, std::string fix) {
  return {Level::kWarn, std::move(name), std::move(finding), std::move(fix)};
}
Check Fail(std::string name, std::string finding, std::string fix) {
  return {Level::kFail, std::move(name), std::move(finding), std::move(fix)};
}

std::string ReadText(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool InPath(const std::string& program) {
  const char* path = getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (access((std::string(rest.substr(0, end)) + "/" + program).c_str(), X_OK) == 0) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return access(("/usr/sbin/" + program).c_str(), X_OK) == 0;
}

void CheckPrograms(std::vector<Check>* checks) {
  std::string missing;
  for (const char* program : {"tulle-controller", "tulle-node", "tulle-worker"}) {
    if (FindProgram(program) == program && !InPath(program))
      missing += (missing.empty() ? "" : ", ") + std::string(program);
  }
  checks->push_back(
      missing.empty()
          ? Ok("programs", "version " TULLE_VERSION " in " + ExecutableDir())
          : Warn("programs", missing + " not found: this machine can use vGPUs, not offer them",
                 "build or install all of tulle where this machine is to be a node or controller"));
  const auto shim = FindIcdLibrary();
  checks->push_back(shim.ok() ? Ok("OpenCL shim", *shim)
                              : Fail("OpenCL shim", shim.error().message, "build or install it"));
  const auto cuda = FindCudaFolder();
  checks->push_back(cuda.ok() ? Ok("CUDA shim", *cuda + "/libcuda.so.1")
                              : Fail("CUDA shim", cuda.error().message, "build or install it"));
}

void CheckLoader(std::vector<Check>* checks) {
  void* loader = dlopen("libOpenCL.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (loader == nullptr) {
    checks->push_back(Fail("OpenCL loader", "libOpenCL.so.1 is not there: no OpenCL program can run",
                           "apt-get install ocl-icd-libopencl1"));
    return;
  }
  Dl_info info{};
  void* symbol = dlsym(loader, "clGetPlatformIDs");
  const bool known = symbol != nullptr && dladdr(symbol, &info) != 0;
  std::error_code error;
  checks->push_back(
      Ok("OpenCL loader", known ? fs::canonical(info.dli_fname, error).string() : "libOpenCL.so.1"));
  dlclose(loader);
}

void CheckIcds(std::vector<Check>* checks) {
  std::string seen;
  for (const std::string& folder : LocalVendors()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      if (entry.path().extension() == ".icd")
        seen += (seen.empty() ? "" : ", ") + entry.path().filename().string();
    }
  }
  if (seen.empty()) {
    checks->push_back(Warn(
        "ICDs here", "none: this machine can use vGPUs, not offer them",
        "to offer its CPU: apt-get install pocl-opencl-icd; to offer a GPU: its vendor's OpenCL driver"));
    return;
  }
  checks->push_back(Ok("ICDs here", seen));
}

// What a node would offer, from the very program that it asks.
void CheckDevices(std::vector<Check>* checks) {
  const auto gpus = node::TakeInventory(
      {.worker_binary = FindProgram("tulle-worker"), .state_file = "", .measure = false, .share = {}});
  if (!gpus.ok()) {
    checks->push_back(
        Warn("devices", gpus.error().message, "matters only where this machine is to be a node"));
    return;
  }
  if (gpus->empty()) {
    checks->push_back(
        Warn("devices", "none found",
             "install an OpenCL driver (pocl-opencl-icd for the CPU) to make this machine a node"));
  }
  for (const node::InventoryGpu& gpu : *gpus) {
    checks->push_back(Ok("device " + std::to_string(gpu.device_index),
                         gpu.name + ", " + FormatSize(gpu.memory_bytes) + ", driver " + gpu.driver));
  }
}

void CheckController(std::vector<Check>* checks) {
  const auto client = sdk::Client::Connect();
  if (!client.ok()) {
    checks->push_back(
        Fail("mesh", client.error().message,
             "start one with `tulle up`, or set TULLE_CONFIG to the credentials file of yours"));
    return;
  }
  const auto mesh = (*client)->GetMesh({.timeout = std::chrono::seconds(3), .fail_fast = true});
  if (!mesh.ok()) {
    // The message says what to do.
    checks->push_back(Fail("mesh", mesh.error().message, ""));
    return;
  }
  const std::string about = (*client)->config().endpoint + ", version " + mesh->version + ", " +
                            std::to_string(mesh->nodes_ready) + " nodes ready, you are " + mesh->caller;
  if (mesh->version != TULLE_VERSION) {
    checks->push_back(
        Warn("mesh", about, "this program is version " TULLE_VERSION "; use the same on both ends"));
  } else if (mesh->nodes_ready == 0) {
    checks->push_back(Warn("mesh", about, "see `tulle get nodes`, and start a node"));
  } else {
    checks->push_back(Ok("mesh", about));
  }
}

void CheckSandbox(std::vector<Check>* checks) {
  for (const sandbox::Layer& layer : sandbox::Probe()) {
    const std::string name = "sandbox: " + layer.name;
    if (layer.available) {
      checks->push_back(Ok(name, layer.purpose));
    } else {
      checks->push_back(
          {layer.required ? Level::kFail : Level::kWarn, name, "missing: " + layer.problem, layer.fix});
    }
  }
}

void CheckHost(std::vector<Check>* checks) {
  const auto make = [](bool cpu) {
    return sandbox::ControlGroup::MakeBase({.name = "tulle-doctor", .parent = "", .cpu = cpu});
  };
  // Their errors say how to mend it.
  const auto warn = [&](const std::string& finding, const Error& why) {
    constexpr std::string_view kFix = "; fix: ";
    const std::size_t fix = why.message.find(kFix);
    checks->push_back(Warn("control groups", finding + ": " + why.message.substr(0, fix),
                           fix == why.message.npos ? "" : why.message.substr(fix + kFix.size())));
  };
  if (const auto with_cpu = make(true); with_cpu.ok()) {
    checks->push_back(Ok("control groups", "can be made, with memory and cpu"));
  } else if (const auto groups = make(false); groups.ok()) {
    warn("can be made with memory, but not with cpu (tulle-node --compute-sharing=cgroup)", with_cpu.error());
  } else {
    warn(
        "none for a node started as this was; what kernels take of this host's memory beside their buffers "
        "is "
        "not limited",
        groups.error());
  }
  const UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  checks->push_back(kvm.valid()
                        ? Ok("KVM", "/dev/kvm can be opened, for virtual machines (tulle run --isolation=vm)")
                        : Warn("KVM",
                               "/dev/kvm cannot be opened: vGPUs of a node here can have no virtual machines "
                               "(tulle run --isolation=vm)",
                               "load the module (kvm_intel or kvm_amd) and join the group kvm"));
  checks->push_back(InPath("criu")
                        ? Ok("CRIU", "found")
                        : Warn("CRIU", "not installed; nothing needs it yet", "apt-get install criu"));
  if (const std::string grouped = ReadText("/proc/sys/kernel/sched_autogroup_enabled"); grouped == "1\n") {
    checks->push_back(Warn("scheduling",
                           "by sessions (autogroup): programs of other terminals than the node's may stand "
                           "still for seconds while all CPUs are busy (seen with Linux 6.18)",
                           "sysctl kernel.sched_autogroup_enabled=0"));
  } else {
    checks->push_back(Ok("scheduling", "not by sessions"));
  }
  utsname host{};
  uname(&host);
  checks->push_back(Ok("kernel", std::string(host.sysname) + " " + host.release));
}

}  // namespace

std::vector<Check> Diagnose() {
  std::vector<Check> checks;
  CheckPrograms(&checks);
  CheckLoader(&checks);
  CheckIcds(&checks);
  CheckDevices(&checks);
  CheckController(&checks);
  CheckSandbox(&checks);
  CheckHost(&checks);
  return checks;
}

std::string FormatChecks(const std::vector<Check>& checks) {
  constexpr const char* kWords[] = {"ok  ", "warn", "FAIL"};
  std::size_t width = 0;
  for (const Check& check : checks) width = std::max(width, check.name.size());
  std::string text;
  for (const Check& check : checks) {
    text += std::string(kWords[static_cast<int>(check.level)]) + "  " + check.name +
            std::string(width - check.name.size() + 2, ' ') + check.finding + "\n";
    if (!check.fix.empty()) text += std::string(width + 8, ' ') + "fix: " + check.fix + "\n";
  }
  return text;
}

}  // namespace tulle::cli
