// The battery on every OpenCL device of this host.
#include <malloc.h>

#include "tests/conformance/backend/battery.h"
#include "tests/conformance/backend/direct_subject.h"
#include "tulle/gpu/opencl/driver.h"

namespace tulle::gpu::conformance {
namespace {

// Freed memory is filled: what a driver still uses of it shows.
const bool kFillsFreed = mallopt(M_PERTURB, 0x55) != 0;

std::vector<SubjectFactory> OpenClFactories() {
  std::vector<SubjectFactory> factories;
  const std::shared_ptr<Driver> driver = opencl::OpenDriver();
  const auto devices = driver->Probe(false);
  if (!devices.ok()) return factories;
  for (const DeviceInfo& device : *devices) {
    const std::string name = "device" + std::to_string(device.index) + "_" + device.type;
    factories.push_back(DirectFactory(name + "_lent", driver, device.index, true));
    factories.push_back(DirectFactory(name + "_own", driver, device.index, false));
    if (device.protects_memory) continue;
    factories.push_back(DirectFactory(name + "_as_if_remote", opencl::OpenDriver({.assume_own_memory = true}),
                                      device.index, true));
  }
  return factories;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackendBattery);
INSTANTIATE_TEST_SUITE_P(OpenCl, BackendBattery, testing::ValuesIn(OpenClFactories()), SubjectName);

TEST(OpenClDriver, ProbesWhatTheHostHas) {
  const auto driver = opencl::OpenDriver();
  const auto plain = driver->Probe(false);
  if (!plain.ok()) GTEST_SKIP() << plain.error().message;
  const auto devices = driver->Probe(true);
  ASSERT_TRUE(devices.ok());
  ASSERT_EQ(devices->size(), plain->size());
  for (std::size_t i = 0; i < devices->size(); ++i) {
    const DeviceInfo& device = (*devices)[i];
    EXPECT_EQ(device.index, i);
    EXPECT_EQ(device.api, "OPENCL");
    EXPECT_EQ(device.name, (*plain)[i].name);
    EXPECT_NE(device.platform, "tulle");
    EXPECT_GT(device.memory_bytes, 0u);
    EXPECT_GT(device.max_allocation_bytes, 0u);
    EXPECT_GT(device.compute_units, 0u);
    EXPECT_GT(device.memory_bandwidth_bytes_per_s, 100u << 20);
    EXPECT_GT(device.fp32_flops, 100'000'000u);
    EXPECT_EQ(device.protects_memory, device.type != "CPU");
  }
}

TEST(OpenClDriver, SaysWhichDevicesThereAre) {
  const auto driver = opencl::OpenDriver();
  const auto devices = driver->Probe(false);
  if (!devices.ok()) GTEST_SKIP() << devices.error().message;
  const auto backend = driver->OpenDevice(1000, nullptr);
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code, Code::kNotFound);
  EXPECT_NE(backend.error().message.find("1000"), std::string::npos);
  EXPECT_FALSE(driver->OpenCompiler(1000).ok());
}

}  // namespace
}  // namespace tulle::gpu::conformance
