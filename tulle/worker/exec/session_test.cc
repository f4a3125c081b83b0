// A whole program on a session, and how a session ends when it is told to.
#include <gtest/gtest.h>

#include <algorithm>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

TEST_F(SessionTest, AProgramIsBuiltRunAndReadBack) {
  CreateContextAndQueue();
  const auto acquired = client_.Send(wire::AcquireMemory{kMiB});
  CreateBuffer(kBuffer, 64);
  ByteVector data(64, std::byte{1});
  client_.Send(opencl::EnqueueWrite{{kQueue}, {kBuffer}, 0, {64}, 0, 0, {}, {}}, data);
  const auto built = CreateAndBuild(
      "kernel void null_add(global uint* data, uint value) { data[get_global_id(0)] += value; }");
  client_.WhenAnswered(built);
  client_.Send(opencl::CreateKernel{{kProgram}, {kKernel}, {"null_add"}});
  client_.Send(opencl::SetKernelArg{{kKernel}, 0, {opencl::ArgKind::kMemory}, {kBuffer}, 0, {}});
  const std::uint32_t value = 0x01010101;
  client_.Send(opencl::SetKernelArg{
      {kKernel}, 1, {opencl::ArgKind::kValue}, {}, 0, {std::as_bytes(std::span(&value, 1))}});
  client_.Send(opencl::EnqueueKernel{{kQueue}, {kKernel}, 1, {}, {8, 1, 1}, {}, {}, {kEvent}});
  const auto read = client_.Send(opencl::EnqueueRead{{kQueue}, {kBuffer}, 0, {64}, 0, 0, {}, {}});
  client_.WhenAnswered(read);
  const auto binary = client_.Send(opencl::GetProgramBinary{{kProgram}, 0, {4}});
  client_.WhenAnswered(binary);

  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(acquired).granted_bytes, kMiB);
  const auto reply = client_.Reply<opencl::BuildProgramReply>(built);
  EXPECT_EQ(reply.status, 0);
  ASSERT_EQ(reply.kernels.items.size(), 1u);
  EXPECT_EQ(reply.kernels.items[0].name.text, "null_add");
  EXPECT_GT(reply.binary_bytes, 4u);
  EXPECT_EQ(client_.Reply<opencl::EnqueueReadReply>(read).status, 0);
  ByteVector expected(64, std::byte{1});
  std::fill_n(expected.begin(), 32, std::byte{2});
  EXPECT_EQ(client_.Find(read)->payload, expected);
  EXPECT_EQ(client_.Find(binary)->payload.size(), 4u);
  const bool completed = std::any_of(client_.sent().begin(), client_.sent().end(), [](const Sent& sent) {
    return sent.opcode == wire::kOpcodeOf<opencl::EventsCompleted>;
  });
  EXPECT_TRUE(completed);
  EXPECT_EQ(quota_.used_bytes(), 0u);
  EXPECT_EQ(client_.acknowledged(), binary);
}

TEST_F(SessionTest, EndsWhenItIsToldTo) {
  client_.says_goodbye = false;
  end_.Set(EndReason::kGrantRevoked, "the claim has ended");
  end_.Set(EndReason::kShuttingDown, "too late");
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kGrantRevoked);
  EXPECT_EQ(client_.end->message, "the claim has ended");
}

}  // namespace
}  // namespace tulle::worker::exec
