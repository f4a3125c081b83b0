// Programs: builds beside the session, their slots, their bounds, and their binaries.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

TEST_F(SessionTest, ABuildRunsBesideTheSessionAndHoldsWhatNeedsIt) {
  builder_ = &played_builder_;
  CreateContextAndQueue();
  const auto built = CreateAndBuild("the source");
  client_.Send(opencl::CreateQueue{{kContext}, {Handle{10, 1}}, {}});  // goes on
  const auto kernel = client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"k"}});
  bool loaded = false;
  played_.on_look = [&] {
    const auto& last = played_.seen.empty() ? PlayedExecutor::Seen{} : played_.seen.back();
    if (last.opcode == wire::kOpcodeOf<opencl::CreateQueue> && played_.seen.size() == 3 &&
        !played_builder_.output) {
      EXPECT_EQ(played_builder_.running, 1);
      played_builder_.output = gpu::CompileOutput{0, "a warning\n", ByteVector(10)};
    }
    if (last.opcode == 0x9001 && !loaded) {
      loaded = true;
      EXPECT_EQ(last.sequence, built);
      const opencl::KernelInfo kernels[] = {{.name = {"k"}}};
      played_.Answer(0x9001, built, wire::exec::LoadProgramReply{0, {"loaded\n"}, {kernels}});
    }
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(played_builder_.texts, std::vector<std::string>{"the source"});
  EXPECT_EQ(played_builder_.option_texts, std::vector<std::string>{"-DX=1"});
  const auto reply = client_.Reply<opencl::BuildProgramReply>(built);
  EXPECT_EQ(reply.status, 0);
  EXPECT_EQ(reply.log.text, "a warning\nloaded\n");
  EXPECT_EQ(reply.binary_bytes, 10u);
  EXPECT_EQ(reply.kernels.items.size(), 1u);
  ASSERT_EQ(played_.seen.size(), 5u);
  EXPECT_EQ(played_.seen[4].sequence, kernel);  // after LoadProgram
  EXPECT_EQ(played_builder_.running, 0);
}

TEST_F(SessionTest, AFailedBuildIsAReplyWithItsLog) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("#error no");
  client_.WhenAnswered(built);
  const auto binary = client_.Send(opencl::GetProgramBinary{{kProgram}, 0, {1}});
  Destroy(ObjectKind::kProgram, kProgram);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::BuildProgramReply>(built).status, cl_status::kBuildProgramFailure);
  EXPECT_NE(client_.Reply<opencl::BuildProgramReply>(built).log.text, "");
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(binary).status,
            cl_status::kInvalidProgramExecutable);
}

TEST_F(SessionTest, ABuilderThatCannotBeStartedFailsTheBuildOnly) {
  builder_ = &played_builder_;
  played_builder_.fails = true;
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.WhenAnswered(built);
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::BuildProgramReply>(built).status, cl_status::kOutOfResources);
}

TEST_F(SessionTest, BuildsWaitForASlotOfTheVGpu) {
  const build::Slots::Slot first = slots_.TryTake();
  build::Slots::Slot second = slots_.TryTake();
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.When([&] {
    if (second) {
      EXPECT_EQ(client_.Find(built), nullptr);
      second = {};  // another session's build has ended
    }
    return client_.Find(built) != nullptr;
  });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
}

TEST_F(SessionTest, ProgramsAreBounded) {
  limits_.program_bytes = 10;
  client_.Send(opencl::CreateContext{{kContext}});
  client_.Send(opencl::CreateProgram{{kContext}, {kProgram}, {opencl::ProgramKind::kSource}});
  client_.Send(opencl::ProgramText{{kProgram}, {8}}, AsBytes("12345678"));
  client_.Send(opencl::ProgramText{{kProgram}, {8}}, AsBytes("12345678"));
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("10B"), std::string::npos) << ending.message;
}

TEST_F(SessionTest, TextAfterTheBuildIsABreach) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("x");
  client_.WhenAnswered(built);
  client_.Send(opencl::ProgramText{{kProgram}, {1}}, AsBytes("y"));
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, BinaryPiecesOutsideTheBinaryAreRefused) {
  client_.Send(opencl::CreateContext{{kContext}});
  const auto built = CreateAndBuild("kernel void k(global uint* a) {}");
  client_.WhenAnswered(built);
  const auto past = client_.Send(opencl::GetProgramBinary{{kProgram}, 1u << 20, {1}});
  const auto wraps = client_.Send(opencl::GetProgramBinary{{kProgram}, ~std::uint64_t{0}, {2}});
  client_.WhenAnswered(wraps);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(past).status, cl_status::kInvalidValue);
  EXPECT_EQ(client_.Reply<opencl::GetProgramBinaryReply>(wraps).status, cl_status::kInvalidValue);
}

}  // namespace
}  // namespace tulle::worker::exec
