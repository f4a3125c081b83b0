// Modules, launches, programs of ordinary kinds, and what goes wrong in them.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "tests/conformance/cuda/battery.h"

namespace tulle::cuda_battery {
namespace {

TEST_F(Battery, ModulesHaveFunctionsAndVariables) {
  LoadKernels();
  CUfunction function = nullptr, again = nullptr;
  CUDA_OK(cuModuleGetFunction(&function, module_, "vector_add"));
  CUDA_OK(cuModuleGetFunction(&again, module_, "vector_add"));
  EXPECT_EQ(function, again);
  EXPECT_EQ(cuModuleGetFunction(&again, module_, "nobody"), CUDA_ERROR_NOT_FOUND);
  const char* name = nullptr;
  CUDA_OK(cuFuncGetName(&name, function));
  EXPECT_STREQ(name, "vector_add");
  std::size_t offset = 0, bytes = 0;
  CUDA_OK(cuFuncGetParamInfo(function, 3, &offset, &bytes));
  EXPECT_EQ(offset, 24u);
  EXPECT_EQ(bytes, 4u);
  EXPECT_EQ(cuFuncGetParamInfo(function, 4, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
  int value = 0;
  CUDA_OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function));
  EXPECT_GE(value, 32);
  CUDA_OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, Function("tiled_matmul")));
  EXPECT_EQ(value, 2 * 16 * 16 * 4);
  CUdeviceptr address = 0;
  CUDA_OK(cuModuleGetGlobal_v2(&address, &bytes, module_, "counter"));
  EXPECT_EQ(bytes, 4u);
  EXPECT_EQ(Get<int>(address, 1)[0], 40);
  EXPECT_EQ(cuModuleGetGlobal_v2(&address, &bytes, module_, "nobody"), CUDA_ERROR_NOT_FOUND);
  CUDA_OK(cuModuleUnload(module_));
  EXPECT_EQ(cuModuleGetFunction(&again, module_, "vector_add"), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, function), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(Battery, WhatIsWrongWithAModuleIsTold) {
  char log[200] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUmodule module = nullptr;
  EXPECT_EQ(cuModuleLoadDataEx(
                &module, ".version 7.1\n.target sm_70\n.address_size 64\n.visible .entry k() {\nbake;\n}\n",
                2, options, values),
            CUDA_ERROR_INVALID_PTX);
  EXPECT_THAT(log, ::testing::HasSubstr("bake"));
  EXPECT_GT(reinterpret_cast<std::uintptr_t>(values[1]), 0u);
  EXPECT_EQ(cuModuleLoadData(&module,
                             "\x7f"
                             "ELF"),
            CUDA_ERROR_INVALID_IMAGE);
  EXPECT_EQ(cuModuleLoadData(&module, ""), CUDA_ERROR_INVALID_IMAGE);
  EXPECT_EQ(cuModuleLoad(&module, "/nowhere"), CUDA_ERROR_FILE_NOT_FOUND);
  CUDA_OK(cuModuleLoad(&module, TULLE_CUDA_KERNELS));
}

TEST_F(Battery, OneInputIsLinkedToAnImage) {
  char log[200] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUlinkState link = nullptr;
  void* image = nullptr;
  std::size_t bytes = 0;
  CUDA_OK(cuLinkCreate_v2(2, options, values, &link));
  EXPECT_EQ(cuLinkComplete(link, &image, &bytes), CUDA_ERROR_INVALID_VALUE);
  std::string wrong = ".version 7.1\n.target sm_70\n.address_size 64\n.visible .entry k() {\nbake;\n}\n";
  EXPECT_EQ(
      cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, wrong.data(), wrong.size(), "wrong", 0, nullptr, nullptr),
      CUDA_ERROR_INVALID_PTX);
  EXPECT_THAT(log, ::testing::HasSubstr("bake"));
  EXPECT_EQ(cuLinkAddFile(link, CU_JIT_INPUT_PTX, "/nowhere", 0, nullptr, nullptr),
            CUDA_ERROR_FILE_NOT_FOUND);
  // A fatbin that is cut behind its header, which tells of a megabyte.
  std::uint64_t cut[] = {16ull << 48 | 1ull << 32 | 0xba55'ed50, 1u << 20};
  EXPECT_EQ(cuLinkAddData_v2(link, CU_JIT_INPUT_FATBINARY, cut, sizeof cut, "cut", 0, nullptr, nullptr),
            CUDA_ERROR_INVALID_IMAGE);
  CUDA_OK(cuLinkAddFile_v2(link, CU_JIT_INPUT_PTX, TULLE_CUDA_KERNELS, 0, nullptr, nullptr));
  EXPECT_EQ(cuLinkAddFile_v2(link, CU_JIT_INPUT_PTX, TULLE_CUDA_KERNELS, 0, nullptr, nullptr),
            CUDA_ERROR_NOT_SUPPORTED)
      << "several";
  CUDA_OK(cuLinkComplete(link, &image, &bytes));
  EXPECT_GE(bytes, Kernels().size());
  CUmodule module = nullptr;
  CUDA_OK(cuModuleLoadData(&module, image));
  CUDA_OK(cuLinkDestroy(link));
  EXPECT_EQ(cuLinkDestroy(link), CUDA_ERROR_INVALID_HANDLE);
  CUfunction function = nullptr;
  CUDA_OK(cuModuleGetFunction(&function, module, "vector_add"));
}

// PTX for GPUs of these capabilities, as nvcc packs it.
std::vector<std::uint64_t> Fatbin(const std::vector<std::pair<std::uint32_t, std::string>>& ptx) {
  std::vector<std::uint64_t> words = {0};
  for (const auto& [target, text] : ptx) {
    const std::size_t content = text.size() / 8 + 1;
    words.insert(words.end(), {64ull << 32 | 0x0101'0001, 8 * content, 64ull << 32,
                               std::uint64_t{target} << 32 | 7 << 16 | 1, 0, 0x11, 0, 0});
    words.resize(words.size() + content);
    std::memcpy(&words[words.size() - content], text.data(), text.size());
  }
  words[0] = 8 * (words.size() - 1);
  words.insert(words.begin(), 16ull << 48 | 1ull << 32 | 0xba55'ed50);
  return words;
}

TEST_F(Battery, FatbinsAreReadAsWell) {
  const auto fatbin = Fatbin({{90, ".version 7.8\n.target sm_90\n.address_size 64\n"}, {50, Kernels()}});
  CUDA_OK(cuModuleLoadFatBinary(&module_, fatbin.data()));
  const CUdeviceptr a = Put(std::vector<float>(100, 1)), b = Put(std::vector<float>(100, 2)),
                    c = Put(std::vector<float>(100));
  CUDA_OK(Launch("vector_add", 1, 128, nullptr, a, b, c, 100));
  EXPECT_EQ(Get<float>(c, 100), std::vector<float>(100, 3));
  // What refers to one is as good.
  const struct {
    std::uint32_t magic = 0x4662'43b1, version = 1;
    const void* data = nullptr;
    void* unused = nullptr;
  } wrapper{.data = fatbin.data()};
  CUmodule module = nullptr;
  CUDA_OK(cuModuleLoadData(&module, &wrapper));
  CUlibrary library = nullptr;
  CUDA_OK(cuLibraryLoadData(&library, fatbin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0));

  char log[300] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  const auto newer = Fatbin({{999, Kernels()}});
  EXPECT_EQ(cuModuleLoadDataEx(&module, newer.data(), 2, options, values), CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_THAT(log, ::testing::HasSubstr("sm_999"));
}

TEST_F(Battery, LibrariesAreThereInEveryContext) {
  CUlibrary library = nullptr;
  CUDA_OK(cuLibraryLoadData(&library, Kernels().c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
  CUkernel kernel = nullptr;
  CUDA_OK(cuLibraryGetKernel(&kernel, library, "vector_add"));
  EXPECT_EQ(cuLibraryGetKernel(&kernel, library, "nobody"), CUDA_ERROR_NOT_FOUND);
  CUcontext second = nullptr;
  CUDA_OK(cuCtxCreate_v2(&second, 0, device_));
  for (const CUcontext context : {second, context_}) {
    CUDA_OK(cuCtxSetCurrent(context));
    int n = 10;
    CUdeviceptr a = Put(std::vector<float>(n, 1)), c = Put(std::vector<float>(n));
    void* parameters[] = {&a, &a, &c, &n};
    CUDA_OK(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 32, 1, 1, 0, nullptr, parameters,
                           nullptr));
    EXPECT_EQ(Get<float>(c, 10), std::vector<float>(10, 2));
  }
  CUDA_OK(cuCtxDestroy_v2(second));
  CUDA_OK(cuLibraryUnload(library));
  EXPECT_EQ(cuLibraryGetKernel(&kernel, library, "vector_add"), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(Battery, ParametersComeInTwoWays) {
  LoadKernels();
  const CUdeviceptr a = Put(std::vector<float>(4, 1)), c = Put(std::vector<float>(4));
  struct {
    CUdeviceptr a, b, c;
    int n;
  } packed{a, a, c, 4};
  std::size_t bytes = sizeof packed;
  void* extra[] = {kLaunchParamBufferPointer, &packed, kLaunchParamBufferSize, &bytes, kLaunchParamEnd};
  CUDA_OK(cuLaunchKernel(Function("vector_add"), 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra));
  EXPECT_EQ(Get<float>(c, 4), std::vector<float>(4, 2));
  bytes = 20;
  EXPECT_EQ(cuLaunchKernel(Function("vector_add"), 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(Function("vector_add"), 0, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(Function("vector_add"), 1, 1, 1, 1024, 2, 1, 0, nullptr, nullptr, extra),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(nullptr, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra),
            CUDA_ERROR_INVALID_HANDLE);
  CUlaunchConfig config{
      .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1};
  int n = 4;
  CUdeviceptr twice = c;
  void* parameters[] = {&twice, &twice, &twice, &n};
  CUDA_OK(cuLaunchKernelEx(&config, Function("vector_add"), parameters, nullptr));
  EXPECT_EQ(Get<float>(c, 4), std::vector<float>(4, 4));
}

TEST_F(Battery, BlocksOfACooperativeLaunchAreThereAtOnce) {
  constexpr const char* kRendezvous =
      ".version 6.0\n.target sm_60\n.address_size 64\n"
      ".visible .entry rendezvous(.param .u64 arrived, .param .u32 blocks) {\n"
      ".reg .pred %p<2>; .reg .b32 %r<4>; .reg .b64 %rd<2>;\n"
      "ld.param.u64 %rd1, [arrived]; ld.param.u32 %r1, [blocks];\n"
      "atom.global.add.u32 %r2, [%rd1], 1;\n"
      "WAIT: ld.volatile.global.u32 %r3, [%rd1]; setp.lt.u32 %p1, %r3, %r1; @%p1 bra WAIT;\n"
      "ret; }\n";
  CUDA_OK(cuModuleLoadData(&module_, kRendezvous));
  int possible = 0, processors = 0, each = 0;
  CUDA_OK(cuDeviceGetAttribute(&possible, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, device_));
  CUDA_OK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device_));
  CUDA_OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&each, Function("rendezvous"), 1, 0));
  ASSERT_EQ(possible, 1);
  auto blocks = static_cast<unsigned>(processors * each);
  for (int round = 1; round <= 20; ++round) {
    CUdeviceptr arrived = Put(std::vector<unsigned>(1));
    void* parameters[] = {&arrived, &blocks};
    if (round % 2 == 0) {
      CUDA_OK(
          cuLaunchCooperativeKernel(Function("rendezvous"), blocks, 1, 1, 1, 1, 1, 0, nullptr, parameters));
    } else {
      CUlaunchAttribute attribute{};
      attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
      attribute.value[0] = 1;
      CUlaunchConfig config{blocks, 1, 1, 1, 1, 1, 0, nullptr, &attribute, 1};
      CUDA_OK(cuLaunchKernelEx(&config, Function("rendezvous"), parameters, nullptr));
    }
    EXPECT_EQ(Get<unsigned>(arrived, 1)[0], blocks);
  }
  unsigned more = blocks + 1;
  CUdeviceptr arrived = Put(std::vector<unsigned>(1));
  void* parameters[] = {&arrived, &more};
  EXPECT_EQ(cuLaunchCooperativeKernel(Function("rendezvous"), more, 1, 1, 1, 1, 1, 0, nullptr, parameters),
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

TEST_F(Battery, Occupancy) {
  LoadKernels();
  int blocks = 0, grid = 0, block = 0;
  CUDA_OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, Function("vector_add"), 128, 0));
  EXPECT_GE(blocks, 1);
  CUDA_OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, Function("vector_add"), nullptr, 0, 0));
  EXPECT_GE(grid, 1);
  EXPECT_EQ(block % 32, 0);
  CUDA_OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, Function("vector_add"), nullptr, 0, 100));
  EXPECT_LE(block, 100);
}

TEST_F(Battery, OrdinaryPrograms) {
  LoadKernels();
  const int n = 64;
  std::vector<float> a(n * n), b(n * n);
  for (int i = 0; i < n * n; ++i) {
    a[static_cast<std::size_t>(i)] = static_cast<float>(i % 7 - 3);
    b[static_cast<std::size_t>(i)] = static_cast<float>(i % 5 - 2);
  }
  int size = n;
  CUdeviceptr da = Put(a), db = Put(b), dc = Put(std::vector<float>(n * n));
  void* matrices[] = {&da, &db, &dc, &size};
  CUDA_OK(cuLaunchKernel(Function("tiled_matmul"), 4, 4, 1, 16, 16, 1, 0, nullptr, matrices, nullptr));
  const std::vector<float> product = Get<float>(dc, n * n);
  for (std::size_t row = 0; row < n; ++row) {
    for (std::size_t column = 0; column < n; ++column) {
      float sum = 0;
      for (std::size_t k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
      ASSERT_EQ(product[row * n + column], sum);
    }
  }

  std::vector<int> numbers(10'000);
  std::iota(numbers.begin(), numbers.end(), -17);
  const CUdeviceptr total = Put(std::vector<int>{0});
  CUDA_OK(Launch("reduce", 40, 256, nullptr, Put(numbers), total, 10'000));
  EXPECT_EQ(Get<int>(total, 1)[0], std::accumulate(numbers.begin(), numbers.end(), 0));

  std::vector<int> scanned(512, 3);
  CUdeviceptr data = Put(scanned);
  void* scan[] = {&data};
  CUDA_OK(cuLaunchKernel(Function("scan"), 1, 1, 1, 512, 1, 1, 512 * sizeof(int), nullptr, scan, nullptr));
  std::partial_sum(scanned.begin(), scanned.end(), scanned.begin());
  EXPECT_EQ(Get<int>(data, 512), scanned);

  std::vector<std::uint8_t> text(50'000);
  std::vector<std::uint32_t> bins(256);
  for (std::size_t i = 0; i < text.size(); ++i) ++bins[text[i] = static_cast<std::uint8_t>(i * i % 251)];
  const CUdeviceptr counted = Put(std::vector<std::uint32_t>(256));
  CUDA_OK(Launch("histogram", 7, 256, nullptr, Put(text), counted, 50'000));
  EXPECT_EQ(Get<std::uint32_t>(counted, 256), bins);

  std::vector<int> keys(512);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<int>(i * 7919 % 1009) - 500;
  const CUdeviceptr sorted = Put(keys);
  CUDA_OK(Launch("sort", 1, 128, nullptr, sorted, 512));
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(Get<int>(sorted, 512), keys);
}

TEST_F(Battery, ProgramsOfRealNumbers) {
  LoadKernels();
  const std::size_t side = 48;
  std::vector<double> square(side * side);
  std::iota(square.begin(), square.end(), 0.25);
  CUdeviceptr in = Put(square), out = Put(std::vector<double>(side * side));
  int n = side;
  void* transpose[] = {&in, &out, &n};
  CUDA_OK(cuLaunchKernel(Function("transpose"), 3, 3, 1, 16, 16, 1, 0, nullptr, transpose, nullptr));
  const std::vector<double> turned = Get<double>(out, side * side);
  for (std::size_t i = 0; i < side * side; ++i) ASSERT_EQ(turned[i % side * side + i / side], square[i]) << i;

  struct Body {
    float x, y, z, mass;
  };
  std::vector<Body> bodies(64);
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const auto at = static_cast<float>(i);
    bodies[i] = {std::cos(at), std::sin(at), at / 64, 1 + at / 8};
  }
  const CUdeviceptr forces = Put(std::vector<Body>(64));
  CUDA_OK(Launch("forces", 2, 32, nullptr, Put(bodies), forces, 64));
  const std::vector<Body> got = Get<Body>(forces, 64);
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    double x = 0;
    for (const Body& other : bodies) {
      const double dx = other.x - bodies[i].x, dy = other.y - bodies[i].y, dz = other.z - bodies[i].z;
      x += dx * other.mass / std::pow(dx * dx + dy * dy + dz * dz + 0.01, 1.5);
    }
    ASSERT_NEAR(got[i].x, x, 1e-3 * std::abs(x) + 1e-2) << i;
    ASSERT_EQ(got[i].mass, bodies[i].mass);
  }

  std::vector<float> price(1000), strike(1000), years(1000);
  for (std::size_t i = 0; i < price.size(); ++i) {
    const auto at = static_cast<float>(i);
    price[i] = 5 + at / 40, strike[i] = 1 + at / 10, years[i] = 0.25f + at / 100;
  }
  const CUdeviceptr call = Put(std::vector<float>(1000)), put = Put(std::vector<float>(1000));
  const float rate = 0.02f, volatility = 0.3f;
  CUDA_OK(Launch("black_scholes", 3, 128, nullptr, Put(price), Put(strike), Put(years), call, put, 1000, rate,
                 volatility));
  const std::vector<float> calls = Get<float>(call, 1000), puts = Get<float>(put, 1000);
  const auto normal = [](double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; };
  for (std::size_t i = 0; i < price.size(); ++i) {
    const double spread = volatility * std::sqrt(years[i]);
    const double d1 =
        (std::log(price[i] / strike[i]) + (rate + volatility * volatility / 2) * years[i]) / spread;
    const double discounted = strike[i] * std::exp(-rate * years[i]);
    ASSERT_NEAR(calls[i], price[i] * normal(d1) - discounted * normal(d1 - spread), 1e-3) << i;
    ASSERT_NEAR(puts[i], discounted * normal(spread - d1) - price[i] * normal(-d1), 1e-3) << i;
  }
}

// Pointers of the device are data: what the program wrote there is followed by a kernel.
TEST_F(Battery, AListOfDevicePointersIsWalked) {
  LoadKernels();
  struct Link {
    CUdeviceptr next;
    std::int64_t value;
  };
  std::vector<Link> links(32 * 10);
  const CUdeviceptr at = Put(std::vector<Link>(links.size()));
  std::vector<CUdeviceptr> heads(32);
  std::vector<std::int64_t> sums(32);
  for (std::size_t i = 0; i < links.size(); ++i) {
    const std::size_t list = i % 32;
    links[i] = {heads[list], static_cast<std::int64_t>(i * 3)};
    sums[list] += links[i].value;
    heads[list] = at + i * sizeof(Link);
  }
  CUDA_OK(cuMemcpyHtoD_v2(at, links.data(), links.size() * sizeof(Link)));
  const CUdeviceptr out = Put(std::vector<std::int64_t>(32));
  CUDA_OK(Launch("walk", 1, 32, nullptr, Put(heads), out));
  EXPECT_EQ(Get<std::int64_t>(out, 32), sums);
}

TEST_F(Battery, KernelsPrint) {
  LoadKernels();
  ::testing::internal::CaptureStdout();
  const CUresult launched = Launch("speak", 2, 32, nullptr, 40);
  const CUresult done = cuCtxSynchronize();
  std::string said = ::testing::internal::GetCapturedStdout();
  CUDA_OK(launched);
  CUDA_OK(done);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 40);
  EXPECT_THAT(said, ::testing::HasSubstr("thread 0 of 40:  0.00 text x 0 ff  |     -7 %\n"));
  EXPECT_THAT(said, ::testing::HasSubstr("thread 39 of 40: 19.50 text x 42880953483264 ff  |     -7 %\n"));
}

TEST_F(Battery, KernelsInsist) {
  LoadKernels();
  CUDA_OK(Launch("insist", 1, 32, nullptr, 32));
  CUDA_OK(cuCtxSynchronize());
  ::testing::internal::CaptureStdout();
  const CUresult launched = Launch("insist", 2, 32, nullptr, 37);
  const CUresult done = cuCtxSynchronize();
  const std::string said = ::testing::internal::GetCapturedStdout();
  CUDA_OK(launched);
  EXPECT_EQ(done, CUDA_ERROR_ASSERT);
  EXPECT_THAT(said, ::testing::HasSubstr("kernels.cu:42: insist: block: [1,0,0], thread: [5"));
  EXPECT_THAT(said, ::testing::HasSubstr("Assertion `self() != n` failed."));
}

TEST_F(Battery, FunctionsAreCalledThroughPointersAndWithinThemselves) {
  LoadKernels();
  CUDA_OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 16 << 10));
  const CUdeviceptr step = Put(std::vector<std::uint64_t>(1)), out = Put(std::vector<int>(64));
  CUDA_OK(Launch("pointers", 1, 64, nullptr, step, out, 64));
  const std::uint64_t times = Get<std::uint64_t>(step, 1)[0];
  CUDA_OK(Launch("by_pointer", 1, 64, nullptr, times, out));
  const std::vector<int> products = Get<int>(out, 64);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(products[static_cast<std::size_t>(i)], i * 7);
  CUDA_OK(Launch("recursion", 1, 32, nullptr, out, Put(std::vector<std::int64_t>(32)), 0));
  EXPECT_EQ(Get<int>(out, 32)[12], 144) << "Fibonacci's twelfth number";
  CUDA_OK(Launch("by_pointer", 1, 64, nullptr, std::uint64_t{16}, out));
  EXPECT_THAT(cuCtxSynchronize(), ::testing::AnyOf(CUDA_ERROR_INVALID_PC, CUDA_ERROR_ILLEGAL_ADDRESS,
                                                   CUDA_ERROR_ILLEGAL_INSTRUCTION, CUDA_ERROR_LAUNCH_FAILED));
}

TEST_F(Battery, AnErrorOfAKernelStaysWithItsContext) {
  LoadKernels();
  const CUdeviceptr data = Put(std::vector<int>(16));
  CUevent event = nullptr;
  CUDA_OK(cuEventCreate(&event, CU_EVENT_DEFAULT));
  CUDA_OK(Launch("out_of_bounds", 1, 1, nullptr, data, 1 << 28));
  EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, 16), CUDA_ERROR_ILLEGAL_ADDRESS);
  int value = 0;
  EXPECT_EQ(cuMemcpyDtoH_v2(&value, data, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUstream stream = nullptr;
  EXPECT_EQ(cuStreamCreate(&stream, 0), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuEventRecord(event, nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuLaunchHostFunc(
                nullptr, [](void*) {}, nullptr),
            CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuMemcpyHtoD_v2(data, &value, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUDA_OK(cuCtxDestroy_v2(context_));
  CUDA_OK(cuCtxCreate_v2(&context_, 0, device_));
  LoadKernels();
  CUDA_OK(Launch("out_of_bounds", 1, 1, nullptr, Put(std::vector<int>(16)), 15));
  CUDA_OK(cuCtxSynchronize());
}

}  // namespace
}  // namespace tulle::cuda_battery
