// Holds a vGPU to its share of the device, outside of what its tenant can reach. Two ways together: a launch
// waits in its session while the vGPU owes time, which makes short kernels come evenly; and where work that
// is under way uses more than there is, the processes that do it are frozen until it has been made up for,
// however long a kernel is and whatever it does. Both go by the time that the device was measured to spend.
// Sessions share alike: one that has used less than an equal part goes on while others make up for what they
// owe, as long as the vGPU does not owe much.
//
// Thread-safe; a thread of its own looks at what is used, every millisecond while it matters. A vGPU that may
// use the whole device pays for one look at an atomic per launch, and for a measurement each 10 ms.
#pragma once

#include <condition_variable>
#include <memory>
#include <thread>
#include <vector>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/wire/share_page.h"
#include "tulle/worker/pace/bucket.h"

namespace tulle::worker::pace {

// Where a session's work is done.
class Paced {
 public:
  virtual ~Paced() = default;
  // Of the device's time, so far. Any thread. Less than before counts as nothing new.
  virtual std::uint64_t DeviceTimeNs() const = 0;
  // Time in which it would have used more, had others not been using the device, so far; 0: not known. What
  // it tells may go back.
  virtual std::uint64_t WaitedNs() const { return 0; }
  // It would use more, but that others are using the device, which it has for itself or not at all. What it
  // earns meanwhile stays its own, however much.
  virtual bool Waits() const { return false; }
  // It does nothing until it is let go on. Any thread. Where that cannot be done: nothing.
  virtual void Freeze(bool /*frozen*/) {}
};

class Pacer {
 public:
  // `page` and `clock` must outlive it. `lanes`: as Bucket's.
  Pacer(wire::SharePage* page, double lanes, const Clock* clock);
  ~Pacer();  // nothing may be left in it
  Pacer(const Pacer&) = delete;
  Pacer& operator=(const Pacer&) = delete;

  // Until Remove, which returns when it is not used any more and is not frozen. What it used before is
  // nobody's.
  void Add(Paced* paced);
  void Remove(Paced* paced);

  // Whether a launch of that session (of one that was not added: of all together) may begin now; false: ask
  // again after `wait`, or before.
  bool MayBegin(const Paced* whose, Duration* wait) {
    if (page_.share.load(std::memory_order_relaxed) >= wire::kWholeShare) return true;
    return MayBeginLimited(whose, wait);
  }

 private:
  struct Entry {
    Paced* paced = nullptr;
    std::uint64_t used_ns = 0;  // when it was last looked at, as the next
    std::uint64_t waited_ns = 0;
    Bucket own;           // of an equal part
    Instant active_at{};  // it used something, or wanted to
    bool frozen = false;
  };
  struct State {
    explicit State(const Bucket& its) : bucket(its) {}
    Bucket bucket;
    std::vector<Entry> entries;
    std::uint64_t used_ns = 0;  // of all that there were
    std::size_t active = 0;     // entries
    bool holding = false;       // until what is owed is made up for
    bool was_held = false;      // a launch, since the last look
    bool stopping = false;
    Instant looked_at{}, looked_at_waits_at{};
    Instant used_at{};  // when it was last seen to use something
    std::uint64_t throttled_ns = 0;
  };
  bool MayBeginLimited(const Paced* whose, Duration* wait);
  // Whether it may go on although the vGPU owes something.
  static bool HasOwn(const State& state, const Entry& entry);
  // Takes over the share and what was used.
  void Look(State& state, Instant now);
  void LookAtWaits(State& state, Instant now);
  void Hold(State& state, bool holding);
  void Run();

  wire::SharePage& page_;
  const double lanes_;
  const Clock& clock_;
  Guarded<State> state_;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace tulle::worker::pace
