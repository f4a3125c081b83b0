#include "tulle/node/inventory.h"

#include <fcntl.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <sstream>

#include "tulle/base/log.h"
#include "tulle/base/subprocess.h"
#include "tulle/security/files.h"
#include "tulle/wire/schema/node.h"

namespace tulle::node {
namespace {

constexpr std::size_t kMaxProbeBytes = 1 << 20;
constexpr std::size_t kMaxStateBytes = 1 << 20;
constexpr std::size_t kMaxKnown = 1024;
constexpr char kLooking[] = "looking for GPUs";
constexpr const char* kStateHead = "tulle-inventory 1";

// What the worker printed, or why there is nothing. `what` is being done, for a person.
Result<std::string> RunProbe(const InventoryOptions& options, const std::string& what,
                             std::vector<std::string> arguments) {
  std::string command = options.worker_binary;
  for (const std::string& argument : arguments) command += " " + argument;
  for (const std::string& argument : options.worker_arguments) command += " " + argument;
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoError("pipe", errno);
  UniqueFd out_read(out[0]), out_write(out[1]);
  if (pipe2(err, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoError("pipe", errno);
  UniqueFd err_read(err[0]), err_write(err[1]);
  arguments.insert(arguments.begin(), options.worker_binary);
  arguments.insert(arguments.end(), options.worker_arguments.begin(), options.worker_arguments.end());
  TULLE_ASSIGN_OR_RETURN(Subprocess probe, Subprocess::Start({.argv = arguments,
                                                              .fds = {{-1, 0}, {out[1], 1}, {err[1], 2}},
                                                              .death_signal = SIGKILL,
                                                              .own_group = true}));
  out_write.reset();
  err_write.reset();
  std::string text, words;
  const SystemClock clock;
  const Instant deadline = clock.Now() + options.probe_timeout;
  bool open = true;
  while (open && clock.Now() < deadline && text.size() <= kMaxProbeBytes) {
    pollfd waiting[] = {{out_read.get(), POLLIN, 0}, {err_read.get(), POLLIN, 0}};
    poll(waiting, 2, static_cast<int>((deadline - clock.Now()).count() / 1'000'000 + 1));
    char buffer[4096];
    for (ssize_t got; (got = read(err_read.get(), buffer, sizeof buffer)) > 0;) {
      words.append(buffer, static_cast<std::size_t>(got));
      if (words.size() > 2048) words.erase(0, words.size() - 2048);  // the end tells most
    }
    for (ssize_t got; (got = read(out_read.get(), buffer, sizeof buffer)) >= 0;) {
      if (got == 0) {
        open = false;
        break;
      }
      text.append(buffer, static_cast<std::size_t>(got));
      if (text.size() > kMaxProbeBytes) break;
    }
  }
  std::optional<ExitState> exit =
      open ? std::nullopt : probe.Wait(std::max(deadline - clock.Now(), Duration(0)));
  if (!exit) {
    probe.Signal(SIGKILL);
    probe.Wait(std::chrono::seconds(10));
    return Error{.code = Code::kDeadlineExceeded,
                 .message = what + " took longer than " +
                            std::to_string(options.probe_timeout.count() / 1'000'000'000) + " s. Try `" +
                            command + "`"};
  }
  if (!exit->ok()) {
    while (words.ends_with('\n')) words.pop_back();
    return Error{.code = Code::kFailedPrecondition,
                 .message = what + " failed: `" + command + "` " + exit->Text() +
                            (words.empty() ? "" : ", saying: " + words)};
  }
  // What it could not use, and why.
  std::istringstream lines(words);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) Log(LogLevel::kWarn, "node", "the probe says", {{"line", line}});
  }
  return text;
}

std::string IdentityOf(const InventoryGpu& gpu, std::uint32_t ordinal) {
  std::string identity = gpu.api + " " + gpu.vendor + " " + gpu.name + " #" + std::to_string(ordinal);
  std::replace_if(
      identity.begin(), identity.end(), [](char c) { return c == '\t' || c == '\n'; }, ' ');
  return identity;
}

}  // namespace

Result<Machines> TryMachines(const InventoryOptions& options) {
  TULLE_ASSIGN_OR_RETURN(const std::string text,
                         RunProbe(options, "starting a virtual machine", {"--probe-machines"}));
  std::istringstream lines(text);
  Machines machines;
  std::getline(lines, machines.start_ms);
  for (std::string line; std::getline(lines, line);) machines.worker_arguments.push_back(line);
  return machines;
}

std::uint64_t DeviceShare::MemoryOf(const InventoryGpu& gpu) const {
  const std::uint64_t share = memory_percent != 0 ? memory_percent : gpu.type == "CPU" ? 75 : 100;
  constexpr std::uint64_t kWhole = 1u << 20;  // whole mebibytes read well
  return gpu.memory_bytes / 100 * share / nodes_here / kWhole * kWhole;
}

std::uint32_t DeviceShare::ComputePercent() const { return 100 / nodes_here; }

Result<std::vector<InventoryGpu>> ParseProbe(const std::string& text) {
  std::vector<InventoryGpu> gpus;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    google::protobuf::Struct object;
    if (!google::protobuf::util::JsonStringToMessage(line, &object).ok()) {
      return Error{.code = Code::kInternal,
                   .message = "the probe printed something else than a JSON object: " + line};
    }
    const auto& fields = object.fields();
    const auto text_of = [&](const char* key) {
      const auto it = fields.find(key);
      return it == fields.end() ? std::string() : it->second.string_value();
    };
    const auto number_of = [&](const char* key) -> std::uint64_t {
      const auto it = fields.find(key);
      const double value = it == fields.end() ? 0 : it->second.number_value();
      return value >= 0 && value < 9e18 ? static_cast<std::uint64_t>(value) : 0;
    };
    // As a worker can be told it.
    const auto address_of = [&](const char* key) {
      const std::string address = text_of(key);
      return address.size() <= wire::node::kMaxPciAddressBytes ? address : std::string();
    };
    if (gpus.size() == kMaxGpus) {
      Log(LogLevel::kWarn, "node", "more GPUs than a node can have; the rest is left out",
          {{"limit", kMaxGpus}});
      break;
    }
    gpus.push_back({.device_index = static_cast<std::uint32_t>(number_of("index")),
                    .api = text_of("api"),
                    .cuda_device = address_of("cuda_device"),
                    .pci_address = address_of("pci_address"),
                    .name = text_of("name"),
                    .vendor = text_of("vendor"),
                    .driver = text_of("driver_version"),
                    .compiler = text_of("compiler"),
                    .type = text_of("type"),
                    .memory_bytes = number_of("memory_bytes"),
                    .compute_units = static_cast<std::uint32_t>(number_of("compute_units")),
                    .clock_mhz = static_cast<std::uint32_t>(number_of("clock_mhz")),
                    .bandwidth_bytes_per_s = number_of("memory_bandwidth_bytes_per_s"),
                    .fp32_flops = number_of("fp32_flops")});
  }
  return gpus;
}

std::vector<KnownDevice> ParseKnownDevices(const std::string& text) {
  std::vector<KnownDevice> known;
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != kStateHead) return {};
  while (std::getline(lines, line) && known.size() < kMaxKnown) {
    std::istringstream fields(line);
    KnownDevice device;
    if (fields >> device.index >> device.bandwidth_bytes_per_s && fields.get() == '\t' &&
        std::getline(fields, device.identity, '\t') && std::getline(fields, device.driver, '\t')) {
      fields >> device.fp32_flops;
      known.push_back(device);
    }
  }
  return known;
}

std::string FormatKnownDevices(const std::vector<KnownDevice>& known) {
  std::ostringstream text;
  text << kStateHead << '\n';
  for (const KnownDevice& device : known) {
    text << device.index << '\t' << device.bandwidth_bytes_per_s << '\t' << device.identity << '\t'
         << device.driver << '\t' << device.fp32_flops << '\n';
  }
  return text.str();
}

std::vector<KnownDevice> Recognise(std::vector<InventoryGpu>* gpus, std::vector<KnownDevice> known) {
  std::set<std::uint32_t> taken;
  for (const KnownDevice& device : known) taken.insert(device.index);
  std::map<std::string, std::uint32_t> ordinals;  // equal devices are told apart by their order
  for (InventoryGpu& gpu : *gpus) {
    const std::string identity = IdentityOf(gpu, ordinals[IdentityOf(gpu, 0)]++);
    auto it = std::find_if(known.begin(), known.end(),
                           [&](const KnownDevice& d) { return d.identity == identity; });
    if (it == known.end()) {
      std::uint32_t index = 0;
      while (taken.contains(index)) ++index;
      taken.insert(index);
      it = known.insert(known.end(), {.index = index, .identity = identity, .driver = gpu.driver});
    }
    if (gpu.bandwidth_bytes_per_s != 0 || gpu.fp32_flops != 0) {
      it->bandwidth_bytes_per_s = gpu.bandwidth_bytes_per_s;
      it->fp32_flops = gpu.fp32_flops;
      it->driver = gpu.driver;
    } else if (it->driver == gpu.driver) {
      gpu.bandwidth_bytes_per_s = it->bandwidth_bytes_per_s;
      gpu.fp32_flops = it->fp32_flops;
    }
    gpu.index = it->index;
  }
  return known;
}

Result<std::vector<InventoryGpu>> TakeInventory(const InventoryOptions& options) {
  const bool keep = !options.state_file.empty();
  std::vector<KnownDevice> known;
  if (const auto state = security::ReadFile(options.state_file, kMaxStateBytes); keep && state.ok()) {
    known = ParseKnownDevices(*state);
  }

  TULLE_ASSIGN_OR_RETURN(const std::string quick, RunProbe(options, kLooking, {"--probe"}));
  TULLE_ASSIGN_OR_RETURN(std::vector<InventoryGpu> gpus, ParseProbe(quick));
  known = Recognise(&gpus, std::move(known));
  const auto unmeasured = [](const InventoryGpu& gpu) {
    return gpu.bandwidth_bytes_per_s == 0 || gpu.fp32_flops == 0;
  };
  if (options.measure && std::any_of(gpus.begin(), gpus.end(), unmeasured)) {
    Log(LogLevel::kInfo, "node", "measuring how fast new devices are");
    TULLE_ASSIGN_OR_RETURN(const std::string slow, RunProbe(options, kLooking, {"--probe", "--measure"}));
    TULLE_ASSIGN_OR_RETURN(gpus, ParseProbe(slow));
    known = Recognise(&gpus, std::move(known));
  }
  const Status saved =
      keep ? security::WritePrivateFile(options.state_file, FormatKnownDevices(known)) : OkStatus();
  if (!saved.ok()) {
    Log(LogLevel::kWarn, "node", "cannot keep the inventory", {{"why", saved.error().message}});
  }

  if (!options.only_devices.empty()) {
    for (const std::uint32_t wanted : options.only_devices) {
      if (std::none_of(gpus.begin(), gpus.end(),
                       [&](const InventoryGpu& gpu) { return gpu.device_index == wanted; })) {
        return Error{.code = Code::kNotFound,
                     .message = "there is no device " + std::to_string(wanted) + "; the probe found " +
                                std::to_string(gpus.size()) + ". See `" + options.worker_binary +
                                " --probe`"};
      }
    }
    std::erase_if(gpus, [&](const InventoryGpu& gpu) {
      return std::find(options.only_devices.begin(), options.only_devices.end(), gpu.device_index) ==
             options.only_devices.end();
    });
  }
  for (InventoryGpu& gpu : gpus) {
    gpu.allocatable_memory_bytes = options.share.MemoryOf(gpu);
    gpu.allocatable_compute_percent = options.share.ComputePercent();
  }
  return gpus;
}

}  // namespace tulle::node
