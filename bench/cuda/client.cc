// tulle_bench_cuda calls: what calls cost; programs: some kernels, the time of the best run each; loops: the
// same in plain C++, without a device. Prints {case: {"value": ..., "p99": ...}}.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "bench/cuda/client.h"
#include "bench/now.h"

namespace {

bool g_first = true;
void Print(const char* name, double value, double p99 = 0) {
  std::printf("%s\"%s\": {\"value\": %.6g", g_first ? "{" : ", ", name, value);
  if (p99 != 0) std::printf(", \"p99\": %.6g", p99);
  std::printf("}");
  g_first = false;
}

// The median and the 99th percentile of single calls, in microseconds.
void Time(const char* name, int count, const std::function<void()>& call) {
  for (int i = 0; i < count / 10 + 1; ++i) call();
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const double begin = NowUs();
    call();
    times.push_back(NowUs() - begin);
  }
  std::sort(times.begin(), times.end());
  Print(name, times[times.size() / 2], times[times.size() * 99 / 100]);
}

double BestMs(const std::function<void()>& call) {
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    const double begin = NowUs();
    call();
    const double took = (NowUs() - begin) / 1000;
    if (i == 1 || (i > 1 && took < best)) best = took;  // the first one warms up
  }
  return best;
}

constexpr const char* kEmpty =
    ".version 6.4\n.target sm_50\n.address_size 64\n.visible .entry empty() {\n  ret;\n}\n";

struct Device {
  Device() {
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, 0));
    MUST(cuCtxCreate_v2(&context, 0, device));
  }
  CUdevice device = 0;
  CUcontext context = nullptr;
};

CUdeviceptr Allocate(std::size_t bytes) {
  CUdeviceptr address = 0;
  MUST(cuMemAlloc_v2(&address, bytes));
  return address;
}
template <typename T>
CUdeviceptr Put(const std::vector<T>& values) {
  const CUdeviceptr address = Allocate(values.size() * sizeof(T));
  MUST(cuMemcpyHtoD_v2(address, values.data(), values.size() * sizeof(T)));
  return address;
}

void Calls() {
  const Device device;
  CUmodule module = nullptr;
  CUfunction empty = nullptr;
  MUST(cuModuleLoadData(&module, kEmpty));
  MUST(cuModuleGetFunction(&empty, module, "empty"));
  const auto launch = [&] { MUST(cuLaunchKernel(empty, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr)); };
  Time("launch+synchronize", 2000, [&] {
    launch();
    MUST(cuCtxSynchronize());
  });
  // What a launch takes the caller, and how many go through: the latter is what it comes to.
  constexpr int kLaunches = 10'000;
  const double begin = NowUs();
  for (int i = 0; i < kLaunches; ++i) launch();
  MUST(cuCtxSynchronize());
  Print("launch", (NowUs() - begin) / kLaunches);
  int word = 0;
  const CUdeviceptr small = Allocate(4);
  Time("write-4B", 2000, [&] { MUST(cuMemcpyHtoD_v2(small, &word, 4)); });
  MUST(cuCtxSynchronize());
  Time("read-4B", 2000, [&] { MUST(cuMemcpyDtoH_v2(&word, small, 4)); });
  Time("allocate+free", 500, [&] { MUST(cuMemFree_v2(Allocate(1 << 16))); });
  CUevent event = nullptr;
  MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  Time("event", 2000, [&] {
    MUST(cuEventRecord(event, nullptr));
    MUST(cuEventSynchronize(event));
  });
  constexpr std::size_t kLarge = 64u << 20;
  std::vector<std::uint64_t> noise(kLarge / 8);
  std::generate(noise.begin(), noise.end(), std::mt19937_64(1));
  const CUdeviceptr large = Allocate(kLarge);
  const auto rate = [&](const std::function<void()>& copy) {
    return static_cast<double>(kLarge) / 1e6 / BestMs([&] {
             copy();
             MUST(cuCtxSynchronize());
           });
  };
  Print("write-64MiB", rate([&] { MUST(cuMemcpyHtoD_v2(large, noise.data(), kLarge)); }));
  Print("read-64MiB", rate([&] { MUST(cuMemcpyDtoH_v2(noise.data(), large, kLarge)); }));
}

// --- programs

constexpr int kVector = 4 << 20, kMatrix = 256, kNumbers = 4 << 20, kText = 8 << 20, kBodies = 2048,
              kOptions = 1 << 20;
constexpr float kRate = 0.02f, kVolatility = 0.3f;

struct Body {
  float x, y, z, mass;
};

struct Inputs {
  std::vector<float> a = std::vector<float>(kVector), b = std::vector<float>(kVector);
  std::vector<float> left = std::vector<float>(kMatrix * kMatrix), right = left;
  std::vector<int> numbers = std::vector<int>(kNumbers);
  std::vector<unsigned char> text = std::vector<unsigned char>(kText);
  std::vector<Body> bodies = std::vector<Body>(kBodies);
  std::vector<float> price = std::vector<float>(kOptions), strike = price, years = price;
  Inputs() {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> real(-1, 1);
    for (auto* values : {&a, &b, &left, &right})
      std::generate(values->begin(), values->end(), [&] { return real(random); });
    std::generate(numbers.begin(), numbers.end(), [&] { return static_cast<int>(random() % 1000); });
    std::generate(text.begin(), text.end(), [&] { return static_cast<unsigned char>(random()); });
    for (Body& body : bodies) body = {real(random), real(random), real(random), 1 + real(random)};
    for (std::size_t i = 0; i < kOptions; ++i)
      price[i] = 17.5f + 12.5f * real(random), strike[i] = 50 + 49 * real(random),
      years[i] = 5 + 4.75f * real(random);
  }
};

void Programs() {
  const Device device;
  std::ifstream file(TULLE_CUDA_KERNELS);
  const std::string ptx{std::istreambuf_iterator<char>(file), {}};
  CUmodule module = nullptr;
  MUST(cuModuleLoadData(&module, ptx.c_str()));
  const Inputs in;
  const auto time = [&](const char* name, const char* kernel, unsigned gx, unsigned gy, unsigned bx,
                        unsigned by, std::vector<void*> parameters) {
    CUfunction function = nullptr;
    MUST(cuModuleGetFunction(&function, module, kernel));
    Print(name, BestMs([&] {
            MUST(cuLaunchKernel(function, gx, gy, 1, bx, by, 1, 0, nullptr, parameters.data(), nullptr));
            MUST(cuCtxSynchronize());
          }));
  };
  int n = kVector;
  CUdeviceptr a = Put(in.a), b = Put(in.b), c = Allocate(kVector * 4);
  time("vector-add", "vector_add", kVector / 256, 1, 256, 1, {&a, &b, &c, &n});
  CUdeviceptr left = Put(in.left), right = Put(in.right);
  n = kMatrix;
  time("matrix-product", "tiled_matmul", kMatrix / 16, kMatrix / 16, 16, 16, {&left, &right, &c, &n});
  CUdeviceptr numbers = Put(in.numbers), text = Put(in.text), bodies = Put(in.bodies),
              out = Allocate(kBodies * sizeof(Body));
  n = kNumbers;
  time("reduction", "reduce", kNumbers / 256, 1, 256, 1, {&numbers, &c, &n});
  n = kText;
  time("histogram", "histogram", 64, 1, 256, 1, {&text, &c, &n});
  n = kBodies;
  time("n-body", "forces", kBodies / 128, 1, 128, 1, {&bodies, &out, &n});
  CUdeviceptr price = Put(in.price), strike = Put(in.strike), years = Put(in.years),
              call = Allocate(kOptions * 4), put = Allocate(kOptions * 4);
  float rate = kRate, volatility = kVolatility;
  n = kOptions;
  time("black-scholes", "black_scholes", 480, 1, 128, 1,
       {&price, &strike, &years, &call, &put, &n, &rate, &volatility});
}

// What it computes is used, so that it is computed.
volatile double g_sink;

void Loops() {
  const Inputs in;
  std::vector<float> c(kVector);
  Print("vector-add", BestMs([&] {
          for (int i = 0; i < kVector; ++i) c[i] = in.a[i] + in.b[i];
          g_sink = c[kVector / 2];
        }));
  Print("matrix-product", BestMs([&] {
          for (int row = 0; row < kMatrix; ++row) {
            for (int column = 0; column < kMatrix; ++column) {
              float sum = 0;
              for (int k = 0; k < kMatrix; ++k)
                sum += in.left[row * kMatrix + k] * in.right[k * kMatrix + column];
              c[row * kMatrix + column] = sum;
            }
          }
          g_sink = c[kMatrix];
        }));
  Print("reduction", BestMs([&] {
          int sum = 0;
          for (const int number : in.numbers) sum += number;
          g_sink = sum;
        }));
  Print("histogram", BestMs([&] {
          unsigned bins[256] = {};
          for (const unsigned char byte : in.text) ++bins[byte];
          g_sink = bins[7];
        }));
  Print("n-body", BestMs([&] {
          float total = 0;
          for (const Body& self : in.bodies) {
            float fx = 0, fy = 0, fz = 0;
            for (const Body& other : in.bodies) {
              const float dx = other.x - self.x, dy = other.y - self.y, dz = other.z - self.z;
              const float inverse = 1 / std::sqrt(dx * dx + dy * dy + dz * dz + 0.01f);
              const float strength = other.mass * inverse * inverse * inverse;
              fx += dx * strength;
              fy += dy * strength;
              fz += dz * strength;
            }
            total += fx + fy + fz;
          }
          g_sink = total;
        }));
  std::vector<float> call(kOptions), put(kOptions);
  const auto normal = [](float x) {
    const float k = 1 / (1 + 0.2316419f * std::fabs(x));
    const float tail =
        0.39894228f * std::exp(-0.5f * x * x) *
        (k *
         (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return x > 0 ? 1 - tail : tail;
  };
  Print("black-scholes", BestMs([&] {
          for (std::size_t i = 0; i < kOptions; ++i) {
            const float root = kVolatility * std::sqrt(in.years[i]);
            const float d1 = (std::log(in.price[i] / in.strike[i]) +
                              (kRate + 0.5f * kVolatility * kVolatility) * in.years[i]) /
                             root;
            const float discounted = in.strike[i] * std::exp(-kRate * in.years[i]);
            const float n1 = normal(d1), n2 = normal(d1 - root);
            call[i] = in.price[i] * n1 - discounted * n2;
            put[i] = discounted * (1 - n2) - in.price[i] * (1 - n1);
          }
          g_sink = call[7] + put[7];
        }));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "calls") {
    Calls();
  } else if (what == "programs") {
    Programs();
  } else if (what == "loops") {
    Loops();
  } else {
    std::fprintf(stderr, "usage: %s calls | programs | loops\n", argv[0]);
    return 2;
  }
  std::printf("}\n");
  return 0;
}
