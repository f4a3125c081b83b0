// What is true of a vGPU only. Natively these are skipped.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

// In a child: what only the threads of its parent had at hand counts as leaked there, and was not.
bool g_forked = false;

class VGpu : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    if (!OnVGpu()) GTEST_SKIP() << "native";
  }
};

TEST_F(VGpu, MemoryHasALimitAndComesBack) {
  const auto limit = DeviceInfo<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE);
  const auto most = DeviceInfo<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  EXPECT_LE(most, limit);
  const size_t size = static_cast<size_t>(std::min<cl_ulong>(most, limit / 4));
  for (int round = 0; round < 3; ++round) {
    std::vector<cl_mem> buffers;
    cl_int error = CL_SUCCESS;
    while (error == CL_SUCCESS && buffers.size() < 100) {
      cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, size, nullptr, &error);
      if (error == CL_SUCCESS) buffers.push_back(buffer);
    }
    EXPECT_EQ(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    EXPECT_EQ(buffers.size(), limit / size);
    for (cl_mem buffer : buffers) EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  }
}

TEST_F(VGpu, TheLargestBufferIsNotAllThereIs) {
  const auto limit = DeviceInfo<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE);
  const auto most = DeviceInfo<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  EXPECT_GE(most, 1u << 20);
  EXPECT_LE(most, limit - limit / 4);
}

TEST_F(VGpu, OffersOnlyWhatItCan) {
  constexpr cl_device_svm_capabilities kCoarse = CL_DEVICE_SVM_COARSE_GRAIN_BUFFER;
  EXPECT_EQ(DeviceInfo<cl_device_svm_capabilities>(CL_DEVICE_SVM_CAPABILITIES) & ~kCoarse, 0u);
  EXPECT_EQ(DeviceText(CL_DEVICE_EXTENSIONS).find("cl_khr_command_buffer"), std::string::npos);
  EXPECT_EQ(clEnqueueNativeKernel(
                queue, [](void*) {}, nullptr, 0, 0, nullptr, nullptr, 0, nullptr, nullptr),
            CL_INVALID_OPERATION);
}

TEST_F(VGpu, GarbageIsRefused) {
  // The loader needs a dispatch table to get here at all, so garbage means an object of another kind.
  EXPECT_EQ(clRetainMemObject(reinterpret_cast<cl_mem>(context)), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(clFinish(reinterpret_cast<cl_command_queue>(context)), CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clReleaseEvent(reinterpret_cast<cl_event>(queue)), CL_INVALID_EVENT);
}

TEST_F(VGpu, AForkedChildStartsAnew) {
  cl_mem buffer = Buffer(64);
  Write(buffer, Count(16));
  const pid_t child = fork();
  if (child == 0) {
    g_forked = true;
    // Nothing of gtest from here: only the exit status speaks.
    cl_uint word = 0;
    if (clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 4, &word, 0, nullptr, nullptr) !=
        CL_INVALID_COMMAND_QUEUE)
      _exit(1);
    if (clRetainContext(context) != CL_INVALID_CONTEXT) _exit(2);
    cl_device_id own = nullptr;
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &own, nullptr) != CL_SUCCESS) _exit(3);
    cl_int error = -1;
    cl_context made = clCreateContext(nullptr, 1, &own, nullptr, nullptr, &error);
    if (error != CL_SUCCESS) _exit(4);
    cl_command_queue commands = clCreateCommandQueue(made, own, 0, &error);
    cl_mem data = clCreateBuffer(made, CL_MEM_READ_WRITE, 64, nullptr, &error);
    const cl_uint value = 77;
    clEnqueueWriteBuffer(commands, data, CL_TRUE, 0, 4, &value, 0, nullptr, nullptr);
    clEnqueueReadBuffer(commands, data, CL_TRUE, 0, 4, &word, 0, nullptr, nullptr);
    exit(word == 77 ? 0 : 5);  // with its destructors
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  // The parent's session went on undisturbed.
  EXPECT_EQ(Read<cl_uint>(buffer, 16), Count(16));
  clReleaseMemObject(buffer);
}

// Run on its own, with a worker that loses its device after some commands: everything must end, with errors.
TEST_F(VGpu, DISABLED_LosingTheDeviceEndsEverything) {
  static std::atomic<int> notified, completed;
  cl_int error = -1;
  cl_context watched = clCreateContext(
      nullptr, 1, &device, [](const char*, const void*, size_t, void*) { ++notified; }, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_command_queue commands = clCreateCommandQueue(watched, device, 0, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_mem buffer = clCreateBuffer(watched, CL_MEM_READ_WRITE, 1u << 20, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_event gate = clCreateUserEvent(watched, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  std::vector<cl_uint> target(1u << 18);
  cl_event read = nullptr;
  ASSERT_EQ(clEnqueueReadBuffer(commands, buffer, CL_FALSE, 0, 1u << 20, target.data(), 1, &gate, &read),
            CL_SUCCESS);
  ASSERT_EQ(clSetEventCallback(
                read, CL_COMPLETE, [](cl_event, cl_int status, void*) { completed = status; }, nullptr),
            CL_SUCCESS);
  const cl_uint zero = 0;
  EXPECT_TRUE(Eventually([&] {
    clEnqueueFillBuffer(queue, buffer, &zero, 4, 0, 64, 0, nullptr, nullptr);
    return clFinish(queue) == CL_OUT_OF_RESOURCES;
  }));
  EXPECT_EQ(clWaitForEvents(1, &read), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_LT(StatusOf(read), 0);
  EXPECT_TRUE(Eventually([] { return notified == 1 && completed < 0; }));
  EXPECT_EQ(DeviceInfo<cl_bool>(CL_DEVICE_AVAILABLE), cl_bool{CL_FALSE});
  EXPECT_EQ(clFinish(commands), CL_OUT_OF_RESOURCES);
  EXPECT_EQ(clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_DEVICE_NOT_AVAILABLE);
  EXPECT_EQ(clCreateBuffer(watched, 0, 64, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_OUT_OF_RESOURCES);
  clReleaseEvent(read);
  clReleaseEvent(gate);
  clReleaseMemObject(buffer);
  clReleaseCommandQueue(commands);
  clReleaseContext(watched);
}

}  // namespace
}  // namespace battery

// LeakSanitizer asks this, where there is one.
extern "C" __attribute__((visibility("default"))) int __lsan_is_turned_off() {
  return battery::g_forked ? 1 : 0;
}
