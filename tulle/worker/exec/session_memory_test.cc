// Leases, buffers and the quota: what a session may hold, and what waits for memory.
#include <gtest/gtest.h>

#include <chrono>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

TEST_F(SessionTest, ABufferBeyondTheLeaseMustAskForItsStatus) {
  CreateContextAndQueue();
  CreateBuffer(kBuffer, 4096);
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("CreateBuffer"), std::string::npos) << ending.detail;
  EXPECT_EQ(client_.end->message, "");
}

TEST_F(SessionTest, TheLeaseIsCountedInWholePages) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{4096});
  CreateBuffer(kBuffer, 1);
  CreateBuffer({7, 1}, 1);
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, ABufferThatAsksGrowsTheLeaseOrFails) {
  CreateContextAndQueue();
  const auto fits = CreateBuffer(kBuffer, 48 * kMiB, wire::kWantStatus);
  const auto too_large = CreateBuffer({7, 1}, 32 * kMiB, wire::kWantStatus);
  const auto absurd = CreateBuffer({8, 1}, ~std::uint64_t{0}, wire::kWantStatus);
  const auto empty = CreateBuffer({9, 1}, 0, wire::kWantStatus);
  client_.WhenAnswered(fits);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 48 * kMiB); });
  // A handle is taken although the creation failed, and can be destroyed.
  const auto destroyed = Destroy(ObjectKind::kMemory, {7, 1}, wire::kWantStatus);
  const auto again = CreateBuffer({7, 2}, 16 * kMiB, wire::kWantStatus);
  client_.WhenAnswered(again);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(fits), 0);
  EXPECT_EQ(client_.StatusOf(too_large), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(absurd), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(empty), cl_status::kInvalidBufferSize);
  EXPECT_EQ(client_.StatusOf(destroyed), 0);
  EXPECT_EQ(client_.StatusOf(again), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionTest, ItsMemoryIsSharedWithAClientOnTheSameHost) {
  CreateContextAndQueue();
  const auto shared = client_.Send(wire::ShareMemory{}, {}, wire::kWantStatus);
  client_.Send(wire::AcquireMemory{8 * kMiB});
  CreateBuffer(kBuffer, 4096);
  CreateBuffer({7, 1}, 8192);
  const auto part = client_.Send(wire::opencl::CreateSubBuffer{{kBuffer}, {{8, 1}}, {1}, 0, 1024});
  const auto failed = CreateBuffer({9, 1}, ~std::uint64_t{0}, wire::kWantStatus);
  client_.WhenAnswered(failed);
  const auto first = client_.Send(wire::LocateMemory{{kBuffer}});
  const auto second = client_.Send(wire::LocateMemory{{{7, 1}}});
  const auto of_part = client_.Send(wire::LocateMemory{{{8, 1}}});
  const auto of_none = client_.Send(wire::LocateMemory{{{9, 1}}});
  client_.WhenAnswered(of_none);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_GT(part, 0u);
  EXPECT_EQ(client_.StatusOf(shared), 0);
  EXPECT_GE(client_.passed_fd, 0);
  const auto at = [&](std::uint64_t sequence) { return client_.Reply<wire::LocateMemoryReply>(sequence); };
  EXPECT_EQ(at(first).status, 0);
  EXPECT_EQ(at(second).status, 0);
  EXPECT_NE(at(first).offset_bytes, at(second).offset_bytes);
  EXPECT_EQ(at(second).offset_bytes % 4096, 0u);
  EXPECT_EQ(at(of_part).status, cl_status::kInvalidMemObject);
  EXPECT_EQ(at(of_none).status, cl_status::kInvalidMemObject);
}

TEST_F(SessionTest, ItsMemoryIsNotSharedElsewhere) {
  CreateContextAndQueue();
  client_.carries_descriptors = false;
  const auto shared = client_.Send(wire::ShareMemory{}, {}, wire::kWantStatus);
  client_.WhenAnswered(shared);
  client_.Send(wire::ShareMemory{});  // who does not ask for the answer gets none
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(shared), cl_status::kInvalidOperation);
  EXPECT_EQ(client_.passed_fd, -1);
}

TEST_F(SessionTest, SharedVirtualMemoryIsChargedLikeABuffer) {
  CreateContextAndQueue();
  const auto create = [this](wire::Handle handle, std::uint64_t address, std::uint64_t size) {
    return client_.Send(wire::opencl::CreateSvm{{kContext}, {handle}, {1}, address, size}, {},
                        wire::kWantStatus);
  };
  const auto fits = create(kBuffer, wire::opencl::kSvmBase, 48 * kMiB);
  const auto too_large = create({7, 1}, wire::opencl::kSvmBase + 64 * kMiB, 32 * kMiB);
  client_.WhenAnswered(too_large);
  client_.Do([&] { EXPECT_EQ(quota_.used_bytes(), 48 * kMiB); });
  client_.WhenAnswered(Destroy(ObjectKind::kMemory, kBuffer, wire::kWantStatus));
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(fits), 0);
  EXPECT_EQ(client_.StatusOf(too_large), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionTest, SharedVirtualMemoryLiesWhereItMay) {
  CreateContextAndQueue();
  client_.Send(wire::opencl::CreateSvm{{kContext}, {kBuffer}, {1}, 4096, 4096}, {}, wire::kWantStatus);
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("CreateSvm"), std::string::npos) << ending.detail;
}

TEST_F(SessionTest, LeasesOfSeveralSessionsShareTheQuota) {
  ASSERT_TRUE(quota_.TryTake(60 * kMiB));  // another session's
  const auto refused = client_.Send(wire::AcquireMemory{8 * kMiB});
  const auto granted = client_.Send(wire::AcquireMemory{4 * kMiB});
  client_.Send(wire::ReleaseMemory{kMiB});
  client_.Do([&] { EXPECT_EQ(quota_.available_bytes(), kMiB); });
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(refused).granted_bytes, 0u);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(refused).available_bytes, 4 * kMiB);
  EXPECT_EQ(client_.Reply<wire::AcquireMemoryReply>(granted).granted_bytes, 4 * kMiB);
  EXPECT_EQ(quota_.used_bytes(), 60 * kMiB);
}

TEST_F(SessionTest, GivingBackMoreThanThereIsEndsTheSession) {
  client_.Send(wire::AcquireMemory{kMiB});
  client_.Send(wire::ReleaseMemory{kMiB + 1});
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
}

TEST_F(SessionTest, ANewBufferWaitsForTheMemoryOfADestroyedOne) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{64 * kMiB});
  CreateBuffer(kBuffer, 64 * kMiB);
  const auto destroyed = Destroy(ObjectKind::kMemory, kBuffer);
  const auto second = CreateBuffer({7, 1}, 32 * kMiB);
  int looks = 0;
  played_.on_look = [&] {
    if (played_.seen.empty() || played_.seen.back().sequence != destroyed || ++looks != 5) return;
    EXPECT_TRUE(played_.freed.empty());
    EXPECT_EQ(quota_.used_bytes(), 64 * kMiB);
    played_.Answer(wire::kOpcodeOf<wire::DestroyObject>, destroyed, wire::StatusReply{0});
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  ASSERT_EQ(played_.freed.size(), 1u);
  EXPECT_EQ(played_.freed[0].size_bytes, 64 * kMiB);
  EXPECT_EQ(played_.seen.back().sequence, second);
  // The client did not ask for the outcome of the destruction, and is not told.
  EXPECT_EQ(client_.Find(destroyed), nullptr);
}

TEST_F(SessionTest, WaitingForMemoryThatOnlyTheProgramCanFreeEnds) {
  limits_.wait_on_user_event = std::chrono::milliseconds(20);
  CreateContextAndQueue();
  client_.Send(opencl::CreateUserEvent{{kContext}, {kEvent}});
  client_.Send(wire::AcquireMemory{64 * kMiB});
  CreateBuffer(kBuffer, 64 * kMiB);
  Destroy(ObjectKind::kMemory, kBuffer);  // never confirmed: a command that waits for the event uses it
  CreateBuffer({7, 1}, 32 * kMiB);
  const Ending ending = RunPlayed();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("user event"), std::string::npos) << ending.message;
}

TEST_F(SessionTest, FragmentationIsAnErrorOrEndsTheSession) {
  CreateContextAndQueue();
  played_.fragmented = true;
  client_.Send(wire::AcquireMemory{kMiB});
  const auto asked = CreateBuffer(kBuffer, 4096, wire::kWantStatus);
  CreateBuffer({7, 1}, 4096);
  EXPECT_EQ(RunPlayed().reason, EndReason::kResource);
  EXPECT_EQ(client_.StatusOf(asked), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

}  // namespace
}  // namespace tulle::worker::exec
