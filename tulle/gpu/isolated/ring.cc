#include "tulle/gpu/isolated/ring.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>
#include <utility>

#include "tulle/base/check.h"

namespace tulle::gpu::isolated {

namespace {

constexpr std::uint64_t Padded(std::uint64_t size) { return (size + 7) & ~std::uint64_t{7}; }

}  // namespace

Result<RingBytes> RingBytes::Map(int fd, std::uint64_t offset_bytes) {
  void* both = mmap(nullptr, 2 * kRingBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (both == MAP_FAILED) return ErrnoError("address space for a ring", errno);
  RingBytes bytes(static_cast<std::byte*>(both));
  for (const std::uint64_t half : {std::uint64_t{0}, kRingBytes}) {
    if (mmap(bytes.data_ + half, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
             static_cast<off_t>(offset_bytes)) == MAP_FAILED) {
      return ErrnoError("mapping a ring", errno);
    }
  }
  return bytes;
}

RingBytes::RingBytes(RingBytes&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}

RingBytes::~RingBytes() {
  if (data_ != nullptr) munmap(data_, 2 * kRingBytes);
}

RingResult RingWriter::CheckRoom(std::uint64_t room_bytes) {
  if (kRingBytes - (written_ - read_) >= room_bytes) return RingResult::kOk;
  // The reader's index may only go forward, and not past what was written.
  const std::uint64_t read = indices_.read.load(std::memory_order_acquire);
  if (read - read_ > written_ - read_) return RingResult::kBroken;
  read_ = read;
  return kRingBytes - (written_ - read_) >= room_bytes ? RingResult::kOk : RingResult::kNotNow;
}

RingResult RingWriter::TryWrite(RecordHeader header, ByteView body) {
  TULLE_CHECK(body.size() <= kMaxRecordBodyBytes);
  header.size_bytes = static_cast<std::uint32_t>(sizeof header + body.size());
  const std::uint64_t room_bytes = Padded(header.size_bytes);
  const RingResult room = CheckRoom(room_bytes);
  if (room != RingResult::kOk) return room;
  std::byte* place = bytes_.at(written_);
  std::memcpy(place, &header, sizeof header);
  if (!body.empty()) std::memcpy(place + sizeof header, body.data(), body.size());
  written_ += room_bytes;
  indices_.written.store(written_, std::memory_order_release);
  return RingResult::kOk;
}

bool RingWriter::MustWakeReader() {
  return indices_.reader_sleeps.exchange(0, std::memory_order_acq_rel) != 0;
}

RingResult RingWriter::AnnounceWait(std::uint64_t body_bytes) {
  indices_.writer_waits.exchange(1, std::memory_order_acq_rel);
  const RingResult room = CheckRoom(Padded(sizeof(RecordHeader) + body_bytes));
  if (room != RingResult::kNotNow) CancelWait();
  return room;
}

RingResult RingReader::Peek(RecordHeader* header, ByteView* body) {
  if (written_ == read_) {
    const std::uint64_t written = indices_.written.load(std::memory_order_acquire);
    if (written == read_) return RingResult::kNotNow;
    if (written - read_ > kRingBytes) return RingResult::kBroken;
    written_ = written;
  }
  const std::uint64_t available = written_ - read_;
  if (available < sizeof *header) return RingResult::kBroken;
  const std::byte* place = bytes_.at(read_);
  std::memcpy(header, place, sizeof *header);  // once: it may change under us
  if (header->size_bytes < sizeof *header || header->size_bytes > sizeof *header + kMaxRecordBodyBytes ||
      Padded(header->size_bytes) > available) {
    return RingResult::kBroken;
  }
  *body = {place + sizeof *header, header->size_bytes - sizeof *header};
  peeked_bytes_ = Padded(header->size_bytes);
  return RingResult::kOk;
}

void RingReader::Pop() {
  read_ += std::exchange(peeked_bytes_, 0);
  indices_.read.store(read_, std::memory_order_release);
}

bool RingReader::MustWakeWriter() {
  return indices_.writer_waits.exchange(0, std::memory_order_acq_rel) != 0;
}

bool RingReader::AnnounceSleep() {
  indices_.reader_sleeps.exchange(1, std::memory_order_acq_rel);
  if (!HasRecord()) return true;
  CancelSleep();
  return false;
}

void FutexWait(std::atomic<std::uint32_t>* word, std::uint32_t value, int timeout_ms) {
  const timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), FUTEX_WAIT, value,
          timeout_ms < 0 ? nullptr : &timeout, nullptr, 0);
}

void FutexWakeAll(std::atomic<std::uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace tulle::gpu::isolated
