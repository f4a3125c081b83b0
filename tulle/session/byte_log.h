// The end of a stream that has been sent and may be asked for again, by position in the stream. Memory comes
// in chunks, of which a few are kept when they are empty. No lock.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "tulle/base/bytes.h"
#include "tulle/base/check.h"

namespace tulle::session {

class ByteLog {
 public:
  // The most it holds. One round trip passes before anything is forgotten, so this bounds the rate over long
  // ways: 500 MB/s at 30 ms.
  static constexpr std::size_t kCapacityBytes = 16u << 20;

  // Positions of the first byte held and of the one that comes next.
  std::uint64_t begin() const { return begin_; }
  std::uint64_t end() const { return end_; }
  std::size_t room() const { return kCapacityBytes - static_cast<std::size_t>(end_ - begin_); }

  // Makes appending `size` bytes unable to fail; false: no room, or no memory.
  bool Reserve(std::size_t size) {
    if (size > room()) return false;
    for (std::uint64_t i = end_ / kChunkBytes; i * kChunkBytes < end_ + size; ++i) {
      Chunk& chunk = chunks_[i % kChunks];
      if (chunk != nullptr) continue;
      if (spare_count_ != 0) {
        chunk = std::move(spares_[--spare_count_]);
      } else {
        chunk.reset(new (std::nothrow) std::byte[kChunkBytes]);
        if (chunk == nullptr) return false;
      }
    }
    return true;
  }

  // Precondition: reserved.
  void Append(ByteView bytes) {
    while (!bytes.empty()) {
      const std::size_t offset = end_ % kChunkBytes;
      const std::size_t step = std::min(bytes.size(), kChunkBytes - offset);
      std::byte* chunk = chunks_[(end_ / kChunkBytes) % kChunks].get();
      TULLE_CHECK(chunk != nullptr);
      std::memcpy(chunk + offset, bytes.data(), step);
      end_ += step;
      bytes = bytes.subspan(step);
    }
  }

  // Forgets what comes before the position. Beyond the end: everything, and the next byte is that one.
  void ForgetBefore(std::uint64_t position) {
    if (position <= begin_) return;
    if (position > end_) {
      for (Chunk& chunk : chunks_) Free(chunk);
      end_ = position;
    } else {
      for (std::uint64_t i = begin_ / kChunkBytes; i < position / kChunkBytes; ++i)
        Free(chunks_[i % kChunks]);
    }
    begin_ = position;
  }

  // Contiguous bytes from there on, at least one. Precondition: begin() <= position < end().
  ByteView From(std::uint64_t position) const {
    const std::size_t offset = position % kChunkBytes;
    return {chunks_[(position / kChunkBytes) % kChunks].get() + offset,
            static_cast<std::size_t>(std::min<std::uint64_t>(kChunkBytes - offset, end_ - position))};
  }

 private:
  using Chunk = std::unique_ptr<std::byte[]>;
  static constexpr std::size_t kChunkBytes = 256u << 10;
  static constexpr std::size_t kChunks = kCapacityBytes / kChunkBytes + 2;
  static constexpr std::size_t kSpares = 32;

  void Free(Chunk& chunk) {
    if (chunk == nullptr) return;
    if (spare_count_ < kSpares) {
      spares_[spare_count_++] = std::move(chunk);
    } else {
      chunk.reset();
    }
  }

  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
  std::array<Chunk, kChunks> chunks_;  // by position / kChunkBytes, modulo kChunks
  std::array<Chunk, kSpares> spares_;
  std::size_t spare_count_ = 0;
};

}  // namespace tulle::session
