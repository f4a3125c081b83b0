// What a session's owner (shim/core on one end, worker on the other) does with what arrives.
#pragma once

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/wire/frame.h"

namespace tulle::session {

// The session has checked the header: sizes, flags, opcode in the table, direction, capability, sequence.
// The body is a private copy, valid during the call; decoding it is the handler's part. A returned error
// ends the session.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;

  // A frame with payload: where its payload_bytes shall be received. Called once, before the payload is
  // read; the memory must stay valid until OnFrame for this frame returns, or the session ends. A view
  // shorter than payload_bytes discards the payload (OnFrame then gets an empty one).
  virtual Result<MutableByteView> OnPayload(const wire::FrameHeader& header, ByteView body) = 0;

  // A payload of `total_bytes` begins that comes in parts ahead of its frame, an answer to `answers` (0: a
  // command): where it shall be received, as of OnPayload, which is not called for that frame. Others come in
  // between. The frame's header will have kAfterParts, and payload_bytes of the whole.
  virtual Result<MutableByteView> OnParts(std::uint64_t /*answers*/, std::uint64_t /*total_bytes*/) {
    return MutableByteView();
  }

  // The whole frame is here.
  virtual Status OnFrame(const wire::FrameHeader& header, ByteView body, MutableByteView payload) = 0;
};

}  // namespace tulle::session
