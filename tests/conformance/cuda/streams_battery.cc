// Streams, events and functions of the host.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>

#include "tests/conformance/cuda/battery.h"

namespace tulle::cuda_battery {
namespace {

TEST_F(Battery, AStreamWorksInOrderAndBeside) {
  LoadKernels();
  const int n = 1000;
  const CUdeviceptr a = Put(std::vector<float>(n, 1)), b = Put(std::vector<float>(n, 2)),
                    c = Put(std::vector<float>(n));
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  Gate gate;
  CUDA_OK(gate.Block(stream));
  CUDA_OK(Launch("vector_add", 8, 128, stream, a, b, c, n));
  CUDA_OK(Launch("vector_add", 8, 128, stream, c, b, c, n));
  EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(Get<float>(c, 1)[0], 0) << "the default stream does not wait for it";
  gate.Open();
  CUDA_OK(cuStreamSynchronize(stream));
  CUDA_OK(cuStreamQuery(stream));
  EXPECT_EQ(Get<float>(c, n), std::vector<float>(n, 5));
  CUcontext context = nullptr;
  CUDA_OK(cuStreamGetCtx(stream, &context));
  EXPECT_EQ(context, context_);
  unsigned flags = 0;
  CUDA_OK(cuStreamGetFlags(stream, &flags));
  EXPECT_EQ(flags, CU_STREAM_NON_BLOCKING);
  CUDA_OK(cuStreamDestroy_v2(stream));
  EXPECT_EQ(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(Battery, TheLegacyStreamWaitsAndIsWaitedFor) {
  LoadKernels();
  const int n = 100;
  const CUdeviceptr a = Put(std::vector<float>(n, 1)), b = Put(std::vector<float>(n, 2)),
                    c = Put(std::vector<float>(n)), d = Put(std::vector<float>(n));
  CUstream first = nullptr, second = nullptr;
  CUDA_OK(cuStreamCreate(&first, CU_STREAM_DEFAULT));
  CUDA_OK(cuStreamCreate(&second, CU_STREAM_DEFAULT));
  Gate gate;
  CUDA_OK(gate.Block(first));
  CUDA_OK(Launch("vector_add", 1, 128, first, a, b, c, n));    // c = 3
  CUDA_OK(Launch("vector_add", 1, 128, nullptr, c, b, c, n));  // c = 5
  CUDA_OK(Launch("vector_add", 1, 128, second, c, c, d, n));   // d = 10
  EXPECT_EQ(cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  gate.Open();
  CUDA_OK(cuStreamSynchronize(second));
  EXPECT_EQ(Get<float>(d, n), std::vector<float>(n, 10));
}

TEST_F(Battery, EachThreadHasAStreamOfItsOwn) {
  LoadKernels();
  const int n = 100;
  const CUdeviceptr a = Put(std::vector<float>(n, 1)), b = Put(std::vector<float>(n, 2)),
                    c = Put(std::vector<float>(n));
  Gate gate;
  CUDA_OK(gate.Block(PerThreadStream()));
  std::thread([&] {
    CUDA_OK(cuCtxSetCurrent(context_));
    CUDA_OK(Launch("vector_add", 1, 128, PerThreadStream(), a, b, c, n));
    CUDA_OK(cuStreamSynchronize_ptsz(nullptr));
    std::vector<float> got(n);
    CUDA_OK(cuMemcpyDtoHAsync_v2_ptsz(got.data(), c, n * sizeof(float), nullptr));
    EXPECT_EQ(got, std::vector<float>(n, 3));
  }).join();
  EXPECT_EQ(cuStreamQuery_ptsz(nullptr), CUDA_ERROR_NOT_READY);
  gate.Open();
  CUDA_OK(cuStreamSynchronize_ptsz(nullptr));
}

TEST_F(Battery, EventsOrderStreamsAndTellTime) {
  LoadKernels();
  const int n = 100;
  const CUdeviceptr a = Put(std::vector<float>(n, 1)), b = Put(std::vector<float>(n, 2)),
                    c = Put(std::vector<float>(n)), d = Put(std::vector<float>(n));
  CUstream first = nullptr, second = nullptr;
  CUDA_OK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
  CUDA_OK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
  CUevent start = nullptr, end = nullptr, untimed = nullptr;
  CUDA_OK(cuEventCreate(&start, CU_EVENT_DEFAULT));
  CUDA_OK(cuEventCreate(&end, CU_EVENT_DEFAULT));
  CUDA_OK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  float milliseconds = -1;
  CUDA_OK(cuEventQuery(start));
  CUDA_OK(cuEventSynchronize(start));
  EXPECT_EQ(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE) << "never recorded";
  Gate gate;
  CUDA_OK(cuEventRecord(start, first));
  CUDA_OK(gate.Block(first));
  CUDA_OK(Launch("vector_add", 1, 128, first, a, b, c, n));
  CUDA_OK(cuEventRecord(end, first));
  CUDA_OK(cuStreamWaitEvent(second, end, 0));
  CUDA_OK(Launch("vector_add", 1, 128, second, c, c, d, n));
  CUDA_OK(cuEventSynchronize(start));
  EXPECT_EQ(cuEventQuery(end), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  gate.Open();
  CUDA_OK(cuStreamSynchronize(second));
  EXPECT_EQ(Get<float>(d, n), std::vector<float>(n, 6));
  CUDA_OK(cuEventElapsedTime(&milliseconds, start, end));
  EXPECT_GE(milliseconds, 0);
  EXPECT_LT(milliseconds, 60'000);
  CUDA_OK(cuEventRecord(untimed, first));
  EXPECT_EQ(cuEventElapsedTime(&milliseconds, untimed, end), CUDA_ERROR_INVALID_HANDLE);
  // A stream waits for what an event was when it was told to.
  CUDA_OK(cuEventDestroy_v2(end));
  EXPECT_EQ(cuEventQuery(end), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(Battery, HostMemoryIsUsedWhenTheStreamGetsThere) {
  void* memory = nullptr;
  CUDA_OK(cuMemHostAlloc(&memory, 4096, 0));
  int* const pinned = static_cast<int*>(memory);
  const CUdeviceptr address = Put(std::vector<int>{0});
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  *pinned = 1;
  Gate gate;
  CUDA_OK(gate.Block(stream));
  CUDA_OK(cuLaunchHostFunc(
      stream, [](void* value) { *static_cast<int*>(value) = 2; }, pinned));
  CUDA_OK(cuMemcpyHtoDAsync_v2(address, pinned, sizeof(int), stream));
  CUDA_OK(cuLaunchHostFunc(
      stream, [](void* value) { *static_cast<int*>(value) = 3; }, pinned));
  CUDA_OK(cuMemcpyDtoHAsync_v2(pinned + 1, address, sizeof(int), stream));
  gate.Open();
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(pinned[0], 3);
  EXPECT_EQ(pinned[1], 2);

  // Other memory is read before the call returns.
  Gate second;
  CUDA_OK(second.Block(stream));
  int own = 10;
  CUDA_OK(cuMemcpyHtoDAsync_v2(address, &own, sizeof own, stream));
  own = 11;
  second.Open();
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(Get<int>(address, 1)[0], 10);
  CUDA_OK(cuMemFreeHost(memory));
}

TEST_F(Battery, WhatHasBeenWaitedForIsThereHoweverLarge) {
  // By each way to wait for a copy to the host, also of a stream by way of the legacy stream, which waits for
  // it.
  constexpr std::size_t kBytes = 8u << 20;
  const CUdeviceptr from = Put(std::vector<unsigned>(kBytes / 4));
  unsigned* to = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&to), kBytes, 0));
  CUstream blocking = nullptr, beside = nullptr;
  CUDA_OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
  CUDA_OK(cuStreamCreate(&beside, CU_STREAM_NON_BLOCKING));
  CUevent event = nullptr;
  CUDA_OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  const auto by_event = [&](CUstream stream) {
    const CUresult result = cuEventRecord(event, stream);
    return result == CUDA_SUCCESS ? cuEventSynchronize(event) : result;
  };
  const auto by_asking = [](CUstream stream) {
    CUresult result = CUDA_ERROR_NOT_READY;
    while (result == CUDA_ERROR_NOT_READY) result = cuStreamQuery(stream);
    return result;
  };
  const struct {
    const char* name;
    CUstream stream;
    std::function<CUresult()> wait;
  } ways[] = {{"context", nullptr, [] { return cuCtxSynchronize(); }},
              {"context, for a stream beside", beside, [] { return cuCtxSynchronize(); }},
              {"stream", beside, [&] { return cuStreamSynchronize(beside); }},
              {"legacy stream, for a blocking one", blocking, [] { return cuStreamSynchronize(nullptr); }},
              {"event of the stream", beside, [&] { return by_event(beside); }},
              {"event of the legacy stream", blocking, [&] { return by_event(nullptr); }},
              {"asking", beside, [&] { return by_asking(beside); }},
              {"asking the legacy stream", blocking, [&] { return by_asking(nullptr); }}};
  unsigned value = 0;
  for (int round = 0; round < 3; ++round) {
    for (const auto& way : ways) {
      ++value;
      CUDA_OK(cuMemsetD32Async(from, value, kBytes / 4, way.stream));
      CUDA_OK(cuMemcpyDtoHAsync_v2(to, from, kBytes, way.stream));
      CUDA_OK(way.wait());
      const std::size_t arrived = static_cast<std::size_t>(
          std::find_if(to, to + kBytes / 4, [&](unsigned v) { return v != value; }) - to);
      EXPECT_EQ(arrived, kBytes / 4) << way.name << ", round " << round;
      CUDA_OK(cuCtxSynchronize());
    }
  }
  CUDA_OK(cuMemFreeHost(to));
}

TEST_F(Battery, BlockingCopiesComeBehindWhatTheirStreamStillDoes) {
  constexpr std::size_t kCount = 1u << 21;
  const CUdeviceptr from = Put(std::vector<unsigned>(kCount)), to = Put(std::vector<unsigned>(kCount));
  unsigned* host = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&host), kCount * 4, 0));
  const auto last = [&] { return Get<unsigned>(to + (kCount - 1) * 4, 1).front(); };
  for (unsigned value = 1; value < 4; ++value) {
    CUDA_OK(cuMemsetD32Async(from, value, kCount, nullptr));
    CUDA_OK(cuMemcpyDtoHAsync_v2(host, from, kCount * 4, nullptr));
    CUDA_OK(cuMemcpyHtoD_v2(to, host, kCount * 4));
    EXPECT_EQ(last(), value);
    // What a function of the program leaves there, too.
    const CUhostFn fill = [](void* place) { *static_cast<unsigned*>(place) = 77; };
    CUDA_OK(cuLaunchHostFunc(nullptr, fill, &host[kCount - 1]));
    CUDA_OK(cuMemcpyHtoD_v2(to, host, kCount * 4));
    EXPECT_EQ(last(), 77u);
  }
  CUDA_OK(cuMemFreeHost(host));
}

TEST_F(Battery, ADestroyedStreamIsWaitedFor) {
  constexpr std::size_t kCount = 1u << 20;
  const CUdeviceptr from = Put(std::vector<unsigned>(kCount));
  for (const unsigned flags : {CU_STREAM_NON_BLOCKING, CU_STREAM_DEFAULT}) {
    for (unsigned value = 1; value < 5; ++value) {
      unsigned* host = nullptr;
      CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&host), kCount * 4, 0));
      CUstream stream = nullptr;
      CUDA_OK(cuStreamCreate(&stream, flags));
      for (int i = 0; i < 8; ++i) CUDA_OK(cuMemsetD32Async(from, value, kCount, stream));
      CUDA_OK(cuMemcpyDtoHAsync_v2(host, from, kCount * 4, stream));
      CUDA_OK(cuStreamDestroy_v2(stream));
      EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
      if (value % 2 == 0) {
        CUDA_OK(cuCtxSynchronize());
        EXPECT_EQ(std::count(host, host + kCount, value), static_cast<std::ptrdiff_t>(kCount));
      }
      CUDA_OK(cuMemFreeHost(host));  // waits, too
    }
  }
  // With a function of the program's in it, and the context gone before that has returned.
  CUcontext other = nullptr;
  CUDA_OK(cuCtxCreate_v2(&other, 0, device_));
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  std::atomic<bool> called{false};
  const CUhostFn call = [](void* its) { *static_cast<std::atomic<bool>*>(its) = true; };
  CUDA_OK(cuLaunchHostFunc(stream, call, &called));
  CUDA_OK(cuStreamDestroy_v2(stream));
  CUDA_OK(cuCtxDestroy_v2(other));
  EXPECT_TRUE(called);
}

TEST_F(Battery, CopiesWithinTheHostWait) {
  auto source = std::make_unique<std::vector<char>>(100'000, 'x');
  char* pinned = nullptr;
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), source->size(), 0));
  CUDA_OK(cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(pinned), reinterpret_cast<CUdeviceptr>(source->data()),
                        source->size(), nullptr));
  EXPECT_EQ(std::count(pinned, pinned + source->size(), 'x'), 100'000);
  CUDA_OK(cuMemFreeHost(pinned));
}

TEST_F(Battery, MuchMayStandBehindAFunctionOfTheProgram) {
  // More than a vGPU's worker has room for at once, to the host and from it.
  constexpr std::size_t kBytes = 64u << 20, kTimes = 6;
  CUdeviceptr device = 0;
  unsigned* pinned = nullptr;
  CUDA_OK(cuMemAlloc_v2(&device, kBytes));
  CUDA_OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), kBytes, 0));
  std::vector<unsigned> pageable(kBytes / 16);
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  Gate gate;
  CUDA_OK(gate.Block(stream));
  for (unsigned i = 0; i < kTimes; ++i) {
    std::fill(pageable.begin(), pageable.end(), i + 1);
    CUDA_OK(cuMemcpyHtoDAsync_v2(device, pageable.data(), pageable.size() * 4, stream));
    CUDA_OK(cuMemcpyDtoHAsync_v2(pinned, device, kBytes, stream));
    pageable[0] = 0;  // it has been read
  }
  EXPECT_EQ(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  gate.Open();
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(std::count(pinned, pinned + pageable.size(), kTimes),
            static_cast<std::ptrdiff_t>(pageable.size()));
  CUDA_OK(cuMemFreeHost(pinned));
}

// More than the queues of drivers have places for: behind a function, behind one by way of an event, and in
// the legacy stream, which waits for all.
TEST_F(Battery, AnyNumberOfLaunchesMayStandBehindAFunction) {
  LoadKernels();
  constexpr unsigned kLaunches = 3000;
  struct Function {
    std::atomic<unsigned> launched{0};
    std::mutex mutex;
    std::condition_variable all;
    static void Call(void* data) {  // returns when there is much behind it, in any case
      auto& self = *static_cast<Function*>(data);
      std::unique_lock lock(self.mutex);
      (void)self.all.wait_for(lock, std::chrono::milliseconds(200),
                              [&] { return self.launched == kLaunches; });
    }
  };
  const CUdeviceptr counter = Put(std::vector<int>{0});
  for (const char* where : {"same", "by event", "legacy"}) {
    SCOPED_TRACE(where);
    Function function;
    CUstream first = nullptr, other = nullptr;
    CUevent event = nullptr;
    CUDA_OK(cuStreamCreate(&first, CU_STREAM_DEFAULT));
    CUDA_OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CUDA_OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CUDA_OK(cuLaunchHostFunc(first, &Function::Call, &function));
    CUDA_OK(cuEventRecord(event, first));
    CUDA_OK(cuStreamWaitEvent(other, event, 0));
    CUstream const stream = where == std::string_view("same")     ? first
                            : where == std::string_view("legacy") ? nullptr
                                                                  : other;
    for (unsigned i = 0; i < kLaunches; ++i) {
      CUDA_OK(cuMemsetD32Async(counter, i, 1, stream));
      if (++function.launched == kLaunches) {
        const std::lock_guard lock(function.mutex);
        function.all.notify_all();
      }
    }
    CUDA_OK(cuStreamSynchronize(stream));
    EXPECT_EQ(Get<unsigned>(counter, 1)[0], kLaunches - 1);
    CUDA_OK(cuStreamDestroy_v2(first));
    CUDA_OK(cuStreamDestroy_v2(other));
    CUDA_OK(cuEventDestroy_v2(event));
  }
}

TEST_F(Battery, CallbacksAreToldHowItWent) {
  struct Told {
    std::atomic<int> times{0};
    CUstream stream = nullptr;
    CUresult result = CUDA_ERROR_UNKNOWN;
  } told;
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
  const auto tell = [](CUstream of, CUresult result, void* data) {
    Told& out = *static_cast<Told*>(data);
    out.stream = of;
    out.result = result;
    ++out.times;
  };
  CUDA_OK(cuStreamAddCallback(stream, tell, &told, 0));
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(told.times, 1);
  EXPECT_EQ(told.stream, stream);
  EXPECT_EQ(told.result, CUDA_SUCCESS);
  EXPECT_EQ(cuStreamAddCallback(stream, tell, &told, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchHostFunc(stream, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(Battery, MemoryInTheOrderOfAStream) {
  LoadKernels();
  CUstream stream = nullptr;
  CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  CUdeviceptr address = 0;
  CUDA_OK(cuMemAllocAsync(&address, 4000, stream));
  CUDA_OK(cuMemsetD32Async(address, 5, 1000, stream));
  int value = 0;
  CUDA_OK(cuMemcpyDtoHAsync_v2(&value, address + 3996, sizeof value, stream));
  CUDA_OK(cuMemFreeAsync(address, stream));
  CUDA_OK(cuStreamSynchronize(stream));
  EXPECT_EQ(value, 5);
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
  EXPECT_EQ(cuMemFreeAsync(address, stream), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(Battery, NamesDoNotRunOut) {
  std::size_t free = 0, total = 0, later = 0;
  CUDA_OK(cuMemGetInfo_v2(&free, &total));
  for (int i = 0; i < 300; ++i) {
    CUcontext own = nullptr;
    CUDA_OK(cuCtxCreate_v2(&own, 0, device_));
    CUstream stream = nullptr;
    CUdeviceptr address = 0;
    CUDA_OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUDA_OK(cuMemAllocAsync(&address, 100'000, stream));
    CUDA_OK(cuMemFreeAsync(address, stream));
    CUDA_OK(cuMemAllocAsync(&address, 100'000, PerThreadStream()));
    CUDA_OK(cuCtxDestroy_v2(own));
  }
  CUDA_OK(cuMemGetInfo_v2(&later, &total));
  EXPECT_EQ(later, free);
}

TEST_F(Battery, PoolsCountWhatIsTakenFromThem) {
  CUmemoryPool usual = nullptr, current = nullptr, own = nullptr;
  CUDA_OK(cuDeviceGetDefaultMemPool(&usual, device_));
  CUDA_OK(cuDeviceGetMemPool(&current, device_));
  EXPECT_EQ(usual, current);
  CUmemPoolProps properties{.allocType = 1, .location = {.type = 1, .id = device_}};
  CUDA_OK(cuMemPoolCreate(&own, &properties));
  std::uint64_t threshold = 1 << 20, used = 1;
  CUDA_OK(cuMemPoolSetAttribute(own, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  threshold = 0;
  CUDA_OK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  EXPECT_EQ(threshold, 1u << 20);
  CUDA_OK(cuDeviceSetMemPool(device_, own));
  CUdeviceptr first = 0, second = 0;
  CUDA_OK(cuMemAllocAsync(&first, 1000, nullptr));
  CUDA_OK(cuMemAllocFromPoolAsync(&second, 5000, usual, nullptr));
  CUDA_OK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  EXPECT_EQ(used, 1000u);
  CUDA_OK(cuMemFreeAsync(first, nullptr));
  CUDA_OK(cuMemFree_v2(second));
  CUDA_OK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  EXPECT_EQ(used, 0u);
  CUDA_OK(cuMemPoolGetAttribute(own, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &used));
  EXPECT_EQ(used, 1000u);
  CUDA_OK(cuMemPoolTrimTo(own, 0));
  CUDA_OK(cuMemPoolDestroy(own));
  CUDA_OK(cuDeviceGetMemPool(&current, device_));
  EXPECT_EQ(current, usual);
  EXPECT_EQ(cuMemPoolDestroy(usual), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemPoolDestroy(own), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(Battery, ManyThreadsUseManyStreams) {
  LoadKernels();
  const int n = 256;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      CUDA_OK(cuCtxSetCurrent(context_));
      CUstream stream = nullptr;
      CUDA_OK(cuStreamCreate(&stream, t % 2 == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
      CUdeviceptr a = 0, b = 0;
      CUDA_OK(cuMemAlloc_v2(&a, n * sizeof(float)));
      CUDA_OK(cuMemAlloc_v2(&b, n * sizeof(float)));
      const std::vector<float> one(n, 1);
      CUDA_OK(cuMemcpyHtoDAsync_v2(a, one.data(), n * sizeof(float), stream));
      CUDA_OK(cuMemsetD32Async(b, 0, n, stream));
      for (int i = 0; i < 50; ++i) CUDA_OK(Launch("vector_add", 2, 128, stream, a, b, b, n));
      std::vector<float> sum(n);
      CUDA_OK(cuMemcpyDtoHAsync_v2(sum.data(), b, n * sizeof(float), stream));
      CUDA_OK(cuStreamSynchronize(stream));
      EXPECT_EQ(sum, std::vector<float>(n, 50));
      CUDA_OK(cuMemFree_v2(a));
      CUDA_OK(cuMemFree_v2(b));
      CUDA_OK(cuStreamDestroy_v2(stream));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tulle::cuda_battery
