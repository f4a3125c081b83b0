// A tenant: kernels of a certain length, one after the other, until a time.
//
//   tulle_bench_slices calibrate US    prints how many turns a kernel has that takes so long alone
//   tulle_bench_slices run TURNS one|deep|memory [QUEUES]
//   tulle_bench_slices move KIB        writes and reads so much, over and over
//
// run: says "ready", waits for a line with the seconds that it shall run (a line of its own begins each), and
// prints what it did as one JSON object: kernels, and of those that it waited for one by one ("one") how long
// they took. deep: as many as a queue takes are under way. memory: as deep, and the kernel streams.
// move: the same, and prints the bytes that it has moved.
#include <cstring>
#include <iostream>
#include <string>

#include "bench/opencl/client.h"

namespace {

constexpr std::size_t kItems = 1024, kGroup = 16;
constexpr std::size_t kStreamBytes = 64u << 20;
constexpr std::size_t kUnderWay = 16;
constexpr const char* kSource = R"(
kernel void turn(global float* out, uint turns) {
  float x = get_global_id(0);
  for (uint i = 0; i < turns * 4; ++i) x = x * 0.999f + 1.0f;
  out[get_global_id(0)] = x;
}
kernel void stream(global float* out, uint turns) {
  const uint n = 16 << 20, each = n / get_global_size(0);
  uint at = get_global_id(0) * each, step = 0;
  for (uint i = 0; i < turns * 4; ++i) {
    out[at + step] = out[at + step] * 0.5f + 1.0f;
    step = step + 1 == each ? 0 : step + 1;
  }
}
)";

struct Tenant {
  FirstDevice first;
  cl_kernel kernel = nullptr;

  Tenant(bool streams, cl_uint turns) {
    cl_int status = 0;
    cl_program program =
        clCreateProgramWithSource(first.context, 1, const_cast<const char**>(&kSource), nullptr, &status);
    Must(status, "clCreateProgramWithSource");
    Must(clBuildProgram(program, 1, &first.device, "", nullptr, nullptr), "clBuildProgram");
    kernel = clCreateKernel(program, streams ? "stream" : "turn", &status);
    Must(status, "clCreateKernel");
    cl_mem out = clCreateBuffer(first.context, CL_MEM_READ_WRITE, kStreamBytes, nullptr, &status);
    Must(status, "clCreateBuffer");
    Must(clSetKernelArg(kernel, 0, sizeof out, &out), "clSetKernelArg");
    SetTurns(turns);
  }
  void SetTurns(cl_uint turns) const {
    Must(clSetKernelArg(kernel, 1, sizeof turns, &turns), "clSetKernelArg");
  }
  void Launch(cl_command_queue queue) const {
    Must(clEnqueueNDRangeKernel(queue, kernel, 1, nullptr, &kItems, &kGroup, 0, nullptr, nullptr),
         "clEnqueueNDRangeKernel");
  }
};

int Calibrate(double us) {
  const Tenant tenant(false, 1);
  cl_uint turns = 1;
  for (;;) {
    tenant.SetTurns(turns);
    double best = 1e18;
    for (int i = 0; i < 7; ++i) {
      const double begin = NowUs();
      tenant.Launch(tenant.first.queue);
      Must(clFinish(tenant.first.queue), "clFinish");
      best = std::min(best, NowUs() - begin);
    }
    if (best >= us / 2 && turns > 1) {
      std::printf("%u\n", static_cast<cl_uint>(std::max(1.0, turns * us / best)));
      return 0;
    }
    if (best >= us) {
      std::printf("1\n");
      return 0;
    }
    turns *= 2;
  }
}

int Run(cl_uint turns, const std::string& mode, int queue_count) {
  const Tenant tenant(mode == "memory", turns);
  std::vector<cl_command_queue> queues;
  for (int i = 0; i < queue_count; ++i) queues.push_back(tenant.first.NewQueue());
  tenant.Launch(queues[0]);
  Must(clFinish(queues[0]), "clFinish");
  std::printf("ready\n");
  std::fflush(stdout);
  for (double seconds = 0; std::cin >> seconds;) {
    std::vector<double> times_us;
    std::size_t kernels = 0;
    const double end = NowUs() + seconds * 1e6;
    while (NowUs() < end) {
      for (cl_command_queue queue : queues) {
        const double begin = NowUs();
        if (mode == "one") {
          tenant.Launch(queue);
          Must(clFinish(queue), "clFinish");
          times_us.push_back(NowUs() - begin);
          ++kernels;
          continue;
        }
        for (std::size_t i = 0; i < kUnderWay; ++i) tenant.Launch(queue);
        Must(clFlush(queue), "clFlush");
        kernels += kUnderWay;
      }
      if (mode == "one") continue;
      for (cl_command_queue queue : queues) Must(clFinish(queue), "clFinish");
    }
    std::printf("{\"kernels\": %zu", kernels);
    if (!times_us.empty()) {
      std::sort(times_us.begin(), times_us.end());
      std::printf(", \"p50_us\": %.1f, \"p99_us\": %.1f", times_us[times_us.size() / 2],
                  times_us[times_us.size() * 99 / 100]);
    }
    std::printf("}\n");
    std::fflush(stdout);
  }
  return 0;
}

int Move(std::size_t bytes) {
  const FirstDevice first;
  cl_int status = 0;
  cl_mem buffer = clCreateBuffer(first.context, CL_MEM_READ_WRITE, bytes, nullptr, &status);
  Must(status, "clCreateBuffer");
  std::vector<unsigned> data(bytes / sizeof(unsigned));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<unsigned>(i) * 2654435761u;
  std::printf("ready\n");
  std::fflush(stdout);
  for (double seconds = 0; std::cin >> seconds;) {
    std::size_t moved = 0;
    for (const double end = NowUs() + seconds * 1e6; NowUs() < end; moved += 2 * bytes) {
      Must(clEnqueueWriteBuffer(first.queue, buffer, CL_FALSE, 0, bytes, data.data(), 0, nullptr, nullptr),
           "clEnqueueWriteBuffer");
      Must(clEnqueueReadBuffer(first.queue, buffer, CL_TRUE, 0, bytes, data.data(), 0, nullptr, nullptr),
           "clEnqueueReadBuffer");
    }
    std::printf("{\"bytes\": %zu}\n", moved);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "calibrate") == 0) return Calibrate(std::atof(argv[2]));
  if (argc >= 4 && std::strcmp(argv[1], "run") == 0)
    return Run(static_cast<cl_uint>(std::atoi(argv[2])), argv[3], argc > 4 ? std::atoi(argv[4]) : 1);
  if (argc == 3 && std::strcmp(argv[1], "move") == 0)
    return Move(static_cast<std::size_t>(std::atoi(argv[2])) << 10);
  std::fprintf(stderr,
               "usage: tulle_bench_slices calibrate US | run TURNS one|deep|memory [QUEUES] | move KIB\n");
  return 2;
}
