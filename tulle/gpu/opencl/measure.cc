#include "tulle/gpu/opencl/measure.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace tulle::gpu::opencl {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr auto kBudget = std::chrono::milliseconds(250);

double SecondsSince(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

constexpr std::uint64_t kChains = 8;
constexpr const char* kMultiplyAdd = R"(
kernel void multiply_add(global float* out, float times, float plus, int rounds) {
  VECTOR a = (VECTOR)(get_global_id(0)), b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
  for (int i = 0; i < rounds; ++i) {
    a = mad(a, times, plus);
    b = mad(b, times, plus);
    c = mad(c, times, plus);
    d = mad(d, times, plus);
    e = mad(e, times, plus);
    f = mad(f, times, plus);
    g = mad(g, times, plus);
    h = mad(h, times, plus);
  }
  union { VECTOR all; float one[WIDTH]; } sum;
  sum.all = a + b + c + d + e + f + g + h;
  float total = 0;
  for (int i = 0; i < WIDTH; ++i) total += sum.one[i];
  out[get_global_id(0)] = total;
}
)";

}  // namespace

std::uint64_t MeasureBandwidth(const NativeDevice& device) {
  constexpr std::uint64_t kMostBytes = 128u << 20;  // well above caches
  constexpr int kRounds = 8;
  const auto units = DeviceValue<cl_uint>(device.device, CL_DEVICE_MAX_COMPUTE_UNITS);
  const auto max_allocation = DeviceValue<cl_ulong>(device.device, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
  const std::uint64_t slices = std::clamp<std::uint64_t>(units, 1, 64);
  const std::uint64_t slice = std::min(kMostBytes, max_allocation / 8) / slices & ~std::uint64_t{4095};
  if (slice == 0) return 0;

  cl_int status = CL_SUCCESS;
  const OwnedContext context = MakeContext(device, &status);
  if (!context) return 0;
  OwnedQueue queue(
      clCreateCommandQueue(context.get(), device.device, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &status));
  if (!queue) queue.reset(clCreateCommandQueue(context.get(), device.device, 0, &status));
  const OwnedMemory from(clCreateBuffer(context.get(), CL_MEM_READ_WRITE, slice * slices, nullptr, &status));
  const OwnedMemory to(clCreateBuffer(context.get(), CL_MEM_READ_WRITE, slice * slices, nullptr, &status));
  if (!queue || !from || !to) return 0;

  const auto start = SteadyClock::now();
  double best = 0;
  for (int round = 0; round < kRounds && (round < 2 || SteadyClock::now() - start < kBudget); ++round) {
    const auto begin = SteadyClock::now();
    for (std::uint64_t i = 0; i < slices; ++i) {
      status = clEnqueueCopyBuffer(queue.get(), from.get(), to.get(), i * slice, i * slice, slice, 0, nullptr,
                                   nullptr);
      if (status != CL_SUCCESS) break;
    }
    if (clFinish(queue.get()) != CL_SUCCESS || status != CL_SUCCESS) return 0;
    const double seconds = SecondsSince(begin);
    // The first round touches the memory for the first time.
    if (round > 0 && seconds > 0) best = std::max(best, 2.0 * static_cast<double>(slice * slices) / seconds);
  }
  return static_cast<std::uint64_t>(best);
}

std::uint64_t MeasureFlops(const NativeDevice& device) {
  constexpr double kLongEnough = 0.02;  // seconds, well above what a launch costs
  const std::uint64_t width = std::clamp<std::uint64_t>(
      DeviceValue<cl_uint>(device.device, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT), 1, 16);
  // Enough to fill a compute unit: 2048 is what the largest ones hold.
  const std::size_t items =
      2048 * std::max<std::size_t>(DeviceValue<cl_uint>(device.device, CL_DEVICE_MAX_COMPUTE_UNITS), 1);
  const std::size_t group = std::min<std::size_t>(
      64, std::max<std::size_t>(DeviceValue<std::size_t>(device.device, CL_DEVICE_MAX_WORK_GROUP_SIZE), 1));

  cl_int status = CL_SUCCESS;
  const OwnedContext context = MakeContext(device, &status);
  if (!context) return 0;
  const OwnedQueue queue(clCreateCommandQueue(context.get(), device.device, 0, &status));
  const OwnedMemory out(
      clCreateBuffer(context.get(), CL_MEM_WRITE_ONLY, items * sizeof(float), nullptr, &status));
  const char* source = kMultiplyAdd;
  const OwnedProgram program(clCreateProgramWithSource(context.get(), 1, &source, nullptr, &status));
  if (!queue || !out || !program) return 0;
  const std::string wide = width == 1 ? "" : std::to_string(width);
  const std::string options = "-cl-mad-enable -DVECTOR=float" + wide + " -DWIDTH=" + std::to_string(width);
  if (clBuildProgram(program.get(), 1, &device.device, options.c_str(), nullptr, nullptr) != CL_SUCCESS)
    return 0;
  const OwnedKernel kernel(clCreateKernel(program.get(), "multiply_add", &status));
  if (!kernel) return 0;
  cl_int rounds = 16;
  const cl_mem buffer = out.get();
  const cl_float times = 0.999f, plus = 0.001f;
  clSetKernelArg(kernel.get(), 0, sizeof buffer, &buffer);
  clSetKernelArg(kernel.get(), 1, sizeof times, &times);
  clSetKernelArg(kernel.get(), 2, sizeof plus, &plus);
  const auto run = [&]() -> std::optional<double> {
    clSetKernelArg(kernel.get(), 3, sizeof rounds, &rounds);
    const auto begin = SteadyClock::now();
    if (clEnqueueNDRangeKernel(queue.get(), kernel.get(), 1, nullptr, &items, &group, 0, nullptr, nullptr) !=
            CL_SUCCESS ||
        clFinish(queue.get()) != CL_SUCCESS) {
      return std::nullopt;
    }
    return SecondsSince(begin);
  };
  if (!run()) return 0;  // the first run may compile
  double best = 0;
  for (const auto start = SteadyClock::now(); best == 0 || SteadyClock::now() - start < kBudget;) {
    const std::optional<double> seconds = run();
    if (!seconds) return 0;
    if (*seconds < kLongEnough && rounds < 1 << 24) {
      rounds *= 2;
      continue;
    }
    best = std::max(best, 2.0 * static_cast<double>(items * kChains * width) * rounds / *seconds);
  }
  return static_cast<std::uint64_t>(best);
}

}  // namespace tulle::gpu::opencl
