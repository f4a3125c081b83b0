#include "tulle/wire/packet.h"

#include <gtest/gtest.h>

#include <string>

#include "tulle/wire/schema/node.h"

namespace tulle::wire {
namespace {

struct WorkerEnd {
  void On(const node::AddGrant& message) { grant = message.grant.text; }
  void On(const node::Shutdown&) { ++shutdowns; }
  std::string grant;
  int shutdowns = 0;
};

TEST(Packet, ReachesTheHandlerOfItsMessage) {
  WorkerEnd end;
  Arena arena;
  const ByteVector key(node::kKeyBytes);
  EXPECT_EQ(DispatchPacket(node::kNodeCommands,
                           EncodePacket(node::kNodeCommands, node::AddGrant{{"g1"}, {key}}), arena, end),
            WireResult::kOk);
  EXPECT_EQ(end.grant, "g1");
  EXPECT_EQ(
      DispatchPacket(node::kNodeCommands, EncodePacket(node::kNodeCommands, node::Shutdown{}), arena, end),
      WireResult::kOk);
  EXPECT_EQ(end.shutdowns, 1);
}

TEST(Packet, RefusesWhatIsBrokenOrNotForThisEnd) {
  WorkerEnd end;
  Arena arena;
  ByteVector packet = EncodePacket(node::kNodeCommands, node::RevokeGrant{{"g1"}});
  EXPECT_EQ(DispatchPacket(node::kNodeCommands, packet, arena, end), WireResult::kWrongDirection);
  packet = EncodePacket(node::kNodeCommands, node::AddGrant{{"g1"}, {}});
  for (std::size_t size = 0; size < packet.size(); ++size) {
    EXPECT_EQ(DispatchPacket(node::kNodeCommands, ByteView(packet).first(size), arena, end),
              WireResult::kTruncated)
        << size;
  }
  packet.push_back(std::byte{0});
  EXPECT_EQ(DispatchPacket(node::kNodeCommands, packet, arena, end), WireResult::kTrailing);
  packet[0] = std::byte{0x7f};
  EXPECT_EQ(DispatchPacket(node::kNodeCommands, packet, arena, end), WireResult::kUnknownOpcode);
  EXPECT_EQ(end.grant, "");
}

}  // namespace
}  // namespace tulle::wire
