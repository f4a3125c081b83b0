// What one end of a session remembers of frames under way. Neither class locks; neither allocates per frame
// once it has grown to the number under way, which the window and kMaxPendingReplies bound.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tulle::session {

// Commands whose answer has not come. A client's own memory, and 16 B each of a worker's.
inline constexpr std::size_t kMaxPendingReplies = 1u << 18;

// Sizes of the frames that are not acknowledged: the client's debt against the window.
class CreditLedger {
 public:
  // The sequence numbers up to `acked` do not count.
  explicit CreditLedger(std::uint64_t acked) : first_(acked + 1), next_(acked + 1) {}

  // May a frame of this size be sent? One always may when nothing is under way, so that no window is too
  // small for a frame.
  bool Allows(std::uint64_t frame_bytes, std::uint64_t window_bytes) const {
    return first_ == next_ || (frame_bytes <= window_bytes && unacked_bytes_ <= window_bytes - frame_bytes);
  }

  // Makes the next Add() unable to fail for lack of memory.
  void Reserve() {
    if (next_ - first_ < sizes_.size()) return;
    std::vector<std::uint32_t> larger(std::max<std::size_t>(64, 2 * sizes_.size()));
    for (std::uint64_t s = first_; s != next_; ++s)
      larger[s & (larger.size() - 1)] = sizes_[s & (sizes_.size() - 1)];
    sizes_ = std::move(larger);
  }

  // The frame with the next sequence number.
  void Add(std::uint32_t frame_bytes) {
    Reserve();
    sizes_[next_++ & (sizes_.size() - 1)] = frame_bytes;
    unacked_bytes_ += frame_bytes;
  }

  // Everything up to `sequence` is acknowledged. False: it was not sent yet, or acknowledged further before.
  bool Acknowledge(std::uint64_t sequence) {
    if (sequence >= next_ || sequence + 1 < first_) return false;
    for (; first_ <= sequence; ++first_) unacked_bytes_ -= sizes_[first_ & (sizes_.size() - 1)];
    return true;
  }

  std::uint64_t unacked_bytes() const { return unacked_bytes_; }
  bool idle() const { return first_ == next_; }

 private:
  std::uint64_t first_;  // oldest that is not acknowledged
  std::uint64_t next_;
  std::uint64_t unacked_bytes_ = 0;
  std::vector<std::uint32_t> sizes_;  // by sequence modulo its size, a power of two
};

// Which commands await an answer: a hash table by sequence number, open addressing, no tombstones.
class PendingReplies {
 public:
  void Reserve() {
    if (2 * (count_ + 1) <= slots_.size()) return;
    std::vector<Slot> old(std::max<std::size_t>(64, 2 * slots_.size()));
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.sequence != 0) slots_[Find(slot.sequence)] = slot;
    }
  }
  // Precondition: sequence is not 0 and not in the table.
  void Add(std::uint64_t sequence, std::uint16_t opcode) {
    Reserve();
    slots_[Find(sequence)] = {sequence, opcode};
    ++count_;
  }
  // Removes it; false when no such command awaits an answer.
  bool Take(std::uint64_t sequence, std::uint16_t opcode) {
    if (count_ == 0 || sequence == 0) return false;
    std::size_t hole = Find(sequence);
    if (slots_[hole].sequence != sequence || slots_[hole].opcode != opcode) return false;
    --count_;
    // Close the hole with later entries of the same run that may move up.
    for (std::size_t i = Next(hole); slots_[i].sequence != 0; i = Next(i)) {
      const std::size_t home = slots_[i].sequence & Mask();
      if (((i - home) & Mask()) >= ((i - hole) & Mask())) {
        slots_[hole] = slots_[i];
        hole = i;
      }
    }
    slots_[hole] = {};
    return true;
  }
  std::size_t size() const { return count_; }

 private:
  struct Slot {
    std::uint64_t sequence = 0;  // 0: free
    std::uint16_t opcode = 0;
  };
  std::size_t Mask() const { return slots_.size() - 1; }
  std::size_t Next(std::size_t i) const { return (i + 1) & Mask(); }
  // Its slot, or the free one where it would go.
  std::size_t Find(std::uint64_t sequence) const {
    std::size_t i = sequence & Mask();
    while (slots_[i].sequence != 0 && slots_[i].sequence != sequence) i = Next(i);
    return i;
  }
  std::vector<Slot> slots_;
  std::size_t count_ = 0;
};

}  // namespace tulle::session
