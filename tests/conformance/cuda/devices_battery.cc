// Several contexts and several devices: what orders them, and copies between them.
#include <algorithm>
#include <numeric>
#include <thread>

#include "tests/conformance/cuda/battery.h"

namespace tulle::cuda_battery {
namespace {

class DevicesBattery : public Battery {
 protected:
  // A second context, of this device; current from then on.
  void MakeOther(CUdevice device) { CUDA_OK(cuCtxCreate_v2(&other_, 0, device)); }
  void MakeOtherOfAnotherDevice() {
    int count = 0;
    CUDA_OK(cuDeviceGetCount(&count));
    if (count < 2) GTEST_SKIP() << "there is one device only";
    MakeOther(1);
  }
  void TearDown() override {
    if (other_ != nullptr) (void)cuCtxDestroy_v2(other_);
    Battery::TearDown();
  }
  // A stream that waits for no other, of a context that is current then.
  CUstream MakeStream(CUcontext context) {
    CUstream stream = nullptr;
    EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    return stream;
  }
  static std::vector<unsigned> Numbers(std::size_t count, unsigned first) {
    std::vector<unsigned> numbers(count);
    std::iota(numbers.begin(), numbers.end(), first);
    return numbers;
  }

  CUcontext other_ = nullptr;
};

TEST_F(DevicesBattery, ACopyThatReturnedIsDoneForAllContexts) {
  constexpr std::size_t kCount = 4u << 20;
  const CUdeviceptr memory = Put(std::vector<unsigned>(kCount));
  MakeOther(device_);
  const CUstream stream = MakeStream(other_);
  unsigned* host = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&host), 4, 0));
  for (unsigned value = 1; value < 8; ++value) {
    const std::vector<unsigned> values(kCount, value);
    CUDA_OK(cuCtxSetCurrent(context_));
    CUDA_OK(cuMemcpyHtoD_v2(memory, values.data(), kCount * 4));
    CUDA_OK(cuCtxSetCurrent(other_));
    CUDA_OK(cuMemcpyDtoHAsync_v2(host, memory + (kCount - 1) * 4, 4, stream));
    CUDA_OK(cuStreamSynchronize(stream));
    EXPECT_EQ(*host, value);
  }
  // Also when the context that copied is gone.
  CUcontext brief = nullptr;
  CUDA_OK(cuCtxCreate_v2(&brief, 0, device_));
  const unsigned last = 99;
  CUDA_OK(cuMemcpyHtoD_v2(memory, &last, 4));
  CUDA_OK(cuCtxDestroy_v2(brief));
  CUDA_OK(cuCtxSetCurrent(other_));
  CUDA_OK(cuMemcpyDtoHAsync_v2(host, memory, 4, stream));
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(*host, last);
  CUDA_OK(cuMemFreeHost(host));
}

TEST_F(DevicesBattery, APeerCopyWaitsForBothContexts) {
  constexpr std::size_t kCount = 4u << 20;
  const CUdeviceptr from = Put(std::vector<unsigned>(kCount)), to = Put(std::vector<unsigned>(kCount));
  const CUstream busy = MakeStream(context_);
  MakeOther(device_);
  for (unsigned value = 1; value < 6; ++value) {
    for (int i = 0; i < 8; ++i) CUDA_OK(cuMemsetD32Async(from, value, kCount, busy));
    CUDA_OK(cuMemcpyPeer(to, context_, from, context_, kCount * 4));
    EXPECT_EQ(Get<unsigned>(to, kCount), std::vector<unsigned>(kCount, value));
    // And they wait for it.
    CUDA_OK(cuMemcpyPeer(to, other_, from, context_, kCount * 4));
    CUDA_OK(cuMemsetD32Async(to, 0, kCount, busy));
    CUDA_OK(cuStreamSynchronize(busy));
    EXPECT_EQ(Get<unsigned>(to, kCount), std::vector<unsigned>(kCount, 0));
  }
  EXPECT_EQ(cuMemcpyPeer(to, nullptr, from, context_, 4), CUDA_ERROR_INVALID_CONTEXT);
}

TEST_F(DevicesBattery, MemoryIsCopiedBetweenDevices) {
  constexpr std::size_t kCount = 5u << 20;  // more than one piece
  const CUdeviceptr here = Put(Numbers(kCount, 1));
  ASSERT_NO_FATAL_FAILURE(MakeOtherOfAnotherDevice());
  if (IsSkipped()) return;
  const CUdeviceptr there = Put(std::vector<unsigned>(kCount));
  // The memory of the first device, while the other's context is current.
  CUDA_OK(cuMemcpyPeer(there, other_, here, context_, kCount * 4));
  EXPECT_EQ(Get<unsigned>(there, kCount), Numbers(kCount, 1));
  EXPECT_EQ(Get<unsigned>(here, kCount), Numbers(kCount, 1));
  const std::vector<unsigned> more = Numbers(kCount, 7);
  CUDA_OK(cuMemcpyHtoD_v2(here, more.data(), kCount * 4));
  // By the addresses alone.
  CUDA_OK(cuMemcpy(there, here, kCount * 4));
  EXPECT_EQ(Get<unsigned>(there, kCount), more);
  CUDA_OK(cuMemcpyDtoD_v2(there + 4, here, 4));
  EXPECT_EQ(Get<unsigned>(there, 2), (std::vector<unsigned>{7, 7}));
  // Rows: a column of the one is a column of the other.
  CUDA_MEMCPY3D_PEER rows{};
  rows.srcMemoryType = rows.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  rows.srcDevice = here;
  rows.dstDevice = there;
  rows.srcContext = context_;
  rows.dstContext = other_;
  rows.srcPitch = 64;
  rows.dstPitch = 32;
  rows.dstXInBytes = 8;
  rows.WidthInBytes = 4;
  rows.Height = 100;
  rows.Depth = 1;
  CUDA_OK(cuMemcpy3DPeer(&rows));
  const std::vector<unsigned> got = Get<unsigned>(there, 800);
  for (unsigned row = 0; row < 100; ++row) EXPECT_EQ(got[row * 8 + 2], 7 + row * 16);
  EXPECT_EQ(got[3], more[3]);
  EXPECT_EQ(cuMemcpyPeer(there, other_, here + 4, context_, kCount * 4), CUDA_ERROR_INVALID_VALUE);
  int can = 1;
  CUDA_OK(cuDeviceCanAccessPeer(&can, 0, 1));
  EXPECT_EQ(can, 0);
  EXPECT_EQ(cuCtxEnablePeerAccess(context_, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
}

TEST_F(DevicesBattery, CopiesBetweenDevicesComeInTheOrderOfTheirStream) {
  constexpr std::size_t kCount = 3u << 20;
  const CUdeviceptr here = Put(std::vector<unsigned>(kCount, 1));
  const CUstream stream = MakeStream(context_);
  ASSERT_NO_FATAL_FAILURE(MakeOtherOfAnotherDevice());
  if (IsSkipped()) return;
  const CUdeviceptr there = Put(std::vector<unsigned>(kCount, 2));
  unsigned* pinned = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), kCount * 4, 0));
  std::fill_n(pinned, kCount, 0);
  Gate gate;
  CUDA_OK(gate.Block(stream));
  CUDA_OK(cuMemsetD32Async(here, 5, kCount, stream));
  CUDA_OK(cuMemcpyPeerAsync(there, other_, here, context_, kCount * 4, stream));
  CUDA_OK(cuMemsetD32Async(here, 6, kCount, stream));
  CUDA_OK(cuMemcpyDtoHAsync_v2(pinned, there, kCount * 4, stream));
  EXPECT_EQ(Get<unsigned>(there, kCount), std::vector<unsigned>(kCount, 2)) << "it waits for its stream";
  gate.Open();
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(Get<unsigned>(there, kCount), std::vector<unsigned>(kCount, 5));
  EXPECT_EQ(Get<unsigned>(here, kCount), std::vector<unsigned>(kCount, 6));
  EXPECT_EQ(std::count(pinned, pinned + kCount, 5u), static_cast<std::ptrdiff_t>(kCount));
  CUDA_OK(cuMemFreeHost(pinned));
}

// Each would hang if one waited for what comes behind itself.
TEST_F(DevicesBattery, FunctionsOfTheProgramHoldUpTheirStreamsOnly) {
  const CUdeviceptr memory = Put(std::vector<unsigned>(1 << 16));
  const CUdeviceptr other = Put(std::vector<unsigned>(1));
  unsigned* pinned = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), 4 << 16, 0));
  const CUstream stream = MakeStream(context_);
  std::atomic<bool> done{false};
  std::thread modules([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    while (!done) {
      CUmodule module = nullptr;
      EXPECT_EQ(cuModuleLoadData(&module, Kernels().c_str()), CUDA_SUCCESS);
      EXPECT_EQ(cuModuleUnload(module), CUDA_SUCCESS);
    }
  });
  std::thread copies([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    const unsigned value = 1;
    while (!done) EXPECT_EQ(cuMemcpyHtoD_v2(other, &value, 4), CUDA_SUCCESS);
  });
  for (int i = 0; i < 60; ++i) {
    Gate gate;
    EXPECT_EQ(gate.Block(stream), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyHtoDAsync_v2(memory, pinned, 4 << 16, stream), CUDA_SUCCESS);
    gate.Open();
    EXPECT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
  }
  done = true;
  modules.join();
  copies.join();
  CUDA_OK(cuMemFreeHost(pinned));
}

TEST_F(DevicesBattery, ManySmallCopiesMayBeUnderWay) {
  constexpr std::size_t kCopies = 80'000;
  const CUdeviceptr memory = Put(Numbers(1000, 0));
  unsigned* pinned = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), kCopies * 4, 0));
  const CUstream stream = MakeStream(context_);
  Gate gate;
  CUDA_OK(gate.Block(stream));
  for (std::size_t i = 0; i < kCopies; ++i) {
    if (i == 450) gate.Open();  // a driver's queue may be full from then on
    CUDA_OK(cuMemcpyDtoHAsync_v2(&pinned[i], memory + i % 1000 * 4, 4, stream));
  }
  CUDA_OK(cuStreamSynchronize(stream));
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < kCopies; ++i) wrong += pinned[i] != i % 1000 ? 1 : 0;
  EXPECT_EQ(wrong, 0u);
  CUDA_OK(cuMemFreeHost(pinned));
}

}  // namespace
}  // namespace tulle::cuda_battery
