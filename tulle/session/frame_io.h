// Frames over a Transport, as both ends of a session do it: a queue of outgoing bytes, an incremental reader,
// and the blocking helpers of the handshake. Each object belongs to one thread at a time. What arrives is
// checked (sizes, then the sink's OnHeader) before anything is allocated for it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>

#include "tulle/base/clock.h"
#include "tulle/net/transport.h"
#include "tulle/session/frame_handler.h"
#include "tulle/wire/row.h"

namespace tulle::session {

// From this size on a payload is not copied next to its header but written from, or read into, its place.
inline constexpr std::size_t kDirectPayloadBytes = 16u << 10;

// Contiguous bytes, first in first out; grows as needed (whoever appends has a bound).
class ByteQueue {
 public:
  // Room for `size` more bytes at the end; they count as appended. Valid until the next call.
  MutableByteView Append(std::size_t size);
  void Append(ByteView bytes);
  void Consume(std::size_t size);
  ByteView data() const { return {bytes_.get() + begin_, end_ - begin_}; }
  std::size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  // Makes the next Append of up to `size` bytes unable to fail for lack of memory.
  void Reserve(std::size_t size);
  void swap(ByteQueue& other) noexcept;

 private:
  static constexpr std::size_t kKeptBytes = 1u << 20;  // a larger block is given back when it is empty
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_ = 0;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

// Who is told of what a FrameReader reads.
class FrameSink : public FrameHandler {
 public:
  // A header whose sizes and flags are within the limits; nothing of the body was looked at yet. An error
  // refuses the frame, and with it the session.
  virtual Status OnHeader(const wire::FrameHeader& header) = 0;
  // False: hand over nothing more for now.
  virtual bool WantsMore() const { return true; }
};

class FrameReader {
 public:
  FrameReader();

  // Reads once, to where the next bytes belong: the sink's memory for the bulk of a payload. 0: nothing has
  // arrived, or Drain() must first make room.
  Result<std::size_t> Fill(net::Transport& transport);

  // Hands over what Fill() has completed.
  Status Drain(FrameSink& sink);

  // Bytes are here that Drain() has not looked at because the sink wanted no more.
  bool has_undrained() const { return begin_ != end_; }

 private:
  enum class Expecting { kHeader, kBody, kPayload };
  Status FinishFrame(FrameSink& sink, ByteView body);
  // Moves buffered bytes into target_; true when it is full.
  bool FillTarget();

  static constexpr std::size_t kBufferBytes = 64u << 10;
  static constexpr std::size_t kReadAfterLarge = 4u << 10;
  static constexpr std::size_t kBodyInBuffer = 16u << 10;  // larger bodies are gathered in body_
  static constexpr std::size_t kBodyKept = 256u << 10;     // a larger body_ is given back after its frame

  std::unique_ptr<std::byte[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;

  Expecting expecting_ = Expecting::kHeader;
  wire::FrameHeader header_;
  ByteVector body_;
  MutableByteView payload_;      // where this frame's payload lies; empty: it is discarded
  std::byte* target_ = nullptr;  // where the next bytes of body or payload go; null: nowhere
  std::uint64_t missing_ = 0;    // how many of them
  bool in_large_ = false;        // they are a large payload's
  bool after_large_ = false;     // the last frame had one
};

// Header and body of one frame appended to `out`; the payload is the caller's.
MutableByteView AppendFrame(ByteQueue& out, const wire::FrameHeader& header, std::size_t extra_bytes = 0);
template <wire::Message M>
void AppendMessage(ByteQueue& out, std::uint16_t opcode, std::uint64_t sequence, std::uint64_t answers,
                   const M& message) {
  wire::FrameHeader header;
  header.body_bytes = static_cast<std::uint32_t>(wire::EncodedSize(message));
  header.opcode = opcode;
  header.sequence = sequence;
  header.answers = answers;
  wire::Encode(message, AppendFrame(out, header));
}

// An error that says that the peer broke the protocol.
Error Breach(wire::WireResult what);
Status CheckedOrBreach(wire::WireResult result);
// One that ends the session and nothing else.
inline Error SessionError(Code code, std::string message, Retry retry = Retry::kNo) {
  return {code, std::move(message), Scope::kSession, retry};
}

// Writes everything, or fails by the deadline.
Status WriteAll(net::Transport& transport, ByteView bytes, Instant deadline);
// Reads all of it, or fails by the deadline.
Status ReadAll(net::Transport& transport, MutableByteView out, Instant deadline);
// Reads frames into `sink` until it wants no more, or fails by the deadline.
Status ReadUntilSatisfied(net::Transport& transport, FrameReader& reader, FrameSink& sink, Instant deadline);

}  // namespace tulle::session
