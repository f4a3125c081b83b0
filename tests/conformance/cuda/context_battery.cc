// The driver, devices, contexts and how functions are found.
#include <dlfcn.h>

#include <fstream>
#include <iterator>
#include <thread>

#include "tests/conformance/cuda/battery.h"

namespace tulle::cuda_battery {

const std::string& Kernels() {
  static const std::string text = [] {
    std::ifstream file(TULLE_CUDA_KERNELS);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  }();
  return text;
}

// Where the devices are the software's, in this process: two, as what is between devices is tested, too.
[[gnu::constructor]] void HaveTwoDevices() { setenv("TULLE_SOFTCUDA_DEVICES", "2", 0); }

void Battery::SetUp() {
  CUDA_OK(cuInit(0));
  CUDA_OK(cuDeviceGet(&device_, 0));
  CUDA_OK(cuCtxCreate_v2(&context_, 0, device_));
}

void Battery::TearDown() {
  if (context_ != nullptr) (void)cuCtxDestroy_v2(context_);
}

void Battery::LoadKernels() { CUDA_OK(cuModuleLoadData(&module_, Kernels().c_str())); }

CUfunction Battery::Function(const char* name) {
  CUfunction function = nullptr;
  EXPECT_EQ(cuModuleGetFunction(&function, module_, name), CUDA_SUCCESS) << name;
  return function;
}

TEST(Start, NothingWorksBeforeIt) {
  int count = 0;
  EXPECT_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, 4), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
  EXPECT_EQ(cuInit(0), CUDA_SUCCESS);
  EXPECT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
  EXPECT_GE(count, 1);
  EXPECT_EQ(cuMemAlloc_v2(&address, 4), CUDA_ERROR_INVALID_CONTEXT);
  int version = 0;
  EXPECT_EQ(cuDriverGetVersion(&version), CUDA_SUCCESS);
  EXPECT_GE(version, 12000);
}

TEST_F(Battery, DevicesSayWhatTheyAre) {
  char name[256] = "";
  CUDA_OK(cuDeviceGetName(name, sizeof name, device_));
  EXPECT_STRNE(name, "");
  char cut[4] = "";
  CUDA_OK(cuDeviceGetName(cut, sizeof cut, device_));
  EXPECT_EQ(std::string(name).substr(0, 3), cut);
  std::size_t bytes = 0;
  CUDA_OK(cuDeviceTotalMem_v2(&bytes, device_));
  EXPECT_GT(bytes, 1u << 20);
  int value = 0;
  CUDA_OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device_));
  EXPECT_EQ(value, 32);
  CUDA_OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device_));
  EXPECT_GE(value, 1);
  CUDA_OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, device_));
  EXPECT_EQ(value, 1);
  EXPECT_EQ(cuDeviceGetAttribute(&value, static_cast<CUdevice_attribute>(100'000), device_),
            CUDA_ERROR_INVALID_VALUE);
  CUuuid uuid{}, none{};
  CUDA_OK(cuDeviceGetUuid_v2(&uuid, device_));
  EXPECT_NE(std::memcmp(&uuid, &none, sizeof uuid), 0);
  char bus[16] = "";
  CUDA_OK(cuDeviceGetPCIBusId(bus, sizeof bus, device_));
  CUdevice same = -1;
  CUDA_OK(cuDeviceGetByPCIBusId(&same, bus));
  EXPECT_EQ(same, device_);
  int count = 0;
  CUDA_OK(cuDeviceGetCount(&count));
  EXPECT_EQ(cuDeviceGet(&same, count), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(cuDeviceGet(&same, -1), CUDA_ERROR_INVALID_DEVICE);
}

TEST_F(Battery, ContextsAreAStackOfEachThread) {
  CUcontext current = nullptr;
  CUDA_OK(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, context_);
  CUcontext second = nullptr;
  CUDA_OK(cuCtxCreate_v2(&second, CU_CTX_SCHED_SPIN, device_));
  CUDA_OK(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, second);
  unsigned flags = 0;
  CUDA_OK(cuCtxGetFlags(&flags));
  EXPECT_EQ(flags, CU_CTX_SCHED_SPIN);
  unsigned long long id = 0, other_id = 0;
  CUDA_OK(cuCtxGetId(second, &id));
  CUDA_OK(cuCtxGetId(context_, &other_id));
  EXPECT_NE(id, other_id);
  std::thread([&] {
    CUcontext here = context_;
    EXPECT_EQ(cuCtxGetCurrent(&here), CUDA_SUCCESS);
    EXPECT_EQ(here, nullptr);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
    EXPECT_EQ(cuCtxPushCurrent_v2(second), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  }).join();
  CUcontext popped = nullptr;
  CUDA_OK(cuCtxPopCurrent_v2(&popped));
  EXPECT_EQ(popped, second);
  CUDA_OK(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, context_);
  CUDA_OK(cuCtxSetCurrent(second));
  CUDA_OK(cuCtxDestroy_v2(second));
  CUDA_OK(cuCtxGetCurrent(&current));
  EXPECT_EQ(current, nullptr);
  EXPECT_EQ(cuCtxDestroy_v2(second), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_EQ(cuCtxPushCurrent_v2(second), CUDA_ERROR_INVALID_CONTEXT);
  CUDA_OK(cuCtxSetCurrent(context_));
}

TEST_F(Battery, APrimaryContextLivesWhileItIsRetained) {
  unsigned flags = 0;
  int active = 1;
  CUDA_OK(cuDevicePrimaryCtxGetState(device_, &flags, &active));
  EXPECT_EQ(active, 0);
  EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(device_), CUDA_ERROR_INVALID_CONTEXT);
  CUDA_OK(cuDevicePrimaryCtxSetFlags_v2(device_, CU_CTX_SCHED_BLOCKING_SYNC));
  CUcontext primary = nullptr, again = nullptr;
  CUDA_OK(cuDevicePrimaryCtxRetain(&primary, device_));
  CUDA_OK(cuDevicePrimaryCtxRetain(&again, device_));
  EXPECT_EQ(primary, again);
  CUDA_OK(cuDevicePrimaryCtxGetState(device_, &flags, &active));
  EXPECT_EQ(active, 1);
  EXPECT_EQ(flags, CU_CTX_SCHED_BLOCKING_SYNC);
  EXPECT_EQ(cuCtxDestroy_v2(primary), CUDA_ERROR_INVALID_CONTEXT);
  CUDA_OK(cuCtxPushCurrent_v2(primary));
  CUdeviceptr address = 0;
  CUDA_OK(cuMemAlloc_v2(&address, 64));
  CUDA_OK(cuDevicePrimaryCtxRelease_v2(device_));
  CUDA_OK(cuMemFree_v2(address));
  CUDA_OK(cuDevicePrimaryCtxRelease_v2(device_));
  EXPECT_EQ(cuMemAlloc_v2(&address, 64), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  CUDA_OK(cuCtxPopCurrent_v2(nullptr));
  CUDA_OK(cuDevicePrimaryCtxGetState(device_, &flags, &active));
  EXPECT_EQ(active, 0);
}

TEST_F(Battery, FunctionsAreFoundByNameAndVersion) {
  void* function = nullptr;
  CUdriverProcAddressQueryResult result{};
  CUDA_OK(cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 0, &result));
  EXPECT_EQ(result, CU_GET_PROC_ADDRESS_SUCCESS);
  EXPECT_EQ(function, dlsym(RTLD_DEFAULT, "cuMemAlloc_v2"));
  CUDA_OK(cuGetProcAddress_v2("cuGetProcAddress", &function, 11030, 0, &result));
  EXPECT_EQ(function, dlsym(RTLD_DEFAULT, "cuGetProcAddress"));
  CUDA_OK(cuGetProcAddress_v2("cuGetProcAddress", &function, 12000, 0, &result));
  EXPECT_EQ(function, dlsym(RTLD_DEFAULT, "cuGetProcAddress_v2"));
  CUDA_OK(cuGetProcAddress_v2("cuLaunchKernel", &function, 12000, kProcAddressPerThreadStream, &result));
  EXPECT_EQ(function, dlsym(RTLD_DEFAULT, "cuLaunchKernel_ptsz"));
  // Of one name there are several, for programs of different age.
  for (const auto& [version, exported] :
       {std::pair(11000, "cuCtxCreate_v2"), {12000, "cuCtxCreate_v3"}, {13000, "cuCtxCreate_v4"}}) {
    CUDA_OK(cuGetProcAddress_v2("cuCtxCreate", &function, version, 0, &result));
    EXPECT_EQ(function, dlsym(RTLD_DEFAULT, exported)) << version;
  }
  // What the oldest programs link to is exported, whether there is something behind it or not.
  for (const char* old : {"cuCtxDestroy", "cuStreamDestroy", "cuLinkCreate", "cuMemAlloc", "cuGLGetDevices"})
    EXPECT_NE(dlsym(RTLD_DEFAULT, old), nullptr) << old;
  CUDA_OK(cuGetProcAddress_v2("cuStreamGetCtx", &function, 5000, 0, &result));
  EXPECT_EQ(result, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  EXPECT_EQ(function, nullptr);
  CUDA_OK(cuGetProcAddress_v2("cuBakeBread", &function, 12000, 0, &result));
  EXPECT_EQ(result, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
  EXPECT_EQ(cuGetProcAddress("cuBakeBread", &function, 12000, 0), CUDA_ERROR_NOT_FOUND);
  const char* text = nullptr;
  CUDA_OK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
  EXPECT_STREQ(text, "CUDA_ERROR_OUT_OF_MEMORY");
  CUDA_OK(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text));
  EXPECT_STREQ(text, "out of memory");
  EXPECT_EQ(cuGetErrorName(static_cast<CUresult>(12345), &text), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace tulle::cuda_battery
