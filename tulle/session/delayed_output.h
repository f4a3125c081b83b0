// Frames for a client that do not go out at once: those with a large payload, which go in parts as the
// connection takes them, and those that must come behind one. First in, first out; the first is a large one.
// No lock.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <set>
#include <utility>

#include "tulle/session/output_queue.h"
#include "tulle/session/payload_parts.h"

namespace tulle::session {

class DelayedOutput {
 public:
  bool empty() const { return frames_.empty(); }
  // What was copied to be here.
  std::size_t copied_bytes() const { return copied_bytes_; }
  // The lowest command that a large payload here answers; UINT64_MAX: there is none.
  std::uint64_t first_answered() const { return answered_.empty() ? UINT64_MAX : *answered_.begin(); }

  // `owner` keeps the payload; null: it is copied. The header's sequence number is still to be given.
  // Precondition: the payload is large, or !empty().
  void Add(const wire::FrameHeader& header, ByteView body, ByteView payload, std::shared_ptr<void> owner) {
    Frame frame{header, ByteVector(body.begin(), body.end()), payload, std::move(owner), 0, body.size()};
    if (frame.owner == nullptr && !payload.empty()) {
      const auto copy = std::make_shared<const ByteVector>(payload.begin(), payload.end());
      frame.payload = *copy;
      frame.owner = std::const_pointer_cast<ByteVector>(copy);
      frame.copied_bytes += payload.size();
    }
    copied_bytes_ += frame.copied_bytes;
    if (IsLarge(frame)) answered_.insert(header.answers);
    frames_.push_back(std::move(frame));
  }

  // Of the first frame's payload. Precondition: !empty(), as of the next.
  std::size_t payload_left() const { return frames_.front().payload.size() - frames_.front().sent_bytes; }

  // So much of that goes to `out`, numbered behind `*sequence`: as a part, or, if it is all that is left,
  // with the frame and those behind it up to the next large one.
  void Move(std::size_t payload_bytes, std::uint64_t* sequence, OutputQueue& out) {
    Frame& frame = frames_.front();
    if (payload_bytes < payload_left()) {
      const wire::PayloadPart part{frame.payload.size(), {payload_bytes}};
      wire::FrameHeader header;
      header.body_bytes = static_cast<std::uint32_t>(wire::EncodedSize(part));
      header.opcode = wire::kOpcodeOf<wire::PayloadPart>;
      header.sequence = ++*sequence;
      header.answers = frame.header.answers;
      header.payload_bytes = payload_bytes;
      wire::Encode(part, AppendFrame(out.tail(), header));
      out.Hold(frame.payload.subspan(frame.sent_bytes, payload_bytes), frame.owner);
      frame.sent_bytes += payload_bytes;
      return;
    }
    do {
      MoveRest(++*sequence, out);
    } while (!empty() && !IsLarge(frames_.front()));
  }

  void Clear() {
    frames_.clear();
    answered_.clear();
    copied_bytes_ = 0;
  }

 private:
  struct Frame {
    wire::FrameHeader header;
    ByteVector body;
    ByteView payload;
    std::shared_ptr<void> owner;
    std::size_t sent_bytes;    // of the payload
    std::size_t copied_bytes;  // what this holds of its own
  };

  static bool IsLarge(const Frame& frame) { return frame.payload.size() >= kPartedPayloadBytes; }
  void MoveRest(std::uint64_t sequence, OutputQueue& out) {
    Frame& frame = frames_.front();
    const ByteView rest = frame.payload.subspan(frame.sent_bytes);
    frame.header.sequence = sequence;
    frame.header.payload_bytes = rest.size();
    if (frame.sent_bytes != 0) frame.header.flags |= wire::kAfterParts;
    std::copy(frame.body.begin(), frame.body.end(), AppendFrame(out.tail(), frame.header).begin());
    if (!rest.empty()) out.Hold(rest, frame.owner);
    copied_bytes_ -= frame.copied_bytes;
    if (IsLarge(frame)) answered_.erase(frame.header.answers);
    frames_.pop_front();
  }

  std::deque<Frame> frames_;
  std::set<std::uint64_t> answered_;
  std::size_t copied_bytes_ = 0;
};

}  // namespace tulle::session
