// Kernels: arguments, infos, launches.
#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Kernels : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    program = Program();
    add = Kernel(program, "null_add");
    buffer = Buffer(1024);
    Write(buffer, Count(256));
  }
  void TearDown() override {
    clReleaseMemObject(buffer);
    clReleaseKernel(add);
    clReleaseProgram(program);
    OpenCl::TearDown();
  }
  void SetArgs(cl_uint value) {
    EXPECT_EQ(clSetKernelArg(add, 0, sizeof buffer, &buffer), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(add, 1, sizeof value, &value), CL_SUCCESS);
  }
  cl_int Launch(cl_uint dimensions, std::vector<size_t> global, std::vector<size_t> local = {},
                std::vector<size_t> offset = {}) {
    return clEnqueueNDRangeKernel(queue, add, dimensions, offset.empty() ? nullptr : offset.data(),
                                  global.empty() ? nullptr : global.data(),
                                  local.empty() ? nullptr : local.data(), 0, nullptr, nullptr);
  }
  cl_program program = nullptr;
  cl_kernel add = nullptr;
  cl_mem buffer = nullptr;
};

TEST_F(Kernels, ArgumentsAreChecked) {
  cl_uint value = 1;
  EXPECT_EQ(clSetKernelArg(add, 2, sizeof value, &value), CL_INVALID_ARG_INDEX);
  EXPECT_EQ(clSetKernelArg(add, 1, 8, &value), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(clSetKernelArg(add, 0, 4, &buffer), CL_INVALID_ARG_SIZE);
  EXPECT_EQ(Launch(1, {16}), CL_INVALID_KERNEL_ARGS);
  EXPECT_EQ(clSetKernelArg(add, 1, sizeof value, &value), CL_SUCCESS);
  EXPECT_EQ(Launch(1, {16}), CL_INVALID_KERNEL_ARGS);
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(Launch(1, {16}), CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
}

TEST_F(Kernels, ArgumentsOfOneLaunchDoNotLeakIntoTheNext) {
  for (cl_uint value = 1; value <= 100; ++value) {
    SetArgs(value);
    ASSERT_EQ(Launch(1, {256}), CL_SUCCESS);
    SetArgs(0);
    ASSERT_EQ(Launch(1, {256}), CL_SUCCESS);
  }
  EXPECT_EQ(Read<cl_uint>(buffer, 256), Count(256, 5050));
}

TEST_F(Kernels, ClonesLackWhatIsGone) {
  if (!OnVGpu()) GTEST_SKIP() << "what a clone of such a kernel does is up to the platform";
  cl_mem gone = Buffer(64);
  const cl_uint value = 5;
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof gone, &gone), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(add, 1, sizeof value, &value), CL_SUCCESS);
  EXPECT_EQ(clReleaseMemObject(gone), CL_SUCCESS);
  cl_int error = -1;
  cl_kernel clone = clCloneKernel(add, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const size_t global = 16;
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, clone, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_INVALID_KERNEL_ARGS);
  // The rest was copied, and the session goes on.
  EXPECT_EQ(clSetKernelArg(clone, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, clone, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 16), Count(16, 5));
  clReleaseKernel(clone);
}

// One thread releases what another is about to send again.
TEST_F(Kernels, ClonesAreMadeWhileArgumentsGo) {
  if (!OnVGpu()) GTEST_SKIP() << "what a clone of such a kernel does is up to the platform";
  for (int round = 0; round < 200; ++round) {
    cl_mem gone = Buffer(64);
    EXPECT_EQ(clSetKernelArg(add, 0, sizeof gone, &gone), CL_SUCCESS);
    std::thread releases([gone] { clReleaseMemObject(gone); });
    cl_int error = -1;
    cl_kernel clone = clCloneKernel(add, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    releases.join();
    clReleaseKernel(clone);
  }
  EXPECT_EQ(Read<cl_uint>(buffer, 256), Count(256));
}

TEST_F(Kernels, SizesAreChecked) {
  SetArgs(1);
  EXPECT_EQ(Launch(0, {16}), CL_INVALID_WORK_DIMENSION);
  EXPECT_EQ(Launch(4, {16, 1, 1, 1}), CL_INVALID_WORK_DIMENSION);
  size_t sizes[3] = {};
  ASSERT_EQ(clGetDeviceInfo(device, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof sizes, sizes, nullptr), CL_SUCCESS);
  EXPECT_EQ(Launch(1, {sizes[0] * 2}, {sizes[0] * 2}) == CL_SUCCESS, false);
  const auto most = DeviceInfo<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE);
  EXPECT_EQ(Launch(2, {most, 2}, {most, 2}), CL_INVALID_WORK_GROUP_SIZE);
  cl_bool non_uniform = CL_FALSE;  // devices before OpenCL 3.0 do not know the question
  clGetDeviceInfo(device, CL_DEVICE_NON_UNIFORM_WORK_GROUP_SUPPORT, sizeof non_uniform, &non_uniform,
                  nullptr);
  if (non_uniform == CL_FALSE) {
    EXPECT_EQ(Launch(1, {15}, {4}), CL_INVALID_WORK_GROUP_SIZE);
  }
  if (OnVGpu()) {  // PoCL 3.1 takes these, and runs somewhere
    EXPECT_EQ(Launch(1, {256}, {0}), CL_INVALID_WORK_GROUP_SIZE);
    EXPECT_EQ(Launch(1, {16}, {}, {~size_t{0} - 4}), CL_INVALID_GLOBAL_OFFSET);
  }
}

TEST_F(Kernels, NoWorkIsFineSinceOpenCl21) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 takes a null size, and runs somewhere";
  SetArgs(1);
  const cl_int expected = HasVersion("2.1") ? CL_SUCCESS : CL_INVALID_GLOBAL_WORK_SIZE;
  EXPECT_EQ(Launch(1, {}), expected);
  EXPECT_EQ(Launch(1, {}, {4}), expected);
  EXPECT_EQ(Launch(2, {16, 0}), expected);
  EXPECT_EQ(Read<cl_uint>(buffer, 256), Count(256));
}

TEST_F(Kernels, LocalMemoryIsLimited) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 allocates what it says that it has not";
  const auto most = DeviceInfo<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE);
  cl_program with_local = Program(
      "kernel void k(global int* x, local int* a, local int* b) { local int own[64];\n"
      "  own[get_local_id(0)] = a[0] = b[0] = 1; x[get_global_id(0)] = own[get_local_id(0)]; }");
  cl_kernel kernel = Kernel(with_local, "k");
  const size_t global = 16;
  const auto launch = [&](size_t a, size_t b) {
    EXPECT_EQ(clSetKernelArg(kernel, 1, a, nullptr), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(kernel, 2, b, nullptr), CL_SUCCESS);
    return clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, &global, 0, nullptr, nullptr);
  };
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(launch(16, most / 2 + 16), CL_SUCCESS);
  EXPECT_EQ(launch(most / 2, most / 2 + 16), CL_OUT_OF_RESOURCES);
  cl_ulong used = 0;  // its own and the arguments'; drivers that compile late do not know of its own yet
  EXPECT_EQ(launch(16, 16), CL_SUCCESS);
  EXPECT_EQ(clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof used, &used, nullptr),
            CL_SUCCESS);
  const cl_ulong own = used - 32;
  EXPECT_EQ(launch(16, most - 16 - own / 2), own / 2 == 0 ? CL_SUCCESS : CL_OUT_OF_RESOURCES);
  EXPECT_EQ(clSetKernelArg(kernel, 1, most + 1, nullptr), CL_OUT_OF_RESOURCES);
  EXPECT_EQ(launch(16, 16), CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  clReleaseKernel(kernel);
  clReleaseProgram(with_local);
}

TEST_F(Kernels, RequiredDimensionsMustBeGiven) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 does not look";
  cl_program fixed = Program(
      "kernel __attribute__((reqd_work_group_size(4, 2, 1))) void k(global int* x) { x[get_global_id(0)] = "
      "1; }");
  cl_kernel kernel = Kernel(fixed, "k");
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  const size_t global[2] = {16, 2}, local[2] = {4, 2};
  for (const size_t* given : {local, static_cast<const size_t*>(nullptr)}) {
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, global, given, 0, nullptr, nullptr),
              CL_INVALID_WORK_GROUP_SIZE);
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 2, nullptr, global, given, 0, nullptr, nullptr),
              CL_SUCCESS);
  }
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  clReleaseKernel(kernel);
  clReleaseProgram(fixed);
}

TEST_F(Kernels, ObjectsOfAnotherKindOrContextAreRefused) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 looks at less";
  cl_int error = -1;
  cl_context other = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  cl_mem stranger = clCreateBuffer(other, CL_MEM_READ_WRITE, 64, nullptr, &error);
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof stranger, &stranger), CL_INVALID_CONTEXT);
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof program, &program), CL_INVALID_MEM_OBJECT);
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof buffer, &buffer), CL_SUCCESS);
  if (HasCompiler() && DeviceInfo<cl_bool>(CL_DEVICE_IMAGE_SUPPORT) == CL_TRUE) {
    cl_program with_image = Program(
        "kernel void k(read_only image2d_t from, sampler_t sampler, global float4* to) {\n"
        "  to[0] = read_imagef(from, sampler, (float2)(0.5f, 0.5f)); }");
    cl_kernel kernel = Kernel(with_image, "k");
    const cl_image_format format = {CL_RGBA, CL_FLOAT};
    cl_image_desc desc{};
    desc.image_type = CL_MEM_OBJECT_IMAGE2D;
    desc.image_width = desc.image_height = 4;
    cl_mem image = clCreateImage(context, CL_MEM_READ_WRITE, &format, &desc, nullptr, &error);
    cl_mem other_image = clCreateImage(other, CL_MEM_READ_WRITE, &format, &desc, nullptr, &error);
    desc.image_type = CL_MEM_OBJECT_IMAGE1D;
    cl_mem line = clCreateImage(context, CL_MEM_READ_WRITE, &format, &desc, nullptr, &error);
    cl_sampler other_sampler = clCreateSampler(other, CL_TRUE, CL_ADDRESS_CLAMP, CL_FILTER_NEAREST, &error);
    const cl_mem none = nullptr;
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof none, nullptr), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof none, &none), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof line, &line), CL_INVALID_MEM_OBJECT);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof other_image, &other_image), CL_INVALID_CONTEXT);
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof image, &image), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof none, nullptr), CL_INVALID_SAMPLER);
    EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof none, &none), CL_INVALID_SAMPLER);
    EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof other_sampler, &other_sampler), CL_INVALID_CONTEXT);
    EXPECT_EQ(clSetKernelArg(kernel, 2, sizeof image, &image), CL_INVALID_MEM_OBJECT);
    clReleaseSampler(other_sampler);
    for (cl_mem memory : {image, other_image, line}) clReleaseMemObject(memory);
    clReleaseKernel(kernel);
    clReleaseProgram(with_image);
  }
  clReleaseMemObject(stranger);
  clReleaseContext(other);
}

TEST_F(Kernels, OffsetsAndLocalSizesAreKept) {
  SetArgs(1000);
  ASSERT_EQ(Launch(1, {64}, {16}, {128}), CL_SUCCESS);
  const auto back = Read<cl_uint>(buffer, 256);
  for (cl_uint i = 0; i < 256; ++i) ASSERT_EQ(back[i], i + (i >= 128 && i < 192 ? 1000 : 0));
}

TEST_F(Kernels, TaskRunsOnce) {
  SetArgs(7);
  EXPECT_EQ(clEnqueueTask(queue, add, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 2), (std::vector<cl_uint>{7, 1}));
}

TEST_F(Kernels, SayWhatTheyAre) {
  EXPECT_EQ(InfoText([&](size_t size, void* value, size_t* ret) {
              return clGetKernelInfo(add, CL_KERNEL_FUNCTION_NAME, size, value, ret);
            }),
            "null_add");
  cl_uint args = 0;
  EXPECT_EQ(clGetKernelInfo(add, CL_KERNEL_NUM_ARGS, sizeof args, &args, nullptr), CL_SUCCESS);
  EXPECT_EQ(args, 2u);
  size_t size = 0;
  EXPECT_EQ(clGetKernelWorkGroupInfo(add, device, CL_KERNEL_WORK_GROUP_SIZE, sizeof size, &size, nullptr),
            CL_SUCCESS);
  EXPECT_GT(size, 0u);
  EXPECT_EQ(clGetKernelWorkGroupInfo(add, nullptr, CL_KERNEL_PREFERRED_WORK_GROUP_SIZE_MULTIPLE, sizeof size,
                                     &size, nullptr),
            CL_SUCCESS);
  EXPECT_GT(size, 0u);
  cl_uint count = 0;
  EXPECT_EQ(clRetainKernel(add), CL_SUCCESS);
  EXPECT_EQ(clGetKernelInfo(add, CL_KERNEL_REFERENCE_COUNT, sizeof count, &count, nullptr), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(clReleaseKernel(add), CL_SUCCESS);
  EXPECT_EQ(clGetKernelWorkGroupInfo(add, device, CL_KERNEL_GLOBAL_WORK_SIZE, sizeof size, &size, nullptr),
            CL_INVALID_VALUE);
}

TEST_F(Kernels, ArgumentInfoIsThereWhenAskedFor) {
  cl_program with_info = Program(kSource, "-cl-kernel-arg-info");
  cl_kernel kernel = Kernel(with_info, "null_add");
  cl_kernel_arg_address_qualifier address = 0;
  ASSERT_EQ(clGetKernelArgInfo(kernel, 0, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof address, &address, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(address, cl_kernel_arg_address_qualifier{CL_KERNEL_ARG_ADDRESS_GLOBAL});
  const auto text = [&](cl_uint index, cl_kernel_arg_info name) {
    return InfoText([&](size_t size, void* value, size_t* ret) {
      return clGetKernelArgInfo(kernel, index, name, size, value, ret);
    });
  };
  EXPECT_EQ(text(0, CL_KERNEL_ARG_NAME), "data");
  EXPECT_EQ(text(0, CL_KERNEL_ARG_TYPE_NAME), "uint*");
  EXPECT_EQ(text(1, CL_KERNEL_ARG_NAME), "value");
  EXPECT_EQ(text(1, CL_KERNEL_ARG_TYPE_NAME), "uint");
  EXPECT_EQ(clGetKernelArgInfo(kernel, 2, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof address, &address, nullptr),
            CL_INVALID_ARG_INDEX);
  clReleaseKernel(kernel);
  clReleaseProgram(with_info);
}

TEST_F(Kernels, EveryKindOfArgument) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  const char* source =
      "typedef struct { int a; float b; char c; } S;\n"
      "kernel void every(global float* out, constant int* in, local int* scratch, S s, float4 v, ulong n, "
      "char c, uchar3 u) {\n"
      "  scratch[get_local_id(0)] = in[get_local_id(0)];\n"
      "  barrier(CLK_LOCAL_MEM_FENCE);\n"
      "  if (get_global_id(0) == 0) {\n"
      "    out[0] = s.a; out[1] = s.b; out[2] = s.c; out[3] = v.w; out[4] = (float)n; out[5] = c; out[6] = "
      "scratch[3]; out[7] = u.z;\n"
      "  }\n"
      "}\n"
      "kernel void maybe(global int* out, global int* in) { out[0] = in == 0 ? 1 : 2; }\n";
  cl_program all_program = Program(source);
  cl_kernel all = Kernel(all_program, "every");
  struct S {
    int a;
    float b;
    char c;
  } s{1, 2.5f, 'c'};
  const int in[4] = {10, 20, 30, 40};
  cl_mem out_buffer = Buffer(64), in_buffer = Buffer(sizeof in);
  Write(in_buffer, std::vector<int>(in, in + 4));
  const cl_float4 v = {{1, 2, 3, 4}};
  const cl_ulong n = 1u << 20;
  const cl_char c = -5;
  const cl_uchar3 u = {{7, 8, 9}};
  EXPECT_EQ(clSetKernelArg(all, 0, sizeof out_buffer, &out_buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 1, sizeof in_buffer, &in_buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 2, 4 * sizeof(int), nullptr), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 3, sizeof s, &s), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 4, sizeof v, &v), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 5, sizeof n, &n), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 6, sizeof c, &c), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(all, 7, sizeof u, &u), CL_SUCCESS);
  const size_t four = 4;
  ASSERT_EQ(clEnqueueNDRangeKernel(queue, all, 1, nullptr, &four, &four, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<float>(out_buffer, 8), (std::vector<float>{1, 2.5f, 'c', 4, 1u << 20, -5, 40, 9}));

  cl_kernel maybe = Kernel(all_program, "maybe");
  cl_mem nothing = nullptr;
  EXPECT_EQ(clSetKernelArg(maybe, 0, sizeof out_buffer, &out_buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(maybe, 1, sizeof nothing, &nothing), CL_SUCCESS);
  const size_t one = 1;
  ASSERT_EQ(clEnqueueNDRangeKernel(queue, maybe, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<int>(out_buffer, 1)[0], 1);
  EXPECT_EQ(clSetKernelArg(maybe, 1, sizeof in_buffer, &in_buffer), CL_SUCCESS);
  ASSERT_EQ(clEnqueueNDRangeKernel(queue, maybe, 1, nullptr, &one, nullptr, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<int>(out_buffer, 1)[0], 2);
  clReleaseKernel(maybe);
  clReleaseKernel(all);
  clReleaseMemObject(out_buffer);
  clReleaseMemObject(in_buffer);
  clReleaseProgram(all_program);
}

TEST_F(Kernels, RequiredWorkGroupSizesHold) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  cl_program fixed = Program(
      "kernel __attribute__((reqd_work_group_size(8, 1, 1))) void k(global int* x) { x[get_global_id(0)] = "
      "get_local_size(0); }");
  cl_kernel kernel = Kernel(fixed, "k");
  size_t required[3] = {};
  EXPECT_EQ(clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof required,
                                     required, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(required[0], 8u);
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  const size_t global = 16, wrong = 4, right = 8;
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, &wrong, 0, nullptr, nullptr),
            CL_INVALID_WORK_GROUP_SIZE);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, &right, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Read<int>(buffer, 1)[0], 8);
  clReleaseKernel(kernel);
  clReleaseProgram(fixed);
}

}  // namespace
}  // namespace battery
