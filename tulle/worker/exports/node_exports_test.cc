#include "tulle/worker/exports/node_exports.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

#include "tulle/base/seqpacket.h"
#include "tulle/wire/packet.h"

namespace tulle::worker::exports {
namespace {

using wire::ExportStatus;

// A worker's exports, and the node as the test plays it.
class NodeExportsTest : public testing::Test {
 protected:
  // The next packet of the worker, and what came with it.
  template <typename M>
  M Next() {
    pollfd readable{link_.parent.get(), POLLIN, 0};
    EXPECT_EQ(poll(&readable, 1, 20'000), 1) << "nothing comes";
    auto packet = ReceivePacket(link_.parent.get(), room_);
    EXPECT_TRUE(packet.ok() && !packet->none);
    fds_ = std::move(packet->fds);
    Take<M> taken;
    EXPECT_EQ(wire::DispatchPacket(wire::node::kNodeCommands, ByteView(room_).first(packet->size_bytes),
                                   arena_, taken),
              wire::WireResult::kOk);
    EXPECT_TRUE(taken.got.has_value()) << "another message";
    return taken.got.value_or(M{});
  }
  bool Silent() {
    pollfd readable{link_.parent.get(), POLLIN, 0};
    return poll(&readable, 1, 0) == 0;
  }
  void Answer(const wire::node::ExportAnswer& answer, int memory = -1) {
    ByteVector packet(wire::EncodedSize(answer));
    wire::Encode(answer, packet);
    const std::array fds = {memory};
    EXPECT_TRUE(SendPacket(fds_.back().get(), packet, std::span(fds).first(memory >= 0 ? 1 : 0)).ok());
    fds_.clear();
  }
  template <typename F>
  auto Meanwhile(F ask, const std::function<void()>& node) {
    std::thread thread(node);
    auto result = ask();
    thread.join();
    return result;
  }
  std::shared_ptr<ExportableMemory> Memory(std::uint64_t bytes = 1000) {
    return *exports_.NewMemory(bytes, &quota_);
  }
  std::string Lend(std::shared_ptr<ExportableMemory> memory) {
    auto token = Meanwhile([&] { return exports_.Export(std::move(memory), true, ""); },
                           [&] {
                             Next<wire::node::OfferExport>();
                             Answer({{ExportStatus::kOk}});
                           });
    return token.ok() ? *token : "";
  }

  template <typename M>
  struct Take {
    std::optional<M> got;
    template <typename Other>
    void On(const Other& message) {
      if constexpr (std::same_as<Other, M>) got = message;
    }
  };
  struct Holder final : Exports::Holder {
    void OnWithdrawn(const std::string& token) override { withdrawn.push_back(token); }
    std::vector<std::string> withdrawn;
  };

  SeqPacketPair link_ = *MakeSeqPacketPair();
  quota::MemoryQuota quota_{10'000};
  NodeExports exports_{link_.child.get(), "vgpu", "ann"};
  std::array<std::byte, wire::kMaxPacketBytes> room_{};
  wire::Arena arena_;
  std::vector<UniqueFd> fds_;
};

TEST_F(NodeExportsTest, OffersWhatOthersMayHave) {
  for (const bool writable : {true, false}) {
    const auto token =
        Meanwhile([&] { return exports_.Export(Memory(), writable, writable ? "" : "bob"); },
                  [&] {
                    const auto offer = Next<wire::node::OfferExport>();
                    EXPECT_EQ(offer.tenant.text, writable ? "ann" : "bob");
                    EXPECT_EQ(offer.size_bytes, 1000u);
                    EXPECT_EQ(offer.writable, writable ? 1 : 0);
                    ASSERT_EQ(fds_.size(), 2u);
                    EXPECT_EQ(fcntl(fds_[0].get(), F_GETFL) & O_ACCMODE, writable ? O_RDWR : O_RDONLY);
                    Answer({{ExportStatus::kOk}});
                  });
    ASSERT_TRUE(token.ok()) << ToString(token.error());
    EXPECT_EQ(token->substr(0, 5), "vgpu.");
    EXPECT_EQ(token->size(), 5u + 32u);
  }
  const auto refused = Meanwhile([&] { return exports_.Export(Memory(), true, ""); },
                                 [&] {
                                   Next<wire::node::OfferExport>();
                                   Answer({{ExportStatus::kTooMany}});
                                 });
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
}

TEST_F(NodeExportsTest, WhatHasNoRoomAfterItsOwnerIsTakenBack) {
  auto memory = Memory();
  const std::string first = Lend(memory), second = Lend(memory), third = Lend(Memory());
  memory.reset();
  exports_.Release(first, 8000);
  EXPECT_EQ(Next<wire::node::ReleaseExport>().token.text, first);
  EXPECT_EQ(quota_.used_bytes(), 8000u);
  exports_.Release(second, 8000);
  EXPECT_EQ(Next<wire::node::ReleaseExport>().token.text, second);
  EXPECT_EQ(quota_.used_bytes(), 8000u) << "it is the same memory";
  exports_.Release(third, 8000);
  EXPECT_EQ(Next<wire::node::ReleaseExport>().token.text, third);
  EXPECT_EQ(Next<wire::node::WithdrawExport>().token.text, third);
  EXPECT_TRUE(fds_.empty()) << "nobody waits for it";
  exports_.On(wire::node::ExportUnused{{first}});
  EXPECT_EQ(quota_.used_bytes(), 8000u);
  exports_.On(wire::node::ExportUnused{{second}});
  EXPECT_EQ(quota_.used_bytes(), 0u);
  exports_.Release("vgpu.unknown", 1);
  EXPECT_TRUE(Silent());
}

TEST_F(NodeExportsTest, OpensWhatTheNodeGives) {
  Holder holder, another;
  const UniqueFd memory(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto opened = Meanwhile([&] { return exports_.Open("t", &holder); },
                                [&] {
                                  EXPECT_EQ(Next<wire::node::TakeExport>().token.text, "t");
                                  Answer({{ExportStatus::kOk}, 77, 1}, memory.get());
                                });
  ASSERT_TRUE(opened.ok()) << ToString(opened.error());
  EXPECT_EQ(opened->size_bytes, 77u);
  EXPECT_TRUE(opened->writable);
  EXPECT_TRUE(opened->fd.valid());
  std::uint64_t number = 0;
  const auto refused = Meanwhile([&] { return exports_.Open("t", &another); },
                                 [&] {
                                   number = Next<wire::node::TakeExport>().session;
                                   Answer({{ExportStatus::kNoSuchExport}});
                                 });
  EXPECT_EQ(refused.error().code, Code::kNotFound);
  EXPECT_EQ(Next<wire::node::CloseExport>().session, number) << "in case that it was given after all";
  exports_.On(wire::node::ExportWithdrawn{{"t"}});
  exports_.On(wire::node::ExportWithdrawn{{"another"}});
  EXPECT_EQ(holder.withdrawn, std::vector<std::string>{"t"});
  EXPECT_TRUE(another.withdrawn.empty());
  exports_.Close("t", &holder);
  EXPECT_NE(Next<wire::node::CloseExport>().session, number);
  exports_.Close("t", &holder);
  EXPECT_TRUE(Silent());
  exports_.On(wire::node::ExportWithdrawn{{"t"}});
  EXPECT_EQ(holder.withdrawn.size(), 1u);
}

TEST_F(NodeExportsTest, AWithdrawalIsAnswered) {
  const std::string token = Lend(Memory());
  for (const ExportStatus status : {ExportStatus::kOk, ExportStatus::kNoSuchExport}) {
    const Status done = Meanwhile([&] { return exports_.Withdraw(token); },
                                  [&] {
                                    EXPECT_EQ(Next<wire::node::WithdrawExport>().token.text, token);
                                    Answer({{status}});
                                  });
    EXPECT_EQ(done.ok(), status == ExportStatus::kOk);
  }
}

TEST_F(NodeExportsTest, ANodeThatIsGoneIsAnError) {
  link_.parent.reset();
  Holder holder;
  EXPECT_FALSE(exports_.Export(Memory(), true, "").ok());
  EXPECT_EQ(exports_.Open("t", &holder).error().code, Code::kUnavailable);
  EXPECT_FALSE(exports_.Withdraw("t").ok());
}

}  // namespace
}  // namespace tulle::worker::exports
