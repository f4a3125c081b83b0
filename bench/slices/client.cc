// tulle_bench_slices: a tenant (see tenant.h) with OpenCL, and
//
//   tulle_bench_slices move KIB        writes and reads so much, over and over
//   tulle_bench_slices sweep BUFFERS MIB fill|copy
//                                      fills each of its buffers in turn, or copies it to the next
//
// which do as "run", and print the bytes that they have moved, filled or copied.
#include "bench/opencl/client.h"
#include "bench/slices/tenant.h"

namespace {

constexpr std::size_t kItems = 1024, kGroup = 16;
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

class Tenant {
 public:
  explicit Tenant(bool streams) {
    cl_int status = 0;
    cl_program program =
        clCreateProgramWithSource(first_.context, 1, const_cast<const char**>(&kSource), nullptr, &status);
    Must(status, "clCreateProgramWithSource");
    Must(clBuildProgram(program, 1, &first_.device, "", nullptr, nullptr), "clBuildProgram");
    kernel_ = clCreateKernel(program, streams ? "stream" : "turn", &status);
    Must(status, "clCreateKernel");
    cl_mem out = clCreateBuffer(first_.context, CL_MEM_READ_WRITE, kStreamBytes, nullptr, &status);
    Must(status, "clCreateBuffer");
    Must(clSetKernelArg(kernel_, 0, sizeof out, &out), "clSetKernelArg");
  }
  void AddQueue() { queues_.push_back(first_.NewQueue()); }
  void SetTurns(cl_uint turns) { Must(clSetKernelArg(kernel_, 1, sizeof turns, &turns), "clSetKernelArg"); }
  void Launch(std::size_t queue) {
    Must(clEnqueueNDRangeKernel(queues_[queue], kernel_, 1, nullptr, &kItems, &kGroup, 0, nullptr, nullptr),
         "clEnqueueNDRangeKernel");
  }
  void Flush(std::size_t queue) { Must(clFlush(queues_[queue]), "clFlush"); }
  void Finish(std::size_t queue) { Must(clFinish(queues_[queue]), "clFinish"); }

 private:
  FirstDevice first_;
  cl_kernel kernel_ = nullptr;
  std::vector<cl_command_queue> queues_ = {first_.queue};
};

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

int Sweep(std::size_t buffers, std::size_t bytes, bool copies) {
  const FirstDevice first;
  std::vector<cl_mem> memory(buffers);
  cl_int status = 0;
  for (cl_mem& buffer : memory) {
    buffer = clCreateBuffer(first.context, CL_MEM_READ_WRITE, bytes, nullptr, &status);
    Must(status, "clCreateBuffer");
  }
  cl_uint pattern = 0;
  const auto fill = [&](cl_mem buffer) {
    ++pattern;
    Must(clEnqueueFillBuffer(first.queue, buffer, &pattern, sizeof pattern, 0, bytes, 0, nullptr, nullptr),
         "clEnqueueFillBuffer");
    Must(clFinish(first.queue), "clFinish");
  };
  for (cl_mem buffer : memory) fill(buffer);
  std::printf("ready\n");
  std::fflush(stdout);
  std::size_t next = 0;
  for (double seconds = 0; std::cin >> seconds;) {
    std::size_t done = 0;
    const double begin = NowUs();
    for (; NowUs() < begin + seconds * 1e6; done += bytes, next = (next + 1) % buffers) {
      if (!copies) {
        fill(memory[next]);
        continue;
      }
      Must(clEnqueueCopyBuffer(first.queue, memory[next], memory[(next + 1) % buffers], 0, 0, bytes, 0,
                               nullptr, nullptr),
           "clEnqueueCopyBuffer");
      Must(clFinish(first.queue), "clFinish");
    }
    std::printf("{\"bytes\": %zu, \"seconds\": %.6f}\n", done, (NowUs() - begin) / 1e6);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (const int code = TenantMain<Tenant>(argc, argv); code >= 0) return code;
  if (argc == 3 && std::string(argv[1]) == "move") return Move(std::stoul(argv[2]) << 10);
  if (argc == 5 && std::string(argv[1]) == "sweep")
    return Sweep(std::stoul(argv[2]), std::stoul(argv[3]) << 20, std::string(argv[4]) == "copy");
  std::fprintf(
      stderr,
      "usage: tulle_bench_slices calibrate US | run TURNS one|deep|memory [QUEUES] | move KIB | sweep "
      "BUFFERS MIB fill|copy\n");
  return 2;
}
