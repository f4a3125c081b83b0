// Programs of intermediate language, on devices that take SPIR-V and on those that take none.
#include "tests/e2e/opencl/battery.h"
#include "tulle/wire/test_spirv.h"

namespace battery {
namespace {

using tulle::wire::opencl::testing::AddConstantModule;

class Il : public OpenCl {
 protected:
  void SetUp() override {
    OpenCl::SetUp();
    // Devices before OpenCL 2.1 need not know the question.
    size_t size = 0;
    takes_il = clGetDeviceInfo(device, CL_DEVICE_IL_VERSION, 0, nullptr, &size) == CL_SUCCESS && size > 1;
  }
  cl_program Module() {
    cl_program program = clCreateProgramWithIL(context, module.data(), module.size(), &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return program;
  }
  template <typename T>
  cl_int Set(cl_program program, cl_uint id, T value) {
    return clSetProgramSpecializationConstant(program, id, sizeof value, &value);
  }
  cl_int Build(cl_program program) { return clBuildProgram(program, 1, &device, "", nullptr, nullptr); }
  // What the built program's kernel adds to each element.
  cl_uint Added(cl_program program) {
    cl_kernel kernel = Kernel(program, "null_add_constant");
    cl_mem buffer = Buffer(64);
    Write(buffer, Count(16));
    const size_t global = 16;
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
              CL_SUCCESS);
    const auto back = Read<cl_uint>(buffer, 16);
    EXPECT_EQ(back, Count(16, back[0]));
    clReleaseMemObject(buffer);
    clReleaseKernel(kernel);
    return back[0];
  }

  const std::string module = AddConstantModule();
  bool takes_il = false;
  cl_int error = -1;
};

TEST_F(Il, IsRefusedWhereThereIsNone) {
  cl_program source = Program();
  EXPECT_EQ(Set(source, 0, cl_uint{1}), CL_INVALID_PROGRAM);  // whatever the device takes
  EXPECT_EQ(Set(nullptr, 0, cl_uint{1}), CL_INVALID_PROGRAM);
  size_t size = 77;
  EXPECT_EQ(clGetProgramInfo(source, CL_PROGRAM_IL, 0, nullptr, &size), CL_SUCCESS);
  EXPECT_EQ(size, 0u);
  clReleaseProgram(source);
  if (takes_il) return;
  EXPECT_EQ(clCreateProgramWithIL(context, module.data(), module.size(), &error), nullptr);
  if (OnVGpu()) {
    EXPECT_EQ(error, CL_INVALID_OPERATION);
  } else {
    EXPECT_NE(error, CL_SUCCESS);  // PoCL 3.1: CL_INVALID_VALUE
  }
}

TEST_F(Il, IsBuiltAndShown) {
  if (!takes_il) GTEST_SKIP() << "takes no IL";
  cl_program program = Module();
  std::string shown(module.size(), 0);
  size_t size = 0;
  EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_IL, shown.size(), shown.data(), &size), CL_SUCCESS);
  EXPECT_EQ(size, module.size());
  EXPECT_EQ(shown, module);
  EXPECT_EQ(InfoText([&](size_t room, void* value, size_t* ret) {
              return clGetProgramInfo(program, CL_PROGRAM_SOURCE, room, value, ret);
            }),
            "");
  ASSERT_EQ(Build(program), CL_SUCCESS);
  EXPECT_EQ(InfoText([&](size_t room, void* value, size_t* ret) {
              return clGetProgramInfo(program, CL_PROGRAM_KERNEL_NAMES, room, value, ret);
            }),
            "null_add_constant");
  EXPECT_EQ(Added(program), 1u);
  clReleaseProgram(program);
}

TEST_F(Il, ConstantsAreOfTheNextBuild) {
  if (!takes_il) GTEST_SKIP() << "takes no IL";
  cl_program program = Module();
  EXPECT_EQ(Set(program, 0, cl_uint{5}), CL_SUCCESS);
  EXPECT_EQ(Set(program, 1, cl_uchar{0}), CL_SUCCESS);
  EXPECT_EQ(Set(program, 2, cl_short{-7}), CL_SUCCESS);
  EXPECT_EQ(Set(program, 3, cl_ulong{1} << 40), CL_SUCCESS);
  EXPECT_EQ(Set(program, 4, cl_uint{5}), CL_INVALID_SPEC_ID);
  EXPECT_EQ(Set(program, 0, cl_ulong{5}), CL_INVALID_VALUE);
  EXPECT_EQ(Set(program, 1, cl_uint{1}), CL_INVALID_VALUE);
  EXPECT_EQ(clSetProgramSpecializationConstant(program, 0, 4, nullptr), CL_INVALID_VALUE);
  ASSERT_EQ(Build(program), CL_SUCCESS);
  EXPECT_EQ(Set(program, 0, cl_uint{9}), CL_SUCCESS);
  EXPECT_EQ(Added(program), 5u);
  ASSERT_EQ(Build(program), CL_SUCCESS);
  EXPECT_EQ(Added(program), 9u);
  size_t size = 0;
  std::string shown(module.size(), 0);
  EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_IL, shown.size(), shown.data(), &size), CL_SUCCESS);
  EXPECT_EQ(shown, module);  // as it was given
  clReleaseProgram(program);
}

TEST_F(Il, BinariesKeepTheConstants) {
  if (!takes_il) GTEST_SKIP() << "takes no IL";
  cl_program program = Module();
  EXPECT_EQ(Set(program, 0, cl_uint{6}), CL_SUCCESS);
  ASSERT_EQ(Build(program), CL_SUCCESS);
  size_t size = 0;
  ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr), CL_SUCCESS);
  std::vector<unsigned char> binary(size);
  unsigned char* out = binary.data();
  ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof out, &out, nullptr), CL_SUCCESS);
  clReleaseProgram(program);
  const unsigned char* in = binary.data();
  program = clCreateProgramWithBinary(context, 1, &device, &size, &in, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(Build(program), CL_SUCCESS);
  EXPECT_EQ(Added(program), 6u);
  EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_IL, 0, nullptr, &size), CL_SUCCESS);
  EXPECT_EQ(size, 0u);
  EXPECT_EQ(Set(program, 0, cl_uint{5}), CL_INVALID_PROGRAM);
  clReleaseProgram(program);
}

TEST_F(Il, IsCompiledAndLinked) {
  if (!takes_il) GTEST_SKIP() << "takes no IL";
  cl_program program = Module();
  EXPECT_EQ(Set(program, 0, cl_uint{4}), CL_SUCCESS);
  ASSERT_EQ(clCompileProgram(program, 1, &device, "", 0, nullptr, nullptr, nullptr, nullptr), CL_SUCCESS);
  cl_program linked = clLinkProgram(context, 1, &device, "", 1, &program, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Added(linked), 4u);
  clReleaseProgram(linked);
  clReleaseProgram(program);
}

TEST_F(Il, WhatIsNoModuleIsRefused) {
  if (!takes_il) GTEST_SKIP() << "takes no IL";
  const auto make = [&](cl_context in, const void* il, size_t size) {
    EXPECT_EQ(clCreateProgramWithIL(in, il, size, &error), nullptr);
    return error;
  };
  EXPECT_EQ(make(context, nullptr, 20), CL_INVALID_VALUE);
  EXPECT_EQ(make(context, module.data(), 0), CL_INVALID_VALUE);
  EXPECT_EQ(make(context, "kernel void f() {}..", 20), CL_INVALID_VALUE);
  EXPECT_EQ(make(context, module.data(), module.size() - 1), CL_INVALID_VALUE);
  // A module cut after any of its instructions is well-formed, and no program.
  for (size_t size = 1; size < module.size(); ++size) {
    cl_program program = clCreateProgramWithIL(context, module.data(), size, &error);
    EXPECT_EQ(program != nullptr, error == CL_SUCCESS);
    if (program != nullptr) {
      EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
    }
  }
}

TEST_F(Il, TheKhronosExtensionIsTheSame) {
  const std::string extensions = DeviceText(CL_DEVICE_EXTENSIONS);
  if (extensions.find("cl_khr_il_program") == std::string::npos) GTEST_SKIP() << "there is none";
  const auto create = reinterpret_cast<decltype(&clCreateProgramWithIL)>(
      clGetExtensionFunctionAddressForPlatform(platform, "clCreateProgramWithILKHR"));
  ASSERT_NE(create, nullptr);
  cl_program program = create(context, module.data(), module.size(), &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(Build(program), CL_SUCCESS);
  EXPECT_EQ(Added(program), 1u);
  clReleaseProgram(program);
}

}  // namespace
}  // namespace battery
