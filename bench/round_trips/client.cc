// An OpenCL program that counts the results it waits for. Prints a JSON object: for each kind of step the
// median microseconds, and how many results one waits for; the same from nothing to the first result
// ("start"); and all results together ("results").
//
//   step      two writes, four kernels with arguments of this step, a read of what came out: one result
//   pipeline  a kernel on each of two queues, by turns and by events, eight of them; the program waits for
//   the
//             last event and then reads: two results
//   map       a map to write, a kernel, a map to read, both unmapped: two results
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/opencl/client.h"

namespace {

constexpr int kSteps = 30;
constexpr std::size_t kCount = 256;
constexpr std::size_t kBytes = kCount * sizeof(cl_int);
constexpr const char* kSource =
    "kernel void add(global int* x, global const int* y, int factor) {\n"
    "  size_t i = get_global_id(0);\n"
    "  x[i] += factor * y[i];\n"
    "}\n";

int g_results = 0;  // that the program has waited for

struct Program {
  cl_context context = nullptr;
  std::array<cl_command_queue, 2> queues{};
  cl_kernel kernel = nullptr;
  cl_mem x = nullptr, y = nullptr;
  std::vector<cl_int> host = std::vector<cl_int>(kCount, 1);

  Program() {
    cl_int status = 0;
    cl_platform_id platform = nullptr;
    Must(clGetPlatformIDs(1, &platform, nullptr), "clGetPlatformIDs");
    cl_device_id device = nullptr;
    Must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), "clGetDeviceIDs");
    ++g_results;  // what the device is
    context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &status);
    Must(status, "clCreateContext");
    for (cl_command_queue& queue : queues) {
      queue = clCreateCommandQueue(context, device, 0, &status);
      Must(status, "clCreateCommandQueue");
    }
    const char* source = kSource;
    cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, &status);
    Must(status, "clCreateProgramWithSource");
    Must(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
    ++g_results;
    kernel = clCreateKernel(program, "add", &status);
    Must(status, "clCreateKernel");
    for (cl_mem* buffer : {&x, &y}) {
      *buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, kBytes, nullptr, &status);
      Must(status, "clCreateBuffer");
    }
    Write(x);
    Write(y);
    Must(clSetKernelArg(kernel, 0, sizeof x, &x), "clSetKernelArg");
    Must(clSetKernelArg(kernel, 1, sizeof y, &y), "clSetKernelArg");
    Read();
  }

  void Write(cl_mem buffer) {
    Must(clEnqueueWriteBuffer(queues[0], buffer, CL_FALSE, 0, kBytes, host.data(), 0, nullptr, nullptr),
         "clEnqueueWriteBuffer");
  }
  void Read() {
    Must(clEnqueueReadBuffer(queues[0], x, CL_TRUE, 0, kBytes, host.data(), 0, nullptr, nullptr),
         "clEnqueueReadBuffer");
    ++g_results;
  }
  void Add(cl_int factor, int queue = 0, cl_event* after = nullptr, cl_event* event = nullptr) {
    const std::size_t size = kCount;
    Must(clSetKernelArg(kernel, 2, sizeof factor, &factor), "clSetKernelArg");
    Must(clEnqueueNDRangeKernel(queues[static_cast<std::size_t>(queue)], kernel, 1, nullptr, &size, nullptr,
                                after == nullptr ? 0 : 1, after, event),
         "clEnqueueNDRangeKernel");
  }
  void* Map(cl_mem buffer, cl_map_flags flags) {
    cl_int status = 0;
    void* mapped =
        clEnqueueMapBuffer(queues[0], buffer, CL_TRUE, flags, 0, kBytes, 0, nullptr, nullptr, &status);
    Must(status, "clEnqueueMapBuffer");
    ++g_results;
    return mapped;
  }
  void Unmap(cl_mem buffer, void* mapped) {
    Must(clEnqueueUnmapMemObject(queues[0], buffer, mapped, 0, nullptr, nullptr), "clEnqueueUnmapMemObject");
  }

  void Step() {
    Write(x);
    Write(y);
    for (cl_int factor = 0; factor < 4; ++factor) Add(factor);
    Read();
  }
  void Pipeline() {
    cl_event last = nullptr;
    for (int i = 0; i < 8; ++i) {
      cl_event next = nullptr;
      Add(i, i % 2, last == nullptr ? nullptr : &last, &next);
      if (last != nullptr) Must(clReleaseEvent(last), "clReleaseEvent");
      last = next;
      Must(clFlush(queues[static_cast<std::size_t>(i % 2)]), "clFlush");
    }
    Must(clWaitForEvents(1, &last), "clWaitForEvents");
    ++g_results;
    Must(clReleaseEvent(last), "clReleaseEvent");
    Read();
  }
  void Maps() {
    auto* to = static_cast<cl_int*>(Map(y, CL_MAP_WRITE));
    std::fill_n(to, kCount, 2);
    Unmap(y, to);
    Add(1);
    const void* from = Map(x, CL_MAP_READ);
    host[0] = *static_cast<const cl_int*>(from);
    Unmap(x, const_cast<void*>(from));
  }
};

template <typename F>
void Measure(const char* name, F step) {
  std::vector<double> times_us;
  const int before = g_results;
  for (int i = 0; i < kSteps; ++i) {
    const double start = NowUs();
    step();
    times_us.push_back(NowUs() - start);
  }
  std::sort(times_us.begin(), times_us.end());
  std::printf("\"%s\": {\"value\": %.3f}, \"%s results\": {\"value\": %d}, ", name, times_us[kSteps / 2],
              name, (g_results - before) / kSteps);
}

}  // namespace

int main() {
  const double start = NowUs();
  Program program;
  std::printf("{\"start\": {\"value\": %.3f}, \"start results\": {\"value\": %d}, ", NowUs() - start,
              g_results);
  Measure("step", [&] { program.Step(); });
  Measure("pipeline", [&] { program.Pipeline(); });
  Measure("map", [&] { program.Maps(); });
  std::printf("\"results\": {\"value\": %d}}\n", g_results);
  return 0;
}
