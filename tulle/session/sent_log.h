// The end of a stream that has been sent and may be asked for again, by position in the stream: small pieces
// as copies, large ones where they lie. No lock.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "tulle/session/byte_log.h"

namespace tulle::session {

class SentLog {
 public:
  // Positions of the first byte held and of the one that comes next.
  std::uint64_t begin() const { return begin_; }
  std::uint64_t end() const { return end_; }
  std::size_t room() const { return ByteLog::kCapacityBytes - static_cast<std::size_t>(end_ - begin_); }

  // Is there room, and memory for copies, for so many more bytes?
  bool Reserve(std::size_t size) { return size <= room() && ReserveCopies(size); }

  void Append(ByteView bytes) {
    if (bytes.empty()) return;
    if (!ReserveCopies(bytes.size())) {  // a Settle has used what was reserved
      std::shared_ptr<std::byte[]> copy = CopyOf(bytes);
      return Refer({copy.get(), bytes.size()}, copy);
    }
    const bool goes_on = !segments_.empty() && segments_.back().lies == nullptr &&
                         segments_.back().copied_at + (end_ - segments_.back().begin) == copies_.end();
    if (!goes_on) segments_.push_back({end_, nullptr, copies_.end(), {}});
    copies_.Append(bytes);
    end_ += bytes.size();
  }
  // The bytes stay where they are: `owner` keeps them, or, if it is null, the caller until Settle().
  void Refer(ByteView bytes, std::shared_ptr<void> owner) {
    if (bytes.empty()) return;
    if (!segments_.empty()) {
      const Segment& last = segments_.back();
      const bool goes_on =
          last.lies != nullptr && last.owner == owner && last.lies + (end_ - last.begin) == bytes.data();
      if (goes_on) {
        end_ += bytes.size();
        return;
      }
    }
    segments_.push_back({end_, bytes.data(), 0, std::move(owner)});
    end_ += bytes.size();
  }
  // Copies what is held without an owner.
  void Settle() {
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      Segment& segment = segments_[i];
      if (segment.lies == nullptr || segment.owner != nullptr) continue;
      const std::size_t size = EndOf(i) - segment.begin;
      if (ReserveCopies(size)) {
        segment.copied_at = copies_.end();
        copies_.Append({std::exchange(segment.lies, nullptr), size});
        continue;
      }
      std::shared_ptr<std::byte[]> copy = CopyOf({segment.lies, size});
      segment.lies = copy.get();
      segment.owner = std::move(copy);
    }
  }

  // Forgets what comes before the position. Beyond the end: everything, and the next byte is that one.
  void ForgetBefore(std::uint64_t position) {
    if (position <= begin_) return;
    while (!segments_.empty() && EndOf(0) <= position) segments_.pop_front();
    begin_ = position;
    end_ = std::max(end_, position);
    if (segments_.empty()) return copies_.ForgetBefore(copies_.end());
    Segment& front = segments_.front();
    if (position > front.begin) {
      const std::uint64_t gone = position - front.begin;
      front.begin = position;
      if (front.lies != nullptr) {
        front.lies += gone;
      } else {
        front.copied_at += gone;
      }
    }
    // Not in the order of the stream, since Settle copies later what comes earlier.
    std::uint64_t first_copy = copies_.end();
    for (const Segment& segment : segments_) {
      if (segment.lies == nullptr) first_copy = std::min(first_copy, segment.copied_at);
    }
    copies_.ForgetBefore(first_copy);
  }

  // Contiguous bytes from there on, at least one. Precondition: begin() <= position < end().
  ByteView From(std::uint64_t position) const {
    std::size_t i = 0;
    while (EndOf(i) <= position) ++i;
    const Segment& segment = segments_[i];
    const std::uint64_t offset = position - segment.begin;
    const std::size_t size = EndOf(i) - position;
    if (segment.lies != nullptr) return {segment.lies + offset, size};
    const ByteView bytes = copies_.From(segment.copied_at + offset);
    return bytes.first(std::min(size, bytes.size()));
  }

 private:
  struct Segment {
    std::uint64_t begin;      // in the stream; it goes on to the next one's
    const std::byte* lies;    // null: it is a copy
    std::uint64_t copied_at;  // then: its position in copies_
    std::shared_ptr<void> owner;
  };
  static std::shared_ptr<std::byte[]> CopyOf(ByteView bytes) {
    std::shared_ptr<std::byte[]> copy(new std::byte[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), copy.get());
    return copy;
  }
  // Copies are forgotten in the order in which they were made, and Settle makes some later than copies of
  // what comes behind them: one that stays may hold the room of many that are gone. Then those that stay move
  // together.
  bool ReserveCopies(std::size_t size) {
    if (copies_.Reserve(size)) return true;
    ByteLog live;
    std::vector<std::uint64_t> places;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      if (segments_[i].lies != nullptr) continue;
      places.push_back(live.end());
      std::size_t left = EndOf(i) - segments_[i].begin;
      if (!live.Reserve(left)) return false;
      for (std::uint64_t at = segments_[i].copied_at; left != 0;) {
        ByteView bytes = copies_.From(at);
        bytes = bytes.first(std::min(left, bytes.size()));
        live.Append(bytes);
        at += bytes.size();
        left -= bytes.size();
      }
    }
    if (!live.Reserve(size)) return false;
    auto place = places.begin();
    for (Segment& segment : segments_) {
      if (segment.lies == nullptr) segment.copied_at = *place++;
    }
    copies_ = std::move(live);
    return true;
  }
  std::uint64_t EndOf(std::size_t i) const {
    return i + 1 < segments_.size() ? segments_[i + 1].begin : end_;
  }

  std::uint64_t begin_ = 0;
  std::uint64_t end_ = 0;
  std::deque<Segment> segments_;
  ByteLog copies_;
};

}  // namespace tulle::session
