// What the parts of the battery share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tulle/cuda/driver_api.h"

namespace tulle::cuda_battery {

inline std::string NameOf(CUresult result) {
  const char* name = nullptr;
  return cuGetErrorName(result, &name) == CUDA_SUCCESS ? name : std::to_string(static_cast<int>(result));
}

#define CUDA_OK(call)                                                                         \
  do {                                                                                        \
    const CUresult battery_result = (call);                                                   \
    ASSERT_EQ(battery_result, CUDA_SUCCESS) << ::tulle::cuda_battery::NameOf(battery_result); \
  } while (false)

// A stream that waits for a test, at most until the test ends.
class Gate {
 public:
  ~Gate() { Open(); }
  CUresult Block(CUstream stream) {
    auto* const argument = new std::shared_ptr<std::atomic<bool>>(open_);
    const CUhostFn wait = [](void* its) {
      const std::unique_ptr<std::shared_ptr<std::atomic<bool>>> open(
          static_cast<std::shared_ptr<std::atomic<bool>>*>(its));
      (*open)->wait(false);
    };
    return cuLaunchHostFunc(stream, wait, argument);
  }
  void Open() {
    *open_ = true;
    open_->notify_all();
  }

 private:
  std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
};

// Each test has a context of its own, on the first device.
class Battery : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // kernels.ptx, loaded into the current context.
  void LoadKernels();
  CUfunction Function(const char* name);
  template <typename... Args>
  CUresult Launch(const char* name, unsigned grid, unsigned block, CUstream stream, Args... args) {
    void* parameters[] = {&args...};
    return cuLaunchKernel(Function(name), grid, 1, 1, block, 1, 1, 0, stream, parameters, nullptr);
  }

  // Memory of the device with these values, until the context's end.
  template <typename T>
  CUdeviceptr Put(const std::vector<T>& values) {
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc_v2(&address, std::max<std::size_t>(values.size(), 1) * sizeof(T)), CUDA_SUCCESS);
    EXPECT_EQ(cuMemcpyHtoD_v2(address, values.data(), values.size() * sizeof(T)), CUDA_SUCCESS);
    return address;
  }
  template <typename T>
  std::vector<T> Get(CUdeviceptr address, std::size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)), CUDA_SUCCESS);
    return values;
  }

  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
};

// The text of kernels.ptx.
const std::string& Kernels();

}  // namespace tulle::cuda_battery
