// tulle-worker: the process that is one vGPU, and in its other roles the processes in which that vGPU's
// tenant code runs. A node starts it; the worker starts the rest. Only here is a driver chosen, and only the
// other roles and --probe open it.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "apps/tulle-worker/cuda.h"
#include "apps/tulle-worker/isolated.h"
#include "apps/tulle-worker/probe.h"
#include "tulle/base/log.h"
#include "tulle/gpu/isolated/executor_main.h"
#include "tulle/gpu/opencl/driver.h"
#include "tulle/vm/machine.h"
#include "tulle/worker/worker.h"

namespace {

using tulle::Log;
using tulle::LogLevel;

struct Settings {
  std::string role = "worker";
  bool probe = false;
  bool measure = false;
  int control_fd = -1;
  int share_fd = -1, turn_fd = -1, spill_fd = -1;
  std::string log_level = "info";
  std::string log_format = "text";
  std::string sandbox = "required";
  tulle::worker::Options worker;
  tulle::app::CudaSettings cuda;
  std::vector<std::string> device_nodes;
  tulle::gpu::opencl::DriverOptions opencl;
  tulle::gpu::isolated::Place place;
  bool probe_machines = false;
  tulle::vm::Settings machine;
  std::string executors_group, builders_group;
};

void InstallLogSink(const Settings& settings) {
  LogLevel level = LogLevel::kInfo;
  (void)tulle::ParseLogLevel(settings.log_level, &level);
  tulle::SetLogSink(settings.log_format == "json" ? tulle::JsonLogSink : tulle::StderrLogSink, level);
}

int Probe(const Settings& settings) {
  // What it measures with is built once: PoCL (3.1) aborts where two processes put one binary into its cache.
  setenv("POCL_KERNEL_CACHE", "0", 1);
  const auto driver = tulle::gpu::opencl::OpenDriver();
  auto found = driver->Probe(settings.measure);
  std::vector<tulle::gpu::DeviceInfo> devices;
  if (found.ok()) devices = *std::move(found);
  tulle::app::ProbeCuda(settings.cuda, settings.measure, &devices);
  if (devices.empty()) {
    std::fprintf(stderr, "tulle-worker --probe: %s\n", tulle::ToString(found.error()).c_str());
    return 1;
  }
  for (const auto& device : devices) std::printf("%s\n", tulle::app::ProbeLine(device).c_str());
  return std::fflush(stdout) == 0 ? 0 : 1;
}

// Enough for an emulated machine on a busy host.
constexpr std::chrono::seconds kMachinePatience{120};

// What is least of what executors need there: it is found, and its libraries are.
tulle::vm::Program Itself() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return {.file = path.string(),
          .arguments = {"tulle-worker", "--version"},
          .folders = {path.parent_path().string()}};
}

int ProbeMachines(const Settings& settings) {
  tulle::vm::Settings machine;
  const auto settled = [&]() -> tulle::Result<std::chrono::milliseconds> {
    TULLE_ASSIGN_OR_RETURN(machine, tulle::vm::Complete(settings.machine));
    TULLE_ASSIGN_OR_RETURN(const auto launcher, tulle::sandbox::Launcher::Create(
                                                    {.best_effort = settings.sandbox == "best-effort"}));
    return tulle::vm::TryMachine(*launcher, machine, Itself(),
                                 std::max(std::thread::hardware_concurrency(), 1u), kMachinePatience);
  }();
  if (!settled.ok()) {
    std::fprintf(stderr, "%s\n", settled.error().message.c_str());
    return 1;
  }
  std::printf("%lld\n--vm-kernel=%s\n--vm-modules=%s\n", static_cast<long long>(settled->count()),
              machine.kernel.c_str(), machine.modules.c_str());
  return std::fflush(stdout) == 0 ? 0 : 1;
}

tulle::worker::Worker* g_worker = nullptr;  // for the signal handler, which cannot be given anything

int RunWorker(const Settings& settings) {
  auto launcher = tulle::sandbox::Launcher::Create({.best_effort = settings.sandbox == "best-effort"});
  const tulle::app::ChildArguments children{
      {"--log-level=" + settings.log_level, "--log-format=" + settings.log_format},
      settings.cuda.library,
      settings.machine,
      settings.worker.max_sessions,
      settings.executors_group,
      settings.builders_group};
  const auto open_device =
      [&](const tulle::wire::node::AssignVGpu& assignment) -> tulle::Result<tulle::worker::Device> {
    // Told here, so that the node hears why there is no vGPU.
    if (!launcher.ok()) return launcher.error();
    for (const tulle::sandbox::Layer& layer : (*launcher)->layers()) {
      if (layer.available) continue;
      Log(layer.required ? LogLevel::kError : LogLevel::kWarn, "worker", "a layer of the sandbox is missing",
          {{"layer", layer.name},
           {"purpose", layer.purpose},
           {"problem", layer.problem},
           {"fix", layer.fix}});
    }
    return tulle::app::MakeIsolatedDevice(launcher->get(), settings.control_fd, assignment, children);
  };

  const tulle::SystemClock clock;
  tulle::worker::Worker worker(tulle::UniqueFd(settings.control_fd), settings.worker, open_device, &clock,
                               tulle::UniqueFd(settings.share_fd), tulle::UniqueFd(settings.turn_fd),
                               tulle::UniqueFd(settings.spill_fd));
  g_worker = &worker;
  struct sigaction terminate {};
  terminate.sa_handler = [](int) { g_worker->RequestShutdown(); };
  sigaction(SIGTERM, &terminate, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const auto end = worker.Run();
  signal(SIGTERM, SIG_IGN);
  if (end == tulle::worker::Worker::End::kStuck) _exit(0);  // its threads still use the worker
  return end == tulle::worker::Worker::End::kNoDevice ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("The process that is one vGPU. Started by tulle-node; by hand only with --probe.",
               "tulle-worker");
  app.set_version_flag("--version", TULLE_VERSION);
  app.add_option("--role", settings.role,
                 "worker: serves one vGPU; executor, cuda-executor, build-server: started by a worker, run "
                 "and compile "
                 "its programs")
      ->check(CLI::IsMember({"worker", "executor", "cuda-executor", "build-server"}))
      ->capture_default_str();
  app.add_flag("--probe", settings.probe, "Print this host's devices, one JSON object a line, and exit");
  app.add_flag("--measure", settings.measure,
               "With --probe: measure their memory bandwidth and floating-point rate (some seconds)");
  app.add_option("--control-fd", settings.control_fd, "Descriptor of the packet socket to the node")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--share-fd", settings.share_fd,
                 "Descriptor of the memory by which the node says what share of compute the vGPU has")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--turn-fd", settings.turn_fd,
                 "Descriptor of the socket by which turns on the device are given, where vGPUs use it so")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--spill-fd", settings.spill_fd,
                 "Descriptor of the file for memory that is not on the device, where the vGPU spills")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--executors-group", settings.executors_group,
                 "The control group in which executors get theirs: "
                 "memory:/sys/fs/cgroup/memory/...;cpu:/sys/fs/cgroup/cpu/... [none]");
  app.add_option("--builders-group", settings.builders_group,
                 "That of the build server and its builders [none]");
  app.add_option("--cuda-library", settings.cuda.library,
                 "The library of CUDA's driver API that GPUs are found and driven by; none: look for none")
      ->capture_default_str();
  app.add_option("--cuda-device", settings.cuda.device,
                 "The GPU's PCI address, for a cuda-executor [the software device]");
  app.add_option("--pci-address", settings.opencl.pci_address,
                 "Of the GPU, for an executor and a build-server");
  app.add_option("--compiler", settings.opencl.compiler, "As the probe tells it of the device, likewise");
  app.add_option("--machine-address", settings.place.machine_address,
                 "The physical address of what this executor shares with its worker, in a virtual machine");
  app.add_flag(
      "--probe-machines", settings.probe_machines,
      "Start this program in a virtual machine, as executors are; print how many milliseconds it took and, a "
      "line each, how to name the same kernel; and exit");
  app.add_option("--vm", settings.machine.accelerator,
                 "How virtual machines run, for vGPUs that have them. kvm: by the processor; emulated: by "
                 "QEMU alone, "
                 "for tests")
      ->transform(CLI::CheckedTransformer(std::map<std::string, tulle::vm::Accelerator>{
          {"kvm", tulle::vm::Accelerator::kKvm}, {"emulated", tulle::vm::Accelerator::kEmulated}}))
      ->default_str("kvm");
  app.add_option("--vm-kernel", settings.machine.kernel,
                 "Their Linux kernel [the newest in /boot that has 9p among its modules]");
  app.add_option("--vm-modules", settings.machine.modules,
                 "The folder of its modules [/lib/modules/VERSION]");
  app.add_option("--device-node", settings.device_nodes,
                 "A file below /dev that builders need to reach the GPU; may be repeated")
      ->take_all();
  app.add_option("--memory-bytes", settings.cuda.memory_bytes, "Of the vGPU, for a cuda-executor")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 50));
  app.add_option("--compute-percent", settings.cuda.compute_percent, "Of the vGPU, for a cuda-executor")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--log-level", settings.log_level, "Least level that is logged")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", settings.log_format, "text: for people; json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option(
         "--sandbox", settings.sandbox,
         "required: refuse to serve where the host lacks a required layer; best-effort: serve with what "
         "there is (development only)")
      ->check(CLI::IsMember({"required", "best-effort"}))
      ->capture_default_str();
  app.add_option("--spare-executors", settings.worker.spare_executors,
                 "Executors kept ready for the next sessions; 0: each session starts its own")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  app.add_option("--max-sessions", settings.worker.max_sessions, "Programs that may use the vGPU at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_flag("--allow-plain-tcp", settings.worker.allow_plain_tcp,
               "Serve sessions without TLS to clients that ask for it; the network must be trusted");
  double resume_window_s = 60;
  app.add_option("--resume-window", resume_window_s,
                 "Seconds that a session whose connection was lost waits for its program to come back; 0: it "
                 "ends with its connection")
      ->check(CLI::Range(0.0, 86'400.0))
      ->capture_default_str();
  bool no_compression = false;
  app.add_flag("--no-compression", no_compression,
               "Send and take everything as it is, whatever the speed of the network");
  CLI11_PARSE(app, argc, argv);
  settings.worker.compression = !no_compression;
  settings.worker.resume_window = tulle::Duration(static_cast<std::int64_t>(resume_window_s * 1e9));

  // No memory of a tenant, and no key, is ever written to a disk by the kernel.
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  InstallLogSink(settings);
  if (settings.role == "worker" && !settings.probe && !settings.probe_machines) tulle::UseAllDescriptors();

  if (settings.probe) return Probe(settings);
  if (settings.probe_machines) return ProbeMachines(settings);
  if (settings.role == "executor")
    return tulle::gpu::isolated::RunExecutor(*tulle::gpu::opencl::OpenDriver(settings.opencl),
                                             settings.place);
  if (settings.role == "cuda-executor") {
    return tulle::app::RunCudaExecutor(settings.cuda, settings.place);
  }
  if (settings.role == "build-server")
    return tulle::gpu::isolated::RunBuildServer(*tulle::gpu::opencl::OpenDriver(settings.opencl), argv,
                                                settings.device_nodes);
  if (settings.control_fd < 0) {
    std::fprintf(stderr,
                 "tulle-worker: --control-fd is needed: a node starts workers (see tulle-worker --help)\n");
    return 2;
  }
  return RunWorker(settings);
}
