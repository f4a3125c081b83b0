#include "tulle/gpu/cuda/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tulle/gpu/cuda/driver.h"
#include "tulle/gpu/cuda/test_library.h"

namespace tulle::gpu::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

class NoCompletions final : public Completions {
 public:
  void Reply(std::uint16_t, std::uint64_t, ByteView, std::uint64_t) override {}
  void Notice(std::uint16_t, ByteView) override {}
  void PayloadDone(std::uint64_t) override {}
};

TEST(CudaProbeTest, FindsTheLibrarysDevices) {
  const auto found = Probe(LoadedLibrary(TULLE_SOFTCUDA_LIBRARY), true);
  ASSERT_TRUE(found.ok()) << found.error().message;
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].cuda_device, "0000:00:00.0");
  for (std::uint32_t i = 0; i < 2; ++i) {
    const DeviceInfo& info = (*found)[i];
    EXPECT_EQ(info.index, i);
    EXPECT_EQ(info.api, "CUDA");
    EXPECT_EQ(info.name, "tulle software CUDA device");
    EXPECT_EQ(info.memory_bytes, 64u << 20);
    EXPECT_EQ(info.compute_units, 2u);
    EXPECT_EQ(info.pci_address, info.cuda_device);
    EXPECT_GT(info.memory_bandwidth_bytes_per_s, 0u);
    EXPECT_GT(info.fp32_flops, 0u);
  }
  EXPECT_NE((*found)[0].cuda_device, (*found)[1].cuda_device);
}

TEST(CudaProbeTest, BackendsOpenTheDeviceTheyAreAskedFor) {
  const Library library = LoadedLibrary(TULLE_SOFTCUDA_LIBRARY);
  const auto found = Probe(library, false);
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ((*found)[1].fp32_flops, 0u) << "not measured";
  NoCompletions completions;
  for (const std::string& address : {(*found)[1].cuda_device, std::string()})
    EXPECT_TRUE(OpenBackend(library, address, &completions).ok()) << address;
  const auto missing = OpenBackend(library, "0000:99:00.0", &completions);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("0000:99:00.0"));
}

TEST(CudaProbeTest, LibrariesThatAreNoneAreTold) {
  EXPECT_EQ(OpenLibrary("/nowhere/libcuda.so.1").error().code, Code::kNotFound);
  const auto other = OpenLibrary("libm.so.6");
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(other.error().message, HasSubstr("12.4"));
}

TEST(CudaProbeTest, OneGpuOfTwoApisIsOne) {
  const auto device = [](const char* api, const char* address, const char* cuda) {
    DeviceInfo info;
    info.api = api;
    info.pci_address = address;
    info.cuda_device = cuda;
    return info;
  };
  std::vector<DeviceInfo> devices = {device("OPENCL", "", kSoftwareCuda),
                                     device("OPENCL", "0000:6b:00.0", ""),
                                     device("OPENCL", "0000:03:00.0", "")};
  for (std::uint32_t i = 0; i < 3; ++i) devices[i].index = i;
  Join({device("CUDA", "0000:17:00.0", "0000:17:00.0"), device("CUDA", "0000:6b:00.0", "0000:6b:00.0")},
       &devices);
  const auto is = [](std::uint32_t index, const char* api, const char* cuda) {
    return testing::AllOf(Field(&DeviceInfo::index, index), Field(&DeviceInfo::api, api),
                          Field(&DeviceInfo::cuda_device, cuda));
  };
  EXPECT_THAT(devices, ElementsAre(is(0, "OPENCL", kSoftwareCuda), is(1, "OPENCL", "0000:6b:00.0"),
                                   is(2, "OPENCL", ""), is(3, "CUDA", "0000:17:00.0")));
}

}  // namespace
}  // namespace tulle::gpu::cuda
