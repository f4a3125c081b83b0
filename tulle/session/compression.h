// Compression of what a session sends: blocks of its stream by LZ4, where that is measured to pay.
//
// It pays where the connection is slower than the compressor and the bytes are compressible; which bytes come
// next, and how fast the connection is, is known from those before. While the connection takes all that it is
// offered nothing is tried.
#pragma once

#include <cstdint>
#include <optional>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"

namespace tulle::session {

// Of one direction of a connection. No lock, no system call.
class CompressionPolicy {
 public:
  // The connection was given bytes, and took `bytes` of them; `full`: it took no more.
  void OnWrite(std::size_t bytes, bool full, Instant now);
  // It has taken all that there was, so that what follows says nothing of how fast it is.
  void OnDrained() { full_at_.reset(); }

  // Is the next block, of `size` bytes, to be compressed?
  bool Wants(std::size_t size, Instant now);
  // It was, to `packed` bytes, in `took`; or, if that is not less, could not be.
  void OnBlock(std::size_t size, std::size_t packed, Duration took, Instant now);

  // Smaller blocks are not worth it.
  static constexpr std::size_t kLeastBytes = 16u << 10;

 private:
  bool Pays() const;

  std::optional<Instant> full_at_;  // a connection that was full, and had more to send ever since
  std::size_t bytes_since_ = 0;
  std::optional<Instant> slow_at_;  // the last time that its speed was measured
  double wire_bytes_per_ns_ = 0;
  double codec_bytes_per_ns_ = 0;
  double ratio_ = 1;    // of compressed to plain
  bool paid_ = false;   // the last block
  Instant next_trial_;  // if it did not
};

// Less than an eighth saved is nothing.
constexpr std::size_t MostPackedBytes(std::size_t plain_bytes) { return plain_bytes - plain_bytes / 8; }
// Writes what `plain` becomes to `room`, and returns its size; 0: there is not enough room.
std::size_t PackBlock(ByteView plain, MutableByteView room);
// Fills `plain` with what was packed; false: `packed` does not become exactly that. For bytes of a peer.
bool UnpackBlock(ByteView packed, MutableByteView plain);

}  // namespace tulle::session
