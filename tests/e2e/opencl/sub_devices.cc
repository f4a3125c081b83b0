// Parts of a device, and contexts of several devices.
#include <algorithm>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class SubDevices : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    units = DeviceInfo<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS);
    if (Properties(device)[0] == 0 || units < 2) GTEST_SKIP() << "the device cannot be divided";
  }
  void TearDown() override {
    for (cl_device_id part : parts) EXPECT_EQ(clReleaseDevice(part), CL_SUCCESS);
    OpenCl::TearDown();
  }

  static std::vector<cl_device_partition_property> Properties(cl_device_id of) {
    size_t size = 0;
    EXPECT_EQ(clGetDeviceInfo(of, CL_DEVICE_PARTITION_PROPERTIES, 0, nullptr, &size), CL_SUCCESS);
    std::vector<cl_device_partition_property> properties(size / sizeof(cl_device_partition_property) + 1);
    EXPECT_EQ(clGetDeviceInfo(of, CL_DEVICE_PARTITION_PROPERTIES, size, properties.data(), nullptr),
              CL_SUCCESS);
    return properties;
  }
  // As many parts of one compute unit as there are.
  void Divide() {
    const cl_device_partition_property single[] = {CL_DEVICE_PARTITION_EQUALLY, 1, 0};
    cl_uint count = 0;
    ASSERT_EQ(clCreateSubDevices(device, single, 0, nullptr, &count), CL_SUCCESS);
    ASSERT_EQ(count, units);
    parts.resize(count);
    ASSERT_EQ(clCreateSubDevices(device, single, count, parts.data(), nullptr), CL_SUCCESS);
  }
  template <typename T>
  static T Info(cl_device_id of, cl_device_info name) {
    T value{};
    EXPECT_EQ(clGetDeviceInfo(of, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }

  cl_uint units = 0;
  std::vector<cl_device_id> parts;
};

TEST_F(SubDevices, SayWhatTheyAre) {
  Divide();
  for (cl_device_id part : parts) {
    EXPECT_NE(part, device);
    EXPECT_EQ(Info<cl_uint>(part, CL_DEVICE_MAX_COMPUTE_UNITS), 1u);
    EXPECT_EQ(Info<cl_device_id>(part, CL_DEVICE_PARENT_DEVICE), device);
    EXPECT_EQ(Info<cl_uint>(part, CL_DEVICE_REFERENCE_COUNT), 1u);
    cl_device_partition_property type[4] = {};
    size_t size = 0;
    EXPECT_EQ(clGetDeviceInfo(part, CL_DEVICE_PARTITION_TYPE, sizeof type, type, &size), CL_SUCCESS);
    EXPECT_EQ(type[0], cl_device_partition_property{CL_DEVICE_PARTITION_EQUALLY});
    EXPECT_EQ(type[1], 1);
  }
  EXPECT_EQ(Info<cl_device_id>(device, CL_DEVICE_PARENT_DEVICE), nullptr);
  EXPECT_EQ(Info<cl_uint>(device, CL_DEVICE_REFERENCE_COUNT), 1u);
  EXPECT_EQ(clRetainDevice(parts[0]), CL_SUCCESS);
  EXPECT_EQ(Info<cl_uint>(parts[0], CL_DEVICE_REFERENCE_COUNT), 2u);
  EXPECT_EQ(clReleaseDevice(parts[0]), CL_SUCCESS);
  EXPECT_EQ(clRetainDevice(device), CL_SUCCESS);
  EXPECT_EQ(clReleaseDevice(device), CL_SUCCESS);
}

TEST_F(SubDevices, ByCounts) {
  const auto properties = Properties(device);
  if (std::find(properties.begin(), properties.end(), CL_DEVICE_PARTITION_BY_COUNTS) == properties.end())
    GTEST_SKIP() << "not by counts";
  const cl_device_partition_property counts[] = {CL_DEVICE_PARTITION_BY_COUNTS, 1,
                                                 static_cast<cl_device_partition_property>(units - 1),
                                                 CL_DEVICE_PARTITION_BY_COUNTS_LIST_END, 0};
  parts.resize(2);
  cl_uint count = 0;
  ASSERT_EQ(clCreateSubDevices(device, counts, 2, parts.data(), &count), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(Info<cl_uint>(parts[0], CL_DEVICE_MAX_COMPUTE_UNITS), 1u);
  EXPECT_EQ(Info<cl_uint>(parts[1], CL_DEVICE_MAX_COMPUTE_UNITS), units - 1);
}

TEST_F(SubDevices, ShareAContextsMemoryAndPrograms) {
  if (!OnVGpu()) GTEST_SKIP() << "a context of PoCL (3.1) is of whole devices only";
  Divide();
  std::vector<cl_device_id> devices = parts;
  devices.push_back(device);
  cl_int error = -1;
  cl_context shared = clCreateContext(nullptr, static_cast<cl_uint>(devices.size()), devices.data(), nullptr,
                                      nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint count = 0;
  EXPECT_EQ(clGetContextInfo(shared, CL_CONTEXT_NUM_DEVICES, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, devices.size());
  std::vector<cl_device_id> listed(devices.size());
  EXPECT_EQ(clGetContextInfo(shared, CL_CONTEXT_DEVICES, listed.size() * sizeof(cl_device_id), listed.data(),
                             nullptr),
            CL_SUCCESS);
  EXPECT_EQ(listed, devices);

  const char* source = kSource;
  cl_program program = clCreateProgramWithSource(shared, 1, &source, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(clBuildProgram(program, 0, nullptr, "", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_NUM_DEVICES, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, devices.size());
  cl_kernel kernel = Kernel(program, "null_add");
  size_t group = 0;
  for (cl_device_id each : devices) {
    cl_build_status built = CL_BUILD_NONE;
    EXPECT_EQ(clGetProgramBuildInfo(program, each, CL_PROGRAM_BUILD_STATUS, sizeof built, &built, nullptr),
              CL_SUCCESS);
    EXPECT_EQ(built, CL_BUILD_SUCCESS);
    EXPECT_EQ(
        clGetKernelWorkGroupInfo(kernel, each, CL_KERNEL_WORK_GROUP_SIZE, sizeof group, &group, nullptr),
        CL_SUCCESS);
    EXPECT_GT(group, 0u);
  }
  EXPECT_EQ(
      clGetKernelWorkGroupInfo(kernel, nullptr, CL_KERNEL_WORK_GROUP_SIZE, sizeof group, &group, nullptr),
      CL_INVALID_DEVICE);

  // Each device adds its own number to the same words.
  cl_mem buffer = clCreateBuffer(shared, CL_MEM_READ_WRITE, 1'000 * sizeof(cl_uint), nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const cl_uint zero = 0;
  cl_event before = nullptr;
  std::vector<cl_command_queue> queues;
  cl_uint sum = 0;
  for (cl_uint i = 0; i < devices.size(); ++i) {
    cl_command_queue on = clCreateCommandQueue(shared, devices[i], 0, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    queues.push_back(on);
    cl_device_id is = nullptr;
    EXPECT_EQ(clGetCommandQueueInfo(on, CL_QUEUE_DEVICE, sizeof is, &is, nullptr), CL_SUCCESS);
    EXPECT_EQ(is, devices[i]);
    if (i == 0) {
      ASSERT_EQ(clEnqueueFillBuffer(on, buffer, &zero, sizeof zero, 0, 1'000 * sizeof(cl_uint), 0, nullptr,
                                    &before),
                CL_SUCCESS);
    }
    const cl_uint value = i + 1;
    sum += value;
    ASSERT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
    ASSERT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
    const size_t items = 1'000;
    cl_event done = nullptr;
    ASSERT_EQ(clEnqueueNDRangeKernel(on, kernel, 1, nullptr, &items, nullptr, 1, &before, &done), CL_SUCCESS);
    EXPECT_EQ(clReleaseEvent(before), CL_SUCCESS);
    before = done;
  }
  std::vector<cl_uint> words(1'000);
  ASSERT_EQ(clEnqueueReadBuffer(queues[0], buffer, CL_TRUE, 0, words.size() * sizeof(cl_uint), words.data(),
                                1, &before, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(words, std::vector<cl_uint>(1'000, sum));
  EXPECT_EQ(clReleaseEvent(before), CL_SUCCESS);
  for (cl_command_queue on : queues) EXPECT_EQ(clReleaseCommandQueue(on), CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(clReleaseContext(shared), CL_SUCCESS);
}

TEST_F(SubDevices, TakeEachOthersBinaries) {
  if (!OnVGpu()) GTEST_SKIP() << "a context of PoCL (3.1) is of whole devices only";
  Divide();
  cl_int error = -1;
  cl_context shared =
      clCreateContext(nullptr, static_cast<cl_uint>(parts.size()), parts.data(), nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const char* source = kSource;
  cl_program program = clCreateProgramWithSource(shared, 1, &source, nullptr, &error);
  ASSERT_EQ(clBuildProgram(program, 0, nullptr, "", nullptr, nullptr), CL_SUCCESS);
  std::vector<size_t> sizes(parts.size());
  ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizes.size() * sizeof(size_t), sizes.data(),
                             nullptr),
            CL_SUCCESS);
  std::vector<std::vector<unsigned char>> binaries;
  std::vector<unsigned char*> targets;
  for (size_t size : sizes) {
    ASSERT_GT(size, 0u);
    targets.push_back(binaries.emplace_back(size).data());
  }
  ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, targets.size() * sizeof(unsigned char*),
                             targets.data(), nullptr),
            CL_SUCCESS);
  std::vector<const unsigned char*> sources(targets.begin(), targets.end());
  std::vector<cl_int> statuses(parts.size(), -1);
  cl_program loaded = clCreateProgramWithBinary(shared, static_cast<cl_uint>(parts.size()), parts.data(),
                                                sizes.data(), sources.data(), statuses.data(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(statuses, std::vector<cl_int>(parts.size(), CL_SUCCESS));
  EXPECT_EQ(clBuildProgram(loaded, 0, nullptr, "", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(loaded), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(clReleaseContext(shared), CL_SUCCESS);
}

TEST_F(SubDevices, AreRefusedWithTheRightCode) {
  if (!OnVGpu()) GTEST_SKIP() << "a context of PoCL (3.1) is of whole devices only";
  const auto divide = [this](cl_device_id of, std::vector<cl_device_partition_property> properties) {
    cl_uint count = 0;
    return clCreateSubDevices(of, properties.empty() ? nullptr : properties.data(), 0, nullptr, &count);
  };
  EXPECT_EQ(divide(nullptr, {CL_DEVICE_PARTITION_EQUALLY, 1, 0}), CL_INVALID_DEVICE);
  EXPECT_EQ(divide(device, {}), CL_INVALID_VALUE);
  EXPECT_EQ(divide(device, {12'345, 1, 0}), CL_INVALID_VALUE);
  const cl_device_partition_property single[] = {CL_DEVICE_PARTITION_EQUALLY, 1, 0};
  cl_device_id one = nullptr;
  EXPECT_EQ(clCreateSubDevices(device, single, 1, &one, nullptr), CL_INVALID_VALUE);  // there are more
  EXPECT_EQ(one, nullptr);
  EXPECT_NE(
      divide(device, {CL_DEVICE_PARTITION_EQUALLY, static_cast<cl_device_partition_property>(units + 1), 0}),
      CL_SUCCESS);
  Divide();
  cl_int error = 0;
  EXPECT_EQ(clCreateCommandQueue(context, parts[0], 0, &error), nullptr);  // not of this context
  EXPECT_EQ(error, CL_INVALID_DEVICE);
}

}  // namespace
}  // namespace battery
