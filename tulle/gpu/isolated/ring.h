// A ring of records in shared memory: one process writes, the other reads, neither makes a system call while
// both are busy. Each end keeps its own index to itself and publishes a copy; what it reads from the other's
// is checked before it is used, since either end may be hostile.
//
// Sleeping. A reader that finds nothing sets reader_sleeps, then looks once more; a writer publishes, then
// takes reader_sleeps back. Every change of the flag is an acq_rel exchange, and exchanges of one flag happen
// one after the other: when the reader's comes first, the writer gets to see it and must wake the reader;
// when the writer's comes first, the reader's synchronises with it, and its second look finds what was
// published. The same holds for a writer that finds no room (writer_waits). One sleep costs one wake-up,
// since whoever wakes has taken the flag.
//
// Thread rule: one thread at a time at each end.
#pragma once

#include <atomic>
#include <cstdint>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"

namespace tulle::gpu::isolated {

inline constexpr std::uint64_t kRingBytes = 1u << 20;  // a power of two, of whole pages
inline constexpr std::uint64_t kCacheLineBytes = 64;
// A reader tells a waiting writer of room after this much, or when nothing is left.
inline constexpr std::uint64_t kWakeWriterEveryBytes = kRingBytes / 4;

// What one record is. `size_bytes` counts this header and the body, not the padding to the next multiple
// of 8.
struct RecordHeader {
  std::uint32_t size_bytes = 0;
  std::uint16_t opcode = 0;
  std::uint8_t kind = 0;   // protocol.h
  std::uint8_t flags = 0;  // protocol.h
  std::uint64_t sequence = 0;
  std::uint64_t payload_offset_bytes = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t memory_offset_bytes = 0;
  std::uint64_t memory_bytes = 0;
};
static_assert(sizeof(RecordHeader) == 48);

// The largest body of one record: several fit at any time, so that a large one never waits for an empty ring.
inline constexpr std::uint64_t kMaxRecordBodyBytes = kRingBytes / 4 - sizeof(RecordHeader);

// In shared memory. Indices count bytes since the start and never wrap (2^64 bytes are centuries).
struct RingIndices {
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> written{0};
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> read{0};
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> reader_sleeps{0};  // also futex words
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> writer_waits{0};
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);

// The bytes of a ring, mapped twice in a row: a record that wraps is still one piece.
class RingBytes {
 public:
  // `offset_bytes` of kRingBytes within the file; a multiple of the page size.
  static Result<RingBytes> Map(int fd, std::uint64_t offset_bytes);
  RingBytes(RingBytes&& other) noexcept;
  RingBytes& operator=(RingBytes&&) = delete;
  ~RingBytes();
  std::byte* at(std::uint64_t index) const { return data_ + (index & (kRingBytes - 1)); }

 private:
  explicit RingBytes(std::byte* data) : data_(data) {}
  std::byte* data_;
};

enum class RingResult {
  kOk,
  kNotNow,  // no record, or no room
  kBroken,  // the other end wrote what cannot be: nothing of the ring may be used any more
};

class RingWriter {
 public:
  // Both must outlive it; a fresh ring.
  RingWriter(RingIndices* indices, const RingBytes* bytes) : indices_(*indices), bytes_(*bytes) {}

  // Publishes one record; header.size_bytes is filled in. Precondition: body.size() <= kMaxRecordBodyBytes.
  RingResult TryWrite(RecordHeader header, ByteView body);
  // True when the reader sleeps and is now to be woken. After one or more TryWrite.
  bool MustWakeReader();
  // After TryWrite said kNotNow: that again when there is still no room; the reader will see that someone
  // waits.
  RingResult AnnounceWait(std::uint64_t body_bytes);
  void CancelWait() { indices_.writer_waits.exchange(0, std::memory_order_acq_rel); }
  std::atomic<std::uint32_t>* wait_word() { return &indices_.writer_waits; }

 private:
  RingResult CheckRoom(std::uint64_t room_bytes);
  RingIndices& indices_;
  const RingBytes& bytes_;
  std::uint64_t written_ = 0;
  std::uint64_t read_ = 0;  // as last seen
};

class RingReader {
 public:
  RingReader(RingIndices* indices, const RingBytes* bytes) : indices_(*indices), bytes_(*bytes) {}

  // The oldest record. Its header is a copy, and its size is within what was written; `body` is in shared
  // memory, where the other end can still change it. Valid until Pop.
  RingResult Peek(RecordHeader* header, ByteView* body);
  // Done with the record that Peek gave.
  void Pop();
  // Something may be there (a hint that costs one load).
  bool HasRecord() const { return indices_.written.load(std::memory_order_acquire) != read_; }
  // True when the writer waits for room and is now to be woken. After one or more Pop.
  bool MustWakeWriter();
  // True when there is nothing, and the writer will see that the reader sleeps.
  bool AnnounceSleep();
  void CancelSleep() { indices_.reader_sleeps.exchange(0, std::memory_order_acq_rel); }
  std::atomic<std::uint32_t>* sleep_word() { return &indices_.reader_sleeps; }

 private:
  RingIndices& indices_;
  const RingBytes& bytes_;
  std::uint64_t read_ = 0;
  std::uint64_t written_ = 0;  // as last seen
  std::uint64_t peeked_bytes_ = 0;
};

// Sleeps while *word is `value`, at most `timeout_ms`; may return early. Works across processes.
void FutexWait(std::atomic<std::uint32_t>* word, std::uint32_t value, int timeout_ms);
void FutexWakeAll(std::atomic<std::uint32_t>* word);

}  // namespace tulle::gpu::isolated
