// Shared virtual memory, as coarse-grained buffers have it: nothing is expected but at maps and unmaps.
#include <algorithm>
#include <atomic>
#include <map>
#include <random>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Svm : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    // The device that is only memory speaks OpenCL 1.2, in which this cannot be asked.
    cl_device_svm_capabilities capabilities = 0;
    clGetDeviceInfo(device, CL_DEVICE_SVM_CAPABILITIES, sizeof capabilities, &capabilities, nullptr);
    if ((capabilities & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER) == 0) GTEST_SKIP() << "no shared virtual memory";
  }
  void TearDown() override {
    for (void* pointer : pointers) clSVMFree(context, pointer);
    OpenCl::TearDown();
  }

  template <typename T = cl_uint>
  T* Alloc(size_t count, cl_svm_mem_flags flags = CL_MEM_READ_WRITE) {
    void* pointer = clSVMAlloc(context, flags, count * sizeof(T), 0);
    EXPECT_NE(pointer, nullptr);
    pointers.push_back(pointer);
    return static_cast<T*>(pointer);
  }
  cl_int Map(void* pointer, size_t size, cl_map_flags flags) const {
    return clEnqueueSVMMap(queue, CL_TRUE, flags, pointer, size, 0, nullptr, nullptr);
  }
  cl_int Unmap(void* pointer) const { return clEnqueueSVMUnmap(queue, pointer, 0, nullptr, nullptr); }
  void Fill(cl_uint* words, const std::vector<cl_uint>& data) const {
    ASSERT_EQ(Map(words, data.size() * sizeof(cl_uint), CL_MAP_WRITE_INVALIDATE_REGION), CL_SUCCESS);
    std::copy(data.begin(), data.end(), words);
    ASSERT_EQ(Unmap(words), CL_SUCCESS);
  }
  std::vector<cl_uint> Words(cl_uint* words, size_t count) const {
    EXPECT_EQ(Map(words, count * sizeof(cl_uint), CL_MAP_READ), CL_SUCCESS);
    std::vector<cl_uint> data(words, words + count);
    EXPECT_EQ(Unmap(words), CL_SUCCESS);
    return data;
  }
  void Run(cl_kernel kernel, size_t items) const {
    ASSERT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &items, nullptr, 0, nullptr, nullptr),
              CL_SUCCESS);
  }
  static std::vector<cl_uint> Plus(std::vector<cl_uint> data, size_t first, size_t count, cl_uint value) {
    for (size_t i = first; i < first + count; ++i) data[i] += value;
    return data;
  }

  std::vector<void*> pointers;
};

TEST_F(Svm, MapsCarryWhatProgramAndKernelsWrite) {
  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  cl_uint* words = Alloc(5'000);
  const std::vector<cl_uint> data = Count(5'000);
  Fill(words, data);
  const cl_uint value = 10;
  ASSERT_EQ(clSetKernelArgSVMPointer(kernel, 0, words), CL_SUCCESS);
  ASSERT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
  Run(kernel, 5'000);
  EXPECT_EQ(Words(words, 5'000), Plus(data, 0, 5'000, 10));

  // A pointer into it, and a part of it mapped.
  ASSERT_EQ(clSetKernelArgSVMPointer(kernel, 0, words + 100), CL_SUCCESS);
  Run(kernel, 50);
  EXPECT_EQ(Words(words + 90, 70), Plus(Count(70, 100), 10, 50, 10));
  ASSERT_EQ(Map(words + 4'000, 4, CL_MAP_READ | CL_MAP_WRITE), CL_SUCCESS);
  words[4'000] = 7;
  ASSERT_EQ(Unmap(words + 4'000), CL_SUCCESS);
  EXPECT_EQ(Words(words + 3'999, 3), (std::vector<cl_uint>{4'009, 7, 4'011}));

  // A clone points where its original does.
  cl_int error = -1;
  cl_kernel clone = clCloneKernel(kernel, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  Run(clone, 1);
  EXPECT_EQ(Words(words + 100, 2), (std::vector<cl_uint>{130, 121}));
  EXPECT_EQ(clReleaseKernel(clone), CL_SUCCESS);
  EXPECT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(Svm, KernelsFollowPointersOfTheProgram) {
  if (!HasCompiler()) GTEST_SKIP() << "the device runs no kernel of ours";
  constexpr char kWalk[] =
      "typedef struct Node { global struct Node* next; uint value; } Node;\n"
      "kernel void walk(global Node* node, global uint* sum) {\n"
      "  for (; node; node = node->next) { *sum += node->value; node->value *= 2; }\n"
      "}\n";
  struct Node {
    Node* next;
    cl_uint value;
  };
  cl_program program = Program(kWalk);
  cl_kernel kernel = Kernel(program, "walk");
  std::vector<Node*> nodes(20);
  for (Node*& node : nodes) node = Alloc<Node>(1);
  for (size_t i = 0; i < nodes.size(); ++i) {
    ASSERT_EQ(Map(nodes[i], sizeof(Node), CL_MAP_WRITE), CL_SUCCESS);
    *nodes[i] = {i + 1 < nodes.size() ? nodes[i + 1] : nullptr, static_cast<cl_uint>(i + 1)};
    ASSERT_EQ(Unmap(nodes[i]), CL_SUCCESS);
  }
  cl_uint* sum = Alloc(1);
  Fill(sum, {0});
  ASSERT_EQ(clSetKernelArgSVMPointer(kernel, 0, nodes[0]), CL_SUCCESS);
  ASSERT_EQ(clSetKernelArgSVMPointer(kernel, 1, sum), CL_SUCCESS);
  ASSERT_EQ(
      clSetKernelExecInfo(kernel, CL_KERNEL_EXEC_INFO_SVM_PTRS, nodes.size() * sizeof(void*), nodes.data()),
      CL_SUCCESS);
  Run(kernel, 1);
  EXPECT_EQ(Words(sum, 1)[0], 210u);
  ASSERT_EQ(Map(nodes[7], sizeof(Node), CL_MAP_READ), CL_SUCCESS);
  EXPECT_EQ(nodes[7]->next, nodes[8]);
  EXPECT_EQ(nodes[7]->value, 16u);
  ASSERT_EQ(Unmap(nodes[7]), CL_SUCCESS);
  ASSERT_EQ(clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(Svm, CopiesInAllDirectionsAndInOrder) {
  constexpr size_t kCount = 3'000'000;  // more than one piece of a transfer
  constexpr size_t kBytes = kCount * sizeof(cl_uint);
  cl_uint* a = Alloc(kCount);
  cl_uint* b = Alloc(kCount);
  const std::vector<cl_uint> from = Count(kCount, 5);
  std::vector<cl_uint> to(kCount), other(kCount);
  const auto copy = [&](cl_bool blocking, void* target, const void* source, cl_event* event = nullptr) {
    return clEnqueueSVMMemcpy(queue, blocking, target, source, kBytes, 0, nullptr, event);
  };
  ASSERT_EQ(copy(CL_FALSE, a, from.data()), CL_SUCCESS);
  ASSERT_EQ(copy(CL_FALSE, b, a), CL_SUCCESS);
  ASSERT_EQ(copy(CL_FALSE, to.data(), b), CL_SUCCESS);
  cl_event event = nullptr;
  ASSERT_EQ(copy(CL_FALSE, other.data(), to.data(), &event), CL_SUCCESS);
  ASSERT_EQ(clWaitForEvents(1, &event), CL_SUCCESS);
  EXPECT_EQ(to, from);
  EXPECT_EQ(other, from);
  cl_command_type type = 0;
  EXPECT_EQ(clGetEventInfo(event, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_SVM_MEMCPY});
  EXPECT_EQ(clReleaseEvent(event), CL_SUCCESS);

  std::fill(to.begin(), to.end(), 0);
  ASSERT_EQ(copy(CL_TRUE, to.data(), a), CL_SUCCESS);
  EXPECT_EQ(to, from);
  std::fill(other.begin(), other.end(), 9);
  ASSERT_EQ(copy(CL_TRUE, a, other.data()), CL_SUCCESS);
  ASSERT_EQ(copy(CL_TRUE, b, a), CL_SUCCESS);
  ASSERT_EQ(copy(CL_TRUE, to.data(), b), CL_SUCCESS);
  EXPECT_EQ(to, other);
  ASSERT_EQ(copy(CL_TRUE, to.data(), from.data()), CL_SUCCESS);
  EXPECT_EQ(to, from);
}

TEST_F(Svm, FillsRepeatTheirPattern) {
  cl_uint* words = Alloc(1'000);
  Fill(words, Count(1'000));
  const cl_uint pattern[] = {11, 12};
  ASSERT_EQ(clEnqueueSVMMemFill(queue, words + 10, pattern, sizeof pattern, 80, 0, nullptr, nullptr),
            CL_SUCCESS);
  const std::vector<cl_uint> after = Words(words, 40);
  EXPECT_EQ(after[9], 9u);
  EXPECT_EQ(after[10], 11u);
  EXPECT_EQ(after[29], 12u);
  EXPECT_EQ(after[30], 30u);
}

TEST_F(Svm, FreesInTheQueuesOrder) {
  cl_uint* words = Alloc(100);
  pointers.clear();
  cl_int error = -1;
  cl_event gate = clCreateUserEvent(context, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  struct Freed {
    std::atomic<int> calls{0};
    cl_context context;
    cl_command_queue queue = nullptr;
    std::vector<void*> pointers;
  } freed;
  freed.context = context;
  void* list[] = {words};
  cl_event event = nullptr;
  ASSERT_EQ(clEnqueueSVMFree(
                queue, 1, list,
                [](cl_command_queue of, cl_uint count, void* addresses[], void* data) {
                  Freed& result = *static_cast<Freed*>(data);
                  result.queue = of;
                  result.pointers.assign(addresses, addresses + count);
                  clSVMFree(result.context, addresses[0]);
                  ++result.calls;
                },
                &freed, 1, &gate, &event),
            CL_SUCCESS);
  list[0] = nullptr;  // the list is the program's again
  EXPECT_EQ(clFlush(queue), CL_SUCCESS);
  EXPECT_EQ(freed.calls.load(), 0);
  ASSERT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  ASSERT_EQ(clFinish(queue), CL_SUCCESS);
  ASSERT_TRUE(Eventually([&] { return freed.calls.load() == 1; }));
  EXPECT_EQ(freed.queue, queue);
  EXPECT_EQ(freed.pointers, std::vector<void*>{words});
  EXPECT_EQ(StatusOf(event), CL_COMPLETE);
  cl_command_type type = 0;
  EXPECT_EQ(clGetEventInfo(event, CL_EVENT_COMMAND_TYPE, sizeof type, &type, nullptr), CL_SUCCESS);
  EXPECT_EQ(type, cl_command_type{CL_COMMAND_SVM_FREE});
  EXPECT_EQ(clReleaseEvent(event), CL_SUCCESS);
  EXPECT_EQ(clReleaseEvent(gate), CL_SUCCESS);

  // Without a function it frees by itself.
  void* more[] = {clSVMAlloc(context, 0, 64, 0), clSVMAlloc(context, 0, 64, 64)};
  ASSERT_NE(more[0], nullptr);
  ASSERT_NE(more[1], nullptr);
  ASSERT_EQ(clEnqueueSVMFree(queue, 2, more, nullptr, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
}

TEST_F(Svm, BuffersMayLieInIt) {
  cl_uint* words = Alloc(10'000);
  Fill(words, Count(10'000));
  constexpr size_t kOffset = 1'024;  // a multiple of what any device demands, in words
  cl_int error = -1;
  cl_mem buffer =
      clCreateBuffer(context, CL_MEM_USE_HOST_PTR, 4'000 * sizeof(cl_uint), words + kOffset, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  cl_bool uses = CL_FALSE;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_USES_SVM_POINTER, sizeof uses, &uses, nullptr), CL_SUCCESS);
  if (OnVGpu()) {  // PoCL (3.1) says no
    EXPECT_EQ(uses, cl_bool{CL_TRUE});
  }
  void* host = nullptr;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_HOST_PTR, sizeof host, &host, nullptr), CL_SUCCESS);
  EXPECT_EQ(host, words + kOffset);
  cl_mem parent = buffer;
  EXPECT_EQ(clGetMemObjectInfo(buffer, CL_MEM_ASSOCIATED_MEMOBJECT, sizeof parent, &parent, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(parent, nullptr);

  // One storage: what goes in by the one comes out by the other.
  EXPECT_EQ(Read<cl_uint>(buffer, 10), Count(10, kOffset));
  Write(buffer, std::vector<cl_uint>{1, 2, 3});
  EXPECT_EQ(Words(words + kOffset - 1, 5), (std::vector<cl_uint>{1'023, 1, 2, 3, 1'027}));
  const size_t part_origin = 1'024 * sizeof(cl_uint);
  const cl_buffer_region region = {part_origin, 400};
  cl_mem part = clCreateSubBuffer(buffer, 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(part, 3), Count(3, 2 * kOffset));
  size_t offset = 0;
  EXPECT_EQ(clGetMemObjectInfo(part, CL_MEM_OFFSET, sizeof offset, &offset, nullptr), CL_SUCCESS);
  EXPECT_EQ(offset, part_origin);
  void* mapped = clEnqueueMapBuffer(queue, buffer, CL_TRUE, CL_MAP_WRITE, 0, 8, 0, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(mapped, words + kOffset);
  static_cast<cl_uint*>(mapped)[0] = 77;
  EXPECT_EQ(clEnqueueUnmapMemObject(queue, buffer, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Words(words + kOffset, 2), (std::vector<cl_uint>{77, 2}));
  EXPECT_EQ(clReleaseMemObject(part), CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
}

TEST_F(Svm, BuffersMayBeginAnywhereInIt) {
  cl_uint* words = Alloc(1'000);
  Fill(words, Count(1'000));
  cl_int error = -1;
  cl_mem buffer = clCreateBuffer(context, CL_MEM_USE_HOST_PTR, 400, words + 3, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 100), Count(100, 3));
  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  const cl_uint value = 10;
  const size_t global = 100;
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Words(words, 5), (std::vector<cl_uint>{0, 1, 2, 13, 14}));
  EXPECT_EQ(Words(words + 101, 4), (std::vector<cl_uint>{111, 112, 103, 104}));
  EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  EXPECT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(Svm, AllocationsNeverOverlap) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::map<char*, size_t> alive;
  for (int i = 0; i < 500; ++i) {
    if (alive.size() > 50) {
      const auto victim = std::next(alive.begin(), static_cast<std::ptrdiff_t>(random() % alive.size()));
      clSVMFree(context, victim->first);
      alive.erase(victim);
    }
    const size_t size = 1 + random() % (i % 10 == 0 ? 1'000'000 : 10'000);
    char* memory = static_cast<char*>(clSVMAlloc(context, 0, size, 128));
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 128, 0u);
    const auto after = alive.lower_bound(memory);
    if (after != alive.end()) {
      ASSERT_LE(memory + size, after->first);
    }
    if (after != alive.begin()) {
      ASSERT_LE(std::prev(after)->first + std::prev(after)->second, memory);
    }
    alive.emplace(memory, size);
    memory[0] = memory[size - 1] = 1;  // there is memory
  }
  for (const auto& [memory, size] : alive) clSVMFree(context, memory);
}

TEST_F(Svm, RefusesWithTheRightCode) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL (3.1) checks little of this, and crashes of some";
  cl_uint* words = Alloc(100);
  cl_uint* others = Alloc(100);
  const cl_uint one = 1;
  EXPECT_EQ(clSVMAlloc(nullptr, 0, 100, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context, CL_MEM_READ_ONLY | CL_MEM_WRITE_ONLY, 100, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context, CL_MEM_SVM_ATOMICS, 100, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context, 0, 0, 0), nullptr);
  EXPECT_EQ(clSVMAlloc(context, 0, 100, 3), nullptr);
  clSVMFree(context, nullptr);

  EXPECT_EQ(Map(nullptr, 4, CL_MAP_READ), CL_INVALID_VALUE);
  EXPECT_EQ(Map(words, 0, CL_MAP_READ), CL_INVALID_VALUE);
  EXPECT_EQ(Map(words, 4, 1u << 10), CL_INVALID_VALUE);
  EXPECT_EQ(Unmap(nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueSVMMap(nullptr, CL_TRUE, CL_MAP_READ, words, 4, 0, nullptr, nullptr),
            CL_INVALID_COMMAND_QUEUE);
  EXPECT_EQ(clEnqueueSVMMap(queue, CL_TRUE, CL_MAP_READ, words, 4, 1, nullptr, nullptr),
            CL_INVALID_EVENT_WAIT_LIST);
  const auto copy = [this](void* target, const void* source, size_t size) {
    return clEnqueueSVMMemcpy(queue, CL_TRUE, target, source, size, 0, nullptr, nullptr);
  };
  EXPECT_EQ(copy(nullptr, words, 4), CL_INVALID_VALUE);
  EXPECT_EQ(copy(words, nullptr, 4), CL_INVALID_VALUE);
  EXPECT_EQ(copy(words, words + 10, 44), CL_MEM_COPY_OVERLAP);
  EXPECT_EQ(copy(words + 10, words, 44), CL_MEM_COPY_OVERLAP);
  const auto fill = [this](void* target, const void* pattern, size_t pattern_size, size_t size) {
    return clEnqueueSVMMemFill(queue, target, pattern, pattern_size, size, 0, nullptr, nullptr);
  };
  EXPECT_EQ(fill(nullptr, &one, 4, 4), CL_INVALID_VALUE);
  EXPECT_EQ(fill(words, nullptr, 4, 4), CL_INVALID_VALUE);
  EXPECT_EQ(fill(words, &one, 0, 4), CL_INVALID_VALUE);
  EXPECT_EQ(fill(words, &one, 3, 6), CL_INVALID_VALUE);
  EXPECT_EQ(fill(words, &one, 4, 6), CL_INVALID_VALUE);
  EXPECT_EQ(fill(reinterpret_cast<char*>(words) + 1, &one, 4, 4), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueSVMFree(queue, 0, nullptr, nullptr, nullptr, 1, nullptr, nullptr),
            CL_INVALID_EVENT_WAIT_LIST);
  void* list[] = {others};
  EXPECT_EQ(clEnqueueSVMFree(queue, 0, list, nullptr, nullptr, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueSVMFree(queue, 1, nullptr, nullptr, nullptr, 0, nullptr, nullptr), CL_INVALID_VALUE);
  const void* moved[] = {words};
  EXPECT_EQ(clEnqueueSVMMigrateMem(queue, 1, moved, nullptr, 0, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clEnqueueSVMMigrateMem(queue, 0, moved, nullptr, 0, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueSVMMigrateMem(queue, 1, nullptr, nullptr, 0, 0, nullptr, nullptr), CL_INVALID_VALUE);
  EXPECT_EQ(clEnqueueSVMMigrateMem(queue, 1, moved, nullptr, 1u << 7, 0, nullptr, nullptr), CL_INVALID_VALUE);

  cl_program program = Program();
  cl_kernel kernel = Kernel(program, "null_add");
  EXPECT_EQ(clSetKernelArgSVMPointer(nullptr, 0, words), CL_INVALID_KERNEL);
  EXPECT_EQ(clSetKernelArgSVMPointer(kernel, 2, words), CL_INVALID_ARG_INDEX);
  EXPECT_EQ(clSetKernelExecInfo(nullptr, CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof list, list), CL_INVALID_KERNEL);
  EXPECT_EQ(clSetKernelExecInfo(kernel, 1, sizeof list, list), CL_INVALID_VALUE);
  EXPECT_EQ(clSetKernelExecInfo(kernel, CL_KERNEL_EXEC_INFO_SVM_PTRS, 0, list), CL_INVALID_VALUE);
  EXPECT_EQ(clSetKernelExecInfo(kernel, CL_KERNEL_EXEC_INFO_SVM_PTRS, 0, nullptr), CL_SUCCESS);
  EXPECT_EQ(clEnqueueSVMFree(queue, 0, nullptr, nullptr, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clSetKernelExecInfo(kernel, CL_KERNEL_EXEC_INFO_SVM_PTRS, sizeof list, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clSetKernelArgSVMPointer(kernel, 1, words), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(clSetKernelArgSVMPointer(kernel, 0, &one), CL_INVALID_ARG_VALUE);
  EXPECT_EQ(Map(words, 404, CL_MAP_READ), CL_INVALID_VALUE);
  EXPECT_EQ(Unmap(words), CL_INVALID_VALUE);
  cl_uint local[2] = {};
  EXPECT_EQ(fill(local, &one, 4, 4), CL_INVALID_VALUE);
  EXPECT_EQ(copy(words + 90, local, 48), CL_INVALID_VALUE);
  cl_int error = 0;
  EXPECT_EQ(clCreateBuffer(context, CL_MEM_USE_HOST_PTR, 404, words, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_BUFFER_SIZE);
  const void* list_of_none[] = {&one};
  EXPECT_EQ(clEnqueueSVMMigrateMem(queue, 1, list_of_none, nullptr, 0, 0, nullptr, nullptr),
            CL_INVALID_VALUE);
  EXPECT_EQ(clSVMAlloc(context, CL_MEM_SVM_FINE_GRAIN_BUFFER, 100, 0), nullptr);
  const cl_bool yes = CL_TRUE;
  EXPECT_EQ(clSetKernelExecInfo(kernel, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof yes, &yes),
            CL_INVALID_OPERATION);
  EXPECT_EQ(clReleaseKernel(kernel), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
}

}  // namespace
}  // namespace battery
