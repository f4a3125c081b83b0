// What the tests of the battery share: one device, context and queue for each test. The battery knows only
// OpenCL: it runs on any platform, and expects the same of all.
#pragma once

#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_0_APIS
#define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#define CL_USE_DEPRECATED_OPENCL_2_0_APIS
#define CL_USE_DEPRECATED_OPENCL_2_2_APIS
#include <CL/cl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace battery {

// Written so that the device without a compiler understands them too.
inline constexpr const char* kSource =
    "kernel void null_add(global uint* data, uint value) { data[get_global_id(0)] += value; }\n"
    "kernel void null_mul(global uint* data, uint value) { data[get_global_id(0)] *= value; }\n";

inline std::string InfoText(const std::function<cl_int(size_t, void*, size_t*)>& get) {
  size_t size = 0;
  EXPECT_EQ(get(0, nullptr, &size), CL_SUCCESS);
  std::string text(size, '\0');
  EXPECT_EQ(get(size, text.data(), nullptr), CL_SUCCESS);
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

// Polls until the condition holds; false after ten seconds.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

class OpenCl : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(clGetPlatformIDs(1, &platform, nullptr), CL_SUCCESS);
    ASSERT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), CL_SUCCESS);
    cl_int error = -1;
    context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    queue = clCreateCommandQueue(context, device, CL_QUEUE_PROFILING_ENABLE, &error);
    ASSERT_EQ(error, CL_SUCCESS);
  }
  void TearDown() override {
    if (queue != nullptr) {
      EXPECT_EQ(clReleaseCommandQueue(queue), CL_SUCCESS);
    }
    if (context != nullptr) {
      EXPECT_EQ(clReleaseContext(context), CL_SUCCESS);
    }
  }

  std::string PlatformText(cl_platform_info name) const {
    return InfoText([&](size_t size, void* value, size_t* ret) {
      return clGetPlatformInfo(platform, name, size, value, ret);
    });
  }
  std::string DeviceText(cl_device_info name) const {
    return InfoText([&](size_t size, void* value, size_t* ret) {
      return clGetDeviceInfo(device, name, size, value, ret);
    });
  }
  template <typename T>
  T DeviceInfo(cl_device_info name) const {
    T value{};
    EXPECT_EQ(clGetDeviceInfo(device, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
  bool OnVGpu() const { return PlatformText(CL_PLATFORM_NAME) == "tulle"; }
  // Its OpenCL is at least this one ("2.1").
  bool HasVersion(const std::string& version) const {
    return DeviceText(CL_DEVICE_VERSION) >= "OpenCL " + version;
  }
  // The device that is only memory: kernels other than kSource's do nothing there.
  bool HasCompiler() const { return DeviceText(CL_DEVICE_NAME) != "tulle null device"; }

  cl_mem Buffer(size_t size, cl_mem_flags flags = CL_MEM_READ_WRITE, void* pointer = nullptr) const {
    cl_int error = -1;
    cl_mem buffer = clCreateBuffer(context, flags, size, pointer, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return buffer;
  }
  cl_program Program(const char* source = kSource, const char* options = "") const {
    cl_int error = -1;
    cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(clBuildProgram(program, 1, &device, options, nullptr, nullptr), CL_SUCCESS);
    return program;
  }
  cl_kernel Kernel(cl_program program, const char* name) const {
    cl_int error = -1;
    cl_kernel kernel = clCreateKernel(program, name, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return kernel;
  }
  template <typename T>
  std::vector<T> Read(cl_mem buffer, size_t count, size_t offset = 0) const {
    std::vector<T> data(count);
    EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, offset, count * sizeof(T), data.data(), 0, nullptr,
                                  nullptr),
              CL_SUCCESS);
    return data;
  }
  template <typename T>
  void Write(cl_mem buffer, const std::vector<T>& data) const {
    EXPECT_EQ(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, 0, data.size() * sizeof(T), data.data(), 0,
                                   nullptr, nullptr),
              CL_SUCCESS);
  }
  static cl_int StatusOf(cl_event event) {
    cl_int status = 1234;
    EXPECT_EQ(clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr),
              CL_SUCCESS);
    return status;
  }

  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;
  cl_context context = nullptr;
  cl_command_queue queue = nullptr;
};

inline std::vector<cl_uint> Count(size_t count, cl_uint first = 0) {
  std::vector<cl_uint> data(count);
  std::iota(data.begin(), data.end(), first);
  return data;
}

}  // namespace battery
