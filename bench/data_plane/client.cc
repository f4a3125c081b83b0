// An ordinary OpenCL program that times the calls which wait, and those which should not, on the first device
// that it finds. The same binary runs natively and through the mesh. Prints one JSON object: microseconds for
// calls, calls a second for rates, GB/s for transfers, milliseconds for builds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <semaphore>
#include <string>
#include <vector>

#include "bench/opencl/client.h"

namespace {

constexpr int kWarmUp = 200;
constexpr int kCalls = 1000;
constexpr int kAsyncCalls = 10000;
constexpr int kHops = 1000;
constexpr int kBuilds = 5;
constexpr std::size_t kCopyBytes = 64 << 20;
constexpr int kCopies = 3;

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

// The host's share alone: the calls until the last has returned, and until all is done.
template <typename Call>
void PrintAsync(const char* name, cl_command_queue queue, Call call) {
  const double start = NowUs();
  for (int i = 0; i < kAsyncCalls; ++i) call();
  const double returned = NowUs();
  Must(clFinish(queue), "clFinish");
  const double finished = NowUs();
  std::printf("\"%s-cost\": {\"value\": %.4f}, \"%s-rate\": {\"value\": %.0f}, ", name,
              (returned - start) / kAsyncCalls, name, kAsyncCalls / (finished - start) * 1e6);
}

cl_program Build(cl_context context, cl_device_id device, const std::string& source) {
  cl_int status = 0;
  const char* text = source.c_str();
  cl_program program = clCreateProgramWithSource(context, 1, &text, nullptr, &status);
  Must(status, "clCreateProgramWithSource");
  Must(clBuildProgram(program, 1, &device, "", nullptr, nullptr), "clBuildProgram");
  return program;
}

cl_kernel Kernel(cl_program program, const char* name) {
  cl_int status = 0;
  cl_kernel kernel = clCreateKernel(program, name, &status);
  Must(status, "clCreateKernel");
  return kernel;
}

// Programs that nobody has built before, but a client of the same seed; and each of them once more.
void PrintBuilds(cl_context context, cl_device_id device, unsigned seed) {
  std::vector<double> first_us, again_us;
  std::mt19937 random(seed);
  for (int i = 0; i < kBuilds; ++i) {
    const std::string source =
        "kernel void k(global int* x) { x[get_global_id(0)] += " + std::to_string(random() >> 1) + "; }";
    for (std::vector<double>* times_us : {&first_us, &again_us}) {
      const double start = NowUs();
      cl_program program = Build(context, device, source);
      cl_kernel kernel = Kernel(program, "k");
      times_us->push_back(NowUs() - start);
      Must(clReleaseKernel(kernel), "clReleaseKernel");
      Must(clReleaseProgram(program), "clReleaseProgram");
    }
  }
  std::sort(first_us.begin(), first_us.end());
  std::sort(again_us.begin(), again_us.end());
  std::printf("\"build\": {\"value\": %.3f}, \"build-again\": {\"value\": %.3f}, ",
              first_us[kBuilds / 2] / 1e3, again_us[kBuilds / 2] / 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::stoul(argv[1])) : std::random_device()();
  const FirstDevice first;
  const auto [device, context, queue] = first;
  const cl_command_queue other_queue = first.NewQueue();
  cl_program program = Build(context, device,
                             "kernel void empty() {}"
                             "kernel void bump(global int* x) { x[0] += 1; }"
                             "kernel void four(global int* x, int a, float b, global int* y) {}");
  cl_kernel empty = Kernel(program, "empty");
  cl_kernel bump = Kernel(program, "bump");
  cl_kernel four = Kernel(program, "four");
  cl_int status = 0;
  cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, kCopyBytes, nullptr, &status);
  Must(status, "clCreateBuffer");
  Must(clSetKernelArg(bump, 0, sizeof(buffer), &buffer), "clSetKernelArg");
  std::vector<std::uint64_t> host = Noise(kCopyBytes);

  const std::size_t one = 1;
  const auto enqueue = [&](cl_kernel kernel, cl_command_queue on, const cl_event* wait = nullptr,
                           cl_event* event = nullptr) {
    Must(clEnqueueNDRangeKernel(on, kernel, 1, nullptr, &one, &one, wait != nullptr, wait, event),
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
    enqueue(empty, queue);
    Must(clFinish(queue), "clFinish");
  });
  PrintLatency("read-4B", [&] { read(4); });
  PrintLatency("write-4B", [&] { write(CL_TRUE, 4); });
  PrintLatency("write-kernel-read-4B", [&] {
    write(CL_FALSE, 4);
    enqueue(bump, queue);
    read(4);
  });
  std::binary_semaphore called(0);
  PrintLatency("event-callback", [&] {
    cl_event event = nullptr;
    enqueue(empty, queue, nullptr, &event);
    const auto release = [](cl_event, cl_int, void* semaphore) {
      static_cast<std::binary_semaphore*>(semaphore)->release();
    };
    Must(clSetEventCallback(event, CL_COMPLETE, release, &called), "clSetEventCallback");
    Must(clFlush(queue), "clFlush");
    called.acquire();
    Must(clReleaseEvent(event), "clReleaseEvent");
  });

  PrintAsync("enqueue", queue, [&] { enqueue(empty, queue); });
  PrintAsync("enqueue-4-args", queue, [&] {
    const cl_int a = 1;
    const cl_float b = 2;
    Must(clSetKernelArg(four, 0, sizeof(buffer), &buffer), "clSetKernelArg");
    Must(clSetKernelArg(four, 1, sizeof(a), &a), "clSetKernelArg");
    Must(clSetKernelArg(four, 2, sizeof(b), &b), "clSetKernelArg");
    Must(clSetKernelArg(four, 3, sizeof(buffer), &buffer), "clSetKernelArg");
    enqueue(four, queue);
  });

  // A chain that goes from one queue to the other and back.
  const std::vector<double> chains_us = SortedTimesUs(1, 5, [&] {
    cl_event before = nullptr;
    for (int i = 0; i < kHops; ++i) {
      cl_event event = nullptr;
      const cl_command_queue on = i % 2 == 0 ? queue : other_queue;
      enqueue(empty, on, before == nullptr ? nullptr : &before, &event);
      Must(clFlush(on), "clFlush");
      if (before != nullptr) Must(clReleaseEvent(before), "clReleaseEvent");
      before = event;
    }
    Must(clWaitForEvents(1, &before), "clWaitForEvents");
    Must(clReleaseEvent(before), "clReleaseEvent");
  });
  std::printf("\"queue-hop\": {\"value\": %.3f}, ", chains_us[2] / kHops);

  PrintBuilds(context, device, seed);
  PrintCopy("write-64MiB", ", ", [&] { write(CL_TRUE, kCopyBytes); });
  PrintCopy("read-64MiB", "}\n", [&] { read(kCopyBytes); });

  Must(clReleaseMemObject(buffer), "clReleaseMemObject");
  for (cl_kernel kernel : {empty, bump, four}) Must(clReleaseKernel(kernel), "clReleaseKernel");
  Must(clReleaseProgram(program), "clReleaseProgram");
  for (cl_command_queue each : {queue, other_queue})
    Must(clReleaseCommandQueue(each), "clReleaseCommandQueue");
  Must(clReleaseContext(context), "clReleaseContext");
}
