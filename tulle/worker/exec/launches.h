// What a session has begun on its device, where only asking tells when it has ended: behind some of a queue's
// launches goes a question, a command that is answered when all before it has ended. How many launches share
// a question follows from how long they take, so that about kAhead of work is between two; and no more
// begins than is between three, so that a turn on the device does not end long after it should. Of long ones
// a single one runs at a time.
//
// Pure; used by the session's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include "tulle/base/clock.h"
#include "tulle/wire/handle.h"

namespace tulle::worker::exec {

class Launches {
 public:
  static constexpr Duration kAhead = std::chrono::milliseconds(2);
  static constexpr Duration kLong = std::chrono::milliseconds(10);
  static constexpr std::uint32_t kMostPerQuestion = 256;
  // What has begun may wait for what has not, as kernels do that wait for memory to change.
  static constexpr Duration kPatience = std::chrono::seconds(1);

  bool any() const { return under_way_ != 0; }
  // Whether more may begin; false: ask again when something was answered, or after kPatience.
  bool has_room(Instant now) const { return under_way_ < most_under_way_ || now - changed_at_ >= kPatience; }

  void Began(wire::Handle queue, Instant now) {
    if (under_way_++ == 0) working_since_ = now;
    changed_at_ = now;
    Queue& its = queues_[queue.slot];
    its.handle = queue;
    ++its.unasked;
  }
  // A queue that a question is to be asked of now. `idle`: nothing more will begin for the moment.
  // `one_each`: what has begun may wait for the program, so that questions pile up behind it, and a driver's
  // queue has an end; no second one is asked of a queue.
  std::optional<wire::Handle> WantsQuestion(bool idle, bool one_each) const {
    for (const auto& [slot, queue] : queues_) {
      if (queue.unasked == 0 || (one_each && IsAsked(slot))) continue;
      if (idle || queue.unasked >= per_question_ || under_way_ >= most_under_way_) return queue.handle;
    }
    return std::nullopt;
  }
  bool IsUnasked(wire::Handle queue) const {
    const auto found = queues_.find(queue.slot);
    return found != queues_.end() && found->second.unasked != 0;
  }
  // The question goes to the device.
  void Asked(wire::Handle queue, std::uint64_t sequence) {
    const auto found = queues_.find(queue.slot);
    if (found == queues_.end()) return;
    questions_[sequence] = {queue.slot, found->second.unasked};
    queues_.erase(found);
  }
  // Maybe to a question.
  void Answered(std::uint64_t sequence, Instant now) {
    const auto found = questions_.find(sequence);
    if (found == questions_.end()) return;
    const std::uint32_t launches = found->second.launches;
    questions_.erase(found);
    under_way_ -= launches;
    const Duration each = (now - working_since_) / launches;
    working_since_ = changed_at_ = now;
    const auto fit = static_cast<std::uint64_t>(kAhead / std::max(each, Duration(1)));
    // More only step by step: the first few may have been the short ones.
    per_question_ = static_cast<std::uint32_t>(
        std::clamp<std::uint64_t>(fit, 1, std::min(2 * per_question_, kMostPerQuestion)));
    most_under_way_ = each < kLong ? 2 * per_question_ : 1;
  }

 private:
  struct Queue {
    wire::Handle handle;
    std::uint32_t unasked = 0;
  };
  struct Question {
    std::uint32_t slot = 0;      // of its queue
    std::uint32_t launches = 0;  // that it is for
  };
  bool IsAsked(std::uint32_t slot) const {
    return std::ranges::any_of(questions_, [slot](const auto& entry) { return entry.second.slot == slot; });
  }

  std::unordered_map<std::uint32_t, Queue> queues_;  // by slot, that have some unasked
  std::unordered_map<std::uint64_t, Question> questions_;
  std::uint32_t under_way_ = 0;
  std::uint32_t per_question_ = 1, most_under_way_ = 2;
  Instant working_since_{};  // on those not answered for
  Instant changed_at_{};
};

}  // namespace tulle::worker::exec
