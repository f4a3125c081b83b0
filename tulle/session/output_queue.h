// What waits to be written to a client: bytes that are copied here, and large payloads that stay where they
// are and are kept alive until they are written. First in, first out. No lock.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <span>
#include <utility>

#include "tulle/session/frame_io.h"
#include "tulle/session/link.h"

namespace tulle::session {

class OutputQueue {
 public:
  bool empty() const {
    return segments_.size() == 1 && segments_.front().bytes.empty() && segments_.front().held.empty();
  }
  std::size_t size() const {
    std::size_t size = 0;
    for (const Segment& segment : segments_) size += segment.bytes.size() + segment.held.size();
    return size;
  }

  // Where to append what comes next.
  ByteQueue& tail() {
    if (!segments_.back().held.empty()) segments_.emplace_back();
    return segments_.back().bytes;
  }
  // Behind everything else; `owner` keeps the bytes.
  void Hold(ByteView payload, std::shared_ptr<void> owner) {
    tail();
    segments_.back().held = payload;
    segments_.back().owner = std::move(owner);
  }

  // The last payload has no owner, and whoever has it goes: what is left of it is copied.
  void CopyLastHeld() {
    Segment& last = segments_.back();
    last.bytes.Append(std::exchange(last.held, {}));
  }

  // The first pieces, as many as there is room for, and who keeps them; how many.
  std::size_t Gather(std::span<iovec> pieces, std::span<Link::Owner> owners) const {
    std::size_t count = 0;
    const auto add = [&](ByteView bytes, const std::shared_ptr<void>& owner) {
      if (bytes.empty() || count == pieces.size()) return;
      pieces[count] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
      owners[count++] = {owner != nullptr, owner};
    };
    for (const Segment& segment : segments_) {
      add(segment.bytes.data(), nullptr);
      add(segment.held, segment.owner);
      if (count == pieces.size()) break;
    }
    return count;
  }

  // They have been written. At most size().
  void Consume(std::size_t size) {
    for (;;) {
      Segment& front = segments_.front();
      const std::size_t copied = std::min(size, front.bytes.size());
      if (copied != 0) front.bytes.Consume(copied);
      const std::size_t held = std::min(size - copied, front.held.size());
      front.held = front.held.subspan(held);
      if (front.held.empty()) front.owner.reset();
      size -= copied + held;
      if (segments_.size() == 1 || !front.bytes.empty() || !front.held.empty()) return;
      segments_.pop_front();
    }
  }

  void Clear() {
    segments_.clear();
    segments_.emplace_back();
  }

 private:
  struct Segment {
    ByteQueue bytes;
    ByteView held;  // behind them
    std::shared_ptr<void> owner;
  };

  std::deque<Segment> segments_{1};  // never empty; only the last may have nothing held
};

}  // namespace tulle::session
