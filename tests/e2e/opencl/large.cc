// Transfers that are large enough to be made in other ways than small ones, and maps of what is large.
#include <algorithm>
#include <atomic>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

constexpr size_t kSize = 3'000'001;

class Large : public OpenCl {
 protected:
  cl_command_queue Queue(cl_command_queue_properties flags = 0) const {
    cl_int error = -1;
    cl_command_queue made = clCreateCommandQueue(context, device, flags, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return made;
  }
  static std::vector<cl_uchar> Bytes(size_t size, unsigned seed) {
    std::vector<cl_uchar> bytes(size);
    for (cl_uchar& byte : bytes) byte = static_cast<cl_uchar>((seed = seed * 1664525 + 1013904223) >> 24);
    return bytes;
  }
  static bool AllEqual(const std::vector<cl_uchar>& bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [&](cl_uchar byte) { return byte == bytes.front(); });
  }
};

TEST_F(Large, BlockingTransfersWithAndWithoutEventsInEveryKindOfQueue) {
  for (const cl_command_queue_properties flags :
       {cl_command_queue_properties{0}, cl_command_queue_properties{CL_QUEUE_PROFILING_ENABLE},
        cl_command_queue_properties{CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE}}) {
    if ((DeviceInfo<cl_command_queue_properties>(CL_DEVICE_QUEUE_PROPERTIES) & flags) != flags) continue;
    cl_command_queue other = Queue(flags);
    cl_mem buffer = Buffer(kSize);
    for (const bool with_event : {false, true}) {
      const auto data = Bytes(kSize - 100, with_event);
      std::vector<cl_uchar> back(data.size());
      cl_event events[2] = {};
      EXPECT_EQ(clEnqueueWriteBuffer(other, buffer, CL_TRUE, 17, data.size(), data.data(), 0, nullptr,
                                     with_event ? &events[0] : nullptr),
                CL_SUCCESS);
      EXPECT_EQ(clEnqueueReadBuffer(other, buffer, CL_TRUE, 17, back.size(), back.data(), with_event ? 1 : 0,
                                    with_event ? &events[0] : nullptr, with_event ? &events[1] : nullptr),
                CL_SUCCESS);
      EXPECT_EQ(back, data);
      if (!with_event) continue;
      const cl_command_type types[] = {CL_COMMAND_WRITE_BUFFER, CL_COMMAND_READ_BUFFER};
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(StatusOf(events[i]), CL_COMPLETE);
        cl_command_type type = 0;
        EXPECT_EQ(clGetEventInfo(events[i], CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
        EXPECT_EQ(type, types[i]);
        clReleaseEvent(events[i]);
      }
    }
    clReleaseMemObject(buffer);
    clReleaseCommandQueue(other);
  }
}

// What is behind a read or write in the queue waits for it, whoever has enqueued it.
TEST_F(Large, TransfersAreWholeWhateverOtherThreadsEnqueue) {
  cl_command_queue shared = Queue();
  cl_mem buffer = Buffer(kSize);
  const cl_uchar zero = 0;
  EXPECT_EQ(clEnqueueFillBuffer(shared, buffer, &zero, 1, 0, kSize, 0, nullptr, nullptr), CL_SUCCESS);
  std::atomic<bool> over{false};
  std::thread filler([&] {
    for (cl_uchar value = 1; !over; ++value) {
      EXPECT_EQ(clEnqueueFillBuffer(shared, buffer, &value, 1, 0, kSize, 0, nullptr, nullptr), CL_SUCCESS);
      if (value % 4 == 0) {
        EXPECT_EQ(clFinish(shared), CL_SUCCESS);
      }
    }
  });
  std::vector<cl_uchar> seen(kSize);
  for (int i = 0; i < 40; ++i) {
    if (i % 4 == 3) {
      const std::vector<cl_uchar> mine(kSize, static_cast<cl_uchar>(i));
      EXPECT_EQ(clEnqueueWriteBuffer(shared, buffer, CL_TRUE, 0, kSize, mine.data(), 0, nullptr, nullptr),
                CL_SUCCESS);
    }
    EXPECT_EQ(clEnqueueReadBuffer(shared, buffer, CL_TRUE, 0, kSize, seen.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    EXPECT_TRUE(AllEqual(seen)) << "read " << i;
  }
  over = true;
  filler.join();
  clReleaseMemObject(buffer);
  clReleaseCommandQueue(shared);
}

TEST_F(Large, AThreadThatWaitsHoldsUpNoOther) {
  cl_command_queue shared = Queue();
  cl_mem buffer = Buffer(kSize);
  cl_int error = -1;
  cl_event gate = clCreateUserEvent(context, &error);
  std::vector<cl_uchar> seen(kSize);
  std::atomic<cl_int> status{1};
  std::thread reader([&] {
    status = clEnqueueReadBuffer(shared, buffer, CL_TRUE, 0, kSize, seen.data(), 1, &gate, nullptr);
  });
  // Behind the read or before it: either way this call must return.
  const cl_uchar value = 9;
  EXPECT_EQ(clEnqueueFillBuffer(shared, buffer, &value, 1, 0, kSize, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clFlush(shared), CL_SUCCESS);
  EXPECT_EQ(status, 1);
  EXPECT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  reader.join();
  EXPECT_EQ(status, CL_SUCCESS);
  EXPECT_TRUE(AllEqual(seen));
  clReleaseEvent(gate);
  clReleaseMemObject(buffer);
  clReleaseCommandQueue(shared);
}

TEST_F(Large, AFailedWaitFailsTheTransferAndNothingElse) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL (3.1) never ends such a transfer";
  cl_command_queue other = Queue();
  cl_mem buffer = Buffer(kSize);
  auto data = Bytes(kSize, 5);
  Write(buffer, data);
  cl_int error = -1;
  cl_event failed = clCreateUserEvent(context, &error);
  EXPECT_EQ(clSetUserEventStatus(failed, -7), CL_SUCCESS);
  std::vector<cl_uchar> back(kSize, 1);
  EXPECT_NE(clEnqueueReadBuffer(other, buffer, CL_TRUE, 0, kSize, back.data(), 1, &failed, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(back, std::vector<cl_uchar>(kSize, 1));
  EXPECT_NE(clEnqueueWriteBuffer(other, buffer, CL_TRUE, 0, kSize, back.data(), 1, &failed, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(clFinish(other), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uchar>(buffer, kSize), data);
  clReleaseEvent(failed);
  clReleaseMemObject(buffer);
  clReleaseCommandQueue(other);
}

TEST_F(Large, MapsOfPartsOfParts) {
  const size_t align = std::max<size_t>(1, DeviceInfo<cl_uint>(CL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8);
  cl_mem whole = Buffer(16 * align + kSize);
  Write(whole, std::vector<cl_uchar>(16 * align + kSize));
  cl_int error = -1;
  const cl_buffer_region region = {4 * align, kSize};
  cl_mem part = clCreateSubBuffer(whole, CL_MEM_READ_WRITE, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  auto* bytes = static_cast<cl_uchar*>(clEnqueueMapBuffer(
      queue, part, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, 100, 200'000, 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  std::fill_n(bytes, 200'000, cl_uchar{3});
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, part, bytes, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_TRUE(AllEqual(Read<cl_uchar>(whole, 200'000, 4 * align + 100)));
  EXPECT_EQ(Read<cl_uchar>(whole, 1, 4 * align + 100), std::vector<cl_uchar>{3});
  EXPECT_EQ(Read<cl_uchar>(whole, 1, 4 * align + 99), std::vector<cl_uchar>{0});
  clReleaseMemObject(part);
  clReleaseMemObject(whole);
}

// A region that is still being mapped may be named as what a later command of the queue writes.
TEST_F(Large, AWriteTakesWhatTheMapBeforeItBrings) {
  cl_command_queue other = Queue();
  cl_mem from = Buffer(kSize), to = Buffer(kSize);
  const cl_uchar value = 6;
  cl_int error = -1;
  cl_event gate = clCreateUserEvent(context, &error);
  EXPECT_EQ(clEnqueueFillBuffer(other, from, &value, 1, 0, kSize, 1, &gate, nullptr), CL_SUCCESS);
  void* mapped =
      clEnqueueMapBuffer(other, from, CL_FALSE, CL_MAP_READ, 0, kSize, 0, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clEnqueueWriteBuffer(other, to, CL_FALSE, 0, kSize, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(clFinish(other), CL_SUCCESS);
  const auto seen = Read<cl_uchar>(to, kSize);
  EXPECT_TRUE(AllEqual(seen));
  EXPECT_EQ(seen.front(), value);
  EXPECT_EQ(clEnqueueUnmapMemObject(other, from, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clFinish(other), CL_SUCCESS);
  clReleaseEvent(gate);
  clReleaseMemObject(from);
  clReleaseMemObject(to);
  clReleaseCommandQueue(other);
}

// A map is kept through whatever else happens to the buffer's neighbours.
TEST_F(Large, ManyMapsAtOnce) {
  constexpr size_t kBuffers = 8;
  cl_mem buffers[kBuffers];
  cl_uchar* mapped[kBuffers];
  cl_int error = -1;
  for (size_t i = 0; i < kBuffers; ++i) {
    buffers[i] = Buffer(100'000 + i * 4'096);
    mapped[i] = static_cast<cl_uchar*>(clEnqueueMapBuffer(queue, buffers[i], CL_FALSE, CL_MAP_WRITE, 0,
                                                          100'000, 0, nullptr, nullptr, &error));
    ASSERT_EQ(error, CL_SUCCESS);
  }
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  for (size_t i = 0; i < kBuffers; ++i) std::fill_n(mapped[i], 100'000, static_cast<cl_uchar>(i + 1));
  for (size_t i = 0; i < kBuffers; ++i) {
    EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffers[i], mapped[i], 0, nullptr, nullptr), CL_SUCCESS);
  }
  for (size_t i = 0; i < kBuffers; ++i) {
    const auto seen = Read<cl_uchar>(buffers[i], 100'000);
    EXPECT_TRUE(AllEqual(seen));
    EXPECT_EQ(seen.front(), i + 1);
    clReleaseMemObject(buffers[i]);
  }
}

}  // namespace
}  // namespace battery
