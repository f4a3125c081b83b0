// A large payload that arrives in parts ahead of its frame (wire::PayloadPart): one end's memory of the one
// that is under way. No lock.
#pragma once

#include <algorithm>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/session/frame_io.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/frame.h"

namespace tulle::session {

// Payloads from this size on may be sent in parts; smaller ones hold nobody up for long.
inline constexpr std::size_t kPartedPayloadBytes = 64u << 10;

constexpr bool IsPart(const wire::FrameHeader& header) {
  return header.opcode == wire::kOpcodeOf<wire::PayloadPart>;
}
constexpr bool IsAfterParts(const wire::FrameHeader& header) {
  return (header.flags & wire::kAfterParts) != 0;
}

class PayloadParts {
 public:
  // What a header may say beside the parts that have come. From a peer.
  wire::WireResult Check(const wire::FrameHeader& header) const {
    if (IsPart(header)) {
      if (header.payload_bytes == 0 || IsAfterParts(header)) return wire::WireResult::kBadPayload;
      if (open() && header.answers != answers_) return wire::WireResult::kBadPayload;
      return wire::WireResult::kOk;
    }
    if (IsAfterParts(header)) {
      const bool fits =
          open() && header.answers == answers_ && header.payload_bytes == total_bytes_ - received_bytes_;
      return fits ? wire::WireResult::kOk : wire::WireResult::kBadPayload;
    }
    // The payload of this answer is under way, so it cannot be given here.
    const bool another = !open() || header.answers == 0 || header.answers != answers_;
    return another ? wire::WireResult::kOk : wire::WireResult::kBadPayload;
  }
  // The same of a part.
  wire::WireResult Check(const wire::PayloadPart& part) const {
    if (part.total_bytes > wire::kMaxPayloadBytes) return wire::WireResult::kLimit;
    if (open() && part.total_bytes != total_bytes_) return wire::WireResult::kBadPayload;
    // The frame itself brings the last of it.
    return part.data.size_bytes < part.total_bytes - received_bytes_ ? wire::WireResult::kOk
                                                                     : wire::WireResult::kBadPayload;
  }

  bool open() const { return total_bytes_ != 0; }
  // `room`: where all of it shall lie; a shorter one discards it.
  void Open(std::uint64_t answers, std::uint64_t total_bytes, MutableByteView room) {
    answers_ = answers;
    total_bytes_ = total_bytes;
    room_ = room.size() < total_bytes ? MutableByteView() : room.first(total_bytes);
  }
  // A part, whose header has been checked, is about to arrive: where it shall lie. `room_of(total_bytes)`
  // says where all of it shall, when this is the first.
  template <typename RoomOf>
  Result<MutableByteView> Take(const wire::FrameHeader& header, ByteView body, RoomOf&& room_of) {
    wire::PayloadPart part;
    wire::Arena none;
    wire::WireResult result = wire::Decode(body, header.payload_bytes, none, &part);
    if (result == wire::WireResult::kOk) result = Check(part);
    TULLE_RETURN_IF_ERROR(CheckedOrBreach(result));
    if (!open()) {
      TULLE_ASSIGN_OR_RETURN(const MutableByteView room, room_of(part.total_bytes));
      Open(header.answers, part.total_bytes, room);
    }
    return Next(header.payload_bytes);
  }
  // Where the next bytes shall lie.
  MutableByteView Next(std::uint64_t size) {
    const std::uint64_t at = std::exchange(received_bytes_, received_bytes_ + size);
    return room_.empty() ? room_ : room_.subspan(at, size);
  }
  // Its frame is here: the header and payload as if it had come in one piece.
  MutableByteView Finish(wire::FrameHeader* header) {
    header->payload_bytes = total_bytes_;
    return std::exchange(*this, {}).room_;
  }

 private:
  std::uint64_t answers_ = 0;
  std::uint64_t total_bytes_ = 0;  // 0: none is under way
  std::uint64_t received_bytes_ = 0;
  MutableByteView room_;
};

}  // namespace tulle::session
