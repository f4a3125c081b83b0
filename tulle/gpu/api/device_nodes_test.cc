#include "tulle/gpu/api/device_nodes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace tulle::gpu {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

// A host with a GPU of each kind.
class DeviceNodesTest : public ::testing::Test {
 protected:
  DeviceNodesTest() {
    std::string name = ::testing::TempDir() + "/device-nodes-XXXXXX";
    root_ = mkdtemp(name.data());
    Put("/sys/bus/pci/devices/0000:65:00.0/vendor", "0x10de\n");
    Put("/proc/driver/nvidia/gpus/0000:65:00.0/information",
        "Model: \t\t NVIDIA H200\nDevice Minor: \t 3\nGPU Excluded:\t No\n");
    for (const char* node : {"/dev/nvidia3", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"})
      Put(node, "");
    Put("/sys/bus/pci/devices/0000:03:00.0/vendor", "0x1002\n");
    Put("/sys/bus/pci/devices/0000:03:00.0/drm/renderD128/dev", "226:128\n");
    Put("/sys/bus/pci/devices/0000:03:00.0/drm/card0/dev", "226:0\n");
    Put("/sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n");
    Put("/sys/bus/pci/devices/0000:00:02.0/drm/renderD129/dev", "226:129\n");
    for (const char* node : {"/dev/dri/card0", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/kfd"})
      Put(node, "");
  }
  ~DeviceNodesTest() override { std::filesystem::remove_all(root_); }

  void Put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_;
};

TEST_F(DeviceNodesTest, OfNvidiasAreItsOwnAndTheDrivers) {
  EXPECT_THAT(DeviceNodesOf("0000:65:00.0", root_),
              UnorderedElementsAre("/dev/nvidia3", "/dev/nvidiactl", "/dev/nvidia-uvm"));
}

TEST_F(DeviceNodesTest, OfOthersAreItsRenderNodes) {
  EXPECT_THAT(DeviceNodesOf("0000:03:00.0", root_), UnorderedElementsAre("/dev/dri/renderD128", "/dev/kfd"));
  EXPECT_THAT(DeviceNodesOf("0000:00:02.0", root_), UnorderedElementsAre("/dev/dri/renderD129"));
}

TEST_F(DeviceNodesTest, OfWhatIsNoGpuAreNone) {
  EXPECT_THAT(DeviceNodesOf("", root_), IsEmpty());
  EXPECT_THAT(DeviceNodesOf("0000:99:00.0", root_), IsEmpty());
  EXPECT_THAT(DeviceNodesOf("../devices/0000:03:00.0", root_), IsEmpty()) << "a path";
}

}  // namespace
}  // namespace tulle::gpu
