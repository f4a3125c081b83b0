// Buffers: every way that bytes go in, out and around.
#include <atomic>
#include <thread>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Buffers : public OpenCl {};

TEST_F(Buffers, AreRefusedWithTheRightCode) {
  cl_int error = 0;
  cl_uint data = 0;
  const auto expect = [&](cl_mem_flags flags, size_t size, void* pointer, cl_int code) {
    EXPECT_EQ(clCreateBuffer(context, flags, size, pointer, &error), nullptr);
    EXPECT_EQ(error, code) << "flags " << flags << " size " << size;
  };
  expect(0, 0, nullptr, CL_INVALID_BUFFER_SIZE);
  expect(CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY, 4, nullptr, CL_INVALID_VALUE);
  expect(CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS, 4, nullptr, CL_INVALID_VALUE);
  expect(CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR, 4, &data, CL_INVALID_VALUE);
  expect(CL_MEM_USE_HOST_PTR, 4, nullptr, CL_INVALID_HOST_PTR);
  expect(CL_MEM_COPY_HOST_PTR, 4, nullptr, CL_INVALID_HOST_PTR);
  expect(CL_MEM_READ_WRITE, 4, &data, CL_INVALID_HOST_PTR);
  expect(CL_MEM_READ_WRITE, static_cast<size_t>(DeviceInfo<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE)) + 1,
         nullptr, CL_INVALID_BUFFER_SIZE);
}

TEST_F(Buffers, SayWhatTheyAre) {
  std::vector<cl_uint> data(16);
  cl_mem buffer = Buffer(64, CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, data.data());
  size_t size = 0;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_SIZE, sizeof size, &size, nullptr), CL_SUCCESS);
  EXPECT_EQ(size, 64u);
  cl_mem_flags flags = 0;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_FLAGS, sizeof flags, &flags, nullptr), CL_SUCCESS);
  EXPECT_EQ(flags, cl_mem_flags{CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR});
  void* pointer = nullptr;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_HOST_PTR, sizeof pointer, &pointer, nullptr), CL_SUCCESS);
  EXPECT_EQ(pointer, data.data());
  cl_mem_object_type type = 0;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_mem_object_type{CL_MEM_OBJECT_BUFFER});
  cl_context of = nullptr;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_CONTEXT, sizeof of, &of, nullptr), CL_SUCCESS);
  EXPECT_EQ(of, context);
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
}

TEST_F(Buffers, WriteAndReadOfEverySizeClass) {
  // Around the sizes at which transfers change form: 4 MiB is the largest single piece.
  for (const size_t size :
       {size_t{1}, size_t{4}, size_t{4095}, size_t{65536}, size_t{1} << 20, (size_t{4} << 20) - 1,
        size_t{4} << 20, (size_t{4} << 20) + 1, (size_t{13} << 20) + 5}) {
    std::vector<unsigned char> data(size), back(size, 0xee);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<unsigned char>(i * 31 + (i >> 12));
    cl_mem buffer = Buffer(size);
    Write(buffer, data);
    EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, size, back.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    EXPECT_TRUE(data == back) << size;
    if (size > 2) {
      EXPECT_EQ(Read<unsigned char>(buffer, size - 2, 1),
                std::vector<unsigned char>(data.begin() + 1, data.end() - 1));
    }
    EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  }
}

TEST_F(Buffers, UnblockingTransfersCompleteWithTheirEvents) {
  const auto data = Count(3u << 20);
  std::vector<cl_uint> back(data.size());
  cl_mem buffer = Buffer(data.size() * 4);
  cl_event written = nullptr, read = nullptr;
  ASSERT_EQ(
      clEnqueueWriteBuffer(queue, buffer, CL_FALSE, 0, data.size() * 4, data.data(), 0, nullptr, &written),
      CL_SUCCESS);
  ASSERT_EQ(clEnqueueReadBuffer(queue, buffer, CL_FALSE, 0, data.size() * 4, back.data(), 1, &written, &read),
            CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &read), CL_SUCCESS);
  EXPECT_TRUE(back == data);
  EXPECT_EQ(StatusOf(written), CL_COMPLETE);
  cl_command_type type = 0;
  EXPECT_EQ(clGetEventInfo(read, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_READ_BUFFER});
  clReleaseEvent(written);
  clReleaseEvent(read);
  // With no event, clFinish is what completes it.
  std::fill(back.begin(), back.end(), 0);
  ASSERT_EQ(
      clEnqueueReadBuffer(queue, buffer, CL_FALSE, 0, data.size() * 4, back.data(), 0, nullptr, nullptr),
      CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  EXPECT_TRUE(back == data);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, BlockingCallsHandOutCompleteEvents) {
  const auto data = Count(64);
  cl_mem buffer = Buffer(256);
  cl_event event = nullptr;
  ASSERT_EQ(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, 0, 256, data.data(), 0, nullptr, &event),
            CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &event), CL_SUCCESS);
  clReleaseEvent(event);
  std::vector<cl_uint> back(64);
  ASSERT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 256, back.data(), 0, nullptr, &event), CL_SUCCESS);
  EXPECT_EQ(StatusOf(event), CL_COMPLETE);
  clReleaseEvent(event);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, TransfersAreCheckedBeforeTheyLeave) {
  cl_mem buffer = Buffer(64);
  cl_uint data[32] = {};
  EXPECT_EQ(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, 60, 8, data, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 65, data, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 8, nullptr, 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, ~size_t{0}, 8, data, 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  cl_event none = nullptr;
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 8, data, 1, nullptr, nullptr),
            CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 8, data, 0, &none, nullptr),
            CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 8, data, 1, &none, nullptr),
            CL_INVALID_EVENT_WAIT_LIST);
  EXPECT_EQ(clEnqueueFillBuffer(queue, buffer, data, 3, 0, 9, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueFillBuffer(queue, buffer, data, 4, 2, 8, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueCopyBuffer(queue, buffer, buffer, 0, 8, 16, 0, nullptr, nullptr), CL_MEM_COPY_OVERLAP);
  EXPECT_EQ(clEnqueueCopyBuffer(queue, buffer, buffer, 0, 32, 64, 0, nullptr, nullptr), CL_INVALID_VALUE);
  cl_mem hidden = Buffer(64, CL_MEM_HOST_NO_ACCESS);
  EXPECT_EQ(clEnqueueReadBuffer(queue, hidden, CL_TRUE, 0, 8, data, 0, nullptr, nullptr),
            CL_INVALID_OPERATION);
  EXPECT_EQ(clEnqueueWriteBuffer(queue, hidden, CL_TRUE, 0, 8, data, 0, nullptr, nullptr),
            CL_INVALID_OPERATION);
  clReleaseMemObject(hidden);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, NoBytesCanBeMoved) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 refuses some";
  cl_mem buffer = Buffer(64), other = Buffer(64);
  Write(buffer, Count(16));
  cl_uint data = 77;
  std::vector<cl_event> events(6);
  const auto enqueue = [&](cl_bool blocking, cl_event* event) {
    EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, blocking, 64, 0, &data, 0, nullptr, event), CL_SUCCESS);
    EXPECT_EQ(clEnqueueWriteBuffer(queue, buffer, blocking, 0, 0, &data, 0, nullptr, event + 1), CL_SUCCESS);
    EXPECT_EQ(clEnqueueCopyBuffer(queue, buffer, other, 8, 64, 0, 0, nullptr, event + 2), CL_SUCCESS);
    EXPECT_EQ(clEnqueueCopyBuffer(queue, buffer, buffer, 8, 8, 0, 0, nullptr, nullptr), CL_SUCCESS);
    EXPECT_EQ(clEnqueueFillBuffer(queue, buffer, &data, 4, 4, 0, 0, nullptr, nullptr), CL_SUCCESS);
  };
  enqueue(CL_FALSE, events.data());
  enqueue(CL_TRUE, events.data() + 3);
  EXPECT_EQ(StatusOf(events[4]), CL_COMPLETE);
  EXPECT_EQ(clWaitForEvents(6, events.data()), CL_SUCCESS);
  cl_command_type type = 0;
  EXPECT_EQ(clGetEventInfo(events[0], CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_READ_BUFFER});
  for (cl_event event : events) clReleaseEvent(event);
  EXPECT_EQ(data, 77u);
  EXPECT_EQ(Read<cl_uint>(buffer, 16), Count(16));
  // All else is checked as ever, and a map must be of something.
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 65, 0, &data, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, 0, nullptr, 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueFillBuffer(queue, buffer, &data, 4, 2, 0, 0, nullptr, nullptr), CL_INVALID_VALUE);
  cl_int error = -1;
  EXPECT_EQ(clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_READ, 0, 0, 0, nullptr, nullptr, &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  clReleaseMemObject(other);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, MapWhatTheProgramMayOnlyWrite) {
  auto data = Count(16);
  cl_mem hidden = Buffer(64, CL_MEM_HOST_WRITE_ONLY | CL_MEM_COPY_HOST_PTR, data.data()), copy = Buffer(64);
  cl_int error = -1;
  auto* mapped = static_cast<cl_uint*>(
      clEnqueueMapBuffer(queue, hidden, CL_TRUE, CL_MAP_WRITE, 16, 32, 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  mapped[2] = 77;
  ASSERT_EQ(clEnqueueUnmapMemObject(queue, hidden, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  ASSERT_EQ(clEnqueueCopyBuffer(queue, hidden, copy, 0, 0, 64, 0, nullptr, nullptr), CL_SUCCESS);
  data[6] = 77;
  EXPECT_EQ(Read<cl_uint>(copy, 16), data);
  EXPECT_EQ(clEnqueueMapBuffer(queue, hidden, CL_TRUE, CL_MAP_READ, 0, 64, 0, nullptr, nullptr, &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  clReleaseMemObject(copy);
  clReleaseMemObject(hidden);
}

TEST_F(Buffers, CopyAndFill) {
  cl_mem from = Buffer(1024), to = Buffer(1024);
  Write(from, Count(256));
  Write(to, std::vector<cl_uint>(256));
  const cl_uint pattern[2] = {7, 9};
  ASSERT_EQ(clEnqueueFillBuffer(queue, to, pattern, sizeof pattern, 0, 512, 0, nullptr, nullptr), CL_SUCCESS);
  ASSERT_EQ(clEnqueueCopyBuffer(queue, from, to, 40, 512, 256, 0, nullptr, nullptr), CL_SUCCESS);
  const auto back = Read<cl_uint>(to, 256);
  for (size_t i = 0; i < 256; ++i) {
    const cl_uint expected = i < 128 ? pattern[i % 2] : i < 192 ? static_cast<cl_uint>(i - 128 + 10) : 0;
    ASSERT_EQ(back[i], expected) << i;
  }
  clReleaseMemObject(from);
  clReleaseMemObject(to);
}

TEST_F(Buffers, CopyHostPointer) {
  auto data = Count((5u << 20) / 4);
  cl_mem buffer = Buffer(data.size() * 4, CL_MEM_COPY_HOST_PTR, data.data());
  const auto original = data;
  std::fill(data.begin(), data.end(), 0);
  EXPECT_TRUE(Read<cl_uint>(buffer, original.size()) == original);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, MapsReadWriteAndInvalidate) {
  cl_mem buffer = Buffer(1024, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR);
  Write(buffer, Count(256));
  cl_int error = -1;
  auto* words = static_cast<cl_uint*>(clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE,
                                                         0, 1024, 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  for (cl_uint i = 0; i < 256; ++i) {
    ASSERT_EQ(words[i], i);
    words[i] = i * 2;
  }
  cl_uint count = 0;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_MAP_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 1u);
  ASSERT_EQ(clEnqueueUnmapMemObject(queue, buffer, words, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 1, 400)[0], 200u);

  // Part of it, overwritten without being fetched; the rest stays.
  cl_event mapped = nullptr, unmapped = nullptr;
  words = static_cast<cl_uint*>(clEnqueueMapBuffer(queue, buffer, CL_FALSE, CL_MAP_WRITE_INVALIDATE_REGION,
                                                   512, 256, 0, nullptr, &mapped, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &mapped), CL_SUCCESS);
  for (cl_uint i = 0; i < 64; ++i) words[i] = 5;
  ASSERT_EQ(clEnqueueUnmapMemObject(queue, buffer, words, 0, nullptr, &unmapped), CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &unmapped), CL_SUCCESS);
  const auto back = Read<cl_uint>(buffer, 256);
  for (cl_uint i = 0; i < 256; ++i) ASSERT_EQ(back[i], i >= 128 && i < 192 ? 5 : i * 2) << i;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_MAP_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 0u);
  clReleaseEvent(mapped);
  clReleaseEvent(unmapped);

  int stranger = 0;
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffer, &stranger, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_READ, 1000, 100, 0, nullptr, nullptr, &error),
            nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, MapsForWritingMustNotOverlap) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 does not look";
  cl_mem buffer = Buffer(1024);
  cl_int error = -1;
  const auto map = [&](cl_map_flags flags, size_t offset, size_t size) {
    return clEnqueueMapBuffer(queue, buffer, CL_TRUE, flags, offset, size, 0, nullptr, nullptr, &error);
  };
  void* first = map(CL_MAP_WRITE, 256, 256);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(map(CL_MAP_READ | CL_MAP_WRITE, 0, 257), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  EXPECT_EQ(map(CL_MAP_WRITE_INVALIDATE_REGION, 511, 4), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  void* before = map(CL_MAP_WRITE, 0, 256);
  EXPECT_EQ(error, CL_SUCCESS);
  void* after = map(CL_MAP_WRITE, 512, 256);
  EXPECT_EQ(error, CL_SUCCESS);
  void* read = map(CL_MAP_READ, 0, 1024);
  EXPECT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffer, first, 0, nullptr, nullptr), CL_SUCCESS);
  first = map(CL_MAP_WRITE, 300, 20);
  EXPECT_EQ(error, CL_SUCCESS);
  for (void* mapped : {first, before, after, read})
    EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffer, mapped, 0, nullptr, nullptr), CL_SUCCESS);

  // A map that failed is none.
  cl_event failed = clCreateUserEvent(context, &error);
  EXPECT_EQ(clSetUserEventStatus(failed, -7), CL_SUCCESS);
  EXPECT_EQ(clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_WRITE, 0, 1024, 1, &failed, nullptr, &error),
            nullptr);
  EXPECT_NE(error, CL_SUCCESS);
  cl_uint count = 1;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_MAP_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 0u);
  clReleaseEvent(failed);
  clReleaseMemObject(buffer);
}

TEST_F(Buffers, KernelsSeeWhatAMapWroteAndMapsWhatKernelsWrote) {
  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  auto storage = Count(256);
  cl_mem buffer = Buffer(1024, CL_MEM_USE_HOST_PTR, storage.data());
  const cl_uint value = 1000;
  const size_t global = 256;
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
  for (cl_uint round = 0; round < 3; ++round) {
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
              CL_SUCCESS);
    cl_int error = -1;
    auto* words = static_cast<cl_uint*>(clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE,
                                                           0, 1024, 0, nullptr, nullptr, &error));
    ASSERT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(words, storage.data());
    for (cl_uint i = 0; i < 256; ++i) ASSERT_EQ(words[i], i + value + 10 * value * round);
    for (cl_uint i = 0; i < 256; ++i) words[i] = i + 10 * value * (round + 1);
    EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffer, words, 0, nullptr, nullptr), CL_SUCCESS);
  }
  clFinish(queue);
  clReleaseMemObject(buffer);
  clReleaseKernel(kernel);
  clReleaseProgram(program);
}

TEST_F(Buffers, DestructorCallbacksRunLatestFirst) {
  static std::vector<int> order;
  static std::atomic<int> calls;
  order.clear();
  calls = 0;
  cl_mem buffer = Buffer(64);
  const auto first = [](cl_mem, void*) { order.push_back(1), ++calls; };
  const auto second = [](cl_mem, void*) { order.push_back(2), ++calls; };
  EXPECT_EQ(clSetMemObjectDestructorCallback(buffer, first, nullptr), CL_SUCCESS);
  EXPECT_EQ(clSetMemObjectDestructorCallback(buffer, second, nullptr), CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_TRUE(Eventually([] { return calls == 2; }));
  EXPECT_EQ(order, (std::vector<int>{2, 1}));
}

TEST_F(Buffers, DestructorCallbacksComeAfterTheLastUse) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL (3.1) forgets that a fill uses a sub-buffer";
  static std::atomic<int> ended;
  const auto count = [](cl_mem, void*) { ++ended; };
  for (const bool sub_buffer : {false, true}) {
    ended = 0;
    cl_int error = -1;
    cl_event gate = clCreateUserEvent(context, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    cl_mem parent = Buffer(4'096), used = parent;
    ASSERT_EQ(clSetMemObjectDestructorCallback(parent, count, nullptr), CL_SUCCESS);
    if (sub_buffer) {
      const cl_buffer_region region = {0, 1'024};
      used = clCreateSubBuffer(parent, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
      ASSERT_EQ(error, CL_SUCCESS);
      ASSERT_EQ(clReleaseMemObject(parent), CL_SUCCESS);
    }
    cl_program program = Program();
    cl_kernel kernel = Kernel(program, "null_add");
    const cl_uint one = 1;
    const size_t global = 256;
    ASSERT_EQ(clSetKernelArg(kernel, 0, sizeof used, &used), CL_SUCCESS);
    ASSERT_EQ(clSetKernelArg(kernel, 1, sizeof one, &one), CL_SUCCESS);
    ASSERT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 1, &gate, nullptr),
              CL_SUCCESS);
    ASSERT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
    ASSERT_EQ(clReleaseProgram(program), CL_SUCCESS);
    ASSERT_EQ(clReleaseMemObject(used), CL_SUCCESS);
    // What has an answer was asked after the release, and the kernel waits still.
    cl_mem other = Buffer(64);
    cl_command_queue second = clCreateCommandQueue(context, device, 0, &error);
    ASSERT_EQ(error, CL_SUCCESS);
    ASSERT_EQ(clEnqueueFillBuffer(second, other, &one, sizeof one, 0, 64, 0, nullptr, nullptr), CL_SUCCESS);
    ASSERT_EQ(clFinish(second), CL_SUCCESS);
    EXPECT_EQ(ended, 0);
    ASSERT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    ASSERT_EQ(clFinish(queue), CL_SUCCESS);
    EXPECT_TRUE(Eventually([] { return ended == 1; }));
    ASSERT_EQ(clReleaseEvent(gate), CL_SUCCESS);
    ASSERT_EQ(clReleaseCommandQueue(second), CL_SUCCESS);
    ASSERT_EQ(clReleaseMemObject(other), CL_SUCCESS);
  }
}

TEST_F(Buffers, ManySmallOnesComeAndGo) {
  for (int round = 0; round < 20; ++round) {
    std::vector<cl_mem> buffers;
    const auto values = Count(200, static_cast<cl_uint>(round));
    for (const cl_uint& value : values) {
      buffers.push_back(Buffer(4096));
      ASSERT_EQ(clEnqueueWriteBuffer(queue, buffers.back(), CL_FALSE, 0, 4, &value, 0, nullptr, nullptr),
                CL_SUCCESS);
    }
    EXPECT_EQ(Read<cl_uint>(buffers[100], 1)[0], 100u + static_cast<cl_uint>(round));
    for (cl_mem buffer : buffers) ASSERT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  }
}

TEST_F(Buffers, ManyThreadsFindRoomAtOnce) {
  constexpr size_t kThreads = 11, kSize = 21u << 20;  // together less than a quarter of a GiB
  for (int round = 0; round < 20; ++round) {
    std::atomic<size_t> ready{0};
    std::vector<cl_mem> buffers(kThreads);
    std::vector<std::thread> threads;
    for (cl_mem& buffer : buffers) {
      threads.emplace_back([&] {
        ++ready;
        while (ready < kThreads) std::this_thread::yield();
        cl_int error = -1;
        buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, kSize, nullptr, &error);
        EXPECT_EQ(error, CL_SUCCESS);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (cl_mem buffer : buffers) {
      EXPECT_TRUE(buffer == nullptr || clReleaseMemObject(buffer) == CL_SUCCESS);
    }
  }
}

TEST_F(Buffers, MigrationIsAHint) {
  cl_mem buffer = Buffer(64);
  cl_event event = nullptr;
  EXPECT_EQ(clEnqueueMigrateMemObjects(queue, 1, &buffer, 0, 0, nullptr, &event), CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &event), CL_SUCCESS);
  EXPECT_EQ(clEnqueueMigrateMemObjects(queue, 0, nullptr, 0, 0, nullptr, nullptr), CL_INVALID_VALUE);
  clReleaseEvent(event);
  clReleaseMemObject(buffer);
}

}  // namespace
}  // namespace battery
