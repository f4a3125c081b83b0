// Sessions of CUDA: memory that the device has on its own, modules, and functions of the program.
#include <gtest/gtest.h>

#include "tulle/cuda/types.h"
#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

class CudaSessionTest : public SessionTest {
 protected:
  CudaSessionTest() {
    // The device: answers what asks for an answer, in order.
    played_.on_look = [this] {
      for (; answered_ < played_.seen.size(); ++answered_) {
        const PlayedExecutor::Seen& seen = played_.seen[answered_];
        if (seen.opcode == wire::kOpcodeOf<wire::cuda::AllocateMemory>) {
          played_.Answer(
              seen.opcode, seen.sequence,
              wire::cuda::AllocateMemoryReply{device_is_full_ ? cuda::CUDA_ERROR_OUT_OF_MEMORY : 0, 0x1000});
        } else if (seen.wants_status) {
          played_.Answer(seen.opcode, seen.sequence, wire::StatusReply{0});
        }
      }
    };
    client_.Send(wire::cuda::CreateContext{{kContext}, {kQueue}});
  }
  std::uint64_t Allocate(Handle handle, std::uint64_t bytes) {
    return client_.Send(wire::cuda::AllocateMemory{{kContext}, {handle}, bytes});
  }
  std::int32_t StatusOfAllocation(std::uint64_t sequence) {
    return client_.Reply<wire::cuda::AllocateMemoryReply>(sequence).status;
  }

  std::size_t answered_ = 0;
  bool device_is_full_ = false;
};

TEST_F(CudaSessionTest, MemoryCountsAndComesBack) {
  const auto first = Allocate(kBuffer, 48 * kMiB - 1);
  client_.WhenAnswered(first);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 48 * kMiB); });
  const auto second = Allocate({7, 1}, 17 * kMiB);
  const auto absurd = Allocate({8, 1}, ~std::uint64_t{0});
  const auto empty = Allocate({9, 1}, 0);
  const auto left = client_.Send(wire::cuda::GetMemoryInfo{});
  client_.WhenAnswered(left);
  Destroy(ObjectKind::kMemory, {7, 1});
  client_.Send(wire::cuda::FreeMemory{{kQueue}, {ObjectKind::kMemory, kBuffer}});
  // What dies counts as free, and is waited for.
  const auto freed = client_.Send(wire::cuda::GetMemoryInfo{});
  const auto again = Allocate({10, 1}, 60 * kMiB);
  client_.WhenAnswered(again);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(StatusOfAllocation(first), 0);
  for (const auto refused : {second, absurd, empty})
    EXPECT_EQ(StatusOfAllocation(refused), cuda::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(StatusOfAllocation(again), 0);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(left).free_bytes, 16 * kMiB);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(left).total_bytes, 64 * kMiB);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(freed).free_bytes, 64 * kMiB);
  EXPECT_TRUE(played_.freed.empty()) << "it was never the executor's shared memory";
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(CudaSessionTest, WhatTheDeviceRefusesCostsNothing) {
  device_is_full_ = true;
  const auto refused = Allocate(kBuffer, 48 * kMiB);
  client_.WhenAnswered(refused);
  Destroy(ObjectKind::kMemory, kBuffer);
  // Destroyed before it is known that there is none: given back once.
  const auto early = Allocate({7, 1}, 48 * kMiB);
  Destroy(ObjectKind::kMemory, {7, 1});
  client_.WhenAnswered(early);
  client_.Do([&] { device_is_full_ = false; });
  const auto all = Allocate({8, 1}, 64 * kMiB);
  client_.WhenAnswered(all);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(StatusOfAllocation(refused), cuda::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(StatusOfAllocation(early), cuda::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(StatusOfAllocation(all), 0);
}

TEST_F(CudaSessionTest, AnythingElseIsNotFreedAsMemory) {
  client_.Send(wire::cuda::FreeMemory{{kQueue}, {ObjectKind::kContext, kContext}});
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

TEST_F(CudaSessionTest, ImagesOfModulesAreLimited) {
  limits_.program_bytes = 10'000;
  const ByteVector image(6000);
  for (std::uint32_t generation = 1; generation < 4; ++generation) {
    client_.Send(wire::cuda::CreateModule{{kContext}, {{4, generation}}});
    client_.Send(wire::cuda::ModuleImage{{{4, generation}}, {image.size()}}, image);
    Destroy(ObjectKind::kProgram, {4, generation});
  }
  client_.Send(wire::cuda::CreateModule{{kContext}, {{4, 4}}});
  client_.Send(wire::cuda::ModuleImage{{{4, 4}}, {image.size()}}, image);
  client_.Send(wire::cuda::ModuleImage{{{4, 4}}, {image.size()}}, image);
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_EQ(played_.seen.size(), 1u + 3 * 3 + 2) << "all but the last";
}

}  // namespace
}  // namespace tulle::worker::exec
