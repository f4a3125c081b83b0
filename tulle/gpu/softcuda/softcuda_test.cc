// Kernels as clang compiles them, and programs that are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <thread>

#include "tulle/gpu/softcuda/test_device.h"

namespace tulle::gpu::softcuda {
namespace {

using ::testing::HasSubstr;

class SoftCudaKernelsTest : public SoftCudaTest {
 protected:
  void LoadKernels() {
    std::ifstream file(TULLE_SOFTCUDA_KERNELS);
    Load({std::istreambuf_iterator<char>(file), {}});
  }
};

TEST_F(SoftCudaKernelsTest, AddsVectors) {
  LoadKernels();
  const int n = 1000;  // the last block has fewer
  std::vector<float> a(n), b(n);
  std::iota(a.begin(), a.end(), 0.5f);
  std::iota(b.begin(), b.end(), 100.f);
  float* const c = Device(std::vector<float>(1024, -1));
  Launch("vector_add", {8}, {128}, Device(a), Device(b), c, n);
  for (int i = 0; i < n; ++i) EXPECT_EQ(c[i], a[i] + b[i]);
  EXPECT_EQ(c[n], -1) << "beyond the end";
}

TEST_F(SoftCudaKernelsTest, MultipliesMatrices) {
  LoadKernels();
  const int n = 64;
  std::vector<float> a(n * n), b(n * n);
  for (int i = 0; i < n * n; ++i) a[i] = static_cast<float>(i % 7 - 3), b[i] = static_cast<float>(i % 5 - 2);
  float* const c = Device(std::vector<float>(n * n));
  Launch("tiled_matmul", {4, 4}, {16, 16}, Device(a), Device(b), c, n);
  for (int row = 0; row < n; ++row) {
    for (int column = 0; column < n; ++column) {
      float sum = 0;
      for (int k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
      ASSERT_EQ(c[row * n + column], sum);
    }
  }
}

TEST_F(SoftCudaKernelsTest, ReducesByShufflesAndAtomics) {
  LoadKernels();
  const int n = 10'000;
  std::vector<int> in(n);
  std::iota(in.begin(), in.end(), -17);
  int* const out = Device(std::vector<int>{0});
  Launch("reduce", {40}, {256}, Device(in), out, n);
  EXPECT_EQ(*out, std::accumulate(in.begin(), in.end(), 0));
}

TEST_F(SoftCudaKernelsTest, ScansInDynamicSharedMemory) {
  LoadKernels();
  std::vector<int> in(512);
  for (int& value : in) value = static_cast<int>(random_.Below(100));
  int* const data = Device(in);
  dynamic_ = 512 * sizeof(int);
  Launch("scan", {1}, {512}, data);
  std::partial_sum(in.begin(), in.end(), in.begin());
  EXPECT_TRUE(std::equal(in.begin(), in.end(), data));
}

TEST_F(SoftCudaKernelsTest, CountsTransposesSortsAndWalks) {
  LoadKernels();
  std::vector<std::uint8_t> text(50'000);
  std::vector<std::uint32_t> bins(256);
  for (std::uint8_t& byte : text) ++bins[byte = static_cast<std::uint8_t>(random_.Below(256))];
  std::uint32_t* const counted = Device(std::vector<std::uint32_t>(256));
  Launch("histogram", {7}, {256}, Device(text), counted, static_cast<int>(text.size()));
  EXPECT_TRUE(std::equal(bins.begin(), bins.end(), counted));

  const int n = 48;
  std::vector<double> square(n * n);
  std::iota(square.begin(), square.end(), 0);
  double* const turned = Device(std::vector<double>(n * n));
  Launch("transpose", {3, 3}, {16, 16}, Device(square), turned, n);
  for (int i = 0; i < n * n; ++i) ASSERT_EQ(turned[i % n * n + i / n], square[i]);

  std::vector<int> keys(512);
  for (int& key : keys) key = static_cast<int>(random_.Next());
  int* const sorted = Device(keys);
  Launch("sort", {1}, {128}, sorted, 512);
  std::sort(keys.begin(), keys.end());
  EXPECT_TRUE(std::equal(keys.begin(), keys.end(), sorted));

  struct Link {
    Link* next;
    std::int64_t value;
  };
  std::vector<Link*> heads(64);
  std::vector<std::int64_t> sums(64), expected(64);
  Link* const links = Device(std::vector<Link>(64 * 20));
  for (int i = 0, used = 0; i < 64; ++i) {
    for (std::uint64_t k = random_.Below(20); k > 0; --k) {
      links[used] = {heads[i], static_cast<std::int64_t>(random_.Below(1000))};
      expected[i] += links[used].value;
      heads[i] = &links[used++];
    }
  }
  std::int64_t* const walked = Device(sums);
  Launch("walk", {2}, {32}, Device(heads), walked);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), walked));
}

TEST_F(SoftCudaKernelsTest, ComputesForces) {
  LoadKernels();
  struct Body {
    float x, y, z, mass;
  };
  std::vector<Body> bodies(64);
  for (Body& body : bodies) {
    for (float* part : {&body.x, &body.y, &body.z, &body.mass})
      *part = static_cast<float>(random_.Below(1000)) / 500 - 1;
  }
  Body* const out = Device(bodies);
  Launch("forces", {2}, {32}, Device(bodies), out, 64);
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    double fx = 0, strength = 0;
    for (const Body& other : bodies) {
      const double dx = other.x - bodies[i].x, dy = other.y - bodies[i].y, dz = other.z - bodies[i].z;
      const double inverse = 1 / std::sqrt(dx * dx + dy * dy + dz * dz + 0.01);
      fx += dx * other.mass * inverse * inverse * inverse;
      strength += std::abs(dx * other.mass * inverse * inverse * inverse);
    }
    EXPECT_NEAR(out[i].x, fx, 1e-5 * strength);
    EXPECT_EQ(out[i].mass, bodies[i].mass);
  }
}

TEST_F(SoftCudaKernelsTest, LanesGoTheirOwnWays) {
  LoadKernels();
  const int n = 1000;
  std::vector<std::uint32_t> in(n);
  for (std::uint32_t& value : in) value = 1 + static_cast<std::uint32_t>(random_.Below(100'000));
  std::uint32_t* const steps = Device(std::vector<std::uint32_t>(n));
  Launch("collatz", {8}, {128}, Device(in), steps, n);
  for (int i = 0; i < n; ++i) {
    std::uint32_t count = 0;
    for (std::uint64_t x = in[i]; x != 1; ++count) x = x % 2 == 0 ? x / 2 : 3 * x + 1;
    ASSERT_EQ(steps[i], count) << in[i];
  }

  std::vector<int> program(37);
  for (int& op : program) op = static_cast<int>(random_.Below(8));
  int* const out = Device(std::vector<int>(128));
  Launch("machine", {2}, {64}, Device(program), out, 37);
  for (int thread = 0; thread < 128; ++thread) {
    int stack[16] = {thread}, top = 0;
    for (int i = 0; i < 37; ++i) {
      const int value = stack[top & 15];
      switch (program[static_cast<std::size_t>(i + thread) % 37]) {
        case 0: stack[++top & 15] = i; break;
        case 1: stack[top & 15] = static_cast<int>(static_cast<unsigned>(value) * 3); break;
        case 2: stack[top & 15] = value ^ 0x55; break;
        case 3: stack[top & 15] = value - i; break;
        case 4: stack[top & 15] = value >> 1; break;
        case 5: --top; break;
        case 6: stack[top & 15] += stack[(top - 1) & 15]; break;
        default: stack[top & 15] = -value;
      }
    }
    // What it never wrote it does not read: else the compiler may think of anything.
    if (top < 0 || top >= 16) continue;
    EXPECT_EQ(out[thread], stack[top & 15]) << thread;
  }
}

double Polynomial(double x, int degree) {
  double sum = 0;
  for (int i = 0; i <= degree; ++i) sum = sum * x + i;
  return sum;
}

TEST_F(SoftCudaKernelsTest, FunctionsAreCalledByLanesFromSeveralPlaces) {
  LoadKernels();
  std::vector<double> in(96);
  for (double& x : in) x = static_cast<double>(random_.Below(1000)) / 250 - 2;
  double* const out = Device(std::vector<double>(96));
  Launch("calls", {3}, {32}, Device(in), out);
  for (int i = 0; i < 96; ++i) {
    const double x = in[static_cast<std::size_t>(i)];
    const double expected = i % 3 == 0 ? Polynomial(x, i % 5) + Polynomial(-x, i % 5 + 1) : Polynomial(x, 7);
    EXPECT_NEAR(out[i], expected, 1e-12 * (1 + std::abs(expected))) << i;
  }
}

// As testing/kernels.cu has them.
int Fibonacci(int n) { return n < 2 ? n : Fibonacci(n - 1) + Fibonacci(n - 2); }
int Male(int n);
int Female(int n) { return n == 0 ? 1 : n - Male(Female(n - 1)); }
int Male(int n) { return n == 0 ? 0 : n - Female(Male(n - 1)); }
long long Remember(int n) { return n == 0 ? 0 : Remember(n - 1) * 3 % 1'000'003 + n * ((n & 3) + 1); }
int Climb(int n, int* above) {
  int own[3] = {n, n + 1, *above};
  if (n == 0) return *above += 5;
  const int more = Climb(n - 1, own + n % 3);
  *above += own[n % 3] % 1000;
  return more + own[(n + 1) % 3];
}
int Step(int which, int a, int b) {
  if (which == 0) return a + b;
  if (which == 1) return a * b;
  if (which == 2) return a - b;
  if (b <= 0) return a + 1;
  const int first = Step((a + b) & 3, a, b - 1);
  return first % 1009 + 3 * Step((first ^ b) & 3, b, a % 4 - 1) % 1009 + a;
}

TEST_F(SoftCudaKernelsTest, FunctionsComeBackToThemselves) {
  LoadKernels();
  int* const out = Device(std::vector<int>(300));
  long long* const remembered = Device(std::vector<long long>(300, -1));
  Launch("recursion", {3}, {100}, out, remembered, 0);
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(out[i], i % 2 == 0 ? Fibonacci(i % 13) : Female(i % 17) - Male(i % 11)) << i;
    EXPECT_EQ(remembered[i], i % 3 != 0 ? Remember(i % 29) : -1) << i;
  }
  Launch("recursion", {2}, {64}, out, remembered, -1);
  for (int i = 0; i < 128; ++i) {
    int top = i;
    const int all = Climb(i % 9, &top);
    EXPECT_EQ(out[i], all * 1000 + top) << i;
  }
  Launch("recursion", {1}, {32}, out, remembered, 1000);
  EXPECT_EQ(remembered[1], Remember(1001));
  EXPECT_EQ(Start("recursion", {1}, {32}, out, remembered, 10'000'000).fault, Fault::kStackOverflow);
  Launch("recursion", {1}, {32}, out, remembered, 1);
  EXPECT_EQ(remembered[31], Remember(3));
}

TEST_F(SoftCudaKernelsTest, FunctionsAreCalledThroughPointers) {
  LoadKernels();
  std::uint64_t* const own = Device(std::vector<std::uint64_t>(1));
  const int n = 250;
  int* const out = Device(std::vector<int>(256, -1));
  Launch("pointers", {2}, {128}, own, out, n);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out[i], i < n ? Step(i & 3, i % 21, i % 6) : -1) << i;
  Launch("by_pointer", {1}, {64}, *own, out);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], i * 7);
  // Between two functions, where no variable is, and another module's.
  for (const std::uint64_t wrong : {*own + 1, std::uint64_t{0}, *own + (1 << 20)}) {
    const LaunchEnd end = Start("by_pointer", {1}, {64}, wrong, out);
    EXPECT_EQ(end.fault, Fault::kInvalidPc);
    EXPECT_EQ(end.address, wrong);
  }
  const std::unique_ptr<Module> first = std::move(module_);
  LoadKernels();
  EXPECT_EQ(Start("by_pointer", {1}, {64}, *own, out).fault, Fault::kInvalidPc);
}

TEST_F(SoftCudaKernelsTest, ObjectsKnowTheirFunctions) {
  LoadKernels();
  float* const out = Device(std::vector<float>(96));
  Launch("virtuals", {1}, {96}, out);
  for (int i = 0; i < 96; ++i) {
    const float small = static_cast<float>(i * i), large = 9;
    const auto pair = [&](float scale) { return small * scale + large * 2 * scale; };
    const float pairs = (i % 2 == 0 ? pair(1) : large) + (i % 5 == 0 ? small * 2 : pair(2));
    EXPECT_EQ(out[i], i % 3 == 0 ? small : i % 3 == 1 ? pair(1) : pairs) << i;
  }
}

TEST_F(SoftCudaKernelsTest, VariablesOfTheModuleAreInitialised) {
  LoadKernels();
  int* const out = Device(std::vector<int>(32));
  Launch("globals", {1}, {32}, out);
  const int primes[] = {2, 3, 5, 7, 11, 13, 17, 19};
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], primes[i % 8]);
  const Module::Variable* counter = module_->FindVariable("counter");
  ASSERT_NE(counter, nullptr);
  EXPECT_EQ(counter->bytes, 4u);
  EXPECT_EQ(*reinterpret_cast<int*>(counter->address), 42);
  EXPECT_EQ(module_->FindVariable("nobody"), nullptr);
  EXPECT_EQ(module_->FindKernel("nobody"), nullptr);
}

TEST_F(SoftCudaKernelsTest, WhatAKernelDoesWrongIsToldAndHarmsNobody) {
  LoadKernels();
  int* const data = Device(std::vector<int>(16));
  LaunchEnd end = Start("out_of_bounds", {1}, {1}, data, 1 << 20);
  EXPECT_EQ(end.fault, Fault::kIllegalAddress);
  EXPECT_EQ(end.address, reinterpret_cast<std::uint64_t>(data + (1 << 20)));
  EXPECT_GT(end.line, 0u);
  end = Start("out_of_bounds", {1}, {1}, reinterpret_cast<std::uint64_t>(&end), 0);
  EXPECT_EQ(end.fault, Fault::kIllegalAddress) << "memory of the process that is not the device's";
  end = Start("out_of_bounds", {1}, {1}, reinterpret_cast<std::uint64_t>(data) + 2, 0);
  EXPECT_EQ(end.fault, Fault::kMisaligned);
  ASSERT_TRUE(memory_->Free(reinterpret_cast<std::uint64_t>(data)).ok());
  end = Start("out_of_bounds", {1}, {1}, data, 0);
  EXPECT_EQ(end.fault, Fault::kIllegalAddress) << "what has been given back";

  // It can be stopped.
  int* const flag = Device(std::vector<int>{0});
  std::thread stopper([this] { stop_ = true; });
  end = Start("never_ends", {4}, {64}, flag);
  stopper.join();
  EXPECT_EQ(end.fault, Fault::kStopped);
}

TEST_F(SoftCudaKernelsTest, BarriersThatNobodyReachesAreNoticed) {
  const std::string registers = ".reg .pred %p<2>; .reg .b32 %r<3>;\n";
  // Who ends is not waited for.
  Load(Kernel(registers, "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 40; @%p1 exit; bar.sync 0;\n"));
  Launch("k", {1}, {64}, std::uint64_t{0}, std::uint64_t{0});
  // Two halves that wait at different ones, for all.
  Load(Kernel(
      registers,
      "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 40; @%p1 bra A; bar.sync 1; bra B; A: bar.sync 0; B:\n"));
  EXPECT_EQ(Start("k", {1}, {64}, std::uint64_t{0}, std::uint64_t{0}).fault, Fault::kDeadlock);
  // For as many as come it is fine.
  Load(Kernel(registers,
              "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 32; bra B; A: bar.sync "
              "0, 32; B:\n"));
  Launch("k", {1}, {64}, std::uint64_t{0}, std::uint64_t{0});
  // A body need not end by an instruction that always ends it.
  Load(
      ".version 7.1\n.target sm_80\n.entry k(.param .u64 in, .param .u64 out) { .reg .pred %p; .reg .b32 "
      "%r;\n"
      "mov.u32 %r, %tid.x; setp.lt.u32 %p, %r, 3; @%p exit; }\n");
  Launch("k", {1}, {64}, std::uint64_t{0}, std::uint64_t{0});
  Load(Kernel("", "trap;\n"));
  EXPECT_EQ(Start("k", {1}, {64}, std::uint64_t{0}, std::uint64_t{0}).fault, Fault::kTrap);
}

TEST_F(SoftCudaKernelsTest, LaunchesThatCannotBeAreRefused) {
  LoadKernels();
  const Program& program = *module_->FindKernel("scan");
  const ByteVector parameters(8);
  const auto refused = [&](const softcuda::Launch& launch) {
    return RunKernel(program, *memory_, launch).error().message;
  };
  EXPECT_THAT(refused({.grid = {0}, .parameters = parameters}), HasSubstr("is 0"));
  EXPECT_THAT(refused({.block = {1025}, .parameters = parameters}), HasSubstr("a block of 1025 threads"));
  EXPECT_THAT(refused({.grid = {1, 70'000}, .parameters = parameters}), HasSubstr("too large"));
  EXPECT_THAT(refused({.dynamic_shared_bytes = 97 << 10, .parameters = parameters}),
              HasSubstr("97KiB of shared memory"));
  EXPECT_EQ(refused({}), "the parameters have 0 bytes, the kernel takes 8");
}

TEST_F(SoftCudaKernelsTest, TextsThatAreNoProgramsAreRefusedByTheirLine) {
  EXPECT_EQ(Refusal(""), "line 1: there is no .version");
  const auto kernel = [this](const std::string& body) {
    return Refusal(Kernel(".reg .b32 %r<3>; .reg .f32 %f<3>; .reg .b64 %rd<3>;\n", body));
  };
  EXPECT_EQ(kernel("wmma.load %r1;\n"), "line 6: this device has no wmma.load");
  EXPECT_EQ(kernel("\nadd.rna.f32 %f1, %f1, %f2;\n"), "line 7: this device has no add.rna.f32: .rna");
  EXPECT_EQ(kernel("add.rz.u32 %r1, %r1, %r2;\n"), "line 6: this device has no add.rz.u32");
  EXPECT_EQ(kernel("cvt.rz.f16.f32 %r1, %f2;\n"), "line 6: this device has no cvt.rz.f16.f32");
  EXPECT_EQ(kernel("add.cc.f32 %f1, %f1, %f2;\n"), "line 6: this device has no add.cc.f32");
  EXPECT_EQ(kernel("add.u32 %r1, %r2;\n"), "line 6: add.u32 has 2 operands");
  EXPECT_EQ(kernel("add.u32 %r1, %r2, %r9;\n"), "line 6: there is no %r9");
  EXPECT_EQ(kernel("add.u32 %r1, %r2, %rd1;\n"),
            "line 6: register %rd1 is not as wide as the instruction takes");
  EXPECT_EQ(kernel("bra NOWHERE;\n"), "line 6: there is no label NOWHERE");
  EXPECT_EQ(kernel("brx.idx %r1, NOWHERE;\n"), "line 6: there is no table NOWHERE");
  EXPECT_EQ(kernel("A: A: bra A;\n"), "line 6: label A is there twice");
  EXPECT_EQ(kernel("ld.param.u64 %rd1, [in+8];\n"), "line 6: beyond the end of in");
  EXPECT_EQ(kernel("add.u32 %r1, %r2, 1\n"), "line 7: \",\" is missing before \"ret\"");
  EXPECT_EQ(kernel("mov.u32 %r1, 0f3f80;\n"), "line 6: a number without its digits");
  EXPECT_EQ(kernel("mov.u64 %rd1, 99999999999999999999;\n"), "line 6: a number beyond 64 bits");
  EXPECT_EQ(kernel("call vscanf;\n"), "line 6: calls vscanf, which is no function");
  EXPECT_EQ(kernel("call vprintf;\n"), "line 6: vprintf takes another number of parameters");
  EXPECT_THAT(kernel(".reg .u64 %rd<2>; p: .callprototype () nothing ();\n"), HasSubstr("has _ in place of"));
  EXPECT_THAT(kernel("p: .calltargets f;\n"), HasSubstr("only those with a .callprototype"));
  EXPECT_THAT(kernel(".reg .u64 %rd<2>; p: .callprototype _ (.param .b32 _); call %rd1, p;\n"),
              HasSubstr("takes another number of parameters"));
  EXPECT_THAT(
      Refusal(".version 6.0\n.func f(.param .b32 n) { .reg .b64 %rd<2>; .param .b32 x;\nmov.u64 %rd1, n; "
              "call f, (x); ret; }\n.entry k() { .param .b32 y; call f, (y); ret; }"),
      HasSubstr("line 3: the address of a parameter within f, which may call itself"));
  EXPECT_THAT(
      Refusal(".version 6.0\n.func f() { .local .b8 own[70000]; call f; ret; }\n.entry k() { call f; ret; }"),
      HasSubstr("the variables of f are more than 64KiB"));
  std::string chain = ".version 6.0\n.target sm_70\n.func f0() { ret; }\n";
  for (int i = 1; i < 1100; ++i)
    chain += ".func f" + std::to_string(i) + "() { call f" + std::to_string(i - 1) + "; ret; }\n";
  EXPECT_THAT(Refusal(chain + ".entry k() { call f1099; ret; }"), HasSubstr("nested deeper than 1000"));
  EXPECT_EQ(Refusal(chain + ".entry k() { call f900; ret; }"), "");
  EXPECT_THAT(Refusal(".version 6.0\n.func f();\n.global .u64 x = f;"), HasSubstr("no function with a body"));
  EXPECT_THAT(Refusal(".version 6.0\n.address_size 32"), HasSubstr("must be 64"));
  EXPECT_THAT(Refusal(".version 6.0\n/* "), HasSubstr("a comment does not end"));
  EXPECT_THAT(Refusal(".version 6.0\n.global .b8 x[4000000000];"), HasSubstr("x is larger than"));
  EXPECT_THAT(Refusal(".version 6.0\n.global .b32 x[1] = {1, 2};"),
              HasSubstr("initialised with more than it holds"));
  EXPECT_THAT(Refusal(".version 6.0\n.entry k() { .shared .b8 s[100000]; ret; }"),
              HasSubstr("shared memory is more than 96KiB"));
  EXPECT_EQ(memory_->free_bytes(), kDeviceBytes) << "nothing is left behind";
}

// A guard that the inner call changes, a result that is written before the call, and one that nobody asks
// for.
TEST_F(SoftCudaTest, WhatAFunctionHasIsItsOwnHoweverDeepItCallsItself) {
  Load(
      ".version 6.0\n.target sm_70\n.address_size 64\n"
      ".func (.param .b32 r) f(.param .b32 n) {\n"
      ".reg .pred %p, %odd; .reg .b32 %a<5>; .param .b32 x, y;\n"
      "ld.param.u32 %a0, [n]; st.param.b32 [r], %a0; setp.ne.u32 %p, %a0, 0; and.b32 %a3, %a0, 1;\n"
      "setp.ne.u32 %odd, %a3, 0; mov.u32 %a1, 0; sub.u32 %a2, %a0, 1; st.param.b32 [x], %a2;\n"
      "@%p call (y), f, (x);\n"
      "@%p ld.param.b32 %a1, [y];\n"
      "@!%odd bra END;\n"
      "call (y), f, (x);\n"
      "ld.param.b32 %a2, [y]; add.u32 %a1, %a1, %a2; add.u32 %a1, %a1, %a0; st.param.b32 [r], %a1;\n"
      "END: ret;\n}\n"
      ".entry k(.param .u64 out) {\n"
      ".reg .b32 %r<3>; .reg .b64 %rd<4>; .param .b32 x, y;\n"
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd3, %rd1, %rd2;\n"
      "st.param.b32 [x], %r1; call (y), f, (x); ld.param.b32 %r2, [y]; st.global.u32 [%rd3], %r2; ret;\n}\n");
  const std::function<int(int)> f = [&](int n) { return n % 2 == 0 ? n : 2 * f(n - 1) + n; };
  int* const out = Device(std::vector<int>(16));
  Launch("k", {1}, {16}, out);
  for (int n = 0; n < 16; ++n) EXPECT_EQ(out[n], f(n)) << n;
}

// A pointer might lead from `again` to `f`, so `f` might be called again; in this kernel it is not.
TEST_F(SoftCudaTest, VariablesOfAFunctionThatMightCallItselfAreItsOwn) {
  Load(
      ".version 6.0\n.target sm_70\n.address_size 64\n"
      ".func (.param .b32 r) f(.param .b32 n) {\n"
      ".local .b32 own; .reg .b32 %a<4>;\n"
      "st.local.u32 [own], 70; ld.param.u32 %a0, [n]; ld.local.u32 %a1, [own]; add.u32 %a2, %a0, %a1;\n"
      "st.param.b32 [r], %a2; ret;\n}\n"
      ".func (.param .b32 r) again(.param .b32 n) {\n"
      ".reg .b32 %a; .param .b32 x, y;\n"
      "ld.param.u32 %a, [n]; st.param.b32 [x], %a; call (y), f, (x); ld.param.b32 %a, [y];\n"
      "st.param.b32 [r], %a; ret;\n}\n"
      ".global .u64 both[2] = {f, again};\n"
      ".entry k(.param .u64 out) {\n"
      ".reg .b32 %r<3>; .reg .b64 %rd<2>; .param .b32 x, y;\n"
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, 5; st.param.b32 [x], %r1;\n"
      "call (y), f, (x); ld.param.b32 %r2, [y]; st.global.u32 [%rd1], %r2; ret;\n}\n");
  int* const out = Device(std::vector<int>(1));
  Launch("k", {1}, {1}, out);
  EXPECT_EQ(*out, 75);
}

// Whatever it was written by, the page is told of once; and no other.
TEST_F(SoftCudaTest, PagesThatWereWrittenAreKnown) {
  constexpr std::uint64_t kPages = 64;
  const std::uint64_t address = *memory_->Allocate(kPages * DeviceMemory::kPage);
  EXPECT_TRUE(memory_->TakeWritten().empty());
  const struct {
    const char* store;
    std::uint32_t threads;
    std::uint64_t first, last;  // bytes from the beginning
  } kCases[] = {{"st.global.u32 [%rd4], %r1;", 32, 0, 31 * 4},
                {"st.global.u8 [%rd4+4090], %r1;", 1, 4090, 4090},
                {"st.global.u32 [%rd4+8128], %r1; st.global.u32 [%rd4+8192], %r1;", 32, 8128, 8192 + 31 * 4},
                {"st.global.v4.u32 [%rd5+65536], {%r1, %r1, %r1, %r1};", 3, 65536, 65536 + 2 * 4096 + 12},
                {"red.global.add.u32 [%rd5+16], %r1;", 2, 16, 4096 + 16},
                {"atom.global.cas.b32 %r3, [%rd4+20480], 0, %r1;", 5, 20480, 20480 + 16},
                {"st.volatile.global.u64 [%rd5+12280], %rd4;", 7, 12280, 12280 + 6 * 4096}};
  for (const auto& [store, threads, first, last] : kCases) {
    SCOPED_TRACE(store);
    Load(Kernel(".reg .b32 %r<4>; .reg .b64 %rd<8>;\n",
                "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; "
                "add.u64 %rd4, %rd1, %rd2; mul.wide.u32 %rd3, %r1, 4096; add.u64 %rd5, %rd1, %rd3;\n" +
                    std::string(store) + "\n"));
    (void)memory_->TakeWritten();
    Launch("k", {1}, {threads}, std::uint64_t{0}, address);
    const std::uint64_t begin = first / DeviceMemory::kPage * DeviceMemory::kPage;
    const std::uint64_t end = (last / DeviceMemory::kPage + 1) * DeviceMemory::kPage;
    EXPECT_EQ(memory_->TakeWritten(), (std::vector<DeviceMemory::Written>{{address + begin, end - begin}}));
    EXPECT_TRUE(memory_->TakeWritten().empty());
  }
  memory_->NoteWritten(address, 1);
  memory_->NoteWritten(address + 10 * DeviceMemory::kPage - 1, 2);
  EXPECT_EQ(memory_->TakeWritten(), (std::vector<DeviceMemory::Written>{
                                        {address, DeviceMemory::kPage},
                                        {address + 9 * DeviceMemory::kPage, 2 * DeviceMemory::kPage}}));
  memory_->NoteWritten(address, 1);
  ASSERT_TRUE(memory_->Free(address).ok());
  EXPECT_TRUE(memory_->TakeWritten().empty());
  EXPECT_EQ(*memory_->Allocate(DeviceMemory::kPage), address);
  EXPECT_TRUE(memory_->TakeWritten().empty()) << "what is new was not written";
}

}  // namespace
}  // namespace tulle::gpu::softcuda
