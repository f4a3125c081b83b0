// In what order a worker's answers arrive when some have large payloads.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "tulle/session/payload_parts.h"
#include "tulle/session/test_ends.h"

namespace tulle::session {
namespace {

constexpr std::size_t kLarge = 3u << 20;

// Takes every command.
struct Taker final : FrameHandler {
  Result<MutableByteView> OnPayload(const wire::FrameHeader&, ByteView) override { return MutableByteView(); }
  Status OnFrame(const wire::FrameHeader&, ByteView, MutableByteView) override {
    ++frames;
    return OkStatus();
  }
  int frames = 0;
};

// Notes the order of the answers; a payload is its command's pattern.
class Recorder final : public ClientHandler {
 public:
  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    return OnParts(header.answers, header.payload_bytes);
  }
  Result<MutableByteView> OnParts(std::uint64_t answers, std::uint64_t total_bytes) override {
    const std::lock_guard lock(mutex_);
    return MutableByteView(rooms_[answers] = ByteVector(total_bytes));
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView, MutableByteView payload) override {
    const std::lock_guard lock(mutex_);
    if (header.opcode != wire::kOpcodeOf<wire::Ack>) order_.push_back(header.answers);
    if (!payload.empty()) patterns_ok_ &= HasPattern(header.answers, payload);
    return OkStatus();
  }
  void OnLost(const Error&) override {}
  std::vector<std::uint64_t> order() {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(patterns_ok_);
    return order_;
  }

 private:
  std::mutex mutex_;
  std::map<std::uint64_t, ByteVector> rooms_;
  std::vector<std::uint64_t> order_;
  bool patterns_ok_ = true;
};

class AnswerOrderTest : public testing::Test {
 protected:
  // A session whose client has sent commands 2 to 1 + kCommands, which the worker has taken.
  static constexpr int kCommands = 9;
  void SetUp() override {
    Ends ends = Connect(MakeSocketPair(), &recorder_, ClientOptions(true), {});
    ASSERT_TRUE(ends.client.ok() && ends.server.ok());
    client_ = std::move(*ends.client);
    worker_ = std::move(*ends.server);
    for (int i = 0; i < kCommands; ++i) ASSERT_TRUE(client_->Send(ReadOf(1, kLarge)).ok());
    ASSERT_TRUE(client_->Flush().ok());
    Taker taker;
    while (taker.frames < kCommands) {
      ASSERT_TRUE(worker_->Pump(taker).ok());
      net::WaitFor(worker_->fd(), POLLIN, net::Now() + std::chrono::milliseconds(1));
    }
  }
  void TearDown() override {
    worker_->End(wire::EndReason::kShuttingDown, "");
    client_->Close();
  }

  void Answer(std::uint64_t command, std::size_t size, std::uint64_t after) {
    ByteVector bytes(size);
    FillPattern(command, bytes);
    EnqueueReadReply reply;
    reply.data.size_bytes = size;
    ASSERT_TRUE(worker_->SendReply(wire::kOpcodeOf<EnqueueRead>, command, reply, bytes, after).ok());
  }
  std::vector<std::uint64_t> Order(std::size_t answers) {
    Taker taker;
    while (recorder_.order().size() < answers) {
      const auto flushed = worker_->Flush();
      EXPECT_TRUE(flushed.ok() && worker_->Pump(taker).ok());
      if (!flushed.ok()) break;
      net::WaitFor(worker_->fd(), worker_->events(), net::Now() + std::chrono::milliseconds(1));
    }
    EXPECT_EQ(worker_->first_delayed(), ServerSession::kEverything);
    return recorder_.order();
  }
  using Commands = std::vector<std::uint64_t>;

  Recorder recorder_;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> worker_;
};

TEST_F(AnswerOrderTest, WhatDoesNotDependOnALargeAnswerOvertakesIt) {
  Answer(2, kLarge, 2);
  EXPECT_EQ(worker_->first_delayed(), 2u);
  Answer(3, 4, 0);
  Answer(4, 4, 1);
  EXPECT_EQ(Order(3), (Commands{3, 4, 2}));
}

TEST_F(AnswerOrderTest, WhatDependsOnItComesBehind) {
  Answer(2, kLarge, 2);
  Answer(3, 4, 2);
  Answer(4, 4, 0);
  Answer(5, 4, ServerSession::kEverything);
  EXPECT_EQ(Order(4), (Commands{4, 2, 3, 5}));
}

TEST_F(AnswerOrderTest, OnlyWhatIsDelayedCounts) {
  Answer(5, kLarge, 5);
  Answer(3, 4, 4);  // depends on 4, which was answered long ago
  Answer(6, kLarge, 6);
  Answer(7, 4, 5);
  EXPECT_EQ(Order(4), (Commands{3, 5, 6, 7}));
}

TEST_F(AnswerOrderTest, WithNothingLargeAllStaysInOrder) {
  Answer(4, 100'0, ServerSession::kEverything);
  Answer(3, 20'000, 0);
  Answer(2, 4, 0);
  EXPECT_EQ(Order(3), (Commands{4, 3, 2}));
}

TEST_F(AnswerOrderTest, ByChanceNothingComesBeforeWhatItDependsOn) {
  SeededRandom random(17);
  std::map<std::uint64_t, std::uint64_t> after;
  Commands commands;
  for (std::uint64_t command = 2; command < 2 + kCommands; ++command) commands.push_back(command);
  for (std::size_t i = 0; i < commands.size(); ++i)
    std::swap(commands[i], commands[i + random.Below(commands.size() - i)]);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> pairs;  // the first comes before the second
  Commands large;
  for (const std::uint64_t command : commands) {
    const bool is_large = random.Below(2) == 0;
    const std::uint64_t limit = random.Below(2 + kCommands);
    for (const std::uint64_t before : large) {
      if (is_large || before <= limit) pairs.emplace_back(before, command);
    }
    Answer(command, is_large ? kPartedPayloadBytes + random.Below(kLarge) : random.Below(1000), limit);
    if (is_large) large.push_back(command);
  }
  const Commands order = Order(commands.size());
  const auto place = [&](std::uint64_t c) {
    return std::find(order.begin(), order.end(), c) - order.begin();
  };
  for (const auto& [first, second] : pairs) EXPECT_LT(place(first), place(second)) << first << ", " << second;
}

}  // namespace
}  // namespace tulle::session
