// Platforms, devices, contexts, queues: creation, infos, counts, errors.
#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Objects : public OpenCl {};

TEST_F(Objects, InfoSizesAreExact) {
  size_t size = 0;
  ASSERT_EQ(clGetPlatformInfo(platform, CL_PLATFORM_NAME, 0, nullptr, &size), CL_SUCCESS);
  std::vector<char> name(size + 1, 'x');
  EXPECT_EQ(clGetPlatformInfo(platform, CL_PLATFORM_NAME, size - 1, name.data(), nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clGetPlatformInfo(platform, CL_PLATFORM_NAME, size, name.data(), nullptr), CL_SUCCESS);
  EXPECT_EQ(name[size - 1], '\0');
  EXPECT_EQ(name[size], 'x');
  EXPECT_EQ(clGetPlatformInfo(platform, 0x7777, 0, nullptr, &size), CL_INVALID_VALUE);

  cl_uint units = 0;
  EXPECT_EQ(clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units - 1, &units, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clGetDeviceInfo(device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units + 8, &units, &size),
            CL_SUCCESS);
  EXPECT_EQ(size, sizeof units);
  EXPECT_GE(units, 1u);
  EXPECT_EQ(clGetDeviceInfo(device, 0x7777, 0, nullptr, &size), CL_INVALID_VALUE);
}

TEST_F(Objects, PlatformsAndDevicesAreListedByTheRules) {
  cl_uint count = 0;
  EXPECT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count), CL_SUCCESS);
  EXPECT_GE(count, 1u);
  EXPECT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, &device, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ACCELERATOR, 1, &device, &count), CL_DEVICE_NOT_FOUND);
  cl_device_id first = nullptr;
  EXPECT_EQ(clGetDeviceIDs(platform, CL_DEVICE_TYPE_DEFAULT, 1, &first, &count), CL_SUCCESS);
  EXPECT_EQ(first, device);
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(DeviceInfo<cl_platform_id>(CL_DEVICE_PLATFORM), platform);
  EXPECT_EQ(clRetainDevice(device), CL_SUCCESS);
  EXPECT_EQ(clReleaseDevice(device), CL_SUCCESS);
}

TEST_F(Objects, ContextsSayWhatTheyAre) {
  cl_int error = -1;
  const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                              reinterpret_cast<cl_context_properties>(platform), 0};
  cl_context made = clCreateContext(properties, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint count = 0;
  EXPECT_EQ(clGetContextInfo(made, CL_CONTEXT_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(clRetainContext(made), CL_SUCCESS);
  EXPECT_EQ(clGetContextInfo(made, CL_CONTEXT_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(clReleaseContext(made), CL_SUCCESS);
  cl_device_id devices[2] = {};
  size_t size = 0;
  EXPECT_EQ(clGetContextInfo(made, CL_CONTEXT_DEVICES, sizeof devices, devices, &size), CL_SUCCESS);
  EXPECT_EQ(size, sizeof devices[0]);
  EXPECT_EQ(devices[0], device);
  cl_context_properties back[3] = {};
  EXPECT_EQ(clGetContextInfo(made, CL_CONTEXT_PROPERTIES, sizeof back, back, &size), CL_SUCCESS);
  EXPECT_EQ(size, sizeof back);
  EXPECT_EQ(std::memcmp(back, properties, sizeof back), 0);
  EXPECT_EQ(clReleaseContext(made), CL_SUCCESS);
}

TEST_F(Objects, ContextsAreRefusedWithTheRightCode) {
  cl_int error = 0;
  EXPECT_EQ(clCreateContext(nullptr, 0, &device, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clCreateContext(nullptr, 1, nullptr, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  int user_data = 0;
  EXPECT_EQ(clCreateContext(nullptr, 1, &device, nullptr, &user_data, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  const cl_context_properties unknown[] = {0x7777, 1, 0};
  EXPECT_EQ(clCreateContext(unknown, 1, &device, nullptr, nullptr, &error), nullptr);
  EXPECT_NE(error, CL_SUCCESS);
  cl_context made = clCreateContextFromType(nullptr, CL_DEVICE_TYPE_ALL, nullptr, nullptr, &error);
  if (OnVGpu()) {
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(clReleaseContext(made), CL_SUCCESS);
  }
}

TEST_F(Objects, ChildrenKeepTheirContext) {
  cl_int error = -1;
  cl_context made = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_command_queue child = clCreateCommandQueue(made, device, 0, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_mem buffer = clCreateBuffer(made, CL_MEM_READ_WRITE, 64, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clReleaseContext(made), CL_SUCCESS);
  cl_context parent = nullptr;
  EXPECT_EQ(clGetCommandQueueInfo(child, CL_QUEUE_CONTEXT, sizeof parent, &parent, nullptr), CL_SUCCESS);
  EXPECT_EQ(parent, made);
  EXPECT_EQ(clRetainContext(parent), CL_SUCCESS);
  EXPECT_EQ(clReleaseContext(parent), CL_SUCCESS);
  const cl_uint value = 7;
  EXPECT_EQ(clEnqueueWriteBuffer(child, buffer, CL_TRUE, 0, sizeof value, &value, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(clReleaseCommandQueue(child), CL_SUCCESS);
}

TEST_F(Objects, QueuesSayWhatTheyAre) {
  cl_int error = -1;
  const cl_queue_properties properties[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, 0};
  cl_command_queue made = clCreateCommandQueueWithProperties(context, device, properties, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_command_queue_properties flags = 0;
  EXPECT_EQ(clGetCommandQueueInfo(made, CL_QUEUE_PROPERTIES, sizeof flags, &flags, nullptr), CL_SUCCESS);
  EXPECT_EQ(flags, cl_command_queue_properties{CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE});
  cl_device_id of = nullptr;
  EXPECT_EQ(clGetCommandQueueInfo(made, CL_QUEUE_DEVICE, sizeof of, &of, nullptr), CL_SUCCESS);
  EXPECT_EQ(of, device);
  cl_uint count = 0;
  EXPECT_EQ(clRetainCommandQueue(made), CL_SUCCESS);
  EXPECT_EQ(clGetCommandQueueInfo(made, CL_QUEUE_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(clReleaseCommandQueue(made), CL_SUCCESS);
  EXPECT_EQ(clReleaseCommandQueue(made), CL_SUCCESS);
  const cl_queue_properties bad[] = {0x7777, 1, 0};
  EXPECT_EQ(clCreateCommandQueueWithProperties(context, device, bad, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clCreateCommandQueue(context, device, 1u << 20, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(Objects, NullHandlesAreRefused) {
  cl_int error = 0;
  EXPECT_EQ(clCreateBuffer(nullptr, 0, 4, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(clCreateCommandQueue(nullptr, device, 0, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  EXPECT_EQ(clCreateKernel(nullptr, "x", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM);
  EXPECT_EQ(clFinish(nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clFlush(nullptr), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clRetainMemObject(nullptr), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(clReleaseEvent(nullptr), CL_INVALID_EVENT);
  EXPECT_EQ(clReleaseKernel(nullptr), CL_INVALID_KERNEL);
  EXPECT_EQ(clReleaseProgram(nullptr), CL_INVALID_PROGRAM);
  EXPECT_EQ(clBuildProgram(nullptr, 0, nullptr, nullptr, nullptr, nullptr), CL_INVALID_PROGRAM);
  EXPECT_EQ(clSetKernelArg(nullptr, 0, 4, &error), CL_INVALID_KERNEL);
  EXPECT_EQ(clWaitForEvents(0, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueReadBuffer(nullptr, nullptr, CL_TRUE, 0, 4, &error, 0, nullptr, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  if (OnVGpu()) {  // PoCL 3.1 crashes
    EXPECT_EQ(clEnqueueReadBuffer(queue, nullptr, CL_TRUE, 0, 4, &error, 0, nullptr, nullptr),
              CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, nullptr, 1, nullptr, nullptr, nullptr, 0, nullptr, nullptr),
              CL_INVALID_KERNEL);
  }
}

TEST_F(Objects, ContextDestructorCallbacksRunLatestFirst) {
  cl_int error = -1;
  cl_context made = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  static std::vector<int> order;
  order.clear();
  const auto first = [](cl_context, void*) { order.push_back(1); };
  const auto second = [](cl_context, void*) { order.push_back(2); };
  ASSERT_EQ(clSetContextDestructorCallback(made, first, nullptr), CL_SUCCESS);
  ASSERT_EQ(clSetContextDestructorCallback(made, second, nullptr), CL_SUCCESS);
  EXPECT_EQ(clSetContextDestructorCallback(made, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clReleaseContext(made), CL_SUCCESS);
  EXPECT_EQ(order, (std::vector<int>{2, 1}));
}

}  // namespace
}  // namespace battery
