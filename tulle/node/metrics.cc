#include <charconv>
#include <map>
#include <string_view>

#include "tulle/node/snapshot.h"
#include "tulle/wire/command_table.h"

namespace tulle::node {
namespace {

class MetricsText {
 public:
  // All samples of one metric follow its head.
  void Head(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ +=
        "# HELP " + name_ + " " + std::string(help) + "\n# TYPE " + name_ + " " + std::string(type) + "\n";
  }
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;
  template <typename N>
  void Sample(N value, Labels labels = {}) {
    Part("", value, labels);
  }
  // Of a histogram: its name with this suffix.
  template <typename N>
  void Part(std::string_view suffix, N value, Labels labels) {
    text_ += name_;
    text_ += suffix;
    char separator = '{';
    for (const auto& [key, label] : labels) {
      text_ += separator;
      text_ += std::string(key) + "=\"" + Escape(label) + '"';
      separator = ',';
    }
    if (separator == ',') text_ += '}';
    char number[64];
    const auto end = std::to_chars(number, number + sizeof number, value);
    text_ += ' ';
    text_.append(number, end.ptr);
    text_ += '\n';
  }
  std::string Take() { return std::move(text_); }

 private:
  static std::string Escape(std::string_view label) {
    std::string escaped;
    for (const char c : label) {
      if (c == '\n') {
        escaped += "\\n";
        continue;
      }
      if (c == '"' || c == '\\') escaped += '\\';
      escaped += c;
    }
    return escaped;
  }
  std::string name_;
  std::string text_;
};

constexpr double kNanosecond = 1e-9;

// The upper bound of a bucket of latencies, in seconds.
std::string BoundText(std::size_t bucket) {
  const auto& bounds = wire::node::kLatencyBoundsNs;
  if (bucket == bounds.size()) return "+Inf";
  char number[32];
  const auto end = std::to_chars(number, number + sizeof number, static_cast<double>(bounds[bucket]) / 1e9);
  return {number, end.ptr};
}

}  // namespace

std::string FormatMetrics(const Snapshot& s) {
  MetricsText m;
  m.Head("tulle_node_info", "gauge", "What this node is; always 1.");
  m.Sample(1, {{"node", s.name}, {"version", s.version}});
  m.Head("tulle_node_registered", "gauge", "1 while the controller knows this node.");
  m.Sample(s.registered ? 1 : 0);

  m.Head("tulle_node_cpus", "gauge", "CPUs of the host.");
  m.Sample(s.load.cpus);
  m.Head("tulle_node_cpu_busy_ratio", "gauge", "Load of the host's CPUs, 0 to 1.");
  m.Sample(static_cast<double>(s.load.cpu_percent) / 100);
  m.Head("tulle_node_memory_bytes", "gauge", "Memory of the host.");
  m.Sample(s.load.memory_total_bytes);
  m.Head("tulle_node_memory_available_bytes", "gauge", "Memory of the host that programs could still get.");
  m.Sample(s.load.memory_available_bytes);

  // Per GPU: what its vGPUs have and use. By the node's number, so that it joins with the controller's names.
  struct Use {
    std::uint64_t promised_bytes = 0, compute_percent = 0, vgpus = 0;
    VGpuUsage usage;
  };
  std::map<std::uint32_t, Use> uses;
  for (const VGpuStatus& vgpu : s.vgpus) {
    Use& use = uses[vgpu.spec.gpu_index];
    use.promised_bytes += vgpu.spec.memory_bytes;
    use.compute_percent += vgpu.spec.compute_percent;
    ++use.vgpus;
    use.usage.Add(vgpu.usage);
  }
  const auto per_gpu = [&](const char* name, const char* help, auto value) {
    m.Head(name, "gauge", help);
    for (const InventoryGpu& gpu : s.gpus) {
      m.Sample(value(gpu, uses[gpu.index]), {{"gpu", std::to_string(gpu.index)}, {"type", gpu.name}});
    }
  };
  per_gpu("tulle_gpu_memory_bytes", "Memory of the GPU.",
          [](const auto& gpu, const auto&) { return gpu.memory_bytes; });
  per_gpu("tulle_gpu_allocatable_memory_bytes", "What vGPUs may have of it.",
          [](const auto& gpu, const auto&) { return gpu.allocatable_memory_bytes; });
  per_gpu("tulle_gpu_allocated_memory_bytes", "What its vGPUs were promised.",
          [](const auto&, const auto& use) { return use.promised_bytes; });
  per_gpu("tulle_gpu_used_memory_bytes", "What programs have taken of that.",
          [](const auto&, const auto& use) { return use.usage.memory_used_bytes; });
  per_gpu("tulle_gpu_allocatable_compute_percent", "Share of its compute that vGPUs may be promised.",
          [](const auto& gpu, const auto&) { return gpu.allocatable_compute_percent; });
  per_gpu("tulle_gpu_allocated_compute_percent", "Compute shares that its vGPUs were promised.",
          [](const auto&, const auto& use) { return use.compute_percent; });
  per_gpu("tulle_gpu_bandwidth_bytes_per_second", "Measured bandwidth of the GPU's memory; 0: not known.",
          [](const auto& gpu, const auto&) { return gpu.bandwidth_bytes_per_s; });
  per_gpu("tulle_gpu_fp32_flops", "Measured single-precision operations per second; 0: not known.",
          [](const auto& gpu, const auto&) { return gpu.fp32_flops; });
  per_gpu("tulle_gpu_vgpus", "vGPUs on it.", [](const auto&, const auto& use) { return use.vgpus; });
  per_gpu("tulle_gpu_sessions", "Client processes attached to its vGPUs.",
          [](const auto&, const auto& use) { return use.usage.sessions; });

  const auto per_vgpu = [&](const char* name, const char* type, const char* help, auto value) {
    m.Head(name, type, help);
    for (const VGpuStatus& vgpu : s.vgpus) {
      m.Sample(value(vgpu),
               {{"vgpu", vgpu.spec.uid}, {"name", vgpu.spec.name}, {"tenant", vgpu.spec.tenant}});
    }
  };
  per_vgpu("tulle_vgpu_ready", "gauge", "1 while programs can attach.",
           [](const auto& v) { return v.state == VGpuState::kReady ? 1 : 0; });
  per_vgpu("tulle_vgpu_sessions", "gauge", "Client processes attached.",
           [](const auto& v) { return v.usage.sessions; });
  per_vgpu("tulle_vgpu_memory_bytes", "gauge", "Memory of the vGPU.",
           [](const auto& v) { return v.spec.memory_bytes; });
  per_vgpu("tulle_vgpu_used_memory_bytes", "gauge", "What programs have taken of it.",
           [](const auto& v) { return v.usage.memory_used_bytes; });
  per_vgpu("tulle_vgpu_commands_total", "counter", "Commands run.",
           [](const auto& v) { return v.usage.commands; });
  per_vgpu("tulle_vgpu_received_bytes_total", "counter", "Bytes from programs.",
           [](const auto& v) { return v.usage.received_bytes; });
  per_vgpu("tulle_vgpu_sent_bytes_total", "counter", "Bytes to programs.",
           [](const auto& v) { return v.usage.sent_bytes; });
  per_vgpu("tulle_vgpu_device_seconds_total", "counter",
           "Time on the device: of its processors where vGPUs use it at once, else while others could not.",
           [](const auto& v) { return static_cast<double>(v.usage.device_time_ns) * kNanosecond; });
  per_vgpu("tulle_vgpu_share_ratio", "gauge", "Part of the GPU's compute that it may use now.",
           [](const auto& v) { return v.delivered.share; });
  per_vgpu("tulle_vgpu_promised_share_ratio", "gauge", "Part of the GPU's compute that it was promised.",
           [](const auto& v) { return arbiter::TermsOf(v.spec.level, v.spec.compute_percent).guaranteed; });
  per_vgpu("tulle_vgpu_throttled_seconds_total", "counter", "Time in which its work waited for its share.",
           [](const auto& v) { return static_cast<double>(v.delivered.throttled_ns) * kNanosecond; });
  per_vgpu("tulle_vgpu_network_bytes_per_second", "gauge",
           "What its programs may move over the network now; 0: as much as they like.",
           [](const auto& v) { return v.delivered.network_bytes_per_s; });
  per_vgpu("tulle_vgpu_network_promised_bytes_per_second", "gauge", "What they were promised.",
           [](const auto& v) { return v.spec.network_bytes_per_s; });
  per_vgpu("tulle_vgpu_network_bytes_total", "counter", "What they have moved, both ways together.",
           [](const auto& v) { return v.delivered.network_bytes; });
  per_vgpu("tulle_vgpu_network_throttled_seconds_total", "counter",
           "Time in which they waited for their share of the network.",
           [](const auto& v) { return static_cast<double>(v.delivered.network_throttled_ns) * kNanosecond; });
  per_vgpu("tulle_vgpu_spill_promised_bytes", "gauge", "What its programs may have beyond its memory.",
           [](const auto& v) { return v.spec.spill_bytes; });
  per_vgpu("tulle_vgpu_spilled_memory_bytes", "gauge",
           "What they have that is not on the GPU but in this host's memory.",
           [](const auto& v) { return v.usage.spilled_memory_bytes; });
  per_vgpu("tulle_vgpu_spilled_file_bytes", "gauge",
           "What they have that is not on the GPU but on this host's disk.",
           [](const auto& v) { return v.usage.spilled_file_bytes; });
  per_vgpu("tulle_vgpu_spill_out_bytes_total", "counter", "Moved from the GPU.",
           [](const auto& v) { return v.usage.spill_out_bytes; });
  per_vgpu("tulle_vgpu_spill_in_bytes_total", "counter", "Moved back to the GPU.",
           [](const auto& v) { return v.usage.spill_in_bytes; });
  per_vgpu("tulle_vgpu_spill_wait_seconds_total", "counter",
           "Time in which commands waited for what they use to be on the GPU, the sum over its programs.",
           [](const auto& v) { return static_cast<double>(v.usage.spill_wait_ns) * kNanosecond; });
  per_vgpu(
      "tulle_vgpu_host_memory_bytes", "gauge",
      "What drivers, kernels, buffers in this host's memory and compilers take of it, by the host's control "
      "groups; 0: they do not count it.",
      [](const auto& v) { return v.host_memory_bytes; });
  per_vgpu("tulle_vgpu_executor_crashes_total", "counter",
           "Sessions that ended because their driver process died.",
           [](const auto& v) { return v.usage.executor_crashes; });
  per_vgpu("tulle_vgpu_worker_restarts_total", "counter", "Starts of its worker after the first.",
           [](const auto& v) { return v.usage.worker_restarts; });
  per_vgpu("tulle_vgpu_refused_sessions_total", "counter",
           "Programs that did not prove a grant, or were too many.",
           [](const auto& v) { return v.usage.refused_sessions; });

  // By kind of command, under the names that the wire has for them.
  const auto per_command = [&](std::string_view name, const char* help, auto value) {
    m.Head(name, "counter", help);
    for (const VGpuStatus& vgpu : s.vgpus) {
      for (const auto& [opcode, command] : vgpu.usage.by_command) {
        m.Sample(value(command), {{"vgpu", vgpu.spec.uid}, {"command", wire::FindRow(opcode)->name}});
      }
    }
  };
  per_command("tulle_vgpu_command_requests_total", "Commands, by kind.",
              [](const auto& c) { return c.count; });
  per_command("tulle_vgpu_command_received_bytes_total", "Bytes of commands and what they brought, by kind.",
              [](const auto& c) { return c.bytes; });
  m.Head("tulle_vgpu_command_latency_seconds", "histogram",
         "From a command's arrival to its answer; where there is none, until the driver had it.");
  for (const VGpuStatus& vgpu : s.vgpus) {
    for (const auto& [opcode, command] : vgpu.usage.by_command) {
      const std::string_view name = wire::FindRow(opcode)->name;
      std::uint64_t within = 0;
      for (std::size_t i = 0; i < command.latencies.size(); ++i) {
        within += command.latencies[i];
        m.Part("_bucket", within, {{"vgpu", vgpu.spec.uid}, {"command", name}, {"le", BoundText(i)}});
      }
      m.Part("_sum", static_cast<double>(command.latency_ns) * kNanosecond,
             {{"vgpu", vgpu.spec.uid}, {"command", name}});
      m.Part("_count", within, {{"vgpu", vgpu.spec.uid}, {"command", name}});
    }
  }

  m.Head("tulle_node_commands_total", "counter", "Commands run by all vGPUs, those that are gone included.");
  m.Sample(s.total.commands);
  m.Head("tulle_node_received_bytes_total", "counter", "Bytes from programs, of all vGPUs.");
  m.Sample(s.total.received_bytes);
  m.Head("tulle_node_sent_bytes_total", "counter", "Bytes to programs, of all vGPUs.");
  m.Sample(s.total.sent_bytes);
  m.Head("tulle_node_device_seconds_total", "counter", "Time on the devices, of all vGPUs.");
  m.Sample(static_cast<double>(s.total.device_time_ns) * kNanosecond);

  m.Head("tulle_node_mesh_builds_total", "counter",
         "Builds that were looked for in the mesh, or given to it, by what became of that.");
  m.Sample(s.builds.found, {{"outcome", "found"}});
  m.Sample(s.builds.not_found, {{"outcome", "not_found"}});
  m.Sample(s.builds.kept, {{"outcome", "kept"}});
  m.Sample(s.builds.not_kept, {{"outcome", "not_kept"}});

  m.Head("tulle_data_port_connections_total", "counter",
         "Connections to the data port, by what became of them.");
  m.Sample(s.data_port.routed, {{"outcome", "routed"}});
  m.Sample(s.data_port.garbage, {{"outcome", "garbage"}});
  m.Sample(s.data_port.too_slow, {{"outcome", "too_slow"}});
  m.Sample(s.data_port.refused, {{"outcome", "refused"}});
  m.Sample(s.data_port.hung_up, {{"outcome", "hung_up"}});
  m.Head("tulle_data_port_waiting", "gauge", "Connections that have not shown a whole hello yet.");
  m.Sample(s.data_port.waiting);
  return m.Take();
}

}  // namespace tulle::node
