#include "tulle/node/inventory.h"

#include <gtest/gtest.h>

#include "tulle/node/host_load.h"
#include "tulle/node/snapshot.h"

namespace tulle::node {
namespace {

const char* const kProbe =
    R"({"index":0,"api":"OPENCL","name":"card \"X\"","vendor":"v","platform":"p","driver_version":"1.0","type":"GPU",)"
    R"("memory_bytes":17179869184,"compute_units":8,"clock_mhz":1500,"memory_bandwidth_bytes_per_s":0})"
    "\n";

TEST(Inventory, ReadsTheProbe) {
  const auto gpus = ParseProbe(std::string(kProbe) + "\n" + kProbe);
  ASSERT_TRUE(gpus.ok()) << gpus.error().message;
  ASSERT_EQ(gpus->size(), 2u);
  EXPECT_EQ((*gpus)[0].name, "card \"X\"");
  EXPECT_EQ((*gpus)[0].memory_bytes, 16ull << 30);
  EXPECT_EQ((*gpus)[0].compute_units, 8u);
  EXPECT_TRUE(ParseProbe("")->empty());
  EXPECT_FALSE(ParseProbe("Segmentation fault").ok());
  // Numbers that are none of a device do no harm.
  EXPECT_EQ(ParseProbe(R"({"memory_bytes":-5,"name":7})")->at(0).memory_bytes, 0u);
}

InventoryGpu Card(const std::string& name, const std::string& driver = "1.0") {
  return {.api = "OPENCL", .name = name, .vendor = "v", .driver = driver};
}

TEST(Inventory, DevicesKeepTheirNumbersAndRates) {
  std::vector<InventoryGpu> gpus = {Card("a"), Card("b"), Card("a")};
  gpus[0].bandwidth_bytes_per_s = 10;
  gpus[1].bandwidth_bytes_per_s = 20;
  gpus[2].bandwidth_bytes_per_s = 11;
  gpus[0].fp32_flops = 100;
  gpus[1].fp32_flops = 200;
  auto known = ParseKnownDevices(FormatKnownDevices(Recognise(&gpus, {})));
  ASSERT_EQ(known.size(), 3u);
  EXPECT_EQ(gpus[2].index, 2u);

  // One is away, one is new, one has a new driver.
  gpus = {Card("c"), Card("b", "2.0"), Card("a")};
  known = Recognise(&gpus, known);
  EXPECT_EQ(gpus[0].index, 3u);
  EXPECT_EQ(gpus[0].bandwidth_bytes_per_s, 0u);
  EXPECT_EQ(gpus[1].index, 1u);
  EXPECT_EQ(gpus[1].bandwidth_bytes_per_s, 0u) << "measured with another driver";
  EXPECT_EQ(gpus[1].fp32_flops, 0u);
  EXPECT_EQ(gpus[2].index, 0u);
  EXPECT_EQ(gpus[2].bandwidth_bytes_per_s, 10u);
  EXPECT_EQ(gpus[2].fp32_flops, 100u);
  EXPECT_EQ(known.size(), 4u);
}

TEST(Inventory, AnOldStateFileHasNoFlops) {
  const auto known = ParseKnownDevices("tulle-inventory 1\n3\t10\tOPENCL v a #0\t1.0\n");
  ASSERT_EQ(known.size(), 1u);
  EXPECT_EQ(known[0].index, 3u);
  EXPECT_EQ(known[0].driver, "1.0");
  EXPECT_EQ(known[0].fp32_flops, 0u);
}

TEST(Inventory, AForeignStateFileIsIgnored) {
  EXPECT_TRUE(ParseKnownDevices("").empty());
  EXPECT_TRUE(ParseKnownDevices("something else\n0\t1\ta\tb\n").empty());
  EXPECT_TRUE(ParseKnownDevices("tulle-inventory 1\nx\t1\ta\tb\n0\t1\n").empty());
}

TEST(Inventory, WhatVGpusMayHave) {
  InventoryGpu cpu{.type = "CPU", .memory_bytes = 16ull << 30};
  InventoryGpu card{.type = "GPU", .memory_bytes = 16ull << 30};
  constexpr std::uint64_t kMiB = 1 << 20;
  EXPECT_NEAR(static_cast<double>(DeviceShare{}.MemoryOf(cpu)), 12.0 * (1ull << 30), 2.0 * kMiB);
  EXPECT_NEAR(static_cast<double>(DeviceShare{}.MemoryOf(card)), 16.0 * (1ull << 30), 2.0 * kMiB);
  EXPECT_EQ(DeviceShare{.memory_percent = 50}.MemoryOf(card) % kMiB, 0u);
  EXPECT_EQ(DeviceShare{}.ComputePercent(), 100u);
  for (std::uint32_t nodes = 1; nodes <= kMaxNodesHere; ++nodes) {
    const DeviceShare share{.nodes_here = nodes};
    EXPECT_LE(nodes * share.MemoryOf(cpu), DeviceShare{}.MemoryOf(cpu));
    EXPECT_LE(nodes * share.ComputePercent(), 100u);
    EXPECT_GE(share.ComputePercent(), 1u);
  }
}

TEST(HostLoad, ReadsProc) {
  const auto ticks = ParseProcStat("cpu  100 0 50 800 40 0 10 0 0 0\ncpu0 1 2 3\n");
  ASSERT_TRUE(ticks.has_value());
  EXPECT_EQ(ticks->total, 1000u);
  EXPECT_EQ(ticks->busy, 160u);
  EXPECT_FALSE(ParseProcStat("cpu  1 2 3\n").has_value());
  EXPECT_FALSE(ParseProcStat("").has_value());
  HostLoad load;
  EXPECT_TRUE(ParseProcMeminfo("MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:   60 kB\n", &load));
  EXPECT_EQ(load.memory_available_bytes, 60u * 1024);
  EXPECT_FALSE(ParseProcMeminfo("MemFree: 1 kB\n", &load));
}

TEST(Metrics, ArePrometheusText) {
  Snapshot snapshot{.name = "a\"b", .version = "1"};
  snapshot.gpus = {{.index = 3, .name = "card", .memory_bytes = 1000}};
  snapshot.vgpus = {{.spec = {.uid = "u", .name = "n", .tenant = "t", .gpu_index = 3, .memory_bytes = 600},
                     .state = VGpuState::kReady,
                     .usage = {.sessions = 2, .device_time_ns = 1'500'000'000}}};
  CommandUsage& kernels = snapshot.vgpus.front().usage.by_command[0x0411];
  kernels = {.count = 3, .bytes = 700, .latency_ns = 2'500'000'000};
  kernels.latencies[2] = 2;
  kernels.latencies.back() = 1;
  const std::string text = FormatMetrics(snapshot);
  for (const char* line : {
           "tulle_node_info{node=\"a\\\"b\",version=\"1\"} 1\n",
           "# TYPE tulle_gpu_allocated_memory_bytes "
           "gauge\ntulle_gpu_allocated_memory_bytes{gpu=\"3\",type=\"card\"} 600\n",
           "tulle_vgpu_sessions{vgpu=\"u\",name=\"n\",tenant=\"t\"} 2\n",
           "tulle_vgpu_device_seconds_total{vgpu=\"u\",name=\"n\",tenant=\"t\"} 1.5\n",
           "tulle_data_port_connections_total{outcome=\"garbage\"} 0\n",
           "tulle_vgpu_command_requests_total{vgpu=\"u\",command=\"EnqueueKernel\"} 3\n",
           "tulle_vgpu_command_received_bytes_total{vgpu=\"u\",command=\"EnqueueKernel\"} 700\n",
           "# TYPE tulle_vgpu_command_latency_seconds histogram\n",
           "tulle_vgpu_command_latency_seconds_bucket{vgpu=\"u\",command=\"EnqueueKernel\",le=\"3e-05\"} 0\n",
           "tulle_vgpu_command_latency_seconds_bucket{vgpu=\"u\",command=\"EnqueueKernel\",le=\"1e-04\"} 2\n",
           "tulle_vgpu_command_latency_seconds_bucket{vgpu=\"u\",command=\"EnqueueKernel\",le=\"3e-04\"} 2\n",
           "tulle_vgpu_command_latency_seconds_bucket{vgpu=\"u\",command=\"EnqueueKernel\",le=\"+Inf\"} 3\n",
           "tulle_vgpu_command_latency_seconds_sum{vgpu=\"u\",command=\"EnqueueKernel\"} 2.5\n",
           "tulle_vgpu_command_latency_seconds_count{vgpu=\"u\",command=\"EnqueueKernel\"} 3\n",
       }) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

}  // namespace
}  // namespace tulle::node
