#include "tulle/worker/spill/residency.h"

#include <algorithm>
#include <utility>

#include "tulle/base/check.h"

namespace tulle::worker::spill {

Residency::Residency(Pool* pool, Pages* pages, const Clock* clock)
    : pool_(*pool), room_(pool->room), pages_(*pages), clock_(*clock) {
  room_.Enter(&user_);
}

Residency::~Residency() {
  GiveUp();
  room_.Leave(&user_);
}

Residency::Id Residency::Add(const Range& range) {
  const Id id = ++last_id_;
  Piece& piece = pieces_[id];
  piece.range = range;
  piece.blocks.resize((range.size_bytes + kBlockBytes - 1) / kBlockBytes);
  return id;
}

void Residency::Remove(Id id) {
  const auto found = pieces_.find(id);
  if (found == pieces_.end()) return;
  Piece& piece = found->second;
  held_bytes_ -= piece.here_bytes;
  uses_ -= piece.uses.size();
  room_.Return(&user_, piece.here_bytes);
  if (piece.at.has_value()) by_age_.erase(*piece.at);
  pieces_.erase(found);
  if (room_.is_short()) Publish();
}

Range Residency::BlockRange(const Piece& piece, std::size_t block) {
  const std::uint64_t begin = block * kBlockBytes;
  return {piece.range.offset_bytes + begin, std::min(kBlockBytes, piece.range.size_bytes - begin)};
}

Result<Residency::Use> Residency::TryUse(std::span<const Id> ids, wire::Handle queue, bool urgent) {
  wanted_.assign(ids.begin(), ids.end());
  std::ranges::sort(wanted_);
  wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
  std::erase_if(wanted_, [&](Id id) { return !pieces_.contains(id); });
  std::uint64_t all_bytes = 0, missing_bytes = 0;
  for (const Id id : wanted_) {
    const Piece& piece = pieces_.at(id);
    all_bytes += piece.range.size_bytes;
    missing_bytes += piece.range.size_bytes - piece.here_bytes;
  }
  if (is_crowded()) return Use::kLater;  // WantsQuestion
  // Those that lack memory would wait for ever for one that has what it needs and never stops using it.
  if (missing_bytes != 0 || (room_.is_short() && !urgent)) {
    if (all_bytes > room_.limit_bytes()) {
      GiveUp();
      return Use::kNever;
    }
    if (!waits_since_.has_value()) pool_.BeginWait(*(waits_since_ = clock_.Now()));
    if (!room_.Join(&user_, urgent)) {
      if (room_.is_short()) Publish();
      return Use::kLater;
    }
    std::uint64_t moved_bytes = 0;
    for (const Id id : wanted_) {
      Piece& piece = pieces_.at(id);
      for (std::size_t i = 0; i < piece.blocks.size(); ++i) {
        Block& block = piece.blocks[i];
        if (block.here) continue;
        if (moved_bytes >= kStepBytes) return Use::kAgain;
        const Range range = BlockRange(piece, i);
        if (!room_.Take(&user_, range.size_bytes, std::min(kStepBytes, missing_bytes - moved_bytes))) {
          Publish();
          return moved_bytes != 0 ? Use::kAgain : Use::kLater;
        }
        held_bytes_ += range.size_bytes;
        piece.here_bytes += range.size_bytes;
        moved_bytes += range.size_bytes;
        block.here = true;
        if (!piece.at.has_value()) piece.at = by_age_.insert(by_age_.end(), id);
        if (!block.saved.is_zero()) {
          // Others may have written there meanwhile; where nothing was saved, these are the program's own.
          TULLE_ASSIGN_OR_RETURN(ByteVector bytes, pool_.store.Take(std::move(block.saved)));
          pages_.WritePages(range, bytes);
          pool_.store.Recycle(std::move(bytes));
          pool_.restored_bytes += range.size_bytes;
        }
        block.saved = {};
      }
    }
  }
  Queue& its = queues_[queue.slot];
  its.handle = queue;
  ++its.uses;
  const Instant now = clock_.Now();
  for (const Id id : wanted_) {
    Piece& piece = pieces_.at(id);
    piece.used_at = now;
    if (piece.at.has_value()) by_age_.splice(by_age_.end(), by_age_, *piece.at);
    const auto known = std::ranges::find(piece.uses, queue.slot, &Queued::queue);
    if (known != piece.uses.end()) {
      known->count = its.uses;
      continue;
    }
    (void)IsIdle(piece);  // forgets those that have ended
    piece.uses.push_back({queue.slot, its.uses});
    ++uses_;
  }
  GiveUp();
  return Use::kNow;
}

void Residency::GiveUp() {
  wanted_.clear();
  if (!waits_since_.has_value()) return;
  pool_.EndWait(*waits_since_, clock_.Now());
  waits_since_.reset();
  room_.LeaveLine(&user_);
}

bool Residency::IsIdle(Piece& piece) {
  uses_ -=
      std::erase_if(piece.uses, [&](const Queued& use) { return use.count <= queues_.at(use.queue).ended; });
  return piece.uses.empty();
}

Residency::Piece* Residency::Oldest() {
  for (const Id id : by_age_) {
    Piece& piece = pieces_.at(id);
    if (!IsIdle(piece)) continue;
    // Who is the first in line has got it for the command that waits.
    if (std::ranges::binary_search(wanted_, id) && room_.IsFirst(user_)) continue;
    return &piece;
  }
  return nullptr;
}

void Residency::Publish() {
  const Piece* const oldest = Oldest();
  room_.Publish(&user_, oldest == nullptr ? Room::kNothing : oldest->used_at);
}

Result<bool> Residency::Give() {
  if (!room_.is_short()) return false;
  std::uint64_t moved_bytes = 0;
  Publish();
  while (room_.ShouldGive(user_)) {
    Piece* const piece = Oldest();
    if (piece == nullptr) break;
    // From its end: what comes back first is its beginning.
    for (std::size_t i = piece->blocks.size(); i-- != 0 && room_.ShouldGive(user_);) {
      Block& block = piece->blocks[i];
      if (!block.here) continue;
      if (moved_bytes >= kStepBytes) return true;
      const Range range = BlockRange(*piece, i);
      ByteVector bytes = pool_.store.Buffer(range.size_bytes);
      pages_.ReadPages(range, bytes);
      auto saved = pool_.store.Save(std::move(bytes));
      if (!saved.ok()) return saved.error();
      pages_.DropPages(range);
      block.saved = *std::move(saved);
      block.here = false;
      piece->here_bytes -= range.size_bytes;
      held_bytes_ -= range.size_bytes;
      moved_bytes += range.size_bytes;
      pool_.saved_bytes += range.size_bytes;
      room_.Return(&user_, range.size_bytes);
    }
    if (piece->here_bytes == 0) {
      by_age_.erase(*piece->at);
      piece->at.reset();
    }
    Publish();
  }
  return moved_bytes != 0;
}

std::optional<wire::Handle> Residency::WantsQuestion() const {
  if (!room_.is_short() && !is_crowded()) return std::nullopt;
  for (const auto& [slot, queue] : queues_) {
    if (queue.asked < queue.uses && queue.asked == queue.ended && !queue.handle.null()) return queue.handle;
  }
  return std::nullopt;
}

bool Residency::IsUnasked(wire::Handle queue) const {
  const auto found = queues_.find(queue.slot);
  return found != queues_.end() && found->second.asked < found->second.uses;
}

void Residency::Asked(wire::Handle queue, std::uint64_t sequence) {
  const auto found = queues_.find(queue.slot);
  if (found == queues_.end() || found->second.asked == found->second.uses) return;
  questions_[sequence] = {queue.slot, std::exchange(found->second.asked, found->second.uses)};
}

void Residency::Answered(std::uint64_t sequence) {
  const auto found = questions_.find(sequence);
  if (found == questions_.end()) return;
  const std::uint32_t slot = found->second.queue;
  questions_.erase(found);
  Queue& queue = queues_.at(slot);
  // All that was asked about has ended, but for what still is.
  std::uint64_t ended = queue.asked;
  for (const auto& [other, question] : questions_) {
    if (question.queue == slot) ended = std::min(ended, question.before);
  }
  queue.ended = std::max(queue.ended, ended);
  if (is_crowded()) {
    for (auto& [id, piece] : pieces_) (void)IsIdle(piece);
  }
  if (room_.is_short()) Publish();
}

bool Residency::WaitsForItself() {
  if (!waits_since_.has_value()) return false;
  std::uint64_t bytes = 0;
  for (auto& [id, piece] : pieces_) {
    if (std::ranges::binary_search(wanted_, id)) {
      bytes += piece.range.size_bytes;
    } else if (!IsIdle(piece)) {
      bytes += piece.here_bytes;
    }
  }
  return bytes > room_.limit_bytes();
}

}  // namespace tulle::worker::spill
