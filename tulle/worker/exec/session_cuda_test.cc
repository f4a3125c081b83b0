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
        if (seen.wants_status) played_.Answer(seen.opcode, seen.sequence, wire::StatusReply{0});
      }
    };
    client_.Send(wire::cuda::CreateContext{{kContext}, {kQueue}});
  }
  std::uint64_t Allocate(Handle handle, std::uint64_t bytes, std::uint16_t flags = wire::kWantStatus) {
    return client_.Send(wire::cuda::AllocateMemory{{handle}, 0x2000'0000, bytes}, {}, flags);
  }

  std::size_t answered_ = 0;
};

TEST_F(CudaSessionTest, MemoryCountsAndComesBack) {
  const auto first = Allocate(kBuffer, 48 * kMiB - 1);
  client_.WhenAnswered(first);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 48 * kMiB); });
  const auto second = Allocate({7, 1}, 17 * kMiB);
  const auto absurd = Allocate({8, 1}, ~std::uint64_t{0});
  const auto left = client_.Send(wire::cuda::GetMemoryInfo{});
  client_.WhenAnswered(left);
  const auto place = client_.Send(wire::LocateMemory{{kBuffer}});
  Destroy(ObjectKind::kMemory, {7, 1});
  Destroy(ObjectKind::kMemory, kBuffer);
  // What dies counts as free, and is waited for.
  const auto freed = client_.Send(wire::cuda::GetMemoryInfo{});
  const auto again = Allocate({9, 1}, 60 * kMiB);
  client_.WhenAnswered(again);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(first), 0);
  for (const auto refused : {second, absurd})
    EXPECT_EQ(client_.StatusOf(refused), cuda::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(client_.StatusOf(again), 0);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(left).free_bytes, 16 * kMiB);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(left).total_bytes, 64 * kMiB);
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(freed).free_bytes, 64 * kMiB);
  EXPECT_EQ(client_.Reply<wire::LocateMemoryReply>(place).status, cl_status::kInvalidMemObject)
      << "it is not in the executor's shared memory";
  EXPECT_TRUE(played_.freed.empty()) << "it never was";
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(CudaSessionTest, WhoGoesBeyondTheLeaseMustAsk) {
  client_.Send(wire::AcquireMemory{4 * kMiB});
  Allocate(kBuffer, 4 * kMiB, 0);
  Allocate({7, 1}, 4096, 0);
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("beyond the lease"), std::string::npos) << ending.detail;
}

TEST_F(CudaSessionTest, AnswersStayBehindLargeOnesThatTheyMayDependOn) {
  // Blocking streams wait for the legacy stream and it for them, so that they count as one; a context waits
  // for all.
  const Handle blocking{10, 1}, beside{11, 1}, other{12, 1};
  const wire::Flags<wire::cuda::StreamFlag> non_blocking{
      static_cast<std::uint64_t>(wire::cuda::StreamFlag::kNonBlocking)};
  client_.Send(wire::cuda::CreateStream{{kContext}, {blocking}});
  client_.Send(wire::cuda::CreateStream{{kContext}, {beside}, non_blocking});
  client_.Send(wire::cuda::CreateStream{{kContext}, {other}, non_blocking});
  const auto read = [&](Handle stream) {
    return client_.Send(
        wire::cuda::CopyFromDevice{{stream}, {0x2000'0000, kMiB, kMiB}, {kMiB, 1, 1}, {kMiB}});
  };
  const auto before = client_.Send(wire::cuda::SynchronizeContext{{kContext}});
  const auto large = read(blocking);
  const auto legacy = client_.Send(wire::cuda::SynchronizeStream{{kQueue}});
  const auto alone = client_.Send(wire::cuda::SynchronizeStream{{other}});
  const auto context = client_.Send(wire::cuda::SynchronizeContext{{kContext}});
  const auto large_beside = read(beside);
  const auto asked = client_.Send(wire::cuda::QueryStream{{beside}});
  const auto still = client_.Send(wire::cuda::SynchronizeStream{{blocking}});
  const auto all = client_.Send(wire::cuda::SynchronizeContext{{kContext}});
  client_.WhenAnswered(all);
  played_.on_look = [this] {
    for (; answered_ < played_.seen.size(); ++answered_) {
      const auto& [opcode, wants_status, sequence, memory, lacks_memory] = played_.seen[answered_];
      if (opcode == wire::kOpcodeOf<wire::cuda::CopyFromDevice>) {
        played_.Answer(opcode, sequence, wire::cuda::CopyFromDeviceReply{cuda::CUDA_ERROR_UNKNOWN, {0}});
      } else if (opcode != wire::kOpcodeOf<wire::cuda::CreateContext> &&
                 opcode != wire::kOpcodeOf<wire::cuda::CreateStream>) {
        played_.Answer(opcode, sequence, wire::StatusReply{0});
      }
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  const auto after = [&](std::uint64_t command) { return client_.Find(command)->after; };
  EXPECT_EQ(after(before), 0u);
  EXPECT_EQ(after(legacy), large);
  EXPECT_EQ(after(alone), 0u);
  EXPECT_EQ(after(context), large);
  EXPECT_EQ(after(asked), large_beside);
  EXPECT_EQ(after(still), large);
  EXPECT_EQ(after(all), large_beside);
}

TEST_F(CudaSessionTest, MemoryOfNoBytesIsNone) {
  Allocate(kBuffer, 0);
  EXPECT_EQ(RunPlayed().reason, EndReason::kProtocol);
}

// A device whose modules have variables.
class ModuleTest : public CudaSessionTest {
 protected:
  static constexpr std::uint16_t kMeasure =
      wire::OpcodeIn<wire::exec::MeasureModule>(wire::exec::kExecCommands);
  static constexpr std::uint16_t kLoad = wire::kOpcodeOf<wire::cuda::LoadModule>;

  ModuleTest() {
    played_.on_look = [this] {
      for (; answered_ < played_.seen.size(); ++answered_) {
        const PlayedExecutor::Seen seen = played_.seen[answered_];
        if (seen.opcode == kMeasure) {
          played_.Answer(kMeasure, seen.sequence, wire::exec::MeasureModuleReply{0, variable_bytes_});
        } else if (seen.opcode == kLoad) {
          played_.Answer(kLoad, seen.sequence, wire::cuda::LoadModuleReply{load_status_, {}});
        } else if (seen.wants_status) {
          played_.Answer(seen.opcode, seen.sequence, wire::StatusReply{0});
        }
      }
    };
  }
  std::uint64_t Load(Handle handle) {
    const ByteVector image(100);
    client_.Send(wire::cuda::CreateModule{{kContext}, {handle}});
    client_.Send(wire::cuda::ModuleImage{{handle}, {image.size()}}, image);
    const std::uint64_t sequence = client_.Send(wire::cuda::LoadModule{{handle}});
    client_.WhenAnswered(sequence);
    return sequence;
  }
  std::int32_t LoadStatus(std::uint64_t sequence) {
    return client_.Reply<wire::cuda::LoadModuleReply>(sequence).status;
  }

  std::uint64_t variable_bytes_ = 0;
  std::int32_t load_status_ = 0;
};

TEST_F(ModuleTest, TheirVariablesAreOfTheVgpusMemory) {
  variable_bytes_ = 40 * kMiB - 1;
  client_.Send(wire::AcquireMemory{4 * kMiB});
  const auto first = Load({4, 1});
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 44 * kMiB); });
  const auto refused = Load({5, 1});
  client_.Do([&] {
    EXPECT_EQ(quota_.used_bytes(), 44 * kMiB);
    EXPECT_EQ(std::count_if(played_.seen.begin(), played_.seen.end(),
                            [](const auto& seen) { return seen.opcode == kLoad; }),
              1)
        << "the device never hears of it";
  });
  // What the client has leased is its own still, and not more.
  Allocate(kBuffer, 4 * kMiB, 0);
  const auto info = client_.Send(wire::cuda::GetMemoryInfo{});
  client_.WhenAnswered(info);
  Destroy(ObjectKind::kProgram, {4, 1});
  const auto again = Load({6, 1});
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 44 * kMiB); });
  Destroy(ObjectKind::kProgram, {6, 1});
  Destroy(ObjectKind::kMemory, kBuffer);
  const auto all = client_.Send(wire::ReleaseMemory{4 * kMiB}, {}, wire::kWantStatus);
  client_.WhenAnswered(all);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(LoadStatus(first), 0);
  EXPECT_EQ(LoadStatus(refused), cuda::CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_NE(client_.Reply<wire::cuda::LoadModuleReply>(refused).log.text.find("take 39.9MiB"),
            std::string::npos)
      << client_.Reply<wire::cuda::LoadModuleReply>(refused).log.text;
  EXPECT_EQ(client_.Reply<wire::cuda::GetMemoryInfoReply>(info).free_bytes, 20 * kMiB);
  EXPECT_EQ(LoadStatus(again), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(ModuleTest, OneThatCannotBeLoadedGivesItsMemoryBack) {
  variable_bytes_ = 40 * kMiB;
  load_status_ = cuda::CUDA_ERROR_INVALID_PTX;
  const auto bad = Load({4, 1});
  client_.Do([&] {
    EXPECT_EQ(quota_.used_bytes(), 0u);
    load_status_ = 0;
  });
  const auto good = client_.Send(wire::cuda::LoadModule{{{4, 1}}});
  client_.WhenAnswered(good);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 40 * kMiB); });
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(LoadStatus(bad), cuda::CUDA_ERROR_INVALID_PTX);
  EXPECT_EQ(LoadStatus(good), 0);
}

// It is loaded already: what it takes stays charged.
TEST_F(ModuleTest, OneThatIsLoadedTwiceIsNotGivenBack) {
  variable_bytes_ = 40 * kMiB;
  const auto first = Load({4, 1});
  client_.Do([&] { load_status_ = cuda::CUDA_ERROR_INVALID_HANDLE; });
  const auto second = client_.Send(wire::cuda::LoadModule{{{4, 1}}});
  client_.WhenAnswered(second);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 40 * kMiB); });
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(LoadStatus(first), 0);
  EXPECT_EQ(LoadStatus(second), cuda::CUDA_ERROR_INVALID_HANDLE);
}

// An image that comes after it was measured is measured, too.
TEST_F(ModuleTest, AnotherImageIsMeasuredAnew) {
  variable_bytes_ = 1 * kMiB;
  load_status_ = cuda::CUDA_ERROR_INVALID_PTX;
  Load({4, 1});
  client_.Do([&] {
    variable_bytes_ = 65 * kMiB;
    load_status_ = 0;
  });
  const ByteVector image(100);
  client_.Send(wire::cuda::ModuleImage{{{4, 1}}, {image.size()}}, image);
  const auto larger = client_.Send(wire::cuda::LoadModule{{{4, 1}}});
  client_.WhenAnswered(larger);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(LoadStatus(larger), cuda::CUDA_ERROR_OUT_OF_MEMORY);
}

TEST_F(ModuleTest, WaitsForMemoryOfWhatIsBeingFreed) {
  variable_bytes_ = 40 * kMiB;
  Allocate(kBuffer, 60 * kMiB);
  Destroy(ObjectKind::kMemory, kBuffer);
  client_.Send(wire::ReleaseMemory{60 * kMiB});
  const auto load = Load({4, 1});
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(LoadStatus(load), 0);
}

TEST_F(ModuleTest, OneThatIsDestroyedBeforeItsAnswerCountsOnce) {
  variable_bytes_ = 40 * kMiB;
  load_status_ = cuda::CUDA_ERROR_INVALID_PTX;
  const ByteVector image(100);
  client_.Send(wire::cuda::CreateModule{{kContext}, {{4, 1}}});
  client_.Send(wire::cuda::ModuleImage{{{4, 1}}, {image.size()}}, image);
  client_.Send(wire::cuda::LoadModule{{{4, 1}}});
  Destroy(ObjectKind::kProgram, {4, 1});
  client_.WhenAnswered(client_.Send(wire::cuda::GetMemoryInfo{}));
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(quota_.used_bytes(), 0u);
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
