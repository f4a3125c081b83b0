#include "tulle/node/export_board.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace tulle::node {
namespace {

using wire::ExportStatus;

class ExportBoardTest : public testing::Test {
 protected:
  static UniqueFd Memory() { return UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)); }
  ExportStatus Offer(const std::string& token, const std::string& tenant = "ann",
                     const std::string& vgpu = "owner") {
    return board_.Offer(vgpu, token, tenant, 4096, true, Memory());
  }
  std::vector<std::string> withdrawn_, unused_;  // "vgpu token"
  ExportBoard board_{
      {[this](const auto& vgpu, const auto& token) { withdrawn_.push_back(vgpu + ' ' + token); },
       [this](const auto& vgpu, const auto& token) { unused_.push_back(vgpu + ' ' + token); }}};
};

TEST_F(ExportBoardTest, OnlyTheTenantItIsForCanTakeIt) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  EXPECT_EQ(board_.Take("guest", "bob", "t", 1), nullptr);
  EXPECT_EQ(board_.Take("guest", "ann", "u", 1), nullptr);
  const auto* const taken = board_.Take("guest", "ann", "t", 1);
  ASSERT_NE(taken, nullptr);
  EXPECT_GE(taken->memory, 0);
  EXPECT_EQ(taken->size_bytes, 4096u);
  EXPECT_TRUE(taken->writable);
}

TEST_F(ExportBoardTest, StaysUntilTheLastSessionThatHasItHasEnded) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  ASSERT_NE(board_.Take("guest", "ann", "t", 1), nullptr);
  ASSERT_NE(board_.Take("guest", "ann", "t", 1), nullptr);  // the same
  ASSERT_NE(board_.Take("guest", "ann", "t", 2), nullptr);
  board_.Release("guest", "t");  // it is not the guest's to release
  board_.Release("owner", "t");
  EXPECT_NE(board_.Take("another", "ann", "t", 1), nullptr)
      << "its owner has let go of it, but others have it";
  board_.Close("another", "t", 1);
  board_.Close("another", "t", 1);  // once too often
  board_.Close("guest", "t", 1);
  board_.Close("guest", "t", 3);  // it never had it
  EXPECT_TRUE(unused_.empty());
  board_.Close("guest", "t", 2);
  EXPECT_EQ(unused_, std::vector<std::string>{"owner t"});
  EXPECT_EQ(board_.size(), 0u);
  EXPECT_EQ(board_.Take("guest", "ann", "t", 1), nullptr);
}

TEST_F(ExportBoardTest, IsGoneWhenItsOwnerLetsGoAndNobodyHasIt) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  board_.Release("owner", "t");
  EXPECT_EQ(unused_, std::vector<std::string>{"owner t"});
}

TEST_F(ExportBoardTest, AWithdrawalIsDoneWhenNobodyHasItAnyMore) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  ASSERT_NE(board_.Take("guest", "ann", "t", 1), nullptr);
  ASSERT_NE(board_.Take("another", "ann", "t", 1), nullptr);
  std::vector<ExportStatus> done;
  const auto note = [&](ExportStatus status) { done.push_back(status); };
  board_.Withdraw("guest", "t", note);
  EXPECT_EQ(done, std::vector{ExportStatus::kNoSuchExport}) << "it is not the guest's to take back";
  done.clear();
  board_.Withdraw("owner", "t", note);
  board_.Withdraw("owner", "t", note);
  EXPECT_EQ(withdrawn_, (std::vector<std::string>{"another t", "guest t"}));
  EXPECT_EQ(board_.Take("late", "ann", "t", 1), nullptr);
  board_.Close("guest", "t", 1);
  EXPECT_TRUE(done.empty());
  board_.Close("another", "t", 1);
  EXPECT_EQ(done, (std::vector{ExportStatus::kOk, ExportStatus::kOk}));
  EXPECT_EQ(unused_, std::vector<std::string>{"owner t"});
}

TEST_F(ExportBoardTest, AnOwnersEndTakesItBack) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  ASSERT_NE(board_.Take("guest", "ann", "t", 1), nullptr);
  board_.OnWorkerEnded("owner");
  EXPECT_EQ(withdrawn_, std::vector<std::string>{"guest t"});
  EXPECT_EQ(board_.Take("late", "ann", "t", 1), nullptr);
  board_.OnWorkerEnded("guest");
  EXPECT_EQ(board_.size(), 0u);
  EXPECT_TRUE(unused_.empty()) << "there is no owner to tell";
}

TEST_F(ExportBoardTest, AVGpuThatLendsToItselfEnds) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  ASSERT_NE(board_.Take("owner", "ann", "t", 1), nullptr);
  board_.OnWorkerEnded("owner");
  EXPECT_EQ(board_.size(), 0u);
}

TEST_F(ExportBoardTest, RefusesTooManyAndOneTokenTwice) {
  for (std::uint32_t i = 0; i < wire::kMaxExports; ++i)
    ASSERT_EQ(Offer("t" + std::to_string(i)), ExportStatus::kOk);
  EXPECT_EQ(Offer("more"), ExportStatus::kTooMany);
  EXPECT_EQ(Offer("more", "ann", "another"), ExportStatus::kOk);
  EXPECT_EQ(Offer("t0", "ann", "third"), ExportStatus::kUnavailable);
  EXPECT_EQ(board_.Offer("third", "x", "ann", 1, true, UniqueFd()), ExportStatus::kUnavailable);
}

TEST_F(ExportBoardTest, ANodeHasSoManyAndNoMore) {
  for (std::size_t i = 0; i < kMaxExportsOfNode; ++i)
    ASSERT_EQ(Offer("t" + std::to_string(i), "ann", "vgpu" + std::to_string(i / 100)), ExportStatus::kOk);
  EXPECT_EQ(Offer("more", "ann", "another"), ExportStatus::kTooMany);
  board_.OnWorkerEnded("vgpu3");
  EXPECT_EQ(Offer("more", "ann", "another"), ExportStatus::kOk);
}

TEST_F(ExportBoardTest, OnlySoManyWaitForOne) {
  ASSERT_EQ(Offer("t"), ExportStatus::kOk);
  ASSERT_NE(board_.Take("guest", "ann", "t", 1), nullptr);
  std::vector<ExportStatus> done;
  for (std::size_t i = 0; i <= kMaxWithdrawals; ++i)
    board_.Withdraw("owner", "t", [&](ExportStatus status) { done.push_back(status); });
  EXPECT_EQ(done, std::vector{ExportStatus::kUnavailable});
  board_.Close("guest", "t", 1);
  EXPECT_EQ(done.size(), kMaxWithdrawals + 1);
}

}  // namespace
}  // namespace tulle::node
