// process_end exit|dlclose: how a process leaves OpenCL behind. Exit status 0 is success; a crash or a hang
// is not.
//   exit     threads enqueue, wait and release while main() returns
//   dlclose  the loader is loaded, used and closed, again and again
#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <string_view>
#include <thread>

namespace {

constexpr const char* kLoader = "libOpenCL.so.1";

template <typename F>
F* Find(void* library, const char* name) {
  return reinterpret_cast<F*>(dlsym(library, name));
}
#define FIND(library, name) Find<decltype(name)>(library, #name)

int CloseLoader() {
  for (int round = 0; round < 3; ++round) {
    void* loader = dlopen(kLoader, RTLD_NOW);
    if (loader == nullptr) return 2;
    cl_platform_id platform = nullptr;
    cl_device_id device = nullptr;
    if (FIND(loader, clGetPlatformIDs)(1, &platform, nullptr) != CL_SUCCESS) return 3;
    if (FIND(loader, clGetDeviceIDs)(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr) != CL_SUCCESS)
      return 4;
    dlclose(loader);
  }
  return 0;
}

int ExitUnderThreads() {
  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;
  if (clGetPlatformIDs(1, &platform, nullptr) != CL_SUCCESS) return 3;
  if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, nullptr) != CL_SUCCESS) return 4;
  static cl_context context = clCreateContext(nullptr, 1, &device, nullptr, nullptr, nullptr);
  static cl_command_queue queue = clCreateCommandQueue(context, device, 0, nullptr);
  static cl_mem buffer = clCreateBuffer(context, CL_MEM_READ_WRITE, 4096, nullptr, nullptr);
  static std::atomic<int> enqueued{0};
  for (int i = 0; i < 4; ++i) {
    std::thread([] {
      const cl_uint zero = 0;
      for (;;) {
        cl_event event = nullptr;
        if (clEnqueueFillBuffer(queue, buffer, &zero, 4, 0, 4096, 0, nullptr, &event) == CL_SUCCESS)
          clReleaseEvent(event);
        if (++enqueued % 50 == 0) clFinish(queue);
      }
    }).detach();
  }
  while (enqueued < 2000) std::this_thread::yield();
  std::exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  return what == "exit" ? ExitUnderThreads() : what == "dlclose" ? CloseLoader() : 1;
}
