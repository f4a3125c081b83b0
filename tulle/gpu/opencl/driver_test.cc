#include "tulle/gpu/opencl/driver.h"

#include <gtest/gtest.h>

namespace tulle::gpu::opencl {
namespace {

TEST(ChooseDeviceTest, IsTheOneThatTheProbeMeant) {
  const auto device = [](const char* address, const char* compiler) {
    DeviceInfo info;
    info.pci_address = address;
    info.compiler = compiler;
    return info;
  };
  const DeviceInfo first = device("0000:17:00.0", "nvidia"), second = device("0000:65:00.0", "nvidia"),
                   cpu = device("", "pocl"), other = device("", "rusticl");
  const std::vector<DeviceInfo> all = {first, second, cpu, other};
  using Options = DriverOptions;
  EXPECT_EQ(ChooseDevice(all, 1, {}), 1u);
  EXPECT_EQ(ChooseDevice(all, 4, {}), std::nullopt);
  EXPECT_EQ(ChooseDevice(all, 1, Options{.pci_address = "0000:65:00.0", .compiler = "nvidia"}), 1u);
  EXPECT_EQ(ChooseDevice(all, 2, Options{.compiler = "pocl"}), 2u);
  // In a jail with the files of one GPU, or of none.
  EXPECT_EQ(ChooseDevice({second, cpu, other}, 1, Options{.pci_address = "0000:65:00.0"}), 0u);
  EXPECT_EQ(ChooseDevice({first, cpu, other}, 1, Options{.pci_address = "0000:65:00.0"}), std::nullopt);
  EXPECT_EQ(ChooseDevice({cpu, other}, 2, Options{.compiler = "pocl"}), 0u);
  EXPECT_EQ(ChooseDevice({cpu, other}, 3, Options{.compiler = "rusticl"}), 1u);
  EXPECT_EQ(ChooseDevice({other}, 2, Options{.compiler = "pocl"}), std::nullopt);
}

}  // namespace
}  // namespace tulle::gpu::opencl
