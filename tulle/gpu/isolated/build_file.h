// The files in which a program goes to a builder and its binary comes back: one wire frame each, header, body
// and payload, in a memfd that the other process inherits.
#pragma once

#include <cstdint>
#include <memory>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/wire/codec.h"
#include "tulle/wire/frame.h"

namespace tulle::gpu::isolated {

// Written from the file's start. False: see errno.
bool WriteBuildFile(int fd, const wire::FrameHeader& header, ByteView body, ByteView payload);

template <wire::Message M>
bool WriteBuildFile(int fd, std::uint16_t opcode, const M& message, ByteView payload,
                    std::uint16_t flags = 0) {
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  wire::FrameHeader header;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.opcode = opcode;
  header.flags = flags;
  header.payload_bytes = payload.size();
  return WriteBuildFile(fd, header, body, payload);
}

// A private copy: what the writer does to the file later changes nothing.
struct BuildFile {
  wire::FrameHeader header;
  ByteVector body;
  ByteVector payload;
};
// Refuses sizes beyond wire/limits.h before anything is allocated, and files that end early.
Result<BuildFile> ReadBuildFile(int fd);

}  // namespace tulle::gpu::isolated
