// The GPUs of this host, as `tulle-worker --probe` finds them: the node itself never loads a driver. What is
// slow to measure (memory bandwidth) and what must stay (the number of a device) is kept in one file of the
// state directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/result.h"
#include "tulle/node/arbiter/arbiter.h"

namespace tulle::node {

inline constexpr std::size_t kMaxGpus = 64;
inline constexpr std::uint32_t kMaxNodesHere = 64;  // so that each has at least 1 % of a device

struct InventoryGpu {
  std::uint32_t index = 0;  // the node's number: stays as long as the state directory
  std::uint32_t device_index =
      0;            // the probe's number, which workers know it by: may change when drivers come or go
  std::string api;  // that it was found by: "OPENCL", "CUDA"
  std::string cuda_device;  // what sessions of CUDA run on (gpu::DeviceInfo); empty: nothing
  std::string pci_address;
  std::string name;
  std::string vendor;
  std::string driver;
  std::string compiler;  // what binaries depend on (gpu::DeviceInfo)
  std::string type;      // "CPU", "GPU", "ACCELERATOR"
  std::uint64_t memory_bytes = 0;
  std::uint64_t allocatable_memory_bytes = 0;  // what vGPUs may have of it
  std::uint32_t allocatable_compute_percent = 100;
  std::uint64_t allocatable_network_bytes_per_s = 0;  // its part of the node's; 0: not known
  std::uint64_t allocatable_spill_bytes = 0;          // likewise; 0: none
  std::uint32_t compute_units = 0;
  std::uint32_t clock_mhz = 0;
  std::uint64_t bandwidth_bytes_per_s = 0;  // measured; 0: not known
  std::uint64_t fp32_flops = 0;             // likewise
  arbiter::Sharing sharing = arbiter::Sharing::kMeasured;
  bool machines = false;  // its vGPUs can have virtual machines
};

// How much of a device vGPUs may have.
struct DeviceShare {
  // 0: not given. Then a CPU device, whose memory is the host's, keeps a quarter for the host; others give
  // all.
  std::uint32_t memory_percent = 0;
  // Nodes on this host that offer the same devices, at most kMaxNodesHere; each gives an equal part of memory
  // and compute, so that nothing is promised twice.
  std::uint32_t nodes_here = 1;
  std::uint64_t MemoryOf(const InventoryGpu& gpu) const;
  std::uint32_t ComputePercent() const;
};

struct InventoryOptions {
  std::string worker_binary;
  std::vector<std::string> worker_arguments;  // of the probe, besides --probe
  std::string state_file;                     // empty: nothing is kept
  bool measure = true;                        // how fast devices are that it is not known of
  std::vector<std::uint32_t> only_devices;    // the probe's numbers; none: all
  DeviceShare share;
  Duration probe_timeout = std::chrono::seconds(60);  // vendors' drivers may take tens of seconds to load
};

// Runs the probe, measures how fast devices are that are new (or whose driver is), keeps both. An empty
// list is no error. kNotFound when the worker's program is not there, kFailedPrecondition with the probe's
// words when it failed, kDeadlineExceeded when it hung (and was killed).
Result<std::vector<InventoryGpu>> TakeInventory(const InventoryOptions& options);

// How virtual machines are started here.
struct Machines {
  std::string start_ms;                       // that one took
  std::vector<std::string> worker_arguments;  // by which workers start such
};

// Has the worker start one, with the arguments in `options`. Errors likewise.
Result<Machines> TryMachines(const InventoryOptions& options);

// --- parts of the above, for tests

// The probe's standard output: one device a line.
Result<std::vector<InventoryGpu>> ParseProbe(const std::string& text);

// What the state file holds, one line a device: index, bandwidth, identity, driver, fp32_flops.
struct KnownDevice {
  std::uint32_t index = 0;
  std::uint64_t bandwidth_bytes_per_s = 0;  // 0: not measured
  std::string identity;                     // which device, by what it says of itself
  std::string driver;                       // that both were measured with
  std::uint64_t fp32_flops = 0;             // likewise; state files before it have none
};
std::vector<KnownDevice> ParseKnownDevices(const std::string& text);
std::string FormatKnownDevices(const std::vector<KnownDevice>& known);

// Gives each of `gpus` the number and rates that it is known by, or the lowest free number and no
// rates; returns what is known now. Devices that are away keep their numbers.
std::vector<KnownDevice> Recognise(std::vector<InventoryGpu>* gpus, std::vector<KnownDevice> known);

}  // namespace tulle::node
