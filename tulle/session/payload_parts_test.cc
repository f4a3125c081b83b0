// Payloads in parts: what a peer may say of them, and what is written for one.
#include "tulle/session/payload_parts.h"

#include <gtest/gtest.h>

#include "tulle/session/delayed_output.h"

namespace tulle::session {
namespace {

using wire::WireResult;

wire::FrameHeader Part(std::uint64_t answers, std::uint64_t bytes) {
  wire::FrameHeader header;
  header.opcode = wire::kOpcodeOf<wire::PayloadPart>;
  header.answers = answers;
  header.payload_bytes = bytes;
  return header;
}
wire::FrameHeader Last(std::uint64_t answers, std::uint64_t bytes) {
  wire::FrameHeader header;
  header.opcode = wire::kOpcodeOf<wire::opencl::EnqueueRead>;
  header.flags = wire::kAfterParts;
  header.answers = answers;
  header.payload_bytes = bytes;
  return header;
}

TEST(PayloadPartsTest, PartsComeTogetherInTheRoom) {
  ByteVector room(100, std::byte{0});
  PayloadParts parts;
  ASSERT_EQ(parts.Check(Part(7, 60)), WireResult::kOk);
  ASSERT_EQ(parts.Check(wire::PayloadPart{100, {60}}), WireResult::kOk);
  parts.Open(7, 100, room);
  EXPECT_EQ(parts.Next(60).data(), room.data());
  ASSERT_EQ(parts.Check(Part(7, 30)), WireResult::kOk);
  ASSERT_EQ(parts.Check(wire::PayloadPart{100, {30}}), WireResult::kOk);
  EXPECT_EQ(parts.Next(30).data(), room.data() + 60);
  wire::FrameHeader last = Last(7, 10);
  ASSERT_EQ(parts.Check(last), WireResult::kOk);
  EXPECT_EQ(parts.Next(10).data(), room.data() + 90);
  const MutableByteView whole = parts.Finish(&last);
  EXPECT_EQ(whole.data(), room.data());
  EXPECT_EQ(whole.size(), 100u);
  EXPECT_EQ(last.payload_bytes, 100u);
  EXPECT_FALSE(parts.open());
}

TEST(PayloadPartsTest, WhatCannotBeIsRefused) {
  PayloadParts parts;
  EXPECT_EQ(parts.Check(Part(7, 0)), WireResult::kBadPayload) << "of nothing";
  EXPECT_EQ(parts.Check(Last(7, 10)), WireResult::kBadPayload) << "no part before it";
  EXPECT_EQ(parts.Check(wire::PayloadPart{wire::kMaxPayloadBytes + 1, {1}}), WireResult::kLimit);
  EXPECT_EQ(parts.Check(wire::PayloadPart{0, {1}}), WireResult::kBadPayload);
  EXPECT_EQ(parts.Check(wire::PayloadPart{60, {60}}), WireResult::kBadPayload)
      << "nothing left for the frame";
  ByteVector room(100);
  parts.Open(7, 100, room);
  parts.Next(60);
  EXPECT_EQ(parts.Check(Part(8, 10)), WireResult::kBadPayload) << "another's";
  EXPECT_EQ(parts.Check(wire::PayloadPart{101, {10}}), WireResult::kBadPayload) << "another size";
  EXPECT_EQ(parts.Check(wire::PayloadPart{100, {40}}), WireResult::kBadPayload)
      << "nothing left for the frame";
  EXPECT_EQ(parts.Check(wire::PayloadPart{100, {UINT64_MAX}}), WireResult::kBadPayload);
  EXPECT_EQ(parts.Check(Last(8, 40)), WireResult::kBadPayload) << "another's";
  EXPECT_EQ(parts.Check(Last(7, 39)), WireResult::kBadPayload);
  EXPECT_EQ(parts.Check(Last(7, 41)), WireResult::kBadPayload);
  wire::FrameHeader answer = Last(7, 40);
  answer.flags = 0;
  EXPECT_EQ(parts.Check(answer), WireResult::kBadPayload) << "its payload is under way";
  answer.answers = 8;
  EXPECT_EQ(parts.Check(answer), WireResult::kOk) << "others come in between";
  answer.answers = 0;
  EXPECT_EQ(parts.Check(answer), WireResult::kOk);
}

TEST(PayloadPartsTest, WithoutRoomItIsDiscarded) {
  ByteVector room(99);
  PayloadParts parts;
  parts.Open(7, 100, room);
  EXPECT_TRUE(parts.Next(60).empty());
  wire::FrameHeader last = Last(7, 40);
  EXPECT_TRUE(parts.Finish(&last).empty());
  EXPECT_EQ(last.payload_bytes, 100u);
}

TEST(DelayedOutputTest, KnowsWhichLargeAnswersItHolds) {
  DelayedOutput output;
  const ByteVector body(8), large(kPartedPayloadBytes), small(16);
  const auto add = [&](std::uint64_t answers, ByteView payload) {
    wire::FrameHeader header;
    header.answers = answers;
    output.Add(header, body, payload, nullptr);
  };
  EXPECT_EQ(output.first_answered(), UINT64_MAX);
  add(9, large);
  add(2, small);
  add(4, large);
  add(3, small);
  EXPECT_EQ(output.first_answered(), 4u);
  EXPECT_EQ(output.copied_bytes(), 4 * body.size() + 2 * large.size() + 2 * small.size());
  OutputQueue out;
  std::uint64_t sequence = 10;
  output.Move(100, &sequence, out);
  EXPECT_EQ(sequence, 11u);
  EXPECT_EQ(output.payload_left(), large.size() - 100);
  output.Move(output.payload_left(), &sequence, out);
  EXPECT_EQ(sequence, 13u) << "what is behind it goes along";
  EXPECT_EQ(output.first_answered(), 4u);
  output.Move(output.payload_left(), &sequence, out);
  EXPECT_EQ(sequence, 15u);
  EXPECT_EQ(output.first_answered(), UINT64_MAX);
  EXPECT_TRUE(output.empty());
  EXPECT_EQ(output.copied_bytes(), 0u);
}

}  // namespace
}  // namespace tulle::session
