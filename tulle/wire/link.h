// What lies under a session's frames. Each direction of a session is one stream of bytes that outlives the
// connections which carry it: on a connection the stream comes in pieces, each behind a header that also
// says how much of the other stream has arrived, so that the other end need not keep it any more.
//
// A connection whose first header carries kLinkResume, followed by a LinkResume, takes the place of one that
// was lost; the worker answers with an empty header that carries kLinkResumed or kLinkUnknown. Behind it both
// go on with the byte that the other has not received.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tulle/wire/codec.h"
#include "tulle/wire/limits.h"

namespace tulle::wire {

enum LinkFlag : std::uint32_t {
  kLinkResume = 1u << 0,    // by a client: its data is a LinkResume and no part of the stream
  kLinkResumed = 1u << 1,   // by a worker: the session goes on here
  kLinkUnknown = 1u << 2,   // by a worker: there is no such session (any more)
  kLinkFarewell = 1u << 3,  // when this connection ends there will not be another
  kLinkPacked = 1u << 4,    // what lies behind it is a LinkBlock, and becomes data_bytes
  kLinkTell = 1u << 5,      // the other end shall say when it has all of the data behind this header
};
inline constexpr std::uint32_t kKnownLinkFlags =
    kLinkResume | kLinkResumed | kLinkUnknown | kLinkFarewell | kLinkPacked | kLinkTell;

struct LinkHeader {
  std::uint32_t data_bytes = 0;      // of the sender's stream, behind this header
  std::uint32_t flags = 0;           // LinkFlag bits
  std::uint64_t received_bytes = 0;  // of the other stream, counted from the session's beginning
};
inline constexpr std::size_t kLinkHeaderBytes = 16;
static_assert(sizeof(LinkHeader) == kLinkHeaderBytes);

// The most behind one header: acknowledgements of the other stream wait for its end. With the header they
// fill TLS records of 16 KiB.
inline constexpr std::uint32_t kMaxLinkDataBytes = (256u << 10) - kLinkHeaderBytes;

// A part of the stream as one LZ4 block (without LZ4's frame), of so many bytes behind this. Only between
// ends that have agreed on Capability::kCompression.
struct LinkBlock {
  std::uint32_t packed_bytes = 0;
};

// Proves, beyond the key of the session, that it comes from who was told HelloReply's token; its header says
// what has been received.
struct LinkResume {
  std::uint64_t attempt = 0;  // counts from 1; a lower one than before is late and refused
  std::array<std::byte, kResumeTokenBytes> token{};
};
static_assert(sizeof(LinkResume) == 24);

// Of a connection's first header when `first`, else of a later one, from a client or from a worker.
inline WireResult CheckLinkHeader(const LinkHeader& header, bool first, bool from_client) {
  if (header.data_bytes > kMaxLinkDataBytes) return WireResult::kLimit;
  if ((header.flags & ~kKnownLinkFlags) != 0) return WireResult::kBadEnum;
  const std::uint32_t answer = header.flags & (kLinkResumed | kLinkUnknown);
  const bool packed = (header.flags & kLinkPacked) != 0;
  if (packed && (first || header.data_bytes == 0 || answer != 0)) return WireResult::kBadEnum;
  if ((header.flags & kLinkResume) != 0) {
    if (!first || !from_client || answer != 0) return WireResult::kWrongDirection;
    return header.data_bytes == sizeof(LinkResume) ? WireResult::kOk : WireResult::kLimit;
  }
  if (answer == 0) return WireResult::kOk;
  if (!first || from_client || answer == (kLinkResumed | kLinkUnknown)) return WireResult::kWrongDirection;
  return header.data_bytes == 0 ? WireResult::kOk : WireResult::kLimit;
}

}  // namespace tulle::wire
