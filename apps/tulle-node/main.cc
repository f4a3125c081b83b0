// tulle-node: the daemon of a GPU host. Flags in, a Node out, signals to Stop.

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/log.h"
#include "tulle/base/paths.h"
#include "tulle/node/host_load.h"
#include "tulle/node/node.h"
#include "tulle/sandbox/control_group.h"
#include "tulle/security/credentials.h"
#include "tulle/security/files.h"
#include "tulle/security/identity.h"

namespace tulle {
namespace {

using node::arbiter::Sharing;

struct Flags {
  std::string name;
  std::string config;
  std::string state_dir = DefaultStateDir();
  std::string data_listen = ":7410";
  std::string data_socket;
  std::string advertise;
  std::string http_listen = "127.0.0.1:7411";
  std::string worker_binary = FindProgram("tulle-worker");
  std::vector<std::string> worker_arguments;
  std::string cuda_library = "libcuda.so.1";
  std::vector<std::uint32_t> only_devices;
  node::DeviceShare share;
  std::string network_bandwidth;
  std::string spill_memory = "0", spill_disk = "0", spill_directory;
  std::string vm = "auto", vm_kernel, vm_modules;
  unsigned longest_turn_s = 10;
  std::string compute_sharing = "auto";
  std::string cgroup = "auto";
  std::vector<std::string> labels;
  std::string log_level = "info";
  std::string log_format = "text";
  int ready_fd = -1;
};

std::string HostName() {
  char name[256] = "node";
  gethostname(name, sizeof name - 1);
  return security::MakeName(name);
}

// What the network moves in bytes a second: as was said, or as fast as the link of the default route is; 0:
// not known.
Result<std::uint64_t> NetworkBandwidth(const Flags& flags) {
  if (flags.network_bandwidth.empty()) return node::DefaultLinkBytesPerS();
  std::uint64_t bytes_per_s = 0;
  if (flags.network_bandwidth == "unknown") return bytes_per_s;
  if (ParseSize(flags.network_bandwidth, &bytes_per_s) && bytes_per_s != 0) return bytes_per_s;
  return Error{.code = Code::kInvalidArgument,
               .message = "--network-bandwidth " + flags.network_bandwidth +
                          ": write what it moves in a second, such as 1200MiB, or unknown"};
}

Result<std::uint64_t> SizeOf(const char* flag, const std::string& text) {
  std::uint64_t bytes = 0;
  if (text == "0" || ParseSize(text, &bytes)) return bytes;
  return Error{.code = Code::kInvalidArgument,
               .message = std::string(flag) + " " + text + ": write a size, such as 16GiB, or 0"};
}

// Whether vGPUs can have virtual machines, by trying it; adds to the arguments of workers how. Where that was
// asked for it must work.
Result<bool> OffersMachines(const Flags& flags, const std::vector<node::InventoryGpu>& gpus,
                            std::vector<std::string>* worker_arguments) {
  const bool asked = flags.vm != "auto";
  if (flags.vm == "off") return false;
  if (std::ranges::count(gpus, std::string("CPU"), &node::InventoryGpu::type) == 0) {
    if (!asked) return false;
    return Error{.code = Code::kFailedPrecondition,
                 .message = "--vm=" + flags.vm +
                            ": only the CPU device can be used in a virtual machine, and there is none "
                            "here; install pocl-opencl-icd, or say --vm=off"};
  }
  std::vector<std::string> arguments = {"--vm=" + (asked ? flags.vm : "kvm")};
  if (!flags.vm_kernel.empty()) arguments.push_back("--vm-kernel=" + flags.vm_kernel);
  if (!flags.vm_modules.empty()) arguments.push_back("--vm-modules=" + flags.vm_modules);
  const std::string how = arguments.front();
  arguments.insert(arguments.end(), worker_arguments->begin(), worker_arguments->end());
  const auto started = node::TryMachines({.worker_binary = flags.worker_binary,
                                          .worker_arguments = arguments,
                                          .probe_timeout = std::chrono::seconds(150)});
  if (started.ok()) {
    worker_arguments->push_back(how);
    worker_arguments->insert(worker_arguments->end(), started->worker_arguments.begin(),
                             started->worker_arguments.end());
    Log(LogLevel::kInfo, "node", "vGPUs can have virtual machines",
        {{"by", asked ? flags.vm : "kvm"}, {"start_ms", started->start_ms}});
  } else if (asked) {
    return started.error().Within("--vm=" + flags.vm);
  } else {
    Log(LogLevel::kInfo, "node", "vGPUs cannot have virtual machines here",
        {{"why", started.error().message}});
  }
  return started.ok();
}

// Where this node may make control groups for its vGPUs; null: nowhere. Where they were asked for there must
// be.
Result<std::shared_ptr<const sandbox::ControlGroup>> BaseGroup(const Flags& flags) {
  std::shared_ptr<const sandbox::ControlGroup> none;
  const bool for_compute = flags.compute_sharing == "cgroup";
  if (flags.cgroup == "off") {
    if (!for_compute) return none;
    return Error{.code = Code::kInvalidArgument,
                 .message = "--compute-sharing=cgroup needs control groups; do not say --cgroup=off with it"};
  }
  const bool asked = flags.cgroup != "auto" || for_compute;
  auto base = sandbox::ControlGroup::MakeBase(
      {.name = "tulle-node",
       .parent = flags.cgroup == "auto" || flags.cgroup == "own" ? "" : flags.cgroup,
       .cpu = for_compute});
  if (base.ok()) {
    Log(LogLevel::kInfo, "node", "vGPUs have control groups", {{"in", base->Text()}});
    return std::shared_ptr<const sandbox::ControlGroup>(
        std::make_shared<sandbox::ControlGroup>(std::move(*base)));
  }
  if (asked)
    return base.error().Within(for_compute ? "--compute-sharing=cgroup" : "--cgroup=" + flags.cgroup);
  Log(LogLevel::kWarn, "node",
      "vGPUs have no control groups: what kernels take of this host's memory beside their buffers is not "
      "limited",
      {{"why", base.error().message}});
  return none;
}

// "key=value" texts as a map.
Result<std::map<std::string, std::string>> ParseLabels(const std::vector<std::string>& texts) {
  std::map<std::string, std::string> labels;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return Error{.code = Code::kInvalidArgument, .message = "--label " + text + ": write KEY=VALUE"};
    }
    labels[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return labels;
}

// So that a wrong path or name is an error at once and not a line in the log every few seconds.
Status CheckCredentials(const Flags& flags) {
  TULLE_ASSIGN_OR_RETURN(const security::Credentials credentials, security::LoadCredentials(flags.config));
  TULLE_ASSIGN_OR_RETURN(const security::PemBundle pem, security::LoadPemBundle(credentials));
  TULLE_ASSIGN_OR_RETURN(const security::Identity identity, security::IdentityOfCertificate(pem.certificate));
  if (identity == security::Identity{security::Role::kNode, flags.name}) return OkStatus();
  return Error{.code = Code::kInvalidArgument,
               .message = "the certificate in " + flags.config + " is for " + identity.Uri() +
                          ", not for node " + flags.name +
                          "; say --name, or give the credentials of this node"};
}

Status Run(const Flags& flags, const SystemClock& clock) {
  UseAllDescriptors();
  TULLE_RETURN_IF_ERROR(security::MakePrivateDirectory(flags.state_dir));
  TULLE_ASSIGN_OR_RETURN(const std::uint64_t network, NetworkBandwidth(flags));
  node::NodeOptions options{.name = flags.name,
                            .version = TULLE_VERSION,
                            .credentials_path = flags.config,
                            .advertise = flags.advertise};
  TULLE_ASSIGN_OR_RETURN(options.labels, ParseLabels(flags.labels));
  TULLE_ASSIGN_OR_RETURN(options.data_listen, node::ParseHostPort(flags.data_listen));
  if (flags.data_socket != "none") {
    options.data_socket = flags.data_socket.empty() ? std::filesystem::absolute(flags.state_dir).string() +
                                                          "/data-" + flags.name + ".sock"
                                                    : flags.data_socket;
  }
  TULLE_ASSIGN_OR_RETURN(options.http_listen, node::ParseHostPort(flags.http_listen));
  TULLE_RETURN_IF_ERROR(CheckCredentials(flags));
  options.supervisor.worker_binary = flags.worker_binary;
  const std::string cuda_library = "--cuda-library=" + flags.cuda_library;
  options.supervisor.worker_arguments = {"--log-level=" + flags.log_level, "--log-format=" + flags.log_format,
                                         cuda_library};
  options.supervisor.worker_arguments.insert(options.supervisor.worker_arguments.end(),
                                             flags.worker_arguments.begin(), flags.worker_arguments.end());
  TULLE_ASSIGN_OR_RETURN(options.gpus, node::TakeInventory({.worker_binary = flags.worker_binary,
                                                            .worker_arguments = {cuda_library},
                                                            .state_file = flags.state_dir + "/inventory",
                                                            .only_devices = flags.only_devices,
                                                            .share = flags.share}));
  TULLE_ASSIGN_OR_RETURN(const bool machines,
                         OffersMachines(flags, options.gpus, &options.supervisor.worker_arguments));
  node::SpillRoom& spill = options.supervisor.spill;
  TULLE_ASSIGN_OR_RETURN(spill.memory_bytes, SizeOf("--spill-memory", flags.spill_memory));
  TULLE_ASSIGN_OR_RETURN(spill.disk_bytes, SizeOf("--spill-disk", flags.spill_disk));
  spill.directory = flags.spill_directory.empty() ? flags.state_dir : flags.spill_directory;
  if (spill.disk_bytes != 0 && access(spill.directory.c_str(), W_OK | X_OK) != 0)
    return ErrnoError("--spill-directory " + spill.directory, errno);
  const auto spills = std::ranges::count(options.gpus, std::string("CPU"), &node::InventoryGpu::type);
  options.longest_turn = std::chrono::seconds(flags.longest_turn_s);
  // Each node on this host has an equal part of the network, and each of its GPUs of that.
  options.network_bytes_per_s = network / flags.share.nodes_here;
  for (node::InventoryGpu& gpu : options.gpus) {
    gpu.allocatable_network_bytes_per_s = options.network_bytes_per_s / options.gpus.size();
    // Elsewhere the device's memory cannot be reached from outside of its driver.
    if (gpu.type == "CPU")
      gpu.allocatable_spill_bytes = spill.all_bytes() / static_cast<std::uint64_t>(spills);
    gpu.machines = machines && gpu.type == "CPU";
    gpu.sharing = flags.compute_sharing == "turns" || gpu.type != "CPU" ? Sharing::kTurns
                  : flags.compute_sharing == "cgroup"                   ? Sharing::kControlGroups
                                                                        : Sharing::kMeasured;
  }
  TULLE_ASSIGN_OR_RETURN(options.supervisor.control_group, BaseGroup(flags));
  if (options.gpus.empty()) {
    Log(LogLevel::kWarn, "node", "no GPU found: this node will offer nothing; `tulle doctor` says more");
  }
  for (const node::InventoryGpu& gpu : options.gpus) {
    Log(LogLevel::kInfo, "node", "GPU found",
        {{"index", gpu.index},
         {"type", gpu.name},
         {"memory", FormatSize(gpu.memory_bytes)},
         {"allocatable", FormatSize(gpu.allocatable_memory_bytes)},
         {"allocatable_compute_percent", gpu.allocatable_compute_percent},
         {"bandwidth_per_s", FormatSize(gpu.bandwidth_bytes_per_s)},
         {"fp32_flops", gpu.fp32_flops},
         {"network_per_s", FormatSize(gpu.allocatable_network_bytes_per_s)},
         {"spill", FormatSize(gpu.allocatable_spill_bytes)},
         {"compute_sharing", gpu.sharing == Sharing::kTurns           ? "turns"
                             : gpu.sharing == Sharing::kControlGroups ? "cgroup"
                                                                      : "measured"}});
  }

  // Before any thread is made, so that all of them leave these signals to the loop.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const UniqueFd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd.valid()) return ErrnoError("signalfd", errno);

  TULLE_ASSIGN_OR_RETURN(const std::unique_ptr<node::Node> node, node::Node::Open(clock, options));
  Log(LogLevel::kInfo, "node", "listening",
      {{"name", flags.name}, {"data", node->data_endpoint()}, {"http", node->http_address().Text()}});
  node->loop().Watch(signal_fd.get(), EPOLLIN, [&](std::uint32_t) {
    signalfd_siginfo info;
    while (read(signal_fd.get(), &info, sizeof info) == sizeof info) {
      node->Stop(std::string("signal ") + strsignal(static_cast<int>(info.ssi_signo)));
    }
  });
  node->Run([&] {
    if (flags.ready_fd < 0) return;
    const std::string text = "name " + flags.name + "\ndata " + node->data_endpoint() + "\nhttp " +
                             node->http_address().Text() + "\n";
    [[maybe_unused]] const ssize_t written = write(flags.ready_fd, text.data(), text.size());
    close(flags.ready_fd);
  });
  Log(LogLevel::kInfo, "node", "stopped");
  return OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  flags.name = HostName();
  CLI::App app(
      "The daemon of a GPU host: offers its GPUs to a mesh and runs vGPUs on them.\n\n"
      "Example: tulle-node --config /etc/tulle/node-a.conf --name a --data-listen :7410",
      "tulle-node");
  app.set_version_flag("--version", TULLE_VERSION);
  app.option_defaults()->always_capture_default();
  app.add_option("--name", flags.name, "Name of this node in the mesh, as in its certificate");
  app.add_option("--config", flags.config,
                 "Credentials file that the controller wrote for this node: where the controller is, "
                 "certificate, key "
                 "[STATE-DIR/node-NAME.conf]")
      ->envname("TULLE_NODE_CONFIG");
  app.add_option("--state-dir", flags.state_dir, "Where the node keeps what it measured");
  app.add_option("--data-listen", flags.data_listen,
                 "HOST:PORT that programs connect to; port 0: any free one");
  app.add_option("--data-socket", flags.data_socket,
                 "Path of the socket that programs on this host connect to instead, and through which they "
                 "share memory "
                 "with their vGPUs; every user who can reach the folder may try; none: there is none "
                 "[STATE-DIR/data-NAME.sock]")
      ->default_str("");
  app.add_option(
      "--advertise", flags.advertise,
      "HOST or HOST:PORT by which programs reach the data port [the address on the way to the controller]");
  app.add_option("--http-listen", flags.http_listen, "HOST:PORT of /healthz and /metrics");
  app.add_option("--worker-binary", flags.worker_binary,
                 "Program that is started for each vGPU and to look for GPUs");
  app.add_option("--worker-arg", flags.worker_arguments,
                 "A further argument for it, such as --sandbox=best-effort; may be repeated")
      ->take_all()
      ->default_str("");
  app.add_option(
      "--cuda-library", flags.cuda_library,
      "The library of CUDA's driver API that GPUs are found and driven by, as the loader finds it or a "
      "path; none: offer no GPU for its sake");
  app.add_option("--only-devices", flags.only_devices,
                 "Offer these devices only, by the numbers of `tulle-worker --probe`: 0,2")
      ->delimiter(',')
      ->default_str("");
  app.add_option("--memory-percent", flags.share.memory_percent,
                 "Share of each GPU's memory that vGPUs may have [100; 75 where it is the host's own memory]")
      ->check(CLI::Range(1u, 100u))
      ->default_str("");
  app.add_option("--nodes-here", flags.share.nodes_here,
                 "Nodes on this host that offer the same GPUs: each gives an equal part of their memory and "
                 "compute")
      ->check(CLI::Range(1u, node::kMaxNodesHere));
  app.add_option(
      "--network-bandwidth", flags.network_bandwidth,
      "What this host's network moves in a second, both ways together, such as 1200MiB, which vGPUs' shares "
      "of it are parts of; unknown: none is promised [the speed of the default route's link]");
  app.add_option(
         "--spill-memory", flags.spill_memory,
         "How much of this host's memory may hold what programs of vGPUs with --spill have beyond their "
         "GPU's, such as 16GiB; only for devices whose memory is the host's, as on a CPU")
      ->capture_default_str();
  app.add_option("--spill-disk", flags.spill_disk, "How much of it may be on disk, sealed; likewise")
      ->capture_default_str();
  app.add_option("--spill-directory", flags.spill_directory,
                 "Where; on a disk that is fast and has so much left [the state directory]");
  app.add_option(
         "--vm", flags.vm,
         "Whether vGPUs can have virtual machines (tulle run --isolation=vm). auto: where one starts by KVM; "
         "kvm: it must; emulated: by QEMU alone, some 15 times slower, for tests; off")
      ->check(CLI::IsMember({"auto", "kvm", "emulated", "off"}))
      ->capture_default_str();
  app.add_option("--vm-kernel", flags.vm_kernel,
                 "The Linux kernel of virtual machines [the newest in /boot that has 9p among its modules]")
      ->default_str("");
  app.add_option("--vm-modules", flags.vm_modules, "The folder of its modules [/lib/modules/VERSION]")
      ->default_str("");
  app.add_option(
         "--compute-sharing", flags.compute_sharing,
         "How vGPUs use a GPU together. turns: one at a time. auto: at once where what each uses can be "
         "measured meanwhile, as on a CPU; elsewhere by turns. cgroup: as auto, but on a CPU the kernel "
         "holds vGPUs to their shares, by control groups (--cgroup)")
      ->check(CLI::IsMember({"auto", "turns", "cgroup"}))
      ->capture_default_str();
  app.add_option("--cgroup", flags.cgroup,
                 "Where the control groups are made that limit what vGPUs' kernels, drivers and compilers "
                 "take of this host's memory. own: in this process's; auto: there, if that is possible; a "
                 "group, as /proc/PID/cgroup writes it: there, such as /machine.slice; off: nowhere")
      ->check(CLI::IsMember({"own", "auto", "off"}) |
              CLI::Validator(
                  [](const std::string& text) { return text.starts_with("/") ? "" : "it begins with no /"; },
                  "/GROUP"))
      ->capture_default_str();
  app.add_option(
         "--longest-turn", flags.longest_turn_s,
         "Seconds that a program may go on using a GPU that others wait for their turn on, as one long "
         "kernel does; then it is ended. 0: for as long as it takes")
      ->check(CLI::Range(0u, 86400u))
      ->capture_default_str();
  app.add_option("--label", flags.labels, "KEY=VALUE that claims can select nodes by; may be repeated")
      ->take_all()
      ->default_str("");
  app.add_option("--log-level", flags.log_level, "Least level that is logged")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  app.add_option("--log-format", flags.log_format, "Lines for people or for machines, on standard error")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option(
         "--ready-fd", flags.ready_fd,
         "Descriptor that gets \"name N\", \"data HOST:PORT\" and \"http HOST:PORT\", a line each, and is "
         "closed when the controller knows the node")
      ->check(CLI::NonNegativeNumber)
      ->default_str("");
  CLI11_PARSE(app, argc, argv);
  if (flags.config.empty()) flags.config = flags.state_dir + "/node-" + flags.name + ".conf";

  LogLevel level = LogLevel::kInfo;
  ParseLogLevel(flags.log_level, &level);
  SetLogSink(flags.log_format == "json" ? JsonLogSink : StderrLogSink, level);
  const SystemClock clock;
  if (const Status status = Run(flags, clock); !status.ok()) {
    Log(LogLevel::kError, "node", status.error().message);
    if (!LogEnabled(LogLevel::kError))
      std::fprintf(stderr, "tulle-node: %s\n", status.error().message.c_str());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace tulle

int main(int argc, char** argv) { return tulle::Main(argc, argv); }
