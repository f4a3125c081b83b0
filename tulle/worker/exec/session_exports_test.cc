// Memory that sessions lend to each other.
#include <gtest/gtest.h>

#include <thread>

#include "tulle/worker/exec/test_session.h"

namespace tulle::worker::exec {
namespace {

using wire::ExportStatus;

class SessionExportsTest : public SessionTest {
 protected:
  static constexpr std::uint64_t kBytes = 5 * kMiB + 3;
  static constexpr std::uint64_t kCharged = wire::opencl::ChargedBytes(kBytes);

  std::uint64_t CreateExportable(std::uint64_t size_bytes = kBytes, std::uint16_t flags = wire::kWantStatus) {
    return client_.Send(opencl::CreateBuffer{{kContext},
                                             {kBuffer},
                                             {1 | static_cast<std::uint64_t>(opencl::MemFlag::kExportable)},
                                             size_bytes},
                        {}, flags);
  }
  // The owner is at work, and stays so until End.
  void StartOwner(bool writable) {
    CreateContextAndQueue();
    const auto created = CreateExportable();
    const auto lent = client_.Send(wire::ExportMemory{{kBuffer}, writable ? wire::U8{1} : wire::U8{0}, {""}});
    client_.WhenAnswered(lent);
    client_.Do([this, created, lent] {
      EXPECT_EQ(client_.StatusOf(created), 0);
      token_ = client_.Reply<wire::ExportMemoryReply>(lent).token.text;
      is_lent_ = true;
      is_lent_.notify_all();
    });
  }
  void GoOn() {
    client_.When([this] { return over_.load(); });
    owner_ = std::thread([this] { owners_end_ = RunOnNull(); });
    is_lent_.wait(false);
  }
  void EndOwner() {
    over_ = true;
    owner_.join();
  }

  // Another session, which has begun.
  ScriptedClient guest_;
  EndRequest guests_request_;
  Ending RunGuest() {
    SessionCounters counters;
    const Shared shared{&guests_quota_, nullptr, &slots_, &clock_, nullptr, nullptr, nullptr, &exports_};
    auto executor = local::MakeExecutors(null_.get(), {})->Start();
    EXPECT_TRUE(executor.ok());
    Session session(&guest_, std::move(*executor), shared, limits_, &guests_request_, &counters);
    return session.Run();
  }
  std::uint64_t GuestImports() {
    guest_.Send(opencl::CreateContext{{kContext}});
    guest_.Send(opencl::CreateQueue{{kContext}, {kQueue}, {}});
    const auto opened = guest_.Send(wire::OpenExport{{token_}});
    guest_.Send(opencl::ImportBuffer{{kContext}, {kBuffer}, {}, {token_}});
    return opened;
  }

  quota::MemoryQuota guests_quota_{kMiB};
  std::string token_;
  std::atomic<bool> is_lent_{false}, over_{false};
  std::thread owner_;
  Ending owners_end_;
};

TEST_F(SessionExportsTest, BothHaveTheSameBytes) {
  StartOwner(true);
  const ByteVector data(1000, std::byte{7});
  opencl::EnqueueWrite write{
      .queue = {kQueue}, .memory = {kBuffer}, .offset_bytes = kBytes - 1000, .transfer = 1};
  write.data.size_bytes = data.size();
  client_.Send(write, data);
  client_.WhenAnswered(client_.Send(opencl::Finish{{kQueue}}));
  std::atomic<bool> is_written{false};
  client_.Do([&] {
    is_written = true;
    is_written.notify_all();
  });
  GoOn();
  is_written.wait(false);
  const auto opened = GuestImports();
  opencl::EnqueueRead read{.queue = {kQueue}, .memory = {kBuffer}, .offset_bytes = kBytes - 1000};
  read.data.size_bytes = data.size();
  const auto got = guest_.Send(read);
  read.offset_bytes = kBytes - 999;
  const auto beyond = guest_.Send(read);
  guest_.WhenAnswered(beyond);
  EXPECT_EQ(RunGuest().reason, EndReason::kGoodbye);
  const auto reply = guest_.Reply<wire::OpenExportReply>(opened);
  EXPECT_EQ(reply.status.value, ExportStatus::kOk);
  EXPECT_EQ(reply.size_bytes, kBytes);
  EXPECT_EQ(reply.writable, 1);
  EXPECT_EQ(guest_.Find(got)->payload, data);
  EXPECT_NE(guest_.Reply<opencl::EnqueueReadReply>(beyond).status, 0);
  EXPECT_EQ(guests_quota_.used_bytes(), 0u) << "it is not the guest's memory";
  EndOwner();
  EXPECT_EQ(owners_end_.reason, EndReason::kGoodbye);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionExportsTest, ItCountsAsLongAsOneHasIt) {
  StartOwner(false);
  GoOn();
  GuestImports();
  const auto destroyed =
      guest_.Send(wire::DestroyObject{{ObjectKind::kMemory, kBuffer}}, {}, wire::kWantStatus);
  guest_.WhenAnswered(destroyed);
  guest_.Do([this] {
    EndOwner();
    EXPECT_EQ(quota_.used_bytes(), kCharged) << "the guest could have it yet";
  });
  EXPECT_EQ(RunGuest().reason, EndReason::kGoodbye);
  EXPECT_EQ(guest_.StatusOf(destroyed), 0);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionExportsTest, WhatTheOwnerDestroysStaysForOthers) {
  StartOwner(true);
  client_.When([this] { return over_.load(); });
  const auto destroyed = Destroy(ObjectKind::kMemory, kBuffer, wire::kWantStatus);
  client_.WhenAnswered(destroyed);
  client_.Do([this] {
    EXPECT_EQ(quota_.used_bytes(), 2 * kCharged) << "the lease, and what it was of";
    over_ = false;
  });
  GoOn();
  GuestImports();
  guest_.Do([this] { over_ = true; });
  guest_.When([this] { return !over_.load(); });
  EXPECT_EQ(RunGuest().reason, EndReason::kGoodbye);
  EndOwner();
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionExportsTest, WhatIsTakenBackEndsWhoHasIt) {
  StartOwner(true);
  client_.When([this] { return over_.load(); });
  client_.Do([this] { client_.Send(wire::RevokeExport{{token_}}); });
  owner_ = std::thread([this] { owners_end_ = RunOnNull(); });
  is_lent_.wait(false);
  GuestImports();
  guest_.Do([this] { over_ = true; });
  guest_.When([] { return false; });
  const Ending ending = RunGuest();
  EXPECT_EQ(ending.reason, EndReason::kGrantRevoked);
  EXPECT_NE(ending.message.find("taken back"), std::string::npos) << ending.message;
  owner_.join();
}

TEST_F(SessionExportsTest, RefusesWhatCannotBe) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{kMiB});
  CreateBuffer(kBuffer, 4096);
  const auto plain = client_.Send(wire::ExportMemory{{kBuffer}, 1, {""}});
  const auto unknown = client_.Send(wire::OpenExport{{"local.17"}});
  const auto not_lent = client_.Send(wire::RevokeExport{{"local.17"}});
  client_.WhenAnswered(not_lent);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.Reply<wire::ExportMemoryReply>(plain).status.value, ExportStatus::kNotExportable);
  EXPECT_EQ(client_.Reply<wire::OpenExportReply>(unknown).status.value, ExportStatus::kNoSuchExport);
  EXPECT_EQ(client_.Reply<wire::RevokeExportReply>(not_lent).status.value, ExportStatus::kNotOwner);
}

// Descriptors wait in a socket until the executor takes them, and there are only so many for all processes.
TEST_F(SessionExportsTest, ImportsWaitForTheExecutorToTakeThem) {
  const auto token = exports_.Export(*exports_.NewMemory(100, &guests_quota_), true, "");
  ASSERT_TRUE(token.ok());
  CreateContextAndQueue();
  client_.Send(wire::OpenExport{{*token}});
  std::uint64_t last = 0;
  for (std::uint32_t slot = 10; slot < 30; ++slot)
    last = client_.Send(opencl::ImportBuffer{{kContext}, {{slot, 1}}, {}, {*token}});
  std::size_t answered = 0, most = 0;
  int looks = 0;
  const auto imports = [&] {
    std::vector<std::uint64_t> sequences;
    for (const auto& seen : played_.seen) {
      if (seen.opcode == wire::kOpcodeOf<opencl::ImportBuffer>) sequences.push_back(seen.sequence);
    }
    return sequences;
  };
  client_.When([&] { return imports().size() == 20; });
  played_.on_look = [&] {
    const auto sequences = imports();
    most = std::max(most, sequences.size() - answered);
    if (++looks % 50 == 0 && answered < sequences.size())
      played_.Answer(wire::kOpcodeOf<opencl::ImportBuffer>, sequences[answered++], wire::StatusReply{0});
  };
  EXPECT_EQ(RunPlayed().reason, EndReason::kGoodbye);
  EXPECT_EQ(imports().back(), last);
  EXPECT_EQ(most, 8u);
  for (const Sent& sent : client_.sent())
    EXPECT_NE(sent.opcode, wire::kOpcodeOf<opencl::ImportBuffer>) << "not asked for";
}

TEST_F(SessionExportsTest, AVGpuHasSoMuchThatCanBeLentAndNoMore) {
  std::vector<std::shared_ptr<exports::ExportableMemory>> all;
  for (std::uint32_t i = 0; i < wire::kMaxExports; ++i) all.push_back(*exports_.NewMemory(100, &quota_));
  EXPECT_EQ(exports_.NewMemory(100, &quota_).error().code, Code::kResourceExhausted);
  CreateContextAndQueue();
  const auto created = CreateExportable();
  client_.WhenAnswered(created);
  client_.Do([&] { all.pop_back(); });
  const auto again = client_.Send(
      opencl::CreateBuffer{
          {kContext}, {{9, 1}}, {static_cast<std::uint64_t>(opencl::MemFlag::kExportable)}, 4096},
      {}, wire::kWantStatus);
  client_.WhenAnswered(again);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(created), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(client_.StatusOf(again), 0);
}

TEST_F(SessionExportsTest, WhoAsksAgainAndAgainForWhatIsNotThereIsEnded) {
  for (int i = 0; i < 1001; ++i) client_.Send(wire::OpenExport{{"local.17"}});
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kResource);
  EXPECT_NE(ending.message.find("1000 times"), std::string::npos) << ending.message;
}

TEST_F(SessionExportsTest, ExportableMemoryIsWithinTheQuota) {
  CreateContextAndQueue();
  const auto too_much = CreateExportable(65 * kMiB);
  client_.WhenAnswered(too_much);
  EXPECT_EQ(RunOnNull().reason, EndReason::kGoodbye);
  EXPECT_EQ(client_.StatusOf(too_much), cl_status::kMemObjectAllocationFailure);
}

TEST_F(SessionExportsTest, ExportableMemoryThatDoesNotAskIsABreach) {
  CreateContextAndQueue();
  client_.Send(wire::AcquireMemory{8 * kMiB});
  CreateExportable(kBytes, 0);
  EXPECT_EQ(RunOnNull().reason, EndReason::kProtocol);
  EXPECT_EQ(quota_.used_bytes(), 0u);
}

TEST_F(SessionExportsTest, WhatWasNotOpenedCannotBeImported) {
  CreateContextAndQueue();
  client_.Send(opencl::ImportBuffer{{kContext}, {kBuffer}, {}, {"local.1"}});
  const Ending ending = RunOnNull();
  EXPECT_EQ(ending.reason, EndReason::kProtocol);
  EXPECT_NE(ending.detail.find("not opened"), std::string::npos) << ending.detail;
}

}  // namespace
}  // namespace tulle::worker::exec
