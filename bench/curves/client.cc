// Measures points that somebody else has chosen: KIND:BYTES:THREADS:QUEUES:THINK_US ... Each thread does the
// same over and over, on one of the queues, and thinks in between. Prints a JSON object: for each point what
// all threads did together, in GB/s (write, read) or calls a second (kernel), and the 99th percentile of one
// call in us.
//
//   write, read   a blocking transfer of so many bytes, each thread with a buffer of its own
//   kernel        a kernel over so many bytes, and clFinish
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "bench/opencl/client.h"

namespace {

constexpr double kMeasureUs = 120'000;
constexpr int kLeastCalls = 3;  // of each thread, however long they take

struct Point {
  std::string name;
  std::string kind;
  std::size_t bytes = 0;
  int threads = 0;
  int queues = 0;
  int think_us = 0;
};

Point Parse(const std::string& text) {
  Point point;
  point.name = text;
  char kind[16] = {};
  if (std::sscanf(text.c_str(), "%15[a-z]:%zu:%d:%d:%d", kind, &point.bytes, &point.threads, &point.queues,
                  &point.think_us) != 5 ||
      point.bytes == 0 || point.threads < 1 || point.queues < 1) {
    std::fprintf(stderr, "%s: not KIND:BYTES:THREADS:QUEUES:THINK_US\n", text.c_str());
    std::exit(2);
  }
  point.kind = kind;
  return point;
}

class Bench {
 public:
  Bench() {
    cl_platform_id platform = nullptr;
    Must(clGetPlatformIDs(1, &platform, nullptr), "clGetPlatformIDs");
    Must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device_, nullptr), "clGetDeviceIDs");
    cl_int status = 0;
    context_ = clCreateContext(nullptr, 1, &device_, nullptr, nullptr, &status);
    Must(status, "clCreateContext");
    const char* source = "kernel void increase(global uchar* x) { x[get_global_id(0)] += 1; }";
    program_ = clCreateProgramWithSource(context_, 1, &source, nullptr, &status);
    Must(status, "clCreateProgramWithSource");
    Must(clBuildProgram(program_, 1, &device_, "", nullptr, nullptr), "clBuildProgram");
  }

  void Measure(const Point& point, const char* separator) {
    std::vector<cl_command_queue> queues(static_cast<std::size_t>(point.queues));
    cl_int status = 0;
    for (cl_command_queue& queue : queues) {
      queue = clCreateCommandQueue(context_, device_, 0, &status);
      Must(status, "clCreateCommandQueue");
    }
    std::vector<std::vector<double>> times_us(static_cast<std::size_t>(point.threads));
    std::atomic<int> ready{0};
    std::atomic<double> began_us{0}, ended_us{0};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < times_us.size(); ++i) {
      threads.emplace_back([&, i] {
        Work(point, queues[i % queues.size()], &ready, &began_us, &times_us[i]);
        double before = ended_us.load();
        const double now = NowUs();
        while (before < now && !ended_us.compare_exchange_weak(before, now)) {
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (cl_command_queue queue : queues) Must(clReleaseCommandQueue(queue), "clReleaseCommandQueue");
    std::vector<double> all;
    for (const auto& own : times_us) all.insert(all.end(), own.begin(), own.end());
    std::sort(all.begin(), all.end());
    const double calls_per_us = static_cast<double>(all.size()) / (ended_us - began_us);
    const double value =
        point.kind == "kernel" ? calls_per_us * 1e6 : calls_per_us * static_cast<double>(point.bytes) / 1e3;
    std::printf("\"%s\": {\"value\": %.6g, \"p99\": %.3f}%s", point.name.c_str(), value,
                all[all.size() * 99 / 100], separator);
  }

 private:
  void Work(const Point& point, cl_command_queue queue, std::atomic<int>* ready,
            std::atomic<double>* began_us, std::vector<double>* times_us) {
    cl_int status = 0;
    std::vector<std::uint64_t> host = Noise(point.kind == "kernel" ? 1 : point.bytes);
    cl_mem buffer = clCreateBuffer(context_, CL_MEM_READ_WRITE, point.bytes, nullptr, &status);
    Must(status, "clCreateBuffer");
    cl_kernel kernel = clCreateKernel(program_, "increase", &status);
    Must(status, "clCreateKernel");
    Must(clSetKernelArg(kernel, 0, sizeof buffer, &buffer), "clSetKernelArg");
    const auto call = [&] {
      if (point.kind == "write") {
        Must(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, 0, point.bytes, host.data(), 0, nullptr, nullptr),
             "clEnqueueWriteBuffer");
      } else if (point.kind == "read") {
        Must(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, point.bytes, host.data(), 0, nullptr, nullptr),
             "clEnqueueReadBuffer");
      } else {
        Must(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &point.bytes, nullptr, 0, nullptr, nullptr),
             "clEnqueueNDRangeKernel");
        Must(clFinish(queue), "clFinish");
      }
    };
    if (point.kind == "read") {
      Must(clEnqueueWriteBuffer(queue, buffer, CL_TRUE, 0, point.bytes, host.data(), 0, nullptr, nullptr),
           "clEnqueueWriteBuffer");
    }
    call();  // touches the memory
    // All begin together.
    ready->fetch_add(1);
    while (ready->load() < point.threads) std::this_thread::yield();
    double none = 0;
    began_us->compare_exchange_strong(none, NowUs());
    const double end_us = began_us->load() + kMeasureUs;
    for (int i = 0; i < kLeastCalls || NowUs() < end_us; ++i) {
      const double start = NowUs();
      call();
      times_us->push_back(NowUs() - start);
      // Thinking takes no processor: another program, or a person, does it.
      if (point.think_us != 0) std::this_thread::sleep_for(std::chrono::microseconds(point.think_us));
    }
    Must(clReleaseKernel(kernel), "clReleaseKernel");
    Must(clReleaseMemObject(buffer), "clReleaseMemObject");
  }

  cl_device_id device_ = nullptr;
  cl_context context_ = nullptr;
  cl_program program_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<Point> points;
  for (int i = 1; i < argc; ++i) points.push_back(Parse(argv[i]));
  Bench bench;
  std::printf("{");
  for (std::size_t i = 0; i < points.size(); ++i)
    bench.Measure(points[i], i + 1 == points.size() ? "" : ", ");
  std::printf("}\n");
  return 0;
}
