// Parts of buffers: sub-buffers and rectangular transfers.
#include <array>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Parts : public OpenCl {
 protected:
  cl_mem SubBuffer(cl_mem parent, size_t origin, size_t size, cl_mem_flags flags = 0) {
    const cl_buffer_region region = {origin, size};
    error = -1;
    return clCreateSubBuffer(parent, flags, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
  }
  template <typename T>
  static T Info(cl_mem buffer, cl_mem_info name) {
    T value{};
    EXPECT_EQ(clGetMemObjectInfo(buffer, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
  size_t Align() const { return DeviceInfo<cl_uint>(CL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8; }

  cl_int error = -1;
};

TEST_F(Parts, SubBuffersSayWhatTheyAre) {
  const size_t align = Align();
  cl_mem parent = Buffer(4 * align, CL_MEM_READ_ONLY | CL_MEM_HOST_WRITE_ONLY);
  cl_mem part = SubBuffer(parent, align, 2 * align);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Info<size_t>(part, CL_MEM_SIZE), 2 * align);
  EXPECT_EQ(Info<size_t>(part, CL_MEM_OFFSET), align);
  EXPECT_EQ(Info<cl_mem>(part, CL_MEM_ASSOCIATED_MEMOBJECT), parent);
  EXPECT_EQ(Info<cl_mem>(parent, CL_MEM_ASSOCIATED_MEMOBJECT), nullptr);
  EXPECT_EQ(Info<cl_mem_object_type>(part, CL_MEM_TYPE), cl_mem_object_type{CL_MEM_OBJECT_BUFFER});
  EXPECT_EQ(Info<cl_mem_flags>(part, CL_MEM_FLAGS), cl_mem_flags{CL_MEM_READ_ONLY | CL_MEM_HOST_WRITE_ONLY});
  EXPECT_EQ(Info<cl_context>(part, CL_MEM_CONTEXT), context);
  EXPECT_EQ(clReleaseMemObject(part), CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(parent), CL_SUCCESS);
}

TEST_F(Parts, SubBuffersAreRefusedWithTheRightCode) {
  const size_t align = Align();
  cl_mem parent = Buffer(4 * align);
  EXPECT_EQ(SubBuffer(parent, 0, 0), nullptr);
  EXPECT_EQ(error, CL_INVALID_BUFFER_SIZE);
  EXPECT_EQ(SubBuffer(parent, 4 * align, 1), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(SubBuffer(parent, align, 4 * align), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(SubBuffer(parent, 1, align), nullptr);
  EXPECT_EQ(error, CL_MISALIGNED_SUB_BUFFER_OFFSET);
  EXPECT_EQ(SubBuffer(parent, 0, align, CL_MEM_COPY_HOST_PTR), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(clCreateSubBuffer(parent, 0, CL_BUFFER_CREATE_TYPE_REGION, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(SubBuffer(nullptr, 0, align), nullptr);
  EXPECT_EQ(error, CL_INVALID_MEM_OBJECT);
  cl_mem part = SubBuffer(parent, 0, 2 * align);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(SubBuffer(part, 0, align), nullptr);
  EXPECT_EQ(error, CL_INVALID_MEM_OBJECT);
  clReleaseMemObject(part);
  clReleaseMemObject(parent);

  parent = Buffer(4 * align, CL_MEM_READ_ONLY | CL_MEM_HOST_READ_ONLY);
  EXPECT_EQ(SubBuffer(parent, 0, align, CL_MEM_WRITE_ONLY), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(SubBuffer(parent, 0, align, CL_MEM_HOST_WRITE_ONLY), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  part = SubBuffer(parent, 0, align, CL_MEM_HOST_NO_ACCESS);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_uint word = 0;
  EXPECT_EQ(clEnqueueReadBuffer(queue, part, CL_TRUE, 0, 4, &word, 0, nullptr, nullptr),
            CL_INVALID_OPERATION);
  clReleaseMemObject(part);
  clReleaseMemObject(parent);
}

TEST_F(Parts, SubBuffersShareTheirParentsMemory) {
  const size_t align = Align();
  const size_t words = align / 4;
  cl_mem parent = Buffer(4 * align);
  Write(parent, Count(4 * words));
  cl_mem part = SubBuffer(parent, align, 2 * align);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(part, 2 * words), Count(2 * words, static_cast<cl_uint>(words)));

  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  const cl_uint value = 1000;
  const size_t global = 2 * words;
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof part, &part), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_SUCCESS);
  const auto back = Read<cl_uint>(parent, 4 * words);
  for (cl_uint i = 0; i < 4 * words; ++i) ASSERT_EQ(back[i], i >= words && i < 3 * words ? i + 1000 : i) << i;

  // The program may let go of the parent first.
  EXPECT_EQ(clReleaseMemObject(parent), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(part, 1)[0], words + 1000);
  clReleaseMemObject(part);
  clReleaseKernel(kernel);
  clReleaseProgram(program);
}

TEST_F(Parts, SubBuffersAreMapped) {
  const size_t align = Align();
  auto storage = Count(align);  // 4 x align bytes
  cl_mem parent = Buffer(4 * align, CL_MEM_USE_HOST_PTR, storage.data());
  cl_mem part = SubBuffer(parent, 2 * align, align);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Info<void*>(part, CL_MEM_HOST_PTR), storage.data() + 2 * align / 4);
  EXPECT_EQ(Info<cl_mem_flags>(part, CL_MEM_FLAGS) & CL_MEM_USE_HOST_PTR, cl_mem_flags{CL_MEM_USE_HOST_PTR});
  auto* words = static_cast<cl_uint*>(clEnqueueMapBuffer(queue, part, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0,
                                                         align, 0, nullptr, nullptr, &error));
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(words, storage.data() + 2 * align / 4);
  EXPECT_EQ(words[0], 2 * align / 4);
  words[0] = 4711;
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, part, words, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(parent, 1, 2 * align)[0], 4711u);
  clReleaseMemObject(part);
  clReleaseMemObject(parent);
}

TEST_F(Parts, CopiesBetweenPartsOfOneBufferAreChecked) {
  const size_t align = Align();
  cl_mem parent = Buffer(4 * align);
  cl_mem first = SubBuffer(parent, 0, 2 * align);
  cl_mem second = SubBuffer(parent, align, 2 * align);
  EXPECT_EQ(clEnqueueCopyBuffer(queue, first, second, align, 0, 4, 0, nullptr, nullptr), CL_MEM_COPY_OVERLAP);
  EXPECT_EQ(clEnqueueCopyBuffer(queue, first, second, 0, 0, align, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  for (cl_mem buffer : {first, second, parent}) clReleaseMemObject(buffer);
}

TEST_F(Parts, RectanglesGoInAndOut) {
  // 20 slices of 30 rows of 50 bytes.
  std::vector<unsigned char> table(50 * 30 * 20);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<unsigned char>(i * 13 + i / 256);
  cl_mem buffer = Buffer(table.size());
  Write(buffer, table);
  const size_t origin[3] = {5, 6, 7}, host_origin[3] = {2, 1, 1}, region[3] = {20, 10, 4};
  std::vector<unsigned char> host(32 * 16 * 8, 0xee);
  cl_event read = nullptr;
  ASSERT_EQ(clEnqueueReadBufferRect(queue, buffer, CL_FALSE, origin, host_origin, region, 50, 50 * 30, 32,
                                    32 * 16, host.data(), 0, nullptr, &read),
            CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &read), CL_SUCCESS);
  cl_command_type type = 0;
  EXPECT_EQ(clGetEventInfo(read, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_READ_BUFFER_RECT});
  clReleaseEvent(read);
  for (size_t z = 0; z < 8; ++z) {
    for (size_t y = 0; y < 16; ++y) {
      for (size_t x = 0; x < 32; ++x) {
        const bool inside = x >= 2 && x < 22 && y >= 1 && y < 11 && z >= 1 && z < 5;
        const unsigned char expected =
            inside ? table[(x - 2 + 5) + (y - 1 + 6) * 50 + (z - 1 + 7) * 50 * 30] : 0xee;
        ASSERT_EQ(host[x + y * 32 + z * 32 * 16], expected) << x << " " << y << " " << z;
      }
    }
  }
  for (auto& byte : host) byte = static_cast<unsigned char>(byte + 1);
  ASSERT_EQ(clEnqueueWriteBufferRect(queue, buffer, CL_TRUE, origin, host_origin, region, 50, 50 * 30, 32,
                                     32 * 16, host.data(), 0, nullptr, nullptr),
            CL_SUCCESS);
  const auto back = Read<unsigned char>(buffer, table.size());
  for (size_t i = 0; i < table.size(); ++i) {
    const size_t x = i % 50, y = i / 50 % 30, z = i / 1500;
    const bool inside = x >= 5 && x < 25 && y >= 6 && y < 16 && z >= 7 && z < 11;
    ASSERT_EQ(back[i], inside ? static_cast<unsigned char>(table[i] + 1) : table[i]) << i;
  }
  clReleaseMemObject(buffer);
}

TEST_F(Parts, LargeRectanglesGoInPieces) {
  // Rows that are packed on neither side, rows longer than a piece, and a box that is packed on both.
  struct Case {
    size_t width, rows, slices, gap;
  };
  for (const Case& box :
       {Case{1000, 3000, 3, 24}, Case{(4u << 20) + 100, 2, 1, 28}, Case{4096, 2500, 1, 0}}) {
    const size_t pitch = box.width + box.gap, slice = pitch * box.rows;
    std::vector<unsigned char> data(slice * box.slices), back(data.size());
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 31 + (i >> 12));
    cl_mem buffer = Buffer(data.size());
    const size_t zero[3] = {}, region[3] = {box.width, box.rows, box.slices};
    ASSERT_EQ(clEnqueueWriteBufferRect(queue, buffer, CL_FALSE, zero, zero, region, pitch, 0, pitch, 0,
                                       data.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    cl_event event = nullptr;
    ASSERT_EQ(clEnqueueReadBufferRect(queue, buffer, CL_FALSE, zero, zero, region, pitch, 0, pitch, 0,
                                      back.data(), 0, nullptr, &event),
              CL_SUCCESS);
    EXPECT_EQ(clWaitForEvents(1, &event), CL_SUCCESS);
    clReleaseEvent(event);
    size_t wrong = 0;
    for (size_t i = 0; i < data.size(); ++i) wrong += back[i] != (i % pitch < box.width ? data[i] : 0);
    EXPECT_EQ(wrong, 0u) << box.width;
    clReleaseMemObject(buffer);
  }
}

TEST_F(Parts, RectanglesAreCopied) {
  cl_mem from = Buffer(4096), to = Buffer(4096);
  std::vector<unsigned char> data(4096);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned char>(i * 7);
  Write(from, data);
  Write(to, std::vector<unsigned char>(4096));
  const size_t source[3] = {1, 2, 0}, destination[3] = {10, 0, 1}, region[3] = {8, 4, 2};
  ASSERT_EQ(clEnqueueCopyBufferRect(queue, from, to, source, destination, region, 16, 16 * 10, 32, 32 * 8, 0,
                                    nullptr, nullptr),
            CL_SUCCESS);
  const auto back = Read<unsigned char>(to, 4096);
  for (size_t i = 0; i < 4096; ++i) {
    const size_t x = i % 32, y = i / 32 % 8, z = i / 256;
    const bool inside = x >= 10 && x < 18 && y < 4 && z >= 1 && z < 3;
    ASSERT_EQ(back[i], inside ? data[(x - 10 + 1) + (y + 2) * 16 + (z - 1) * 160] : 0) << i;
  }
  clReleaseMemObject(from);
  clReleaseMemObject(to);
}

TEST_F(Parts, RectanglesAreCheckedBeforeTheyLeave) {
  cl_mem buffer = Buffer(1000);
  cl_mem hidden = Buffer(1000, CL_MEM_HOST_NO_ACCESS);
  unsigned char host[1000] = {};
  const size_t zero[3] = {};
  const auto read = [&](cl_mem memory, const std::array<size_t, 3>& origin,
                        const std::array<size_t, 3>& region, size_t pitch, size_t slice,
                        size_t host_pitch = 0, size_t host_slice = 0) {
    const cl_int result =
        clEnqueueReadBufferRect(queue, memory, CL_TRUE, origin.data(), zero, region.data(), pitch, slice,
                                host_pitch, host_slice, host, 0, nullptr, nullptr);
    EXPECT_EQ(clEnqueueWriteBufferRect(queue, memory, CL_TRUE, origin.data(), zero, region.data(), pitch,
                                       slice, host_pitch, host_slice, host, 0, nullptr, nullptr),
              result);
    return result;
  };
  EXPECT_EQ(read(buffer, {0, 0, 0}, {10, 10, 10}, 0, 0), CL_SUCCESS);
  EXPECT_EQ(read(buffer, {1, 0, 0}, {10, 10, 10}, 0, 0), CL_INVALID_VALUE);
  EXPECT_EQ(read(buffer, {0, 0, 0}, {10, 10, 11}, 0, 0), CL_INVALID_VALUE);
  EXPECT_EQ(read(buffer, {0, 0, 0}, {0, 10, 10}, 0, 0), CL_INVALID_VALUE);
  EXPECT_EQ(read(buffer, {0, 0, 0}, {10, 10, 1}, 9, 0), CL_INVALID_VALUE);
  EXPECT_EQ(read(buffer, {0, 0, 0}, {10, 10, 1}, 10, 99), CL_INVALID_VALUE);
  EXPECT_EQ(read(buffer, {0, 0, 0}, {10, 10, 1}, 0, 0, 9), CL_INVALID_VALUE);
  EXPECT_EQ(read(hidden, {0, 0, 0}, {10, 10, 1}, 0, 0), CL_INVALID_OPERATION);
  EXPECT_EQ(read(nullptr, {0, 0, 0}, {10, 10, 1}, 0, 0), CL_INVALID_MEM_OBJECT);
  const size_t region[3] = {10, 10, 1}, aside[3] = {5, 0, 0}, beside[3] = {10, 0, 0};
  EXPECT_EQ(clEnqueueReadBufferRect(queue, buffer, CL_TRUE, zero, zero, region, 0, 0, 0, 0, nullptr, 0,
                                    nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(
      clEnqueueCopyBufferRect(queue, buffer, buffer, zero, aside, region, 20, 0, 20, 0, 0, nullptr, nullptr),
      CL_MEM_COPY_OVERLAP);
  EXPECT_EQ(
      clEnqueueCopyBufferRect(queue, buffer, buffer, zero, beside, region, 20, 0, 20, 0, 0, nullptr, nullptr),
      CL_SUCCESS);
  EXPECT_EQ(
      clEnqueueCopyBufferRect(queue, buffer, buffer, zero, beside, region, 20, 0, 40, 0, 0, nullptr, nullptr),
      CL_INVALID_VALUE);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  clReleaseMemObject(buffer);
  clReleaseMemObject(hidden);
}

}  // namespace
}  // namespace battery
