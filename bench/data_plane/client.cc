// An ordinary OpenCL program that times the calls which wait, and those which should not, on the first device
// that it finds. The same binary runs natively and through the mesh. Prints one JSON object: microseconds for
// calls, calls a second for the rate, GB/s for transfers.
#include <CL/cl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kWarmUp = 200;
constexpr int kCalls = 1000;
constexpr int kAsyncCalls = 10000;
constexpr std::size_t kCopyBytes = 64 << 20;
constexpr int kCopies = 3;

void Must(cl_int status, const char* call) {
  if (status == CL_SUCCESS) return;
  std::fprintf(stderr, "%s failed: %d\n", call, status);
  std::exit(1);
}

double NowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

template <typename Call>
std::vector<double> SortedTimesUs(int warm_up, int count, Call call) {
  std::vector<double> times_us;
  for (int i = 0; i < warm_up + count; ++i) {
    const double start = NowUs();
    call();
    if (i >= warm_up) times_us.push_back(NowUs() - start);
  }
  std::sort(times_us.begin(), times_us.end());
  return times_us;
}

template <typename Call>
void PrintLatency(const char* name, Call call) {
  const std::vector<double> times_us = SortedTimesUs(kWarmUp, kCalls, call);
  std::printf("\"%s\": {\"value\": %.3f, \"p99\": %.3f}, ", name, times_us[kCalls / 2],
              times_us[kCalls * 99 / 100]);
}

template <typename Call>
void PrintCopy(const char* name, const char* separator, Call call) {
  const std::vector<double> times_us = SortedTimesUs(1, kCopies, call);
  std::printf("\"%s\": {\"value\": %.4f}%s", name, kCopyBytes / times_us[kCopies / 2] / 1e3, separator);
}

}  // namespace

int main() {
  cl_int status = 0;
  cl_platform_id platform = nullptr;
  Must(clGetPlatformIDs(1, &platform, nullptr), "clGetPlatformIDs");
  cl_device_id device = nullptr;
  Must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr), "clGetDeviceIDs");
  cl_context context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &status);
  Must(status, "clCreateContext");
  cl_command_queue queue = clCreateCommandQueue(context, device, 0, &status);
  Must(status, "clCreateCommandQueue");
  const char* source = "kernel void empty() {} kernel void bump(global int* x) { x[0] += 1; }";
  cl_program program = clCreateProgramWithSource(context, 1, &source, nullptr, &status);
  Must(status, "clCreateProgramWithSource");
  Must(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
  cl_kernel empty = clCreateKernel(program, "empty", &status);
  Must(status, "clCreateKernel");
  cl_kernel bump = clCreateKernel(program, "bump", &status);
  Must(status, "clCreateKernel");
  cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, kCopyBytes, nullptr, &status);
  Must(status, "clCreateBuffer");
  Must(clSetKernelArg(bump, 0, sizeof(buffer), &buffer), "clSetKernelArg");
  std::vector<char> host(kCopyBytes, 1);

  const std::size_t one = 1;
  const auto enqueue = [&](cl_kernel kernel) {
    Must(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &one, &one, 0, nullptr, nullptr),
         "clEnqueueNDRangeKernel");
  };
  const auto read = [&](std::size_t size) {
    Must(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, size, host.data(), 0, nullptr, nullptr),
         "clEnqueueReadBuffer");
  };
  const auto write = [&](cl_bool blocking, std::size_t size) {
    Must(clEnqueueWriteBuffer(queue, buffer, blocking, 0, size, host.data(), 0, nullptr, nullptr),
         "clEnqueueWriteBuffer");
  };

  std::printf("{");
  PrintLatency("empty-kernel-finish", [&] {
    enqueue(empty);
    Must(clFinish(queue), "clFinish");
  });
  PrintLatency("read-4B", [&] { read(4); });
  PrintLatency("write-kernel-read-4B", [&] {
    write(CL_FALSE, 4);
    enqueue(bump);
    read(4);
  });

  const double start = NowUs();
  for (int i = 0; i < kAsyncCalls; ++i) enqueue(empty);
  const double returned = NowUs();
  Must(clFinish(queue), "clFinish");
  const double finished = NowUs();
  std::printf("\"enqueue-cost\": {\"value\": %.4f}, \"enqueue-rate\": {\"value\": %.0f}, ",
              (returned - start) / kAsyncCalls, kAsyncCalls / (finished - start) * 1e6);

  PrintCopy("write-64MiB", ", ", [&] { write(CL_TRUE, kCopyBytes); });
  PrintCopy("read-64MiB", "}\n", [&] { read(kCopyBytes); });

  Must(clReleaseMemObject(buffer), "clReleaseMemObject");
  Must(clReleaseKernel(bump), "clReleaseKernel");
  Must(clReleaseKernel(empty), "clReleaseKernel");
  Must(clReleaseProgram(program), "clReleaseProgram");
  Must(clReleaseCommandQueue(queue), "clReleaseCommandQueue");
  Must(clReleaseContext(context), "clReleaseContext");
}
