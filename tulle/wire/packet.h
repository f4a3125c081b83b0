// A message on a packet socket, where the packet's border is the frame: opcode, then the body. Used between
// a node and its workers; there is no payload, no sequence number and no version.
#pragma once

#include "tulle/wire/codec.h"
#include "tulle/wire/row.h"

namespace tulle::wire {

// Room for any packet: the messages hold ids, keys and a reason.
inline constexpr std::size_t kMaxPacketBytes = 4096;

template <Message M, typename... Rows>
ByteVector EncodePacket(const std::tuple<Rows...>& table, const M& message) {
  const U16 opcode = OpcodeIn<M>(table);
  const std::size_t body_bytes = EncodedSize(message);
  ByteVector packet(sizeof opcode + body_bytes);
  TULLE_CHECK(packet.size() <= kMaxPacketBytes);
  std::memcpy(packet.data(), &opcode, sizeof opcode);
  Encode(message, MutableByteView(packet).subspan(sizeof opcode));
  return packet;
}

// Decodes one packet and calls `handlers.On(message)`. A row without an overload is not for this end
// (kWrongDirection). The message's views live as long as `packet` and `arena`. Anything but kOk: nothing was
// called.
template <typename Table, typename Handlers>
WireResult DispatchPacket(const Table& table, ByteView packet, Arena& arena, Handlers& handlers) {
  U16 opcode = 0;
  if (packet.size() < sizeof opcode) return WireResult::kTruncated;
  std::memcpy(&opcode, packet.data(), sizeof opcode);
  WireResult result = WireResult::kUnknownOpcode;
  arena.Reset();
  WithRow(table, opcode, [&](const auto& row) {
    using M = typename std::remove_cvref_t<decltype(row)>::Command;
    if constexpr (requires(const M& m) { handlers.On(m); }) {
      M message;
      result = Decode(packet.subspan(sizeof opcode), 0, arena, &message);
      if (result == WireResult::kOk) handlers.On(message);
    } else {
      result = WireResult::kWrongDirection;
    }
  });
  return result;
}

}  // namespace tulle::wire
