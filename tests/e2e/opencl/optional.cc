// Calls about what a device need not have: they work where it is there, and where it is not they say so.
#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Optional : public OpenCl {
 protected:
  cl_ulong HostTimerResolution() {
    cl_ulong resolution = 0;
    EXPECT_EQ(clGetPlatformInfo(platform, CL_PLATFORM_HOST_TIMER_RESOLUTION, sizeof resolution, &resolution,
                                nullptr),
              CL_SUCCESS);
    return resolution;
  }
};

TEST_F(Optional, SubGroupsOfKernels) {
  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  const auto ask = [&](cl_kernel_sub_group_info name, std::vector<size_t> input, size_t results,
                       size_t* result) {
    return clGetKernelSubGroupInfo(kernel, device, name, input.size() * sizeof(size_t),
                                   input.empty() ? nullptr : input.data(), results * sizeof(size_t), result,
                                   nullptr);
  };
  EXPECT_EQ(
      clGetKernelSubGroupInfo(nullptr, device, CL_KERNEL_MAX_NUM_SUB_GROUPS, 0, nullptr, 0, nullptr, nullptr),
      CL_INVALID_KERNEL);
  cl_uint most = 0;  // devices before OpenCL 2.1 need not know the question
  clGetDeviceInfo(device, CL_DEVICE_MAX_NUM_SUB_GROUPS, sizeof most, &most, nullptr);
  size_t size = 0, count = 0, local[3] = {};
  if (most == 0) {
    EXPECT_EQ(ask(CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE, {8}, 1, &size), CL_INVALID_OPERATION);
    EXPECT_EQ(ask(CL_KERNEL_MAX_NUM_SUB_GROUPS, {}, 1, &size), CL_INVALID_OPERATION);
  } else {
    EXPECT_EQ(ask(CL_KERNEL_MAX_SUB_GROUP_SIZE_FOR_NDRANGE, {16, 4}, 1, &size), CL_SUCCESS);
    EXPECT_EQ(ask(CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE, {16, 4}, 1, &count), CL_SUCCESS);
    EXPECT_GE(size * count, 64u);
    EXPECT_EQ(ask(CL_KERNEL_LOCAL_SIZE_FOR_SUB_GROUP_COUNT, {1}, 3, local), CL_SUCCESS);
    if (local[0] != 0) {
      EXPECT_EQ(ask(CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE, {local[0], local[1], local[2]}, 1, &count),
                CL_SUCCESS);
      EXPECT_EQ(count, 1u);
    }
    EXPECT_EQ(ask(CL_KERNEL_MAX_NUM_SUB_GROUPS, {}, 1, &count), CL_SUCCESS);
    EXPECT_GT(count, 0u);
    EXPECT_LE(count, most);
    EXPECT_EQ(ask(CL_KERNEL_COMPILE_NUM_SUB_GROUPS, {}, 1, &count), CL_SUCCESS);
    EXPECT_EQ(count, 0u);
    EXPECT_EQ(ask(CL_KERNEL_SUB_GROUP_COUNT_FOR_NDRANGE, {}, 1, &count), CL_INVALID_VALUE);
    EXPECT_EQ(ask(CL_KERNEL_WORK_GROUP_SIZE, {8}, 1, &count), CL_INVALID_VALUE);
    EXPECT_EQ(ask(CL_KERNEL_MAX_NUM_SUB_GROUPS, {}, 0, &count), CL_INVALID_VALUE);
  }
  clReleaseKernel(kernel);
  clReleaseProgram(program);
}

TEST_F(Optional, TimersCommonToHostAndDevice) {
  cl_ulong on_device = 0, on_host = 0;
  if (HostTimerResolution() == 0) {
    EXPECT_EQ(clGetDeviceAndHostTimer(device, &on_device, &on_host), CL_INVALID_OPERATION);
    EXPECT_EQ(clGetHostTimer(device, &on_host), CL_INVALID_OPERATION);
    return;
  }
  EXPECT_EQ(clGetDeviceAndHostTimer(device, &on_device, &on_host), CL_SUCCESS);
  cl_ulong later = 0;
  EXPECT_EQ(clGetHostTimer(device, &later), CL_SUCCESS);
  EXPECT_GE(later, on_host);
}

TEST_F(Optional, DestructorsOfPrograms) {
  const auto notify = [](cl_program, void*) {};
  EXPECT_EQ(clSetProgramReleaseCallback(nullptr, notify, nullptr), CL_INVALID_PROGRAM);
  cl_program program = Program();
  EXPECT_EQ(clSetProgramReleaseCallback(program, notify, nullptr), CL_INVALID_OPERATION);
  EXPECT_EQ(clSetProgramReleaseCallback(program, nullptr, nullptr), CL_INVALID_OPERATION);
  clReleaseProgram(program);
}

TEST_F(Optional, QueuesOnTheDevice) {
  EXPECT_EQ(clSetDefaultDeviceCommandQueue(nullptr, device, queue), CL_INVALID_CONTEXT);
  EXPECT_EQ(clSetDefaultDeviceCommandQueue(context, device, queue), CL_INVALID_OPERATION);
}

TEST_F(Optional, Pipes) {
  cl_bool pipes = CL_FALSE;
  clGetDeviceInfo(device, CL_DEVICE_PIPE_SUPPORT, sizeof pipes, &pipes, nullptr);
  if (pipes != CL_FALSE) GTEST_SKIP() << "the device has pipes";
  cl_int error = 0;
  EXPECT_EQ(clCreatePipe(context, 0, 4, 16, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
}

TEST_F(Optional, KernelsThatAreBuiltIn) {
  cl_int error = 0;
  EXPECT_EQ(clCreateProgramWithBuiltInKernels(context, 1, &device, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clCreateProgramWithBuiltInKernels(context, 1, &device, "no_such_kernel", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(Optional, RefusedCallsWantTheirObjectsAllTheSame) {
  if (!OnVGpu()) GTEST_SKIP() << "the loader or PoCL 3.1 dies of some of these";
  cl_int error = 0;
  cl_ulong time = 0;
  auto* const no_context = reinterpret_cast<cl_context>(queue);
  auto* const no_queue = reinterpret_cast<cl_command_queue>(context);
  EXPECT_EQ(clCreatePipe(no_context, 0, 4, 16, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(clCreateProgramWithBuiltInKernels(no_context, 1, &device, "none", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(clGetHostTimer(reinterpret_cast<cl_device_id>(queue), &time), CL_INVALID_DEVICE);
  EXPECT_EQ(clEnqueueNativeKernel(
                no_queue, [](void*) {}, nullptr, 0, 0, nullptr, nullptr, 0, nullptr, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clSetCommandQueueProperty(no_queue, CL_QUEUE_PROFILING_ENABLE, CL_TRUE, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clSetCommandQueueProperty(queue, CL_QUEUE_PROFILING_ENABLE, CL_TRUE, nullptr),
            CL_INVALID_OPERATION);
}

TEST_F(Optional, NativeKernels) {
  const auto can = DeviceInfo<cl_device_exec_capabilities>(CL_DEVICE_EXECUTION_CAPABILITIES);
  if ((can & CL_EXEC_NATIVE_KERNEL) != 0) GTEST_SKIP() << "the device calls functions of this process";
  EXPECT_EQ(clEnqueueNativeKernel(
                queue, [](void*) {}, nullptr, 0, 0, nullptr, nullptr, 0, nullptr, nullptr),
            CL_INVALID_OPERATION);
}

}  // namespace
}  // namespace battery
