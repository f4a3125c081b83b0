#include "tulle/gpu/cuda/probe.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <iterator>

namespace tulle::gpu::cuda {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Eight independent chains of multiply-adds in each thread.
constexpr std::uint64_t kFlopsOfRound = 2 * 8;
constexpr const char* kMultiplyAdd = R"(.version 6.0
.target sm_50
.address_size 64
.visible .entry multiply_add(.param .u64 out, .param .f32 times, .param .f32 plus, .param .u32 rounds) {
  .reg .pred %p;
  .reg .b32 %r<4>;
  .reg .b64 %rd<4>;
  .reg .f32 %f<10>;
  ld.param.u64 %rd1, [out];
  ld.param.f32 %f8, [times];
  ld.param.f32 %f9, [plus];
  ld.param.u32 %r1, [rounds];
  mov.u32 %r2, %tid.x;
  cvt.rn.f32.u32 %f0, %r2;
  add.f32 %f1, %f0, %f9; add.f32 %f2, %f1, %f9; add.f32 %f3, %f2, %f9; add.f32 %f4, %f3, %f9;
  add.f32 %f5, %f4, %f9; add.f32 %f6, %f5, %f9; add.f32 %f7, %f6, %f9;
ROUND:
  fma.rn.f32 %f0, %f0, %f8, %f9; fma.rn.f32 %f1, %f1, %f8, %f9; fma.rn.f32 %f2, %f2, %f8, %f9; fma.rn.f32 %f3, %f3, %f8, %f9;
  fma.rn.f32 %f4, %f4, %f8, %f9; fma.rn.f32 %f5, %f5, %f8, %f9; fma.rn.f32 %f6, %f6, %f8, %f9; fma.rn.f32 %f7, %f7, %f8, %f9;
  sub.u32 %r1, %r1, 1;
  setp.ne.u32 %p, %r1, 0;
  @%p bra ROUND;
  add.f32 %f0, %f0, %f1; add.f32 %f2, %f2, %f3; add.f32 %f4, %f4, %f5; add.f32 %f6, %f6, %f7;
  add.f32 %f0, %f0, %f2; add.f32 %f4, %f4, %f6; add.f32 %f0, %f0, %f4;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mad.lo.u32 %r2, %r1, %r3, %r2;
  mul.wide.u32 %rd2, %r2, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.f32 [%rd3], %f0;
  ret;
}
)";

double SecondsSince(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

int AttributeOf(const Library& cu, CUdevice device, CUdevice_attribute attribute) {
  int value = 0;
  return cu.cuDeviceGetAttribute(&value, attribute, device) == CUDA_SUCCESS ? value : 0;
}

// Bytes per second that a copy within the device reads and writes; 0: it cannot be told. In a context.
std::uint64_t MeasureBandwidth(const Library& cu, std::uint64_t memory_bytes) {
  constexpr int kRounds = 8;
  const std::size_t bytes = std::min<std::uint64_t>(256u << 20, memory_bytes / 8);
  CUdeviceptr from = 0, to = 0;
  double best = 0;
  if (cu.cuMemAlloc_v2(&from, bytes) == CUDA_SUCCESS && cu.cuMemAlloc_v2(&to, bytes) == CUDA_SUCCESS) {
    for (int round = 0; round < kRounds; ++round) {
      const auto begin = SteadyClock::now();
      if (cu.cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr) != CUDA_SUCCESS ||
          cu.cuStreamSynchronize(nullptr) != CUDA_SUCCESS) {
        best = 0;
        break;
      }
      // The first round touches the memory for the first time.
      if (round > 0) best = std::max(best, 2.0 * static_cast<double>(bytes) / SecondsSince(begin));
    }
  }
  for (const CUdeviceptr memory : {from, to}) {
    if (memory != 0) (void)cu.cuMemFree_v2(memory);
  }
  return static_cast<std::uint64_t>(best);
}

// Single-precision operations per second; 0: it cannot be told. In a context.
std::uint64_t MeasureFlops(const Library& cu, std::uint32_t multiprocessors) {
  constexpr double kLongEnough = 0.02;  // seconds, well above what a launch costs
  constexpr unsigned kThreads = 256, kBlocksEach = 8;
  const unsigned blocks = std::max(multiprocessors, 1u) * kBlocksEach;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUdeviceptr out = 0;
  std::uint64_t best = 0;
  if (cu.cuModuleLoadDataEx(&module, kMultiplyAdd, 0, nullptr, nullptr) != CUDA_SUCCESS) return 0;
  if (cu.cuModuleGetFunction(&function, module, "multiply_add") == CUDA_SUCCESS &&
      cu.cuMemAlloc_v2(&out, std::size_t{kThreads} * blocks * sizeof(float)) == CUDA_SUCCESS) {
    float times = 0.5f, plus = 1;
    for (unsigned rounds = 16; best == 0 && rounds != 0; rounds *= 2) {
      void* parameters[] = {&out, &times, &plus, &rounds};
      const CUlaunchConfig launch{.gridDimX = blocks,
                                  .gridDimY = 1,
                                  .gridDimZ = 1,
                                  .blockDimX = kThreads,
                                  .blockDimY = 1,
                                  .blockDimZ = 1,
                                  .sharedMemBytes = 0,
                                  .hStream = nullptr,
                                  .attrs = nullptr,
                                  .numAttrs = 0};
      const auto begin = SteadyClock::now();
      if (cu.cuLaunchKernelEx(&launch, function, parameters, nullptr) != CUDA_SUCCESS ||
          cu.cuStreamSynchronize(nullptr) != CUDA_SUCCESS) {
        break;
      }
      const double seconds = SecondsSince(begin);
      if (seconds < kLongEnough) continue;
      best = static_cast<std::uint64_t>(static_cast<double>(kFlopsOfRound) * rounds * kThreads * blocks /
                                        seconds);
    }
  }
  if (out != 0) (void)cu.cuMemFree_v2(out);
  (void)cu.cuModuleUnload(module);
  return best;
}

}  // namespace

Result<std::vector<DeviceInfo>> Probe(const Library& cu, bool measure) {
  const auto failed = [](const char* function, CUresult result) {
    return Error{.code = Code::kUnavailable,
                 .message = std::string("CUDA's driver cannot be used: ") + function + " returns " +
                            std::to_string(static_cast<int>(result))};
  };
  const CUresult started = cu.cuInit(0);
  if (started == CUDA_ERROR_NO_DEVICE) return std::vector<DeviceInfo>();
  if (started != CUDA_SUCCESS) return failed("cuInit", started);
  int count = 0, version = 0;
  if (const CUresult result = cu.cuDeviceGetCount(&count); result != CUDA_SUCCESS)
    return failed("cuDeviceGetCount", result);
  (void)cu.cuDriverGetVersion(&version);
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < count; ++i) {
    CUdevice device = 0;
    char name[256] = "", address[32] = "";
    std::size_t bytes = 0;
    for (const auto& [function, result] :
         {std::pair("cuDeviceGet", cu.cuDeviceGet(&device, i)),
          std::pair("cuDeviceGetName", cu.cuDeviceGetName(name, sizeof name, device)),
          std::pair("cuDeviceGetPCIBusId", cu.cuDeviceGetPCIBusId(address, sizeof address, device)),
          std::pair("cuDeviceTotalMem", cu.cuDeviceTotalMem_v2(&bytes, device))}) {
      if (result != CUDA_SUCCESS) return failed(function, result);
    }
    DeviceInfo& info = devices.emplace_back();
    info.index = static_cast<std::uint32_t>(i);
    info.api = "CUDA";
    info.name = name;
    info.vendor = "NVIDIA Corporation";
    info.platform = "CUDA";
    info.driver_version = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    info.type = "GPU";
    info.memory_bytes = info.max_allocation_bytes = bytes;
    info.compute_units =
        static_cast<std::uint32_t>(AttributeOf(cu, device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
    info.clock_mhz =
        static_cast<std::uint32_t>(AttributeOf(cu, device, CU_DEVICE_ATTRIBUTE_CLOCK_RATE)) / 1000;
    info.protects_memory = true;
    // In small letters, as OpenCL's and the system's are.
    std::transform(std::begin(address), std::end(address), std::begin(address),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    info.pci_address = info.cuda_device = address;
    CUcontext context = nullptr;
    if (!measure || cu.cuCtxCreate_v2(&context, 0, device) != CUDA_SUCCESS) continue;
    info.memory_bandwidth_bytes_per_s = MeasureBandwidth(cu, bytes);
    info.fp32_flops = MeasureFlops(cu, info.compute_units);
    (void)cu.cuCtxDestroy_v2(context);
  }
  return devices;
}

void Join(const std::vector<DeviceInfo>& cuda, std::vector<DeviceInfo>* devices) {
  for (const DeviceInfo& device : cuda) {
    const auto same = std::find_if(devices->begin(), devices->end(), [&](const DeviceInfo& other) {
      return !other.pci_address.empty() && other.pci_address == device.pci_address;
    });
    if (same != devices->end()) {
      same->cuda_device = device.cuda_device;
      continue;
    }
    devices->push_back(device);
    devices->back().index = static_cast<std::uint32_t>(devices->size() - 1);
  }
}

}  // namespace tulle::gpu::cuda
