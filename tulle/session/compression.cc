#include "tulle/session/compression.h"

#include <lz4.h>

#include <algorithm>

namespace tulle::session {
namespace {

// A speed is worth remembering for so long.
constexpr Duration kForgets = std::chrono::seconds(1);
// Shorter stretches say more about buffers than about the connection.
constexpr std::size_t kLeastSampleBytes = 64u << 10;
// Time must be saved by at least so much.
constexpr double kWorthwhile = 0.8;
// What does not pay may cost a hundredth of the time.
constexpr int kTrialsRest = 100;

double Mix(double before, double sample) { return before == 0 ? sample : before + (sample - before) / 4; }

}  // namespace

void CompressionPolicy::OnWrite(std::size_t bytes, bool full, Instant now) {
  bytes_since_ += bytes;
  if (!full) return;
  if (full_at_ && now > *full_at_) {
    if (bytes_since_ < kLeastSampleBytes) return;
    wire_bytes_per_ns_ = Mix(wire_bytes_per_ns_, static_cast<double>(bytes_since_) /
                                                     static_cast<double>((now - *full_at_).count()));
    slow_at_ = now;
  }
  full_at_ = now;
  bytes_since_ = 0;
}

// A block takes size / codec to compress and then ratio * size / wire to send, against size / wire.
bool CompressionPolicy::Pays() const {
  return wire_bytes_per_ns_ / codec_bytes_per_ns_ + ratio_ < kWorthwhile;
}

bool CompressionPolicy::Wants(std::size_t size, Instant now) {
  if (size < kLeastBytes || !slow_at_ || now - *slow_at_ > kForgets) return false;
  return paid_ || now >= next_trial_;
}

void CompressionPolicy::OnBlock(std::size_t size, std::size_t packed, Duration took, Instant now) {
  codec_bytes_per_ns_ =
      Mix(codec_bytes_per_ns_,
          static_cast<double>(size) / static_cast<double>(std::max<std::int64_t>(took.count(), 1)));
  const double ratio = std::min(1.0, static_cast<double>(packed) / static_cast<double>(size));
  ratio_ = paid_ ? ratio_ + (ratio - ratio_) / 2 : ratio;
  paid_ = Pays();
  if (!paid_) next_trial_ = now + kTrialsRest * took;
}

std::size_t PackBlock(ByteView plain, MutableByteView room) {
  const int packed =
      LZ4_compress_default(reinterpret_cast<const char*>(plain.data()), reinterpret_cast<char*>(room.data()),
                           static_cast<int>(plain.size()), static_cast<int>(room.size()));
  return static_cast<std::size_t>(std::max(packed, 0));
}

bool UnpackBlock(ByteView packed, MutableByteView plain) {
  const int size =
      LZ4_decompress_safe(reinterpret_cast<const char*>(packed.data()), reinterpret_cast<char*>(plain.data()),
                          static_cast<int>(packed.size()), static_cast<int>(plain.size()));
  return size >= 0 && static_cast<std::size_t>(size) == plain.size();
}

}  // namespace tulle::session
