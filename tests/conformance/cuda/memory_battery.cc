// Memory of the device and of the host, copies and fills.
#include <algorithm>
#include <numeric>

#include "tests/conformance/cuda/battery.h"

namespace tulle::cuda_battery {

TEST_F(Battery, MemoryComesAndGoes) {
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  EXPECT_LE(free, total);
  CUdeviceptr address = 0;
  CUDA_OK(cuMemAlloc_v2(&address, 1 << 20));
  EXPECT_EQ(address % 256, 0u);
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_LE(later + (1 << 20), free);
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  CUDA_OK(cuMemGetAddressRange_v2(&base, &bytes, address + 12345));
  EXPECT_EQ(base, address);
  EXPECT_EQ(bytes, std::size_t{1} << 20);
  EXPECT_EQ(cuMemFree_v2(address + 8), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemFree_v2(address));
  EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemFree_v2(0));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
  EXPECT_EQ(cuMemAlloc_v2(&address, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemAlloc_v2(&address, total + 1), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(cuMemAlloc_v2(&address, SIZE_MAX), CUDA_ERROR_OUT_OF_MEMORY);
  CUDA_OK(cuMemAlloc_v2(&address, 64));  // nothing is wrong afterwards
}

TEST_F(Battery, VariablesOfModulesAreOfTheDevicesMemory) {
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  constexpr std::size_t kEach = 16 << 20;
  const auto with_variables = [](std::size_t count) {
    std::string ptx = ".version 6.4\n.target sm_70\n.address_size 64\n";
    for (std::size_t i = 0; i < count; ++i)
      ptx += ".global .b8 v" + std::to_string(i) + "[" + std::to_string(kEach) + "];\n";
    return ptx;
  };
  CUmodule module = nullptr;
  CUDA_OK(cuModuleLoadData(&module, with_variables(2).c_str()));
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
  CUDA_OK(cuModuleGetGlobal_v2(&address, &bytes, module, "v1"));
  EXPECT_EQ(bytes, kEach);
  CUDA_OK(cuMemsetD8_v2(address, 1, bytes));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_LE(later + 2 * kEach, free);
  CUmodule too_large = nullptr;
  EXPECT_EQ(cuModuleLoadData(&too_large, with_variables(total / kEach + 1).c_str()),
            CUDA_ERROR_OUT_OF_MEMORY);
  // There is room for all but the first: what this process has leased and does not use is no obstacle.
  CUDA_OK(cuMemAlloc_v2(&address, kEach));
  CUDA_OK(cuMemFree_v2(address));
  CUmodule most = nullptr;
  const std::size_t fit = std::min<std::size_t>(later / kEach, 64);
  CUDA_OK(cuModuleLoadData(&most, with_variables(fit).c_str()));
  CUDA_OK(cuModuleUnload(most));
  CUDA_OK(cuModuleUnload(module));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
}

TEST_F(Battery, AContextTakesItsMemoryAlong) {
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  CUcontext second = nullptr;
  CUDA_OK(cuCtxCreate_v2(&second, 0, device_));
  CUdeviceptr address = 0;
  CUDA_OK(cuMemAlloc_v2(&address, 1 << 20));
  CUDA_OK(cuCtxDestroy_v2(second));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
}

TEST_F(Battery, BytesGoThereAndBack) {
  std::vector<int> values(100'000);
  std::iota(values.begin(), values.end(), 7);
  const CUdeviceptr a = Put(values), b = Put(std::vector<int>(values.size()));
  CUDA_OK(cuMemcpyDtoD_v2(b + 400, a, 4000));
  const std::vector<int> back = Get<int>(b, 2000);
  EXPECT_EQ(back[99], 0);
  EXPECT_EQ(back[100], 7);
  EXPECT_EQ(back[1099], 1006);
  EXPECT_EQ(back[1100], 0);
  // Where an address is tells what it is.
  std::vector<int> copy(values.size());
  CUDA_OK(cuMemcpy(reinterpret_cast<CUdeviceptr>(copy.data()), a, values.size() * sizeof(int)));
  EXPECT_EQ(copy, values);
  EXPECT_EQ(cuMemcpyHtoD_v2(a + 399'997, values.data(), 8), CUDA_ERROR_INVALID_VALUE) << "beyond the end";
  EXPECT_EQ(cuMemcpyDtoH_v2(copy.data(), 0, 8), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemcpyHtoD_v2(a, values.data(), 0));
}

TEST_F(Battery, RowsAndPlanes) {
  CUdeviceptr address = 0;
  std::size_t pitch = 0;
  CUDA_OK(cuMemAllocPitch_v2(&address, &pitch, 100, 20, 4));
  EXPECT_GE(pitch, 100u);
  EXPECT_EQ(cuMemAllocPitch_v2(&address, &pitch, 100, 20, 3), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemsetD8_v2(address, 0, pitch * 20));
  std::vector<std::uint8_t> from(50 * 10), to(30 * 10, 9);
  std::iota(from.begin(), from.end(), 0);
  CUDA_MEMCPY2D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = from.data();
  copy.srcPitch = 50;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = address;
  copy.dstPitch = pitch;
  copy.dstXInBytes = 4;
  copy.dstY = 2;
  copy.WidthInBytes = 50;
  copy.Height = 10;
  CUDA_OK(cuMemcpy2D_v2(&copy));
  CUDA_MEMCPY2D back{};
  back.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
  back.srcDevice = address;
  back.srcPitch = pitch;
  back.srcXInBytes = 5;
  back.srcY = 3;
  back.dstMemoryType = CU_MEMORYTYPE_HOST;
  back.dstHost = to.data();
  back.dstPitch = 30;
  back.WidthInBytes = 20;
  back.Height = 9;
  CUDA_OK(cuMemcpy2D_v2(&back));
  for (std::size_t y = 0; y < 9; ++y) {
    for (std::size_t x = 0; x < 30; ++x)
      ASSERT_EQ(to[y * 30 + x], x < 20 ? static_cast<std::uint8_t>((y + 1) * 50 + x + 1) : 9)
          << x << "," << y;
  }
  back.WidthInBytes = 31;
  EXPECT_EQ(cuMemcpy2D_v2(&back), CUDA_ERROR_INVALID_VALUE) << "wider than a row";

  std::vector<std::uint16_t> box(4 * 3 * 2);
  std::iota(box.begin(), box.end(), 0);
  const CUdeviceptr there = Put(std::vector<std::uint16_t>(8 * 5 * 4));
  CUDA_MEMCPY3D in{};
  in.srcMemoryType = CU_MEMORYTYPE_HOST;
  in.srcHost = box.data();
  in.srcPitch = 8;
  in.srcHeight = 3;
  in.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  in.dstDevice = there;
  in.dstPitch = 16;
  in.dstHeight = 5;
  in.dstXInBytes = 2;
  in.dstY = 1;
  in.dstZ = 2;
  in.WidthInBytes = 8;
  in.Height = 3;
  in.Depth = 2;
  CUDA_OK(cuMemcpy3D_v2(&in));
  const std::vector<std::uint16_t> all = Get<std::uint16_t>(there, 8 * 5 * 4);
  for (std::size_t z = 0; z < 2; ++z) {
    for (std::size_t y = 0; y < 3; ++y) {
      for (std::size_t x = 0; x < 4; ++x)
        ASSERT_EQ(all[(z + 2) * 40 + (y + 1) * 8 + x + 1], box[z * 12 + y * 4 + x]);
    }
  }
  // Planes of one row, whose rows are further apart than they are long, both ways.
  CUDA_MEMCPY3D apart{};
  apart.srcMemoryType = CU_MEMORYTYPE_HOST;
  apart.srcHost = box.data();
  apart.srcPitch = 8;
  apart.srcHeight = 1;
  apart.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  apart.dstDevice = there;
  apart.dstPitch = 4;
  apart.dstHeight = 1;
  apart.WidthInBytes = 4;
  apart.Height = 1;
  apart.Depth = 6;
  CUDA_OK(cuMemcpy3D_v2(&apart));
  EXPECT_THAT(Get<std::uint16_t>(there, 12),
              ::testing::ElementsAre(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21));
  std::vector<std::uint16_t> spread(24, 99);
  std::swap(apart.srcMemoryType, apart.dstMemoryType);
  std::swap(apart.srcPitch, apart.dstPitch);
  apart.srcDevice = there;
  apart.dstHost = spread.data();
  CUDA_OK(cuMemcpy3D_v2(&apart));
  for (std::size_t i = 0; i < spread.size(); ++i) EXPECT_EQ(spread[i], i % 4 < 2 ? box[i] : 99) << i;
  // Numbers whose products are no numbers.
  CUDA_MEMCPY3D absurd = in;
  absurd.dstPitch = absurd.dstHeight = std::size_t{1} << 36;
  EXPECT_EQ(cuMemcpy3D_v2(&absurd), CUDA_ERROR_INVALID_VALUE);
  absurd = in;
  absurd.dstZ = std::size_t{1} << 40;
  absurd.dstPitch = std::size_t{1} << 24;
  EXPECT_EQ(cuMemcpy3D_v2(&absurd), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemsetD2D32_v2(there, std::size_t{1} << 40, 0, 1, std::size_t{1} << 25),
            CUDA_ERROR_INVALID_VALUE);
  in.Depth = 3;
  EXPECT_EQ(cuMemcpy3D_v2(&in), CUDA_ERROR_INVALID_VALUE) << "beyond the end";
}

TEST_F(Battery, Fills) {
  const CUdeviceptr address = Put(std::vector<std::uint32_t>(64, 1));
  CUDA_OK(cuMemsetD32_v2(address + 4, 0xdeadbeef, 3));
  CUDA_OK(cuMemsetD16_v2(address + 32, 0x1234, 2));
  CUDA_OK(cuMemsetD8_v2(address + 41, 0xff, 1));
  CUDA_OK(cuMemsetD2D8_v2(address + 128, 16, 7, 4, 3));
  const std::vector<std::uint32_t> got = Get<std::uint32_t>(address, 64);
  EXPECT_EQ(got[0], 1u);
  EXPECT_EQ(got[1], 0xdeadbeef);
  EXPECT_EQ(got[3], 0xdeadbeef);
  EXPECT_EQ(got[4], 1u);
  EXPECT_EQ(got[8], 0x12341234u);
  EXPECT_EQ(got[10], 0xff01u);
  EXPECT_EQ(got[32], 0x07070707u);
  EXPECT_EQ(got[33], 1u);
  EXPECT_EQ(got[40], 0x07070707u);
  EXPECT_EQ(got[44], 1u);
  EXPECT_EQ(cuMemsetD32_v2(address + 2, 0, 1), CUDA_ERROR_INVALID_VALUE) << "not aligned";
  EXPECT_EQ(cuMemsetD32_v2(address, 0, 65), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(Battery, SmallAllocationsDoNotTouchEachOther) {
  constexpr std::size_t kCount = 300, kInts = 250;
  std::vector<CUdeviceptr> addresses;
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = addresses.size(); i < kCount; ++i)
      addresses.push_back(Put(std::vector<int>(kInts, static_cast<int>(i))));
    for (std::size_t i = 0; i < kCount; ++i)
      ASSERT_EQ(Get<int>(addresses[i], kInts), std::vector<int>(kInts, static_cast<int>(i)));
    while (addresses.size() > kCount / 2) {
      CUDA_OK(cuMemFree_v2(addresses.back()));
      addresses.pop_back();
    }
  }
}

TEST_F(Battery, MemoryThatIsFreedInAStreamIsThereAgain) {
  std::size_t free = 0, total = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  const std::size_t bytes = std::min<std::size_t>(free / 3, 64 << 20);
  for (std::size_t taken = 0; taken < 3 * std::min<std::size_t>(free, 512 << 20); taken += bytes) {
    CUdeviceptr address = 0;
    CUDA_OK(cuMemAllocAsync(&address, bytes, stream));
    CUDA_OK(cuMemsetD32Async(address, 7, 1024, stream));
    CUDA_OK(cuMemFreeAsync(address, stream));
    EXPECT_EQ(cuMemFree_v2(address), CUDA_ERROR_INVALID_VALUE) << "it is free already";
  }
  CUDA_OK(cuStreamSynchronize(stream));
  std::size_t later = 0;
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
  CUDA_OK(cuStreamDestroy_v2(stream));
}

TEST_F(Battery, MemoryApartFromItsAddresses) {
  int supported = -1;
  CUDA_OK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device_));
  CUmemAllocationProp properties{};
  properties.type = 1;
  properties.location = {1, device_};
  std::size_t granule = 0;
  if (supported == 0) {
    EXPECT_EQ(cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
              CUDA_ERROR_NOT_SUPPORTED);
    return;
  }
  CUDA_OK(cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  CUdeviceptr range = 0, elsewhere = 0;
  CUDA_OK(cuMemAddressReserve(&range, 4 * granule, 0, 0, 0));
  EXPECT_EQ(range % granule, 0u);
  EXPECT_EQ(cuMemAddressReserve(&elsewhere, granule + 1, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemAddressReserve(&elsewhere, 4 * granule, 0, range, 0));  // where it is wanted, or not
  CUmemGenericAllocationHandle first = 0, second = 0;
  CUDA_OK(cuMemCreate(&first, granule, &properties, 0));
  CUDA_OK(cuMemCreate(&second, 2 * granule, &properties, 0));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(free - later, 3 * granule);
  CUDA_OK(cuMemMap(range, granule, 0, first, 0));
  EXPECT_EQ(cuMemMap(range, 2 * granule, 0, second, 0), CUDA_ERROR_INVALID_VALUE) << "something is there";
  EXPECT_EQ(cuMemMap(range + 3 * granule, 2 * granule, 0, second, 0), CUDA_ERROR_INVALID_VALUE)
      << "beyond the range";
  CUDA_OK(cuMemMap(range + granule, 2 * granule, 0, second, 0));
  // Both are used as one.
  std::vector<std::uint32_t> values(100, 3);
  const CUdeviceptr across = range + granule - 200;
  EXPECT_EQ(cuMemcpyHtoD_v2(across, values.data(), 400), CUDA_ERROR_INVALID_VALUE) << "no access yet";
  const CUmemAccessDesc access{{1, device_}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUDA_OK(cuMemSetAccess(range, 3 * granule, &access, 1));
  CUDA_OK(cuMemcpyHtoD_v2(across, values.data(), 400));
  EXPECT_EQ(Get<std::uint32_t>(across, 100), values);
  EXPECT_EQ(cuMemcpyHtoD_v2(range + 3 * granule - 4, values.data(), 8), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(range), CUDA_ERROR_INVALID_VALUE) << "it was not allocated";
  // What is in memory goes where it is mapped next.
  EXPECT_EQ(cuMemUnmap(range, 2 * granule), CUDA_ERROR_INVALID_VALUE) << "half of a mapping";
  CUDA_OK(cuMemUnmap(range, 3 * granule));
  EXPECT_EQ(cuMemcpyHtoD_v2(across, values.data(), 400), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemMap(elsewhere + granule, 2 * granule, 0, second, 0));
  CUDA_OK(cuMemSetAccess(elsewhere + granule, 2 * granule, &access, 1));
  EXPECT_EQ(Get<std::uint32_t>(elsewhere + granule, 51), [] {
    std::vector<std::uint32_t> expected(51, 3);
    expected.back() = 0;
    return expected;
  }());
  EXPECT_EQ(cuMemAddressFree(elsewhere, 4 * granule), CUDA_ERROR_INVALID_VALUE) << "something is there";
  // Released memory goes with its mapping.
  CUDA_OK(cuMemRelease(first));
  CUDA_OK(cuMemRelease(second));
  EXPECT_EQ(cuMemRelease(second), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(free - later, 2 * granule);
  CUDA_OK(cuMemUnmap(elsewhere + granule, 2 * granule));
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
  CUDA_OK(cuMemAddressFree(elsewhere, 4 * granule));
  CUDA_OK(cuMemAddressFree(range, 4 * granule));
  EXPECT_EQ(cuMemCreate(&first, total / granule * granule + granule, &properties, 0),
            CUDA_ERROR_OUT_OF_MEMORY);
}

TEST_F(Battery, MemoryIsSharedByDescriptor) {
  CUmemAllocationProp properties{};
  properties.type = 1;
  properties.location = {1, device_};
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  std::size_t granule = 0;
  if (cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS)
    GTEST_SKIP() << "it has no memory apart from its addresses";
  CUmemGenericAllocationHandle memory = 0, plain = 0, same = 0;
  CUDA_OK(cuMemCreate(&memory, granule, &properties, 0));
  properties.requestedHandleTypes = 0;
  CUDA_OK(cuMemCreate(&plain, granule, &properties, 0));
  int descriptor = -1;
  EXPECT_EQ(cuMemExportToShareableHandle(&descriptor, plain, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_ERROR_INVALID_VALUE)
      << "it was not made for that";
  CUDA_OK(cuMemRelease(plain));
  CUDA_OK(cuMemExportToShareableHandle(&descriptor, memory, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  EXPECT_EQ(cuMemImportFromShareableHandle(&same, reinterpret_cast<void*>(std::intptr_t{-1}),
                                           CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemImportFromShareableHandle(&same, reinterpret_cast<void*>(std::intptr_t{descriptor}),
                                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  close(descriptor);
  CUdeviceptr range = 0;
  CUDA_OK(cuMemAddressReserve(&range, 2 * granule, 0, 0, 0));
  CUDA_OK(cuMemMap(range, granule, 0, memory, 0));
  CUDA_OK(cuMemMap(range + granule, granule, 0, same, 0));
  const CUmemAccessDesc access{{1, device_}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  const CUmemAccessDesc reads{{1, device_}, CU_MEM_ACCESS_FLAGS_PROT_READ};
  CUDA_OK(cuMemSetAccess(range, granule, &access, 1));
  CUDA_OK(cuMemSetAccess(range + granule, granule, &reads, 1));
  const std::vector<std::uint32_t> values(100, 3);
  CUDA_OK(cuMemcpyHtoD_v2(range + 400, values.data(), 400));
  EXPECT_EQ(Get<std::uint32_t>(range + granule + 400, 100), values);
  EXPECT_EQ(cuMemcpyHtoD_v2(range + granule, values.data(), 400), CUDA_ERROR_INVALID_VALUE) << "only read";
  EXPECT_EQ(cuMemsetD8_v2(range + granule, 1, 1), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemUnmap(range, 2 * granule));
  CUDA_OK(cuMemRelease(memory));
  CUDA_OK(cuMemRelease(same));
  CUDA_OK(cuMemAddressFree(range, 2 * granule));
}

TEST_F(Battery, MemoryOfTheHostIsKnown) {
  void* memory = nullptr;
  CUDA_OK(cuMemHostAlloc(&memory, 10'000, 1));
  unsigned flags = 0;
  CUDA_OK(cuMemHostGetFlags(&flags, static_cast<char*>(memory) + 5000));
  EXPECT_EQ(flags, 1u);
  unsigned type = 0;
  CUDA_OK(
      cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(memory)));
  EXPECT_EQ(type, CU_MEMORYTYPE_HOST);
  EXPECT_EQ(cuMemFreeHost(static_cast<char*>(memory) + 8), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cuMemFreeHost(memory));
  std::vector<char> own(5000);
  EXPECT_EQ(cuMemHostUnregister(own.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  CUDA_OK(cuMemHostRegister_v2(own.data(), own.size(), 0));
  EXPECT_EQ(cuMemHostRegister_v2(own.data() + 100, 10, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  CUDA_OK(cuMemHostUnregister(own.data()));

  const CUdeviceptr address = Put(std::vector<int>(100));
  CUDA_OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + 8));
  EXPECT_EQ(type, CU_MEMORYTYPE_DEVICE);
  CUcontext context = nullptr;
  CUDA_OK(cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address));
  EXPECT_EQ(context, context_);
  CUdeviceptr start = 0;
  int ordinal = -1;
  CUpointer_attribute wanted[] = {CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* values[] = {&start, &ordinal};
  CUDA_OK(cuPointerGetAttributes(2, wanted, values, address + 40));
  EXPECT_EQ(start, address);
  EXPECT_EQ(ordinal, device_);
  CUDA_OK(cuPointerGetAttributes(2, wanted, values, reinterpret_cast<CUdeviceptr>(&ordinal)));
  EXPECT_EQ(start, 0u);
  EXPECT_EQ(
      cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(&type)),
      CUDA_ERROR_INVALID_VALUE);
}

}  // namespace tulle::cuda_battery
