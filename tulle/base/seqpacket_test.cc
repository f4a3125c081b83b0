#include "tulle/base/seqpacket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <optional>

namespace tulle {
namespace {

ino_t InodeOf(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

class SeqPacketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = MakeSeqPacketPair();
    ASSERT_TRUE(made.ok());
    pair_.emplace(std::move(made).value());
  }
  std::optional<SeqPacketPair> pair_;
  std::array<std::byte, 64> room_{};
};

TEST_F(SeqPacketTest, KeepsPacketBorders) {
  ASSERT_TRUE(SendPacket(pair_->parent.get(), AsBytes("one")).ok());
  ASSERT_TRUE(SendPacket(pair_->parent.get(), AsBytes("three")).ok());
  auto first = ReceivePacket(pair_->child.get(), room_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(AsText(ByteView(room_).first(first->size_bytes)), "one");
  auto second = ReceivePacket(pair_->child.get(), room_);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(AsText(ByteView(room_).first(second->size_bytes)), "three");
  auto nothing = ReceivePacket(pair_->child.get(), room_);
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->none);
}

TEST_F(SeqPacketTest, PassesDescriptorsCloseOnExec) {
  UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const int fds[] = {null.get(), zero.get()};
  ASSERT_TRUE(SendPacket(pair_->parent.get(), AsBytes("x"), fds).ok());
  auto received = ReceivePacket(pair_->child.get(), room_);
  ASSERT_TRUE(received.ok());
  ASSERT_EQ(received->fds.size(), 2u);
  EXPECT_EQ(InodeOf(received->fds[0].get()), InodeOf(null.get()));
  EXPECT_EQ(InodeOf(received->fds[1].get()), InodeOf(zero.get()));
  EXPECT_EQ(fcntl(received->fds[0].get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(SeqPacketTest, SaysThatThePeerIsGone) {
  pair_->child.reset();
  auto sent = SendPacket(pair_->parent.get(), AsBytes("x"));
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, Code::kUnavailable);
  auto received = ReceivePacket(pair_->parent.get(), room_);
  ASSERT_FALSE(received.ok());
  EXPECT_EQ(received.error().code, Code::kUnavailable);
}

TEST_F(SeqPacketTest, RefusesAPacketLongerThanTheRoom) {
  ASSERT_TRUE(SendPacket(pair_->parent.get(), AsBytes(std::string(65, 'x'))).ok());
  auto received = ReceivePacket(pair_->child.get(), room_);
  ASSERT_FALSE(received.ok());
  EXPECT_EQ(received.error().code, Code::kInvalidArgument);
}

TEST_F(SeqPacketTest, AFullSocketIsAnErrorNotAWait) {
  Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) status = SendPacket(pair_->parent.get(), AsBytes("x"));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace tulle
