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
  cl_program_binary_type Type(cl_program program) {
    cl_program_binary_type type = 0;
    EXPECT_EQ(clGetProgramBuildInfo(program, device, CL_PROGRAM_BINARY_TYPE, sizeof type, &type, nullptr),
              CL_SUCCESS);
    return type;
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
  EXPECT_EQ(Type(program), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  EXPECT_EQ(BuildStatus(program), CL_BUILD_NONE);
  if (OnVGpu()) {  // PoCL gives it only once it has been built
    std::vector<unsigned char> again(size);
    pointer = again.data();
    EXPECT_EQ(ProgramInfo<size_t>(program, CL_PROGRAM_BINARY_SIZES), size);
    EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof pointer, &pointer, nullptr), CL_SUCCESS);
    EXPECT_EQ(again, binary);
  }
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

TEST_F(Programs, WhatIsNoBinaryIsRefused) {
  std::vector<unsigned char> binary(64);
  for (size_t i = 0; i < binary.size(); ++i) binary[i] = static_cast<unsigned char>(i * 37 + 11);
  const unsigned char* from = binary.data();
  const size_t size = binary.size();
  cl_int status = CL_SUCCESS, error = CL_SUCCESS;
  EXPECT_EQ(clCreateProgramWithBinary(context, 1, &device, &size, &from, &status, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_BINARY);
  EXPECT_EQ(status, CL_INVALID_BINARY);
}

TEST_F(Programs, BinariesKeepWhatIsKnownOfKernels) {
  if (!HasCompiler()) GTEST_SKIP() << "needs a compiler";
  for (const char* options : {"", "-cl-kernel-arg-info"}) {
    cl_program program = Program(
        "__attribute__((reqd_work_group_size(8, 1, 1))) kernel void k(global uint* d, const uint v) { d[0] = "
        "v; }",
        options);
    const auto size = ProgramInfo<size_t>(program, CL_PROGRAM_BINARY_SIZES);
    std::vector<unsigned char> binary(size);
    unsigned char* out = binary.data();
    ASSERT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof out, &out, nullptr), CL_SUCCESS);
    const unsigned char* in = binary.data();
    cl_program loaded = clCreateProgramWithBinary(context, 1, &device, &size, &in, nullptr, nullptr);
    ASSERT_EQ(clBuildProgram(loaded, 1, &device, "", nullptr, nullptr), CL_SUCCESS);
    cl_kernel before = Kernel(program, "k"), after = Kernel(loaded, "k");
    const auto attributes = [](cl_kernel kernel) {
      return InfoText([&](size_t room, void* value, size_t* ret) {
        return clGetKernelInfo(kernel, CL_KERNEL_ATTRIBUTES, room, value, ret);
      });
    };
    const auto argument = [](cl_kernel kernel, cl_uint index) {
      char name[64] = "", type[64] = "";
      cl_kernel_arg_address_qualifier address = 0;
      cl_kernel_arg_type_qualifier qualifier = 0;
      const cl_int status = clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_NAME, sizeof name, name, nullptr);
      clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_TYPE_NAME, sizeof type, type, nullptr);
      clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof address, &address, nullptr);
      clGetKernelArgInfo(kernel, index, CL_KERNEL_ARG_TYPE_QUALIFIER, sizeof qualifier, &qualifier, nullptr);
      return std::to_string(status) + " " + name + " " + type + " " + std::to_string(address) + " " +
             std::to_string(qualifier);
    };
    if (OnVGpu()) {  // PoCL 3.1 loses these
      EXPECT_EQ(attributes(after), attributes(before));
      for (cl_uint i = 0; i < 2; ++i) EXPECT_EQ(argument(after, i), argument(before, i));
    }
    for (cl_kernel kernel : {before, after}) clReleaseKernel(kernel);
    for (cl_program each : {program, loaded}) clReleaseProgram(each);
  }
}

// Two sources that need each other, and what they compute: 2 i + 1.
class Linking : public Programs {
 protected:
  cl_program Compiled(const char* source) {
    cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, &error);
    EXPECT_EQ(clCompileProgram(program, 1, &device, "", 0, nullptr, nullptr, nullptr, nullptr), CL_SUCCESS);
    EXPECT_EQ(Type(program), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT});
    return program;
  }
  cl_program Caller() {
    return Compiled(
        "uint twice(uint a);\n"
        "kernel void null_add(global uint* data, uint value) {\n"
        "  data[get_global_id(0)] = twice(get_global_id(0)) + value; }\n");
  }
  cl_program Callee() { return Compiled("uint twice(uint a) { return 2 * a; }\n"); }
  cl_program Link(const std::vector<cl_program>& programs, const char* options = "") {
    error = -1;
    return clLinkProgram(context, 1, &device, options, static_cast<cl_uint>(programs.size()), programs.data(),
                         nullptr, nullptr, &error);
  }
  // The program's binary, as a program.
  cl_program Reloaded(cl_program program) {
    size_t size = 0;
    EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr), CL_SUCCESS);
    std::vector<unsigned char> binary(size);
    unsigned char* out = binary.data();
    EXPECT_EQ(clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof out, &out, nullptr), CL_SUCCESS);
    const unsigned char* in = binary.data();
    cl_int status = -1;
    cl_program again = clCreateProgramWithBinary(context, 1, &device, &size, &in, &status, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    EXPECT_EQ(status, CL_SUCCESS);
    return again;
  }
  void ExpectRuns(cl_program linked) {
    ASSERT_NE(linked, nullptr);
    cl_kernel kernel = Kernel(linked, "null_add");
    cl_mem buffer = Buffer(64);
    Write(buffer, Count(16));
    const cl_uint value = 1;
    const size_t global = 16;
    EXPECT_EQ(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), CL_SUCCESS);
    EXPECT_EQ(clSetKernelArg(kernel, 1, sizeof value, &value), CL_SUCCESS);
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &global, nullptr, 0, nullptr, nullptr),
              CL_SUCCESS);
    const auto back = Read<cl_uint>(buffer, 16);
    // The device without a compiler adds.
    for (cl_uint i = 0; i < 16; ++i) EXPECT_EQ(back[i], HasCompiler() ? 2 * i + 1 : i + 1);
    clReleaseMemObject(buffer);
    clReleaseKernel(kernel);
  }
  cl_int error = -1;
};

TEST_F(Linking, IsThereWhereACompilerIs) {
  EXPECT_EQ(DeviceInfo<cl_bool>(CL_DEVICE_LINKER_AVAILABLE),
            DeviceInfo<cl_bool>(CL_DEVICE_COMPILER_AVAILABLE));
}

TEST_F(Linking, OfSeveralObjects) {
  cl_program caller = Caller(), callee = Callee();
  cl_program linked = Link({caller, callee});
  EXPECT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Type(linked), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  ExpectRuns(linked);
  for (cl_program program : {caller, callee, linked}) EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
}

TEST_F(Linking, OfALibrary) {
  cl_program caller = Caller(), callee = Callee();
  cl_program library = Link({callee}, "-create-library");
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_EQ(Type(library), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_LIBRARY});
  cl_program linked = Link({caller, library});
  EXPECT_EQ(error, CL_SUCCESS);
  ExpectRuns(linked);
  for (cl_program program : {caller, callee, library, linked}) clReleaseProgram(program);
}

TEST_F(Linking, FailsWithoutADefinition) {
  if (!HasCompiler()) GTEST_SKIP() << "no compiler that would notice";
  cl_program caller = Caller();
  cl_program linked = Link({caller});
  EXPECT_EQ(error, CL_LINK_PROGRAM_FAILURE);
  if (OnVGpu()) {  // PoCL 3.1 gives no program
    ASSERT_NE(linked, nullptr);
    EXPECT_EQ(BuildStatus(linked), CL_BUILD_ERROR);
    EXPECT_EQ(Type(linked), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_NONE});
    const std::string log = InfoText([&](size_t size, void* value, size_t* ret) {
      return clGetProgramBuildInfo(linked, device, CL_PROGRAM_BUILD_LOG, size, value, ret);
    });
    EXPECT_FALSE(log.empty());
    EXPECT_EQ(clCreateKernel(linked, "null_add", &error), nullptr);
    EXPECT_EQ(error, CL_INVALID_PROGRAM_EXECUTABLE);
    EXPECT_EQ(clReleaseProgram(linked), CL_SUCCESS);
  }
  clReleaseProgram(caller);
}

TEST_F(Linking, OfWhatIsNoObjectIsRefused) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 dies of it";
  cl_program caller = Caller(), built = Program();
  EXPECT_EQ(Link({caller, built}), nullptr);
  EXPECT_EQ(error, CL_INVALID_OPERATION);
  EXPECT_EQ(Link({caller, nullptr}), nullptr);
  EXPECT_EQ(error, CL_INVALID_PROGRAM);
  EXPECT_EQ(Link({}), nullptr);
  EXPECT_EQ(error, CL_INVALID_VALUE);
  EXPECT_EQ(Link({caller}, "-no-such-option"), nullptr);
  EXPECT_EQ(error, CL_INVALID_LINKER_OPTIONS);
  cl_context other = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  EXPECT_EQ(clLinkProgram(other, 1, &device, "", 1, &caller, nullptr, nullptr, &error), nullptr);
  EXPECT_EQ(error, CL_INVALID_CONTEXT);
  clReleaseContext(other);
  clReleaseProgram(caller);
  clReleaseProgram(built);
}

TEST_F(Linking, TellsWhenItIsDone) {
  static std::atomic<int> calls;
  calls = 0;
  cl_program caller = Caller(), callee = Callee();
  const std::vector<cl_program> objects = {caller, callee};
  cl_program linked = clLinkProgram(
      context, 1, &device, "", 2, objects.data(), [](cl_program, void*) { ++calls; }, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  EXPECT_TRUE(Eventually([] { return calls == 1; }));
  ExpectRuns(linked);
  for (cl_program program : {caller, callee, linked}) clReleaseProgram(program);
}

TEST_F(Linking, OfObjectsThatWereBinaries) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL 3.1 does not link what it saved";
  cl_program caller = Caller(), callee = Callee();
  cl_program caller_again = Reloaded(caller);
  EXPECT_EQ(Type(caller_again), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_COMPILED_OBJECT});
  cl_program library = Link({callee}, "-create-library");
  cl_program library_again = Reloaded(library);
  EXPECT_EQ(Type(library_again), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_LIBRARY});
  cl_program linked = Link({caller_again, library_again});
  EXPECT_EQ(error, CL_SUCCESS);
  ExpectRuns(linked);
  // An object that needs no other can be built by itself, with options that only a compiler takes.
  cl_program whole = Compiled(kSource);
  cl_program whole_again = Reloaded(whole);
  EXPECT_EQ(clBuildProgram(whole_again, 1, &device, "-DX=1", nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Type(whole_again), cl_program_binary_type{CL_PROGRAM_BINARY_TYPE_EXECUTABLE});
  for (cl_program program :
       {caller, callee, caller_again, library, library_again, linked, whole, whole_again}) {
    clReleaseProgram(program);
  }
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

TEST_F(Programs, PragmaOnceHoldsInHeaders) {
  const char* header_text = "#pragma once\ntypedef struct { uint step; } Step;\n";
  const char* source =
      "#include \"given/step.h\"\n#include \"given/step.h\"\n"
      "kernel void null_add(global uint* data, uint value) { Step s = {value}; data[get_global_id(0)] += "
      "s.step; }\n";
  cl_int error = -1;
  cl_program header = clCreateProgramWithSource(context, 1, &header_text, nullptr, &error);
  cl_program compiled = clCreateProgramWithSource(context, 1, &source, nullptr, &error);
  const char* name = "given/step.h";
  EXPECT_EQ(clCompileProgram(compiled, 1, &device, "", 1, &header, &name, nullptr, nullptr), CL_SUCCESS);
  clReleaseProgram(compiled);
  clReleaseProgram(header);
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
