// Programs: source, binaries, builds that succeed and fail, callbacks.
#include <atomic>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

class Programs : public OpenCl {
 protected:
  template <typename T>
  T ProgramInfo(cl_program program, cl_program_info name) {
    T value{};
    EXPECT_EQ(clGetProgramInfo(program, name, sizeof value, &value, nullptr), CL_SUCCESS);
    return value;
  }
  cl_build_status BuildStatus(cl_program program) {
    cl_build_status status = 1234;
    EXPECT_EQ(
        clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_STATUS, sizeof status, &status, nullptr),
        CL_SUCCESS);
    return status;
  }
};

TEST_F(Programs, SourceIsJoinedAndShown) {
  const char* parts[] = {"kernel void null_add(global uint* data, ",
                         "uint value) { data[get_global_id(0)] += value; }XXXX"};
  const size_t lengths[] = {0, std::strlen(parts[1]) - 4};
  cl_int error = -1;
  cl_program program = clCreateProgramWithSource(context, 2, parts, lengths, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  const std::string source = InfoText([&](size_t size, void* value, size_t* ret) {
    return clGetProgramInfo(program, CL_PROGRAM_SOURCE, size, value, ret);
  });
  EXPECT_EQ(source, std::string(parts[0]) + std::string(parts[1], lengths[1]));
  EXPECT_EQ(BuildStatus(program), CL_BUILD_NONE);
  EXPECT_EQ(clCreateKernel(program, "null_add", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
  ASSERT_EQ(clBuildProgram(program, 0, nullptr, "-DX=1", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(BuildStatus(program), CL_BUILD_SUCCESS);
  const std::string options = InfoText([&](size_t size, void* value, size_t* ret) {
    return clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_OPTIONS, size, value, ret);
  });
  EXPECT_EQ(options, "-DX=1");
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
  EXPECT_EQ(clCreateProgramWithSource(context, 0, parts, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  const char* hole[] = {nullptr};
  EXPECT_EQ(clCreateProgramWithSource(context, 1, hole, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(Programs, KernelsAreNamed) {
  cl_program program = Program();
  EXPECT_EQ(ProgramInfo<size_t>(program, CL_PROGRAM_NUM_KERNELS), 2u);
  const std::string names = InfoText([&](size_t size, void* value, size_t* ret) {
    return clGetProgramInfo(program, CL_PROGRAM_KERNEL_NAMES, size, value, ret);
  });
  EXPECT_TRUE(names == "null_add;null_mul" || names == "null_mul;null_add") << names;
  cl_int error = 0;
  EXPECT_EQ(clCreateKernel(program, "no_such_kernel", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_KERNEL_NAME);
  EXPECT_EQ(clCreateKernel(program, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  cl_uint count = 0;
  EXPECT_EQ(clCreateKernelsInProgram(program, 0, nullptr, &count), CL_SUCCESS);
  EXPECT_EQ(count, 2u);
  cl_kernel kernels[2] = {};
  EXPECT_EQ(clCreateKernelsInProgram(program, 1, kernels, nullptr), CL_INVALID_VALUE);
  ASSERT_EQ(clCreateKernelsInProgram(program, 2, kernels, nullptr), CL_SUCCESS);
  cl_program of = nullptr;
  EXPECT_EQ(clGetKernelInfo(kernels[0], CL_KERNEL_PROGRAM, sizeof of, &of, nullptr), CL_SUCCESS);
  EXPECT_EQ(of, program);
  // A program with kernels may not be built again.
  EXPECT_EQ(clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_INVALID_OPERATION);
  clReleaseKernel(kernels[0]);
  clReleaseKernel(kernels[1]);
  EXPECT_EQ(clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_SUCCESS);
  clReleaseProgram(program);
}

TEST_F(Programs, FailedBuildsHaveALog) {
  const char* source = "#error \"this is on purpose\"\nkernel void k(global int* x) { *x = 1; }";
  cl_int error = -1;
  cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_BUILD_PROGRAM_FAILURE);
  EXPECT_EQ(BuildStatus(program), CL_BUILD_ERROR);
  const std::string log = InfoText([&](size_t size, void* value, size_t* ret) {
    return clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, size, value, ret);
  });
  EXPECT_FALSE(log.empty());
  EXPECT_EQ(clCreateKernel(program, "k", &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
  clReleaseProgram(program);
}

TEST_F(Programs, BuildCallbacksMayUseOpenCl) {
  struct Seen {
    std::atomic<bool> called{false};
    cl_kernel kernel = nullptr;
    cl_int error = -1;
  } seen;
  const char* source = kSource;
  cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, nullptr);
  const auto notify = [](cl_program built, void* user_data) {
    auto* to = static_cast<Seen*>(user_data);
    to->kernel = clCreateKernel(built, "null_mul", &to->error);
    to->called = true;
  };
  ASSERT_EQ(clBuildProgram(program, 1, &device, "", notify, &seen), CL_SUCCESS);
  EXPECT_TRUE(Eventually([&] { return seen.called.load(); }));
  EXPECT_EQ(seen.error, CL_SUCCESS);
  EXPECT_EQ(BuildStatus(program), CL_BUILD_SUCCESS);
  EXPECT_EQ(clReleaseKernel(seen.kernel), CL_SUCCESS);
  clReleaseProgram(program);
}

TEST_F(Programs, BinariesGoRound) {
  cl_program program = Program();
  EXPECT_EQ(ProgramInfo<cl_uint>(program, CL_PROGRAM_NUM_DEVICES), 1u);
  const auto size = ProgramInfo<size_t>(program, CL_PROGRAM_BINARY_SIZES);
  ASSERT_GT(size, 0u);
  std::vector<unsigned char> binary(size);
  unsigned char* pointer = binary.data();
  ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof pointer, &pointer, nullptr), CL_SUCCESS);
  clReleaseProgram(program);

  const unsigned char* from = binary.data();
  cl_int status = -1, error = -1;
  program = clCreateProgramWithBinary(context, 1, &device, &size, &from, &status, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(status, CL_SUCCESS);
  ASSERT_EQ(clBuildProgram(program, 1, &device, "", nullptr, nullptr), CL_SUCCESS);
  cl_kernel kernel = Kernel(program, "null_add");
  cl_mem buffer = Buffer(64);
  Write(buffer, Count(16));
  const cl_uint value = 3;
  const size_t global = 16;
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 16), Count(16, 3));
  clReleaseMemObject(buffer);
  clReleaseKernel(kernel);
  clReleaseProgram(program);

  const size_t none = 0;
  EXPECT_EQ(clCreateProgramWithBinary(context, 1, &device, &none, &from, &status, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
}

TEST_F(Programs, CompileWithAHeaderThenLink) {
  const char* header_text = "#define STEP 5u\n";
  const char* source =
      "#include \"given/step.h\"\nkernel void stepped(global uint* data) { data[get_global_id(0)] += STEP; "
      "}\n";
  cl_int error = -1;
  cl_program header = clCreateProgramWithSource(context, 1, &header_text, nullptr, &error);
  cl_program compiled = clCreateProgramWithSource(context, 1, &source, nullptr, &error);
  const char* name = "given/step.h";
  ASSERT_EQ(clCompileProgram(compiled, 1, &device, "", 1, &header, &name, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(clCreateKernel(compiled, "stepped", &error), nullptr);
  EXPECT_EQ(error,
            OnVGpu() ? CL_INVALID_PROGRAM_EXECUTABLE : CL_INVALID_KERNEL_NAME);  // PoCL 3.1 gives the latter
  cl_program linked = clLinkProgram(context, 1, &device, "", 1, &compiled, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(compiled), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(header), CL_SUCCESS);
  cl_kernel kernel = Kernel(linked, "stepped");
  cl_mem buffer = Buffer(64);
  Write(buffer, Count(16));
  const size_t global = 16;
  EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
  EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 16), HasCompiler() ? Count(16, 5) : Count(16));
  clReleaseMemObject(buffer);
  clReleaseKernel(kernel);
  clReleaseProgram(linked);
}

TEST_F(Programs, ThreadsBuildAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string source = std::string(kSource) + "// " + std::to_string(t);
      const char* text = source.c_str();
      cl_program program = clCreateProgramWithSource(context, 1, &text, nullptr, nullptr);
      if (clBuildProgram(program, 1, &device, "", nullptr, nullptr) == CL_SUCCESS) ++good;
      clReleaseProgram(program);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 4);
}

}  // namespace
}  // namespace battery
