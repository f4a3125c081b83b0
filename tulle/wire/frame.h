// The unit of the data-plane stream: a fixed header, a body (one encoded message), an optional payload.
#pragma once

#include <cstdint>

#include "tulle/wire/codec.h"
#include "tulle/wire/limits.h"

namespace tulle::wire {

enum FrameFlag : std::uint16_t {
  // On a command whose row has no reply: answer with StatusReply all the same. The client asks so where the
  // program must see the outcome (a first clSetKernelArg, memory beyond the lease).
  kWantStatus = 1u << 0,
  // What is behind the body is the last of the payload; the rest came before, as PayloadPart.
  kAfterParts = 1u << 1,
};
inline constexpr std::uint16_t kKnownFrameFlags = kWantStatus | kAfterParts;

struct FrameHeader {
  std::uint32_t body_bytes = 0;
  std::uint16_t opcode = 0;         // of the command, also in its reply
  std::uint16_t flags = 0;          // FrameFlag bits
  std::uint64_t sequence = 0;       // counts the frames of this direction from 1, without gaps
  std::uint64_t answers = 0;        // in a reply: the command's sequence; else 0
  std::uint64_t payload_bytes = 0;  // bytes behind the body
};
inline constexpr std::size_t kFrameHeaderBytes = 32;
static_assert(sizeof(FrameHeader) == kFrameHeaderBytes);

// Structure only: sizes within limits.h, flags known. The receiver checks direction and sequence.
inline WireResult CheckHeader(const FrameHeader& header) {
  if (header.body_bytes > kMaxBodyBytes || header.payload_bytes > kMaxPayloadBytes) return WireResult::kLimit;
  if ((header.flags & ~kKnownFrameFlags) != 0) return WireResult::kBadEnum;
  return WireResult::kOk;
}

}  // namespace tulle::wire
