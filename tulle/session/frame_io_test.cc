#include "tulle/session/frame_io.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <set>
#include <thread>

#include "tulle/base/random.h"
#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/wait.h"
#include "tulle/session/ledger.h"
#include "tulle/session/test_pair.h"

namespace tulle::session {
namespace {

// Gives what it was given, in pieces of random sizes.
class Script final : public net::Transport {
 public:
  Script(ByteVector bytes, std::uint64_t seed) : bytes_(std::move(bytes)), random_(seed) {}
  Result<std::size_t> Read(MutableByteView out) override {
    if (random_.Below(8) == 0) return std::size_t{0};
    const std::size_t most = random_.Below(2) == 0 ? 40 : 100'000;
    const std::size_t size = std::min({out.size(), bytes_.size() - offset_, 1 + random_.Below(most)});
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset_), size, out.begin());
    offset_ += size;
    return size;
  }
  Result<std::size_t> Write(std::span<const iovec>) override { return std::size_t{0}; }
  int fd() const override { return -1; }
  short read_events() const override { return 0; }
  short write_events() const override { return 0; }
  bool has_buffered_input() const override { return false; }
  void Shutdown() override {}
  bool done() const { return offset_ == bytes_.size(); }

 private:
  ByteVector bytes_;
  SeededRandom random_;
  std::size_t offset_ = 0;
};

struct Got {
  wire::FrameHeader header;
  ByteVector body;
  ByteVector payload;
};

class Collector final : public FrameSink {
 public:
  Status OnHeader(const wire::FrameHeader& header) override {
    headers.push_back(header);
    return header_status;
  }
  Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView) override {
    if (discard) return MutableByteView();
    room.assign(header.payload_bytes, std::byte{});
    return MutableByteView(room);
  }
  Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) override {
    frames.push_back({header, {body.begin(), body.end()}, {payload.begin(), payload.end()}});
    return OkStatus();
  }
  bool WantsMore() const override { return frames.size() < want; }

  std::vector<wire::FrameHeader> headers;
  std::vector<Got> frames;
  ByteVector room;
  Status header_status;
  std::size_t want = SIZE_MAX;
  bool discard = false;
};

TEST(FrameReaderTest, WhatWasFramedComesOutHoweverItWasCut) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    SeededRandom random(seed);
    std::vector<Got> sent;
    ByteQueue stream;
    for (int i = 0; i < 40; ++i) {
      Got frame;
      constexpr std::size_t kBodies[] = {0, 8, 100, 16 << 10, (16 << 10) + 1, 70'000};
      constexpr std::size_t kPayloads[] = {0, 0, 0, 1, 1000, 16 << 10, 200'000};
      frame.body.resize(random.Below(2) == 0 ? random.Below(60) : kBodies[random.Below(6)]);
      frame.payload.resize(kPayloads[random.Below(7)]);
      random.Fill(frame.body);
      random.Fill(frame.payload);
      frame.header.body_bytes = static_cast<std::uint32_t>(frame.body.size());
      frame.header.payload_bytes = frame.payload.size();
      frame.header.sequence = static_cast<std::uint64_t>(i);
      const MutableByteView room = AppendFrame(stream, frame.header, frame.payload.size());
      std::copy(frame.body.begin(), frame.body.end(), room.begin());
      std::copy(frame.payload.begin(), frame.payload.end(),
                room.begin() + static_cast<std::ptrdiff_t>(frame.body.size()));
      sent.push_back(std::move(frame));
    }
    Script script({stream.data().begin(), stream.data().end()}, seed);
    FrameReader reader;
    Collector sink;
    sink.discard = seed % 4 == 3;
    if (seed % 3 == 0) sink.want = 1;
    while (!script.done() || sink.frames.size() < sent.size()) {
      ASSERT_TRUE(reader.Fill(script).ok());
      ASSERT_TRUE(reader.Drain(sink).ok());
      if (seed % 3 == 0 && !sink.WantsMore()) sink.want += random.Below(3);
    }
    ASSERT_EQ(sink.frames.size(), sent.size());
    EXPECT_EQ(sink.headers.size(), sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) {
      EXPECT_EQ(sink.frames[i].header.sequence, i);
      EXPECT_TRUE(sink.frames[i].body == sent[i].body);
      EXPECT_TRUE(sink.discard ? sink.frames[i].payload.empty() : sink.frames[i].payload == sent[i].payload);
    }
  }
}

TEST(FrameReaderTest, AHeaderOverALimitIsRefusedBeforeTheSinkHearsOfIt) {
  for (int which = 0; which < 3; ++which) {
    wire::FrameHeader header;
    if (which == 0) header.body_bytes = wire::kMaxBodyBytes + 1;
    if (which == 1) header.payload_bytes = wire::kMaxPayloadBytes + 1;
    if (which == 2) header.flags = 0x8000;
    const ByteView bytes = std::as_bytes(std::span(&header, 1));
    Script script({bytes.begin(), bytes.end()}, 1);
    FrameReader reader;
    Collector sink;
    Status status;
    while (status.ok()) {
      ASSERT_TRUE(reader.Fill(script).ok());
      status = reader.Drain(sink);
    }
    EXPECT_EQ(status.error().code, Code::kDataLoss);
    EXPECT_TRUE(sink.headers.empty());
  }
}

TEST(FrameReaderTest, WhatTheSinkRefusesGoesNoFurther) {
  wire::FrameHeader header;
  const ByteView bytes = std::as_bytes(std::span(&header, 1));
  Script script({bytes.begin(), bytes.end()}, 1);
  FrameReader reader;
  Collector sink;
  sink.header_status = Error{Code::kInternal, "no"};
  Status status;
  while (status.ok()) {
    ASSERT_TRUE(reader.Fill(script).ok());
    status = reader.Drain(sink);
  }
  EXPECT_EQ(status.error().message, "no");
  EXPECT_TRUE(sink.frames.empty());
}

TEST(ByteQueueTest, FirstInFirstOut) {
  SeededRandom random(1);
  ByteQueue queue;
  std::uint8_t in = 0, out = 0;
  for (int i = 0; i < 20'000; ++i) {
    const MutableByteView room = queue.Append(random.Below(300));
    for (std::byte& byte : room) byte = static_cast<std::byte>(in++);
    std::size_t take = random.Below(queue.size() + 1);
    if (random.Below(50) == 0) take = queue.size();
    for (std::size_t k = 0; k < take; ++k) ASSERT_EQ(queue.data()[k], static_cast<std::byte>(out++));
    queue.Consume(take);
  }
}

TEST(CreditLedgerTest, CountsWhatIsUnderWay) {
  CreditLedger ledger(1);
  EXPECT_TRUE(ledger.Allows(1'000'000, 10)) << "one frame may always be under way";
  ledger.Add(100);
  ledger.Add(50);
  EXPECT_TRUE(ledger.Allows(50, 200));
  EXPECT_FALSE(ledger.Allows(51, 200));
  EXPECT_FALSE(ledger.Allows(201, 200));
  EXPECT_FALSE(ledger.Acknowledge(4)) << "never sent";
  EXPECT_TRUE(ledger.Acknowledge(2));
  EXPECT_EQ(ledger.unacked_bytes(), 50u);
  EXPECT_FALSE(ledger.Acknowledge(1)) << "back";
  EXPECT_TRUE(ledger.Acknowledge(2)) << "again";
  EXPECT_TRUE(ledger.Acknowledge(3));
  EXPECT_TRUE(ledger.idle());
  EXPECT_FALSE(ledger.Acknowledge(~0ull));
}

TEST(CreditLedgerTest, AgreesWithAPlainModel) {
  SeededRandom random(2);
  CreditLedger ledger(1);
  std::vector<std::uint32_t> sizes(2, 0);  // by sequence
  std::uint64_t acked = 1;
  for (int i = 0; i < 20'000; ++i) {
    if (random.Below(3) != 0) {
      sizes.push_back(static_cast<std::uint32_t>(random.Below(10'000)));
      ledger.Add(sizes.back());
    } else {
      acked += random.Below(sizes.size() - acked);
      ASSERT_TRUE(ledger.Acknowledge(acked));
    }
    if (i % 64 != 0) continue;
    std::uint64_t sum = 0;
    for (std::uint64_t s = acked + 1; s < sizes.size(); ++s) sum += sizes[s];
    ASSERT_EQ(ledger.unacked_bytes(), sum);
  }
}

TEST(PendingRepliesTest, AgreesWithASet) {
  SeededRandom random(3);
  PendingReplies pending;
  std::set<std::uint64_t> model;
  std::uint64_t next = 1;
  for (int i = 0; i < 50'000; ++i) {
    if (random.Below(2) == 0 && model.size() < 500) {
      next += 1 + random.Below(70);
      pending.Add(next, static_cast<std::uint16_t>(next % 7));
      model.insert(next);
    } else {
      const std::uint64_t sequence =
          model.empty() || random.Below(4) == 0
              ? random.Below(next + 2)
              : *std::next(model.begin(), static_cast<std::ptrdiff_t>(random.Below(model.size())));
      EXPECT_FALSE(pending.Take(sequence, 99)) << "another opcode";
      ASSERT_EQ(pending.Take(sequence, static_cast<std::uint16_t>(sequence % 7)), model.erase(sequence) == 1);
    }
    ASSERT_EQ(pending.size(), model.size());
  }
}

}  // namespace
}  // namespace tulle::session
