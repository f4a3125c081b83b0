// Kernels as clang compiles them, single instructions against what C++ does, and programs that are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <thread>

#include "tulle/base/random.h"
#include "tulle/gpu/softcuda/module.h"

namespace tulle::gpu::softcuda {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kDeviceBytes = 256 << 20;

class SoftCudaTest : public ::testing::Test {
 protected:
  void Load(const std::string& text) {
    auto loaded = Module::Load(text, *memory_);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    module_ = *std::move(loaded);
  }
  void LoadKernels() {
    std::ifstream file(TULLE_SOFTCUDA_KERNELS);
    Load({std::istreambuf_iterator<char>(file), {}});
  }
  std::string Refusal(const std::string& text) {
    const auto loaded = Module::Load(text, *memory_);
    return loaded.ok() ? "" : loaded.error().message;
  }

  template <typename T>
  T* Device(const std::vector<T>& values) {
    auto* const device =
        reinterpret_cast<T*>(*memory_->Allocate(std::max<std::size_t>(values.size(), 1) * sizeof(T)));
    std::copy(values.begin(), values.end(), device);
    return device;
  }
  template <typename T>
  static void Append(ByteVector* bytes, T value) {
    while (bytes->size() % sizeof value != 0) bytes->push_back(std::byte{0});
    const auto* const begin = reinterpret_cast<const std::byte*>(&value);
    bytes->insert(bytes->end(), begin, begin + sizeof value);
  }
  template <typename... Args>
  LaunchEnd Start(const std::string& name, Dim3 grid, Dim3 block, Args... args) {
    ByteVector parameters;
    (Append(&parameters, args), ...);
    const Program* program = module_->FindKernel(name);
    if (program == nullptr) {
      ADD_FAILURE() << "no kernel " << name;
      return {};
    }
    auto end = RunKernel(*program, *memory_,
                         {.grid = grid,
                          .block = block,
                          .dynamic_shared_bytes = dynamic_,
                          .parameters = parameters,
                          .threads = threads_.get(),
                          .stop = &stop_});
    EXPECT_TRUE(end.ok()) << end.error().message;
    return end.ok() ? *end : LaunchEnd();
  }
  template <typename... Args>
  void Launch(const std::string& name, Dim3 grid, Dim3 block, Args... args) {
    const LaunchEnd end = Start(name, grid, block, args...);
    EXPECT_EQ(end.fault, Fault::kNone)
        << name << " at line " << end.line << ", address " << std::hex << end.address;
  }

  std::unique_ptr<DeviceMemory> memory_ = *DeviceMemory::Reserve(kDeviceBytes);
  std::unique_ptr<Module> module_;
  SeededRandom random_{7};
  std::uint32_t dynamic_ = 0;
  std::unique_ptr<HostThreads> threads_ = std::make_unique<HostThreads>(2);
  std::atomic<bool> stop_{false};
};

TEST_F(SoftCudaTest, AddsVectors) {
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

TEST_F(SoftCudaTest, MultipliesMatrices) {
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

TEST_F(SoftCudaTest, ReducesByShufflesAndAtomics) {
  LoadKernels();
  const int n = 10'000;
  std::vector<int> in(n);
  std::iota(in.begin(), in.end(), -17);
  int* const out = Device(std::vector<int>{0});
  Launch("reduce", {40}, {256}, Device(in), out, n);
  EXPECT_EQ(*out, std::accumulate(in.begin(), in.end(), 0));
}

TEST_F(SoftCudaTest, ScansInDynamicSharedMemory) {
  LoadKernels();
  std::vector<int> in(512);
  for (int& value : in) value = static_cast<int>(random_.Below(100));
  int* const data = Device(in);
  dynamic_ = 512 * sizeof(int);
  Launch("scan", {1}, {512}, data);
  std::partial_sum(in.begin(), in.end(), in.begin());
  EXPECT_TRUE(std::equal(in.begin(), in.end(), data));
}

TEST_F(SoftCudaTest, CountsTransposesSortsAndWalks) {
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

TEST_F(SoftCudaTest, ComputesForces) {
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

TEST_F(SoftCudaTest, LanesGoTheirOwnWays) {
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

TEST_F(SoftCudaTest, FunctionsAreCalledByLanesFromSeveralPlaces) {
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

TEST_F(SoftCudaTest, VariablesOfTheModuleAreInitialised) {
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

TEST_F(SoftCudaTest, WhatAKernelDoesWrongIsToldAndHarmsNobody) {
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

std::string Kernel(const std::string& registers, const std::string& body) {
  return ".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out) "
         "{\n" +
         registers + body + "ret;\n}\n";
}

TEST_F(SoftCudaTest, BarriersThatNobodyReachesAreNoticed) {
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

TEST_F(SoftCudaTest, LaunchesThatCannotBeAreRefused) {
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

TEST_F(SoftCudaTest, TextsThatAreNoProgramsAreRefusedByTheirLine) {
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
  EXPECT_THAT(Refusal(".version 6.0\n.target sm_70\n.func f() { call f; ret; }\n.entry k() { call f; ret; }"),
              HasSubstr("f calls itself"));
  EXPECT_THAT(Refusal(".version 6.0\n.address_size 32"), HasSubstr("must be 64"));
  EXPECT_THAT(Refusal(".version 6.0\n/* "), HasSubstr("a comment does not end"));
  EXPECT_THAT(Refusal(".version 6.0\n.global .b8 x[4000000000];"), HasSubstr("x is larger than"));
  EXPECT_THAT(Refusal(".version 6.0\n.global .b32 x[1] = {1, 2};"),
              HasSubstr("initialised with more than it holds"));
  EXPECT_THAT(Refusal(".version 6.0\n.entry k() { .shared .b8 s[100000]; ret; }"),
              HasSubstr("shared memory is more than 96KiB"));
  EXPECT_EQ(memory_->free_bytes(), kDeviceBytes) << "nothing is left behind";
}

// ---- single instructions

template <typename T>
const char* NameOf() {
  if constexpr (std::is_same_v<T, float>)
    return "f32";
  else if constexpr (std::is_same_v<T, double>)
    return "f64";
  else if constexpr (sizeof(T) == 2)
    return std::is_signed_v<T> ? "s16" : "u16";
  else if constexpr (sizeof(T) == 4)
    return std::is_signed_v<T> ? "s32" : "u32";
  else
    return std::is_signed_v<T> ? "s64" : "u64";
}

class InstructionTest : public SoftCudaTest {
 protected:
  template <typename T>
  std::vector<T> Values(std::size_t count) {
    std::vector<T> values(count);
    for (T& value : values) {
      const std::uint64_t bits = random_.Next();
      if constexpr (std::is_floating_point_v<T>) {
        switch (random_.Below(8)) {
          case 0: value = std::numeric_limits<T>::infinity(); break;
          case 1: value = std::numeric_limits<T>::quiet_NaN(); break;
          case 2: value = T(0); break;
          default:
            value = static_cast<T>(static_cast<double>(static_cast<std::int64_t>(bits) >> random_.Below(63)) /
                                   1000);
            break;
        }
        if (random_.Below(2) != 0) value = -value;
      } else {
        value = static_cast<T>(random_.Below(4) == 0 ? bits % 3 - 1 : bits >> random_.Below(64));
      }
    }
    return values;
  }
  template <typename T>
  static bool Same(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a || b != b) return a != a && b != b;
    }
    return a == b;
  }

  // The instruction with two sources of type S, and a result of type D.
  template <typename D, typename S, typename F>
  void Binary(const std::string& instruction, F expected) {
    constexpr std::size_t kCount = 256;
    const std::string source = NameOf<S>(), result = NameOf<D>();
    const auto bytes = [](std::size_t size) { return std::to_string(size); };
    Load(Kernel(".reg ." + source + " %a, %b; .reg ." + result + " %d; .reg .b32 %r<5>; .reg .b64 %rd<9>;\n",
                "ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];\n"
                "mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, " +
                    bytes(sizeof(S)) + "; mul.wide.u32 %rd4, %r1, " + bytes(sizeof(D)) +
                    ";\n"
                    "add.u64 %rd5, %rd1, %rd3; add.u64 %rd6, %rd2, %rd4;\n"
                    "ld.global." +
                    source + " %a, [%rd5]; ld.global." + source + " %b, [%rd5+" + bytes(kCount * sizeof(S)) +
                    "];\n" + instruction + "\nst.global." + result + " [%rd6], %d;\n"));
    const std::vector<S> in = Values<S>(2 * kCount);
    D* const out = Device(std::vector<D>(kCount));
    Launch("k", {1}, {kCount}, Device(in), out);
    for (std::size_t i = 0; i < kCount; ++i) {
      const D should = static_cast<D>(expected(in[i], in[kCount + i]));
      ASSERT_TRUE(Same(out[i], should)) << instruction << " of " << +in[i] << " and " << +in[kCount + i]
                                        << " is " << +out[i] << ", not " << +should;
    }
  }
  template <typename T>
  void Integers() {
    using U = std::make_unsigned_t<T>;
    const std::string type = NameOf<T>(), bits = std::to_string(8 * sizeof(T));
    Binary<T, T>("add." + type + " %d, %a, %b;",
                 [](T a, T b) { return static_cast<U>(a) + static_cast<U>(b); });
    Binary<T, T>("sub." + type + " %d, %a, %b;",
                 [](T a, T b) { return static_cast<U>(a) - static_cast<U>(b); });
    Binary<T, T>("mul.lo." + type + " %d, %a, %b;",
                 [](T a, T b) { return std::uint64_t{static_cast<U>(a)} * static_cast<U>(b); });
    Binary<T, T>("mul.hi." + type + " %d, %a, %b;", [](T a, T b) {
      return static_cast<T>(static_cast<__int128>(a) * static_cast<__int128>(b) >> (8 * sizeof(T)));
    });
    Binary<T, T>("mad.lo." + type + " %d, %a, %b, %a;", [](T a, T b) {
      return std::uint64_t{static_cast<U>(a)} * static_cast<U>(b) + static_cast<U>(a);
    });
    Binary<T, T>("min." + type + " %d, %a, %b;", [](T a, T b) { return std::min(a, b); });
    Binary<T, T>("max." + type + " %d, %a, %b;", [](T a, T b) { return std::max(a, b); });
    Binary<T, T>("div." + type + " %d, %a, %b;",
                 [](T a, T b) { return b == 0 ? static_cast<__int128>(-1) : static_cast<__int128>(a) / b; });
    Binary<T, T>("rem." + type + " %d, %a, %b;",
                 [](T a, T b) { return b == 0 ? static_cast<__int128>(a) : static_cast<__int128>(a) % b; });
    Binary<T, T>("and.b" + bits + " %d, %a, %b;", [](T a, T b) { return a & b; });
    Binary<T, T>("or.b" + bits + " %d, %a, %b;", [](T a, T b) { return a | b; });
    Binary<T, T>("xor.b" + bits + " %d, %a, %b;", [](T a, T b) { return a ^ b; });
    Binary<T, T>("not.b" + bits + " %d, %a;", [](T a, T) { return ~a; });
    Binary<T, T>("cvt.u32." + type + " %r2, %b; and.b32 %r2, %r2, 127; shl.b" + bits + " %d, %a, %r2;",
                 [](T a, T b) {
                   const auto by = static_cast<std::uint32_t>(b) & 127;
                   return by >= 8 * sizeof(T) ? U(0) : static_cast<U>(std::uint64_t{static_cast<U>(a)} << by);
                 });
    Binary<T, T>("cvt.u32." + type + " %r2, %b; and.b32 %r2, %r2, 127; shr." + type + " %d, %a, %r2;",
                 [](T a, T b) {
                   const auto by = static_cast<std::uint32_t>(b) & 127;
                   return static_cast<__int128>(a) >> std::min<std::uint32_t>(by, 8 * sizeof(T));
                 });
    Binary<std::uint32_t, T>(".reg .pred %p; setp.lt." + type + " %p, %a, %b; selp.u32 %d, 5, 7, %p;",
                             [](T a, T b) { return a < b ? 5u : 7u; });
    Binary<double, T>("cvt.rn.f64." + type + " %d, %a;", [](T a, T) { return static_cast<double>(a); });
  }
  template <typename T>
  void Floats() {
    const std::string type = NameOf<T>();
    Binary<T, T>("add." + type + " %d, %a, %b;", [](T a, T b) { return a + b; });
    Binary<T, T>("sub." + type + " %d, %a, %b;", [](T a, T b) { return a - b; });
    Binary<T, T>("mul.rn." + type + " %d, %a, %b;", [](T a, T b) { return a * b; });
    Binary<T, T>("div.rn." + type + " %d, %a, %b;", [](T a, T b) { return a / b; });
    Binary<T, T>("fma.rn." + type + " %d, %a, %b, %a;", [](T a, T b) { return std::fma(a, b, a); });
    Binary<T, T>("min." + type + " %d, %a, %b;", [](T a, T b) { return std::fmin(a, b); });
    Binary<T, T>("max." + type + " %d, %a, %b;", [](T a, T b) { return std::fmax(a, b); });
    Binary<T, T>("neg." + type + " %d, %a;", [](T a, T) { return -a; });
    Binary<T, T>("abs." + type + " %d, %a;", [](T a, T) { return std::fabs(a); });
    Binary<T, T>("sqrt.rn." + type + " %d, %a;", [](T a, T) { return std::sqrt(a); });
    Binary<T, T>("copysign." + type + " %d, %a, %b;", [](T a, T b) { return std::copysign(b, a); });
    Binary<T, T>("cvt.rni." + type + "." + type + " %d, %a;", [](T a, T) { return std::nearbyint(a); });
    Binary<T, T>("cvt.rmi." + type + "." + type + " %d, %a;", [](T a, T) { return std::floor(a); });
    for (const auto& [name, ordered, unordered] :
         std::initializer_list<std::tuple<const char*, bool (*)(T, T), bool>>{
             {"eq", [](T a, T b) { return a == b; }, false},
             {"ne", [](T a, T b) { return a != b; }, false},
             {"lt", [](T a, T b) { return a < b; }, false},
             {"leu", [](T a, T b) { return a <= b; }, true},
             {"neu", [](T a, T b) { return a != b; }, true},
             {"num", [](T, T) { return true; }, false},
             {"nan", [](T, T) { return false; }, true}}) {
      Binary<std::uint32_t, T>(
          ".reg .pred %p; setp." + std::string(name) + "." + type + " %p, %a, %b; selp.u32 %d, 1, 0, %p;",
          [ordered = ordered, unordered = unordered](T a, T b) {
            return a != a || b != b ? unordered : ordered(a, b);
          });
    }
    Binary<std::int32_t, T>("cvt.rzi.s32." + type + " %d, %a;", [](T a, T) {
      const double whole = std::trunc(static_cast<double>(a));
      return whole != whole          ? 0
             : whole >= 2147483647.  ? 2147483647
             : whole <= -2147483648. ? std::numeric_limits<int>::min()
                                     : static_cast<int>(whole);
    });
  }
};

TEST_F(InstructionTest, OfWholeNumbers) {
  Integers<std::uint16_t>();
  Integers<std::int16_t>();
  Integers<std::uint32_t>();
  Integers<std::int32_t>();
  Integers<std::uint64_t>();
  Integers<std::int64_t>();
}

TEST_F(InstructionTest, OfFloats) {
  Floats<float>();
  Floats<double>();
}

// What the processor computes with this rounding.
template <typename T, typename F>
T RoundedBy(int rounding, F f, T a, T b) {
  volatile T x = a, y = b;
  std::fesetround(rounding);
  const T ax = x, ay = y;
  volatile T result = f(ax, ay);
  std::fesetround(FE_TONEAREST);
  return result;
}

TEST_F(InstructionTest, OfFloatsRoundedOtherwise) {
  for (const auto& [name, rounding] : std::initializer_list<std::pair<std::string, int>>{
           {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}}) {
    const auto all = [&, rounding = rounding, name = name]<typename T>(T) {
      const std::string type = NameOf<T>();
      Binary<T, T>("add." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x + y; }, a, b);
      });
      Binary<T, T>("mul." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x * y; }, a, b);
      });
      Binary<T, T>("div." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x / y; }, a, b);
      });
      Binary<T, T>("sqrt." + name + "." + type + " %d, %a;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T) { return std::sqrt(x); }, a, b);
      });
    };
    all(0.f);
    all(0.);
    Binary<float, double>("cvt." + name + ".f32.f64 %d, %a;", [rounding = rounding](double a, double) {
      volatile double x = a;
      std::fesetround(rounding);
      volatile float result = static_cast<float>(x);
      std::fesetround(FE_TONEAREST);
      return result;
    });
    Binary<float, std::int64_t>("cvt." + name + ".f32.s64 %d, %a;",
                                [rounding = rounding](std::int64_t a, std::int64_t) {
                                  volatile std::int64_t x = a;
                                  std::fesetround(rounding);
                                  volatile float result = static_cast<float>(x);
                                  std::fesetround(FE_TONEAREST);
                                  return result;
                                });
  }
  // Nothing of it stays.
  Binary<float, float>("add.f32 %d, %a, %b;", [](float a, float b) { return a + b; });
}

TEST_F(InstructionTest, SmallNumbersAreZerosWhereThatIsAskedFor) {
  const auto flushed = [](float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.f : value; };
  const std::string small = "mul.f32 %a, %a, 0f00800000; mul.f32 %b, %b, 0f00400000;\n";  // 2^-126, 2^-127
  const auto smaller = [](float a, float by) { return a * by; };
  Binary<float, float>(small + "add.ftz.f32 %d, %a, %b;", [&](float a, float b) {
    return flushed(flushed(smaller(a, 0x1p-126f)) + flushed(smaller(b, 0x1p-127f)));
  });
  Binary<float, float>(small + "add.f32 %d, %a, %b;",
                       [&](float a, float b) { return smaller(a, 0x1p-126f) + smaller(b, 0x1p-127f); });
  Binary<std::uint32_t, float>(
      small + ".reg .pred %p; setp.gt.ftz.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;", [&](float a, float b) {
        return flushed(smaller(a, 0x1p-126f)) > flushed(smaller(b, 0x1p-127f)) ? 1u : 0u;
      });
}

// Halves by another way: as doubles, whose digits are counted.
double WideHalf(std::uint16_t half, int digits) {
  const int exponent_bits = 15 - digits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = half >> digits & ((1 << exponent_bits) - 1), fraction = half & ((1 << digits) - 1);
  double value = 0;
  if (exponent == (1 << exponent_bits) - 1) {
    value = fraction != 0 ? std::nan("") : std::numeric_limits<double>::infinity();
  } else {
    value = std::ldexp(fraction + (exponent != 0 ? 1 << digits : 0), std::max(exponent, 1) - bias - digits);
  }
  return (half & 0x8000) != 0 ? -value : value;
}
std::uint16_t NarrowHalf(long double value, int digits) {
  const int exponent_bits = 15 - digits, bias = (1 << (exponent_bits - 1)) - 1;
  if (value != value) return 0x7fff;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const long double size = std::fabs(value);
  const int infinite = ((1 << exponent_bits) - 1) << digits;
  if (std::isinf(size)) return static_cast<std::uint16_t>(sign | infinite);
  const int exponent = std::max(size == 0 ? -10'000 : std::ilogb(size), 1 - bias);
  const auto count = static_cast<int>(std::nearbyint(std::scalbn(size, digits - exponent)));
  // A count that has grown by a digit carries into the exponent.
  const int bits = ((exponent + bias - 1) << digits) + count;
  return static_cast<std::uint16_t>(sign | std::min(bits, infinite));
}

// a * b + a, its last digit odd where there is more, so that it is on the right side of the middle between
// two halves.
long double SumWithProduct(long double a, long double b) {
  using Longer = __float128;
  const Longer product = static_cast<Longer>(a) * static_cast<Longer>(b);
  Longer sum = product + static_cast<Longer>(a);
  if (sum == product && a != 0 && !std::isinf(a * b)) {
    const Longer little = product * 0x1p-80;
    sum += (a > 0) == (product > 0) ? little : -little;
  }
  long double value = static_cast<long double>(sum);
  const Longer back = value;
  if (back == sum || value != value || std::isinf(value)) return value;
  if ((back > 0) == (back > sum)) value = std::nextafter(value, 0.L);
  std::uint64_t digits = 0;
  std::memcpy(&digits, &value, sizeof digits);
  digits |= 1;
  std::memcpy(&value, &digits, sizeof digits);
  return value;
}

TEST_F(InstructionTest, OfHalves) {
  using U16 = std::uint16_t;
  for (const auto& [type, digits] :
       std::initializer_list<std::pair<std::string, int>>{{"f16", 10}, {"bf16", 7}}) {
    const auto of = [&, digits = digits](auto f) {
      return [f, digits](U16 a, U16 b) {
        return NarrowHalf(
            f(static_cast<long double>(WideHalf(a, digits)), static_cast<long double>(WideHalf(b, digits))),
            digits);
      };
    };
    using L = long double;
    const auto same = [digits = digits](U16 a, U16 b) {
      const double x = WideHalf(a, digits), y = WideHalf(b, digits);
      return (x != x && y != y) || a == b;
    };
    // All that there are of one, against a few of the other.
    const auto check = [&](const std::string& instruction, auto expected) {
      Load(Kernel(".reg .b16 %a, %b, %d; .reg .b32 %r<5>; .reg .b64 %rd<9>;\n",
                  "ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];\n"
                  "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 256, %r1;\n"
                  "mul.wide.u32 %rd3, %r3, 2; add.u64 %rd4, %rd1, %rd3; add.u64 %rd5, %rd2, %rd3;\n"
                  "cvt.u16.u32 %a, %r3; ld.global.b16 %b, [%rd4];\n" +
                      instruction + "\nst.global.b16 [%rd5], %d;\n"));
      const std::vector<U16> in = Values<U16>(1 << 16);
      U16* const out = Device(std::vector<U16>(1 << 16));
      Launch("k", {256}, {256}, Device(in), out);
      for (std::uint32_t i = 0; i < 1 << 16; ++i) {
        const U16 a = static_cast<U16>(i), should = expected(a, in[i]);
        ASSERT_TRUE(same(out[i], should)) << instruction << " of " << std::hex << a << " and " << in[i]
                                          << " is " << out[i] << ", not " << should;
      }
    };
    check("add.rn." + type + " %d, %a, %b;", of([](L a, L b) { return a + b; }));
    check("sub." + type + " %d, %a, %b;", of([](L a, L b) { return a - b; }));
    check("mul." + type + " %d, %a, %b;", of([](L a, L b) { return a * b; }));
    check("fma.rn." + type + " %d, %a, %b, %a;", of(SumWithProduct));
    check("max." + type + " %d, %a, %b;", of([](L a, L b) { return std::fmax(a, b); }));
    check("neg." + type + " %d, %a;", [](U16 a, U16) { return static_cast<U16>(a ^ 0x8000); });
    check("abs." + type + " %d, %a;", [](U16 a, U16) { return static_cast<U16>(a & 0x7fff); });
    check(".reg .pred %p; setp.lt." + type + " %p, %a, %b; selp.b16 %d, 1, 0, %p;",
          [digits = digits](U16 a, U16 b) {
            return static_cast<U16>(WideHalf(a, digits) < WideHalf(b, digits) ? 1 : 0);
          });
    check(".reg .f32 %f; cvt.f32." + type + " %f, %a; cvt.rn." + type + ".f32 %d, %f;",
          [](U16 a, U16) { return a; });
  }
  Binary<U16, float>("cvt.rn.f16.f32 %d, %a;", [](float a, float) { return NarrowHalf(a, 10); });
  Binary<U16, float>("cvt.rn.bf16.f32 %d, %a;", [](float a, float) { return NarrowHalf(a, 7); });
  Binary<U16, double>("cvt.rn.f16.f64 %d, %a;", [](double a, double) { return NarrowHalf(a, 10); });
  Binary<U16, std::int32_t>("cvt.rn.f16.s32 %d, %a;",
                            [](std::int32_t a, std::int32_t) { return NarrowHalf(a, 10); });
  Binary<std::uint32_t, float>("cvt.rn.f16x2.f32 %d, %a, %b;", [](float a, float b) {
    return static_cast<std::uint32_t>(NarrowHalf(a, 10)) << 16 | NarrowHalf(b, 10);
  });
  Binary<std::uint32_t, std::uint32_t>("mul.f16x2 %d, %a, %b;", [](std::uint32_t a, std::uint32_t b) {
    std::uint32_t out = 0;
    for (const int at : {0, 16}) {
      const double product =
          WideHalf(static_cast<U16>(a >> at), 10) * WideHalf(static_cast<U16>(b >> at), 10);
      out |= static_cast<std::uint32_t>(NarrowHalf(product, 10)) << at;
    }
    return out;
  });
}

TEST_F(InstructionTest, OfSeveralWords) {
  using U64 = std::uint64_t;
  using Wide = unsigned __int128;
  Binary<U64, U64>(
      ".reg .b32 %x<9>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "add.cc.u32 %x5, %x1, %x3; addc.u32 %x6, %x2, %x4; mov.b64 %d, {%x5, %x6};",
      [](U64 a, U64 b) { return a + b; });
  Binary<U64, U64>(
      ".reg .b32 %x<9>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "sub.cc.u32 %x5, %x1, %x3; subc.u32 %x6, %x2, %x4; mov.b64 %d, {%x5, %x6};",
      [](U64 a, U64 b) { return a - b; });
  Binary<U64, U64>("add.cc.u64 %d, %a, %b; addc.cc.u64 %d, %a, 0; addc.u64 %d, %b, 0;", [](U64 a, U64 b) {
    const Wide sum = static_cast<Wide>(a) + b;
    return b + static_cast<U64>((static_cast<Wide>(a) + static_cast<U64>(sum >> 64)) >> 64);
  });
  // The upper word of a product of two, of four products.
  Binary<U64, U64>(
      ".reg .b32 %x<12>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "mul.lo.u32 %x5, %x1, %x3; mul.hi.u32 %x6, %x1, %x3;\n"
      "mad.lo.cc.u32 %x6, %x1, %x4, %x6; madc.hi.u32 %x7, %x1, %x4, 0;\n"
      "mad.lo.cc.u32 %x6, %x2, %x3, %x6; madc.hi.cc.u32 %x7, %x2, %x3, %x7; addc.u32 %x8, 0, 0;\n"
      "mad.lo.cc.u32 %x7, %x2, %x4, %x7; madc.hi.u32 %x8, %x2, %x4, %x8; mov.b64 %d, {%x7, %x8};",
      [](U64 a, U64 b) { return static_cast<U64>(static_cast<Wide>(a) * b >> 64); });
}

TEST_F(InstructionTest, OfBits) {
  using U32 = std::uint32_t;
  using U64 = std::uint64_t;
  Binary<U32, U32>("popc.b32 %d, %a;", [](U32 a, U32) { return std::popcount(a); });
  Binary<U32, U64>("clz.b64 %d, %a;", [](U64 a, U64) { return std::countl_zero(a); });
  Binary<U32, U32>("bfind.u32 %d, %a;",
                   [](U32 a, U32) { return a == 0 ? ~0u : 31 - static_cast<U32>(std::countl_zero(a)); });
  Binary<U32, U32>("shf.l.wrap.b32 %d, %a, %b, 7;", [](U32 a, U32 b) { return b << 7 | a >> 25; });
  Binary<U32, U32>("prmt.b32 %d, %a, %b, 0x4321;", [](U32 a, U32 b) { return a >> 8 | b << 24; });
  Binary<U32, U32>("bfe.u32 %d, %a, 5, 9;", [](U32 a, U32) { return a >> 5 & 0x1ff; });
  Binary<std::int32_t, std::int32_t>("bfe.s32 %d, %a, 5, 9;", [](std::int32_t a, std::int32_t) {
    return static_cast<std::int32_t>(static_cast<U32>(a) << 18) >> 23;
  });
  Binary<U32, U32>("bfi.b32 %d, %a, %b, 5, 9;",
                   [](U32 a, U32 b) { return (b & ~(0x1ffu << 5)) | (a & 0x1ff) << 5; });
  Binary<U32, U32>("lop3.b32 %d, %a, %b, %a, 0x66;", [](U32 a, U32 b) { return b ^ a; });
  Binary<U64, U32>("mov.b64 %d, {%a, %b};", [](U32 a, U32 b) { return U64{b} << 32 | a; });
  Binary<U32, U64>("mov.b64 {%r2, %d}, %a;", [](U64 a, U64) { return a >> 32; });
  Binary<U64, U32>("mul.wide.u32 %d, %a, %b;", [](U32 a, U32 b) { return U64{a} * b; });
  Binary<std::int64_t, std::int32_t>("mad.wide.s32 %d, %a, %b, 5;",
                                     [](std::int64_t a, std::int64_t b) { return a * b + 5; });
  Binary<std::int16_t, std::int64_t>("cvt.sat.s16.s64 %d, %a;", [](std::int64_t a, std::int64_t) {
    return std::clamp<std::int64_t>(a, -32768, 32767);
  });
  Binary<std::int64_t, std::int16_t>("cvt.s64.s16 %d, %a;", [](std::int16_t a, std::int16_t) { return a; });
  Binary<float, float>("add.sat.f32 %d, %a, %b;",
                       [](float a, float b) { return a + b > 0 ? std::min(a + b, 1.f) : 0.f; });
}

TEST_F(InstructionTest, BetweenLanes) {
  using U32 = std::uint32_t;
  const auto lane_of = [](auto&& shuffled) {
    return [shuffled, i = std::make_shared<U32>(0)](U32, U32) mutable { return shuffled((*i)++ % 32); };
  };
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.bfly.b32 %d, %a, 5, 0x1f, -1;",
                   lane_of([](U32 lane) { return lane ^ 5; }));
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.up.b32 %d, %a, 3, 0, -1;",
                   lane_of([](U32 lane) { return lane < 3 ? lane : lane - 3; }));
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.down.b32 %d, %a, 3, 0x181f, -1;",
                   lane_of([](U32 lane) { return lane % 8 + 3 < 8 ? lane + 3 : lane; }));
  // By constants, which have handlers of their own, into another register and their own; by less than a warp.
  for (U32 by = 0; by < 32; ++by) {
    const std::string text = std::to_string(by);
    const auto predicate = [](const std::string& shuffle) {
      return ".reg .pred %p; mov.u32 %a, %laneid; " + shuffle +
             " selp.u32 %r2, 100, 0, %p; add.u32 %d, %d, %r2;";
    };
    const auto moved = [](bool good, U32 source, U32 lane) { return good ? source + 100 : lane; };
    for (const std::string to : {"%d", "%a"}) {
      const std::string rest = "|%p, %a, " + text + ", ", move = to == "%a" ? " mov.u32 %d, %a;" : "";
      Binary<U32, U32>(predicate("shfl.sync.down.b32 " + to + rest + "31, -1;" + move),
                       lane_of([&](U32 lane) { return moved(lane + by < 32, lane + by, lane); }));
      Binary<U32, U32>(predicate("shfl.sync.up.b32 " + to + rest + "0, -1;" + move),
                       lane_of([&](U32 lane) { return moved(lane >= by, lane - by, lane); }));
      Binary<U32, U32>(predicate("shfl.sync.bfly.b32 " + to + rest + "31, -1;" + move),
                       lane_of([&](U32 lane) { return moved(true, lane ^ by, lane); }));
    }
    Binary<U32, U32>(
        "mov.u32 %a, %laneid; mov.u32 %d, 7; .reg .pred %q; setp.lt.u32 %q, %a, 16;\n@%q "
        "shfl.sync.down.b32 %d, %a, " +
            text + ", 31, 0xffff;",
        lane_of([&](U32 lane) { return lane >= 16       ? 7
                                       : lane + by < 32 ? lane + by
                                                        : lane; }));
  }
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.idx.b32 %d, %a, 9, 0x1f, -1;",
                   lane_of([](U32) { return 9; }));
  Binary<U32, U32>(
      ".reg .pred %p; mov.u32 %a, %laneid; setp.gt.u32 %p, %a, 20; vote.sync.ballot.b32 %d, %p, -1;",
      lane_of([](U32) { return ~((1u << 21) - 1); }));
  Binary<U32, U32>(
      ".reg .pred %p<3>; mov.u32 %a, %laneid; setp.gt.u32 %p1, %a, 20; vote.sync.any.pred %p2, %p1, -1; "
      "selp.u32 %d, 1, 0, %p2;",
      lane_of([](U32) { return 1; }));
  Binary<U32, U32>("mov.u32 %d, %lanemask_lt;", lane_of([](U32 lane) { return (1u << lane) - 1; }));
}

TEST_F(InstructionTest, LanesFindTheirLike) {
  constexpr std::uint32_t kCount = 96;
  const auto run = [this](const std::string& instructions) {
    Load(Kernel(".reg .pred %p, %q; .reg .b32 %r<5>; .reg .b64 %rd<5>;\n",
                "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;\n"
                "add.u64 %rd3, %rd1, %rd2;\n" +
                    instructions + "\nst.global.u32 [%rd3], %r3;\n"));
    std::uint32_t* const out = Device(std::vector<std::uint32_t>(kCount));
    Launch("k", {1}, {kCount}, std::uint64_t{0}, out);
    return std::vector<std::uint32_t>(out, out + kCount);
  };
  const auto value = [](std::uint32_t thread) { return thread * thread % 5; };
  std::vector<std::uint32_t> should(kCount);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    for (std::uint32_t lane = 0; lane < 32; ++lane)
      should[i] |= static_cast<std::uint32_t>(value(i / 32 * 32 + lane) == value(i)) << lane;
  }
  EXPECT_EQ(run("mul.lo.u32 %r2, %r1, %r1; rem.u32 %r2, %r2, 5; match.any.sync.b32 %r3, %r2, -1;"), should);
  EXPECT_EQ(run("mul.lo.u32 %r2, %r1, %r1; rem.u32 %r2, %r2, 5; cvt.u64.u32 %rd4, %r2;\n"
                "match.any.sync.b64 %r3, %rd4, -1;"),
            should);
  // The second warp's lanes differ.
  for (std::uint32_t i = 0; i < kCount; ++i) should[i] = i / 32 == 1 ? 3 : ~0u;
  EXPECT_EQ(run("shr.u32 %r2, %r1, 5; setp.eq.u32 %p, %r2, 1; selp.u32 %r2, %r1, 7, %p;\n"
                "match.all.sync.b32 %r3|%q, %r2, -1; @!%q mov.u32 %r3, 3;"),
            should);
}

TEST_F(InstructionTest, AtomicsOfManyBlocksLoseNothing) {
  threads_ = std::make_unique<HostThreads>(4);
  Load(Kernel(
      ".reg .b32 %r<9>; .reg .b64 %rd<5>; .reg .f32 %f<2>;\n",
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;\n"
      "atom.global.add.u32 %r2, [%rd1], 1; red.global.max.s32 [%rd1+4], %r1; atom.global.inc.u32 %r3, "
      "[%rd1+8], 9;\n"
      "atom.global.add.f32 %f1, [%rd1+12], 0f3F000000; mov.u64 %rd2, 3; atom.add.u64 %rd3, [%rd1+16], %rd2;\n"
      "AGAIN: ld.volatile.global.u32 %r4, [%rd1+24]; add.u32 %r5, %r4, 2; atom.global.cas.b32 %r6, "
      "[%rd1+24], %r4, %r5;\n"
      ".reg .pred %p; setp.ne.u32 %p, %r6, %r4; @%p bra AGAIN;\n"));
  struct {
    std::uint32_t added;
    std::int32_t most;
    std::uint32_t wrapped;
    float halves;
    std::uint64_t wide;
    std::uint32_t swapped;
  } start{0, -5, 0, 0, 0, 0};
  auto* const out = Device(std::vector{start});
  Launch("k", {40}, {64}, std::uint64_t{0}, out);
  EXPECT_EQ(out->added, 2560u);
  EXPECT_EQ(out->most, 63);
  EXPECT_EQ(out->wrapped, 2560u % 10);
  EXPECT_EQ(out->halves, 1280.f);
  EXPECT_EQ(out->wide, 3 * 2560u);
  EXPECT_EQ(out->swapped, 2 * 2560u);
}

TEST(DeviceMemory, IsGivenZeroedTakenBackAndTold) {
  const auto memory = *DeviceMemory::Reserve(1 << 20);
  const std::uint64_t first = *memory->Allocate(5000), second = *memory->Allocate(100);
  EXPECT_EQ(first % 256, 0u);
  EXPECT_EQ(memory->free_bytes(), (1u << 20) - 3 * 4096);
  EXPECT_TRUE(memory->Holds(first, 5000));
  EXPECT_FALSE(memory->Holds(second, 5000)) << "beyond its page";
  EXPECT_FALSE(memory->Holds(first - 1, 2));
  EXPECT_FALSE(memory->Holds(first, ~std::uint64_t{0}));
  std::uint64_t begin = 0, bytes = 0;
  EXPECT_TRUE(memory->Find(first + 4999, &begin, &bytes));
  EXPECT_EQ(begin, first);
  EXPECT_EQ(bytes, 5000u);
  EXPECT_FALSE(memory->Find(first + 5000, &begin, &bytes));
  std::memset(reinterpret_cast<void*>(first), 7, 5000);
  EXPECT_EQ(memory->Free(first + 4096).error().code, Code::kNotFound);
  ASSERT_TRUE(memory->Free(first).ok());
  EXPECT_EQ(memory->Free(first).error().code, Code::kNotFound) << "twice";
  const std::uint64_t again = *memory->Allocate(8192);
  EXPECT_EQ(again, first) << "the first place that is large enough";
  EXPECT_EQ(*reinterpret_cast<std::uint8_t*>(again), 0) << "nothing of what was there";
  EXPECT_EQ(memory->Allocate(1 << 20).error().code, Code::kResourceExhausted);
  ASSERT_TRUE(memory->Free(again).ok());
  ASSERT_TRUE(memory->Free(second).ok());
  EXPECT_TRUE(memory->Allocate(1 << 20).ok()) << "all of it is one piece again";
  EXPECT_FALSE(DeviceMemory::Reserve(0).ok());
}

}  // namespace
}  // namespace tulle::gpu::softcuda
