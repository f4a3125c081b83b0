// What has happened when: commands that hand data to each other through the program's memory, calls that
// wait, and commands that must not.
#include <signal.h>
#include <sys/time.h>

#include <atomic>
#include <map>

#include "tests/e2e/opencl/battery.h"

namespace battery {
namespace {

constexpr size_t kCount = 2'000'000;  // more than one piece of a transfer
constexpr size_t kBytes = kCount * sizeof(cl_uint);

class Order : public OpenCl {
 protected:
  cl_event UserEvent(cl_context of) const {
    cl_int error = -1;
    cl_event event = clCreateUserEvent(of, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return event;
  }
  cl_command_queue OutOfOrder() const {
    cl_int error = -1;
    cl_command_queue made =
        clCreateCommandQueue(context, device, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &error);
    EXPECT_EQ(error, CL_SUCCESS);
    return made;
  }
  void Fill(cl_mem buffer, cl_uint value, size_t size = kBytes) const {
    ASSERT_EQ(clEnqueueFillBuffer(queue, buffer, &value, sizeof value, 0, size, 0, nullptr, nullptr),
              CL_SUCCESS);
  }
  void Release(std::vector<cl_mem> buffers) const {
    for (cl_mem buffer : buffers) EXPECT_EQ(clReleaseMemObject(buffer), CL_SUCCESS);
  }
};

TEST_F(Order, WritesCarryWhatReadsBroughtBefore) {
  cl_mem from = Buffer(kBytes), to = Buffer(kBytes);
  std::vector<cl_uint> host(kCount);
  for (const bool by_event : {false, true}) {
    Fill(from, by_event ? 8 : 7);
    std::fill(host.begin(), host.end(), 0);
    cl_event read = nullptr;
    ASSERT_EQ(clEnqueueReadBuffer(queue, from, CL_FALSE, 0, kBytes, host.data(), 0, nullptr, &read),
              CL_SUCCESS);
    ASSERT_EQ(clEnqueueWriteBuffer(queue, to, CL_FALSE, 0, kBytes, host.data(), by_event ? 1 : 0,
                                   by_event ? &read : nullptr, nullptr),
              CL_SUCCESS);
    EXPECT_EQ(Read<cl_uint>(to, kCount), std::vector<cl_uint>(kCount, by_event ? 8 : 7));
    EXPECT_EQ(clReleaseEvent(read), CL_SUCCESS);
  }

  // The same with a write that blocks, and one of a part.
  Fill(from, 9);
  ASSERT_EQ(clEnqueueReadBuffer(queue, from, CL_FALSE, 0, kBytes, host.data(), 0, nullptr, nullptr),
            CL_SUCCESS);
  ASSERT_EQ(clEnqueueWriteBuffer(queue, to, CL_TRUE, 0, 400, host.data() + kCount - 100, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(host[kCount - 1], 9u);
  EXPECT_EQ(Read<cl_uint>(to, 101), [] {
    std::vector<cl_uint> words(101, 9);
    words[100] = 8;
    return words;
  }());
  Release({from, to});
}

TEST_F(Order, AWriteThatFollowsAFailedReadFails) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL (3.1) runs the write";
  cl_mem from = Buffer(4'096), to = Buffer(4'096);
  Fill(from, 1, 4'096);
  Fill(to, 2, 4'096);
  // With PoCL (3.1) what follows a failed command no longer waits for what was before it.
  ASSERT_EQ(clFinish(queue), CL_SUCCESS);
  std::vector<cl_uint> host(1'024);
  cl_event gate = UserEvent(context);
  cl_event read = nullptr, written = nullptr;
  ASSERT_EQ(clEnqueueReadBuffer(queue, from, CL_FALSE, 0, 4'096, host.data(), 1, &gate, &read), CL_SUCCESS);
  ASSERT_EQ(clEnqueueWriteBuffer(queue, to, CL_FALSE, 0, 4'096, host.data(), 1, &read, &written), CL_SUCCESS);
  ASSERT_EQ(clFlush(queue), CL_SUCCESS);
  ASSERT_EQ(clSetUserEventStatus(gate, -7), CL_SUCCESS);
  EXPECT_EQ(clWaitForEvents(1, &written), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  EXPECT_LT(StatusOf(written), 0);
  EXPECT_EQ(Read<cl_uint>(to, 1'024), std::vector<cl_uint>(1'024, 2));
  for (cl_event event : {gate, read, written}) EXPECT_EQ(clReleaseEvent(event), CL_SUCCESS);
  Release({from, to});
}

TEST_F(Order, AnUnmapRightBehindItsMapChangesNothing) {
  cl_mem buffer = Buffer(kBytes);
  const std::vector<cl_uint> data = Count(kCount, 3);
  Write(buffer, data);
  cl_int error = -1;
  void* mapped = clEnqueueMapBuffer(queue, buffer, CL_FALSE, CL_MAP_READ | CL_MAP_WRITE, 0, kBytes, 0,
                                    nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(clEnqueueUnmapMemObject(queue, buffer, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, kCount), data);
  Release({buffer});
}

TEST_F(Order, BlockingWritesAndMapsCompleteWhatCameBefore) {
  cl_mem from = Buffer(kBytes), to = Buffer(kBytes);
  for (const bool maps : {false, true}) {
    const cl_uint value = maps ? 5 : 4;
    Fill(from, value);
    std::vector<cl_uint> host(kCount);
    cl_event marker = nullptr;
    ASSERT_EQ(clEnqueueReadBuffer(queue, from, CL_FALSE, 0, kBytes, host.data(), 0, nullptr, nullptr),
              CL_SUCCESS);
    ASSERT_EQ(clEnqueueMarkerWithWaitList(queue, 0, nullptr, &marker), CL_SUCCESS);
    if (maps) {
      cl_int error = -1;
      void* mapped = clEnqueueMapBuffer(queue, to, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, 0, 4, 0, nullptr,
                                        nullptr, &error);
      ASSERT_EQ(error, CL_SUCCESS);
      EXPECT_EQ(StatusOf(marker), CL_COMPLETE);
      ASSERT_EQ(clEnqueueUnmapMemObject(queue, to, mapped, 0, nullptr, nullptr), CL_SUCCESS);
    } else {
      ASSERT_EQ(clEnqueueWriteBuffer(queue, to, CL_TRUE, 0, 4, &value, 0, nullptr, nullptr), CL_SUCCESS);
      EXPECT_EQ(StatusOf(marker), CL_COMPLETE);
    }
    EXPECT_EQ(host, std::vector<cl_uint>(kCount, value));
    EXPECT_EQ(clReleaseEvent(marker), CL_SUCCESS);
  }
  Release({from, to});
}

TEST_F(Order, CommandsOutOfOrderWaitForNobody) {
  if (!OnVGpu()) GTEST_SKIP() << "some of PoCL's (3.1) wait for all before them, now and then";
  cl_command_queue free = OutOfOrder();
  cl_mem held = Buffer(64), buffer = Buffer(64);
  cl_event gate = UserEvent(context);
  const cl_uint zero = 0;
  cl_event filled = nullptr;
  ASSERT_EQ(clEnqueueFillBuffer(free, held, &zero, sizeof zero, 0, 64, 1, &gate, &filled), CL_SUCCESS);
  cl_int error = -1;
  std::vector<cl_event> events(3);
  void* mapped = clEnqueueMapBuffer(free, buffer, CL_TRUE, CL_MAP_READ, 0, 64, 0, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(clEnqueueUnmapMemObject(free, buffer, mapped, 0, nullptr, &events[0]), CL_SUCCESS);
  ASSERT_EQ(clEnqueueMigrateMemObjects(free, 1, &buffer, 0, 0, nullptr, &events[1]), CL_SUCCESS);
  mapped = clEnqueueMapBuffer(free, buffer, CL_FALSE, CL_MAP_WRITE_INVALIDATE_REGION, 0, 64, 0, nullptr,
                              &events[2], &error);
  ASSERT_EQ(error, CL_SUCCESS);
  for (cl_event event : events) {
    ASSERT_EQ(clWaitForEvents(1, &event), CL_SUCCESS);
    EXPECT_EQ(clReleaseEvent(event), CL_SUCCESS);
  }
  EXPECT_EQ(StatusOf(filled) == CL_COMPLETE, false);
  ASSERT_EQ(clEnqueueUnmapMemObject(free, buffer, mapped, 0, nullptr, nullptr), CL_SUCCESS);
  ASSERT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  ASSERT_EQ(clFinish(free), CL_SUCCESS);
  EXPECT_EQ(clReleaseEvent(filled), CL_SUCCESS);
  EXPECT_EQ(clReleaseEvent(gate), CL_SUCCESS);
  EXPECT_EQ(clReleaseCommandQueue(free), CL_SUCCESS);
  Release({held, buffer});
}

TEST_F(Order, AFailureThatAnEventTellsIsNobodyElses) {
  if (!OnVGpu()) GTEST_SKIP() << "PoCL (3.1) may never finish a queue behind such a command";
  cl_mem buffer = Buffer(64);
  cl_event gate = UserEvent(context);
  ASSERT_EQ(clSetUserEventStatus(gate, -1), CL_SUCCESS);
  const cl_uint zero = 0;
  cl_event failed = nullptr;
  if (clEnqueueFillBuffer(queue, buffer, &zero, sizeof zero, 0, 64, 1, &gate, &failed) == CL_SUCCESS) {
    EXPECT_EQ(clWaitForEvents(1, &failed), CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    EXPECT_EQ(clReleaseEvent(failed), CL_SUCCESS);
  }
  cl_uint word = 1;
  EXPECT_EQ(clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, sizeof word, &word, 0, nullptr, nullptr),
            CL_SUCCESS);
  EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  EXPECT_EQ(clReleaseEvent(gate), CL_SUCCESS);
  Release({buffer});
}

// A callback's end may be the end of an object whose own callbacks are then due.
TEST_F(Order, CallbacksMayEndWhatHasCallbacks) {
  cl_int error = -1;
  cl_context other = clCreateContext(nullptr, 1, &device, nullptr, nullptr, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  struct State {
    std::atomic<bool> go{false};
    std::atomic<int> calls{0};
    cl_event last = nullptr;
  } state;
  state.last = UserEvent(context);
  ASSERT_EQ(clSetEventCallback(
                state.last, CL_COMPLETE,
                [](cl_event, cl_int, void* data) { ++static_cast<State*>(data)->calls; }, &state),
            CL_SUCCESS);
  ASSERT_EQ(
      clSetContextDestructorCallback(
          other,
          [](cl_context, void* data) { clSetUserEventStatus(static_cast<State*>(data)->last, CL_COMPLETE); },
          &state),
      CL_SUCCESS);
  cl_event first = UserEvent(other);
  ASSERT_EQ(clSetEventCallback(
                first, CL_COMPLETE,
                [](cl_event, cl_int, void* data) {
                  State& shared = *static_cast<State*>(data);
                  Eventually([&shared] { return shared.go.load(); });
                },
                &state),
            CL_SUCCESS);
  ASSERT_EQ(clSetUserEventStatus(first, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(clReleaseEvent(first), CL_SUCCESS);
  EXPECT_EQ(clReleaseContext(other), CL_SUCCESS);
  state.go = true;  // the callback that is running holds the last of the context
  EXPECT_TRUE(Eventually([&state] { return state.calls.load() == 1; }));
  EXPECT_EQ(clReleaseEvent(state.last), CL_SUCCESS);
}

TEST_F(Order, QueuesOfOtherThreadsComeAfterWhatWasWritten) {
  cl_mem buffer = Buffer(4'096);
  for (cl_uint round = 1; round <= 20; ++round) {
    const std::vector<cl_uint> data(1'024, round);
    Write(buffer, data);
    std::vector<std::thread> threads;
    std::vector<std::vector<cl_uint>> seen(3, std::vector<cl_uint>(1'024));
    for (auto& words : seen) {
      threads.emplace_back([&] {
        cl_int error = -1;
        cl_command_queue own = clCreateCommandQueue(context, device, 0, &error);
        EXPECT_EQ(error, CL_SUCCESS);
        EXPECT_EQ(clEnqueueReadBuffer(own, buffer, CL_TRUE, 0, 4'096, words.data(), 0, nullptr, nullptr),
                  CL_SUCCESS);
        EXPECT_EQ(clReleaseCommandQueue(own), CL_SUCCESS);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& words : seen) ASSERT_EQ(words, data);
  }
  Release({buffer});
}

TEST_F(Order, WhatWaitsForTheProgramHoldsUpNoNewQueue) {
  cl_mem buffer = Buffer(4'096);
  Write(buffer, Count(1'024));
  cl_event gate = UserEvent(context);
  const cl_uint value = 5;
  ASSERT_EQ(clEnqueueFillBuffer(queue, buffer, &value, sizeof value, 0, 4'096, 1, &gate, nullptr),
            CL_SUCCESS);
  cl_int error = -1;
  cl_command_queue second = clCreateCommandQueue(context, device, 0, &error);
  ASSERT_EQ(error, CL_SUCCESS);
  ASSERT_EQ(clSetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
  EXPECT_EQ(Read<cl_uint>(buffer, 1'024), std::vector<cl_uint>(1'024, value));
  EXPECT_EQ(clReleaseEvent(gate), CL_SUCCESS);
  EXPECT_EQ(clReleaseCommandQueue(second), CL_SUCCESS);
  Release({buffer});
}

// A command of an in-order queue is done before the next one begins, whoever enqueued it.
TEST_F(Order, TransfersOfSeveralThreadsDoNotMix) {
  constexpr int kThreads = 3, kRounds = 6;
  constexpr size_t kWords = 3'000'000;  // several pieces
  cl_mem buffer = Buffer(kWords * sizeof(cl_uint));
  Fill(buffer, 0, kWords * sizeof(cl_uint));
  std::vector<std::thread> threads;
  std::atomic<int> mixed = 0, failed = 0;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::vector<cl_uint> sent(kWords), got(kWords);
      for (int round = 0; round < kRounds; ++round) {
        std::fill(sent.begin(), sent.end(), static_cast<cl_uint>(thread * kRounds + round + 1));
        failed += clEnqueueWriteBuffer(queue, buffer, CL_FALSE, 0, kWords * sizeof(cl_uint), sent.data(), 0,
                                       nullptr, nullptr) != CL_SUCCESS;
        failed += clEnqueueReadBuffer(queue, buffer, CL_TRUE, 0, kWords * sizeof(cl_uint), got.data(), 0,
                                      nullptr, nullptr) != CL_SUCCESS;
        mixed += std::any_of(got.begin(), got.end(), [&](cl_uint word) { return word != got[0]; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(mixed, 0);
  Release({buffer});
}

// A profiler's timer, say, interrupts whatever waits.
TEST_F(Order, SignalsOfTheProgramDisturbNothing) {
  static std::atomic<int> signals;
  signals = 0;
  struct sigaction handler {
  }, before{};
  handler.sa_handler = [](int) { ++signals; };  // without SA_RESTART
  ASSERT_EQ(sigaction(SIGALRM, &handler, &before), 0);
  const itimerval often{{0, 200}, {0, 200}}, never{};
  ASSERT_EQ(setitimer(ITIMER_REAL, &often, nullptr), 0);

  cl_program program = Program();
  cl_kernel add = Kernel(program, "null_add");
  cl_mem buffer = Buffer(kBytes);
  EXPECT_EQ(clSetKernelArg(add, 0, sizeof buffer, &buffer), CL_SUCCESS);
  for (cl_uint round = 0; round < 4; ++round) {
    Write(buffer, Count(kCount, round));
    EXPECT_EQ(clSetKernelArg(add, 1, sizeof round, &round), CL_SUCCESS);
    cl_event done = nullptr;
    EXPECT_EQ(clEnqueueNDRangeKernel(queue, add, 1, nullptr, &kCount, nullptr, 0, nullptr, &done),
              CL_SUCCESS);
    EXPECT_EQ(clWaitForEvents(1, &done), CL_SUCCESS);
    EXPECT_EQ(clReleaseEvent(done), CL_SUCCESS);
    EXPECT_EQ(Read<cl_uint>(buffer, kCount), Count(kCount, 2 * round));
    EXPECT_EQ(clFinish(queue), CL_SUCCESS);
  }

  ASSERT_EQ(setitimer(ITIMER_REAL, &never, nullptr), 0);
  ASSERT_EQ(sigaction(SIGALRM, &before, nullptr), 0);
  EXPECT_GT(signals, 0);
  EXPECT_EQ(clReleaseKernel(add), CL_SUCCESS);
  EXPECT_EQ(clReleaseProgram(program), CL_SUCCESS);
  Release({buffer});
}

}  // namespace
}  // namespace battery
