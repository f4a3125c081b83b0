// One session's memory where a vGPU's programs may allocate more than the vGPU has of the device's: what of
// it is on the device now, and what is saved elsewhere (store.h). A command begins only when all that it may
// use is on the device, and that stays there until the command has ended; of the rest the pieces that have
// not been used for longest make room for others (LRU), of this session and of the vGPU's others (room.h).
//
// Which commands have ended is learnt by asking: behind what a queue was given goes a question, when there is
// somebody who wants the memory. What a kernel may use is what its arguments are; so memory that a kernel can
// reach otherwise must be named with it (shared virtual memory) or not be here at all.
//
// Owned and used by the session's thread; nothing blocks for longer than a step (kStepBytes) takes.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/base/random.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/result.h"
#include "tulle/wire/handle.h"
#include "tulle/worker/spill/room.h"
#include "tulle/worker/spill/store.h"

namespace tulle::worker::spill {

// The device's memory, where this process can reach it.
class Pages {
 public:
  virtual ~Pages() = default;
  // Copies of it, of the range's size; kernels may write to it meanwhile. What is written is about to be
  // used.
  virtual void ReadPages(const Range& range, MutableByteView bytes) = 0;
  virtual void WritePages(const Range& range, ByteView bytes) = 0;
  // Whole pages: they take no memory any more, and read as zero.
  virtual void DropPages(const Range& range) = 0;
};

// What the sessions of a vGPU share.
struct Pool {
  // As Room and Store have it, in bytes.
  Pool(std::uint64_t device_bytes, std::uint64_t memory_bytes, UniqueFd file, std::uint64_t file_bytes,
       Random& random)
      : room(device_bytes), store(memory_bytes, std::move(file), file_bytes, random) {}
  Room room;
  Store store;
  // So far.
  std::atomic<std::uint64_t> saved_bytes{0}, restored_bytes{0};

  // By commands, until what they use was on the device; with those that wait still.
  std::uint64_t WaitedNs(Instant now) {
    auto waits = waits_.lock();
    return static_cast<std::uint64_t>(waits->ended_ns + waits->open * now.ns - waits->begun_at_ns);
  }
  void BeginWait(Instant now) {
    auto waits = waits_.lock();
    ++waits->open;
    waits->begun_at_ns += now.ns;
  }
  void EndWait(Instant begun, Instant now) {
    auto waits = waits_.lock();
    --waits->open;
    waits->begun_at_ns -= begun.ns;
    waits->ended_ns += now.ns - begun.ns;
  }

 private:
  struct Waits {
    std::int64_t open = 0, begun_at_ns = 0;  // the sum of those
    std::int64_t ended_ns = 0;
  };
  Guarded<Waits> waits_;
};

class Residency {
 public:
  using Id = std::uint64_t;
  static constexpr Id kNone = 0;
  // Uses that are remembered; where there are more, commands wait until some are known to have ended. Some
  // hundreds of commands in each of many queues.
  static constexpr std::size_t kMostUses = 1u << 14;
  // Moved at a time, in bytes: what else the session has to do waits so long, some milliseconds.
  static constexpr std::uint64_t kStepBytes = 8u << 20;

  // All must outlive it.
  Residency(Pool* pool, Pages* pages, const Clock* clock);
  ~Residency();
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  // Memory that reads as zero; it takes none of the device's before it is used.
  Id Add(const Range& range);
  // Nothing uses it any more, and what was in it is gone.
  void Remove(Id id);

  enum class Use {
    kNow,
    kAgain,  // some was moved; to be asked again at once
    kLater,  // others must give some up first, or commands end: again when room_fd() is readable, or any has
    kNever,  // it is more than the vGPU has
  };
  // A command in this queue is to use these, of which some may be removed or named twice. kNow: it may begin,
  // and what came behind the last question of that queue is in use until that is answered. An error: what was
  // saved is lost. `urgent`: what is in use may stay so until the program has done something that it can do
  // only after this command.
  Result<Use> TryUse(std::span<const Id> ids, wire::Handle queue, bool urgent = false);
  // The command will not begin.
  void GiveUp();

  // Gives some up, if it is this session's turn to: whether there may be more to give. An error: it cannot be
  // saved, and stays.
  Result<bool> Give();

  // The queue that a question should be asked of now, as somebody waits for memory.
  std::optional<wire::Handle> WantsQuestion() const;
  // Whether there is something in use that no question has been asked about.
  bool IsUnasked(wire::Handle queue) const;
  void Asked(wire::Handle queue, std::uint64_t sequence);
  void Answered(std::uint64_t sequence);  // maybe not to a question

  // Whether what waits can never begin before commands of this session end that have begun.
  bool WaitsForItself();
  // Whether others wait for what an answer may tell has ended.
  bool HoldsOthersUp() const { return room_.is_short() && !questions_.empty(); }

  int room_fd() const { return user_.fd(); }
  void Awake() { user_.Awake(); }
  std::uint64_t held_bytes() const { return held_bytes_; }  // of the device's memory

 private:
  struct Block {
    bool here = false;
    Store::Block saved;  // where it is not; of one never used: none, which is zero
  };
  struct Queued {             // a use
    std::uint32_t queue = 0;  // its slot
    std::uint64_t count = 0;  // of that queue's uses, with this one
  };
  struct Piece {
    Range range;
    std::vector<Block> blocks;
    std::uint64_t here_bytes = 0;
    Instant used_at{};
    std::vector<Queued> uses;                   // that may not have ended, one for each queue
    std::optional<std::list<Id>::iterator> at;  // in by_age_
  };
  struct Queue {
    wire::Handle handle;
    std::uint64_t uses = 0, asked = 0, ended = 0;
  };
  struct Question {
    std::uint32_t queue = 0;
    std::uint64_t before = 0;  // uses of the queue that earlier ones are about
  };
  static Range BlockRange(const Piece& piece, std::size_t block);
  bool IsIdle(Piece& piece);
  bool is_crowded() const { return uses_ >= kMostUses; }
  // The piece to give up something of next.
  Piece* Oldest();
  void Publish();

  Pool& pool_;
  Room& room_;  // of it
  Pages& pages_;
  const Clock& clock_;
  Room::User user_;
  std::unordered_map<Id, Piece> pieces_;
  std::list<Id> by_age_;  // of which something is here; the longest unused first
  std::unordered_map<std::uint32_t, Queue> queues_;
  std::unordered_map<std::uint64_t, Question> questions_;
  std::vector<Id> wanted_;  // by the command that waits, sorted
  std::optional<Instant> waits_since_;
  std::size_t uses_ = 0;  // of all pieces
  Id last_id_ = kNone;
  std::uint64_t held_bytes_ = 0;
};

}  // namespace tulle::worker::spill
