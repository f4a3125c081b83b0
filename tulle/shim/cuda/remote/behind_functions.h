// How much streams have to do behind functions of the program's. A GPU's driver has 1024 places for each
// stream, and who adds one too many waits: in the executor that would be the thread that has to hear that the
// function has returned. So the program waits before that, as it would for the driver itself.
//
// A stream is behind a function once it has one, once it waits for a stream's event while there are any, or
// by way of the legacy stream; until there are none. That may be more streams than do wait: a
// program then waits for a function where it need not.
//
// Thread-safe. Streams are named by the bits of their handles.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <unordered_map>

namespace tulle::shim::cuda {

class BehindFunctions {
 public:
  static constexpr std::uint32_t kMostPlaces = 1000;

  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }

  // A function of the stream's. What it returns is for End.
  std::uint64_t Begin(std::uint64_t stream) {
    const std::lock_guard lock(mutex_);
    functions_.insert(++last_);
    count_ = functions_.size();
    places_.try_emplace(stream);
    return last_;
  }
  void End(std::uint64_t function) {
    const std::lock_guard lock(mutex_);
    functions_.erase(function);
    count_ = functions_.size();
    if (functions_.empty()) places_.clear();
    ended_.notify_all();
  }
  // An event is waited for that is not complete.
  void WaitsForAnother(std::uint64_t stream) {
    if (count() == 0) return;
    const std::lock_guard lock(mutex_);
    if (!functions_.empty()) places_.try_emplace(stream);
  }
  // Never counted: what others wait for.
  void Exempt(std::uint64_t stream) {
    const std::lock_guard lock(mutex_);
    exempt_.insert(stream);
  }
  // A command of the stream is going to be sent that takes so many places; where there are too few, waits for
  // all functions that there are now. `legacy`: that of its context.
  void Pass(std::uint64_t stream, std::uint64_t legacy, std::uint32_t places) {
    if (count() == 0) return;
    std::unique_lock lock(mutex_);
    if (functions_.empty() || exempt_.contains(stream)) return;
    if (stream == legacy || places_.contains(legacy)) places_.try_emplace(stream);
    auto found = places_.find(stream);
    if (found == places_.end()) return;
    if ((found->second += places) <= kMostPlaces) return;
    const std::uint64_t last = last_;
    ended_.wait(lock, [&] { return functions_.empty() || *functions_.begin() > last; });
    found = places_.find(stream);
    if (found != places_.end()) found->second = places;
  }

 private:
  std::atomic<std::uint64_t> count_{0};  // of functions_; changes with the mutex held
  std::mutex mutex_;
  std::condition_variable ended_;
  std::uint64_t last_ = 0;
  std::set<std::uint64_t> functions_;                        // that have not ended, by when they began
  std::unordered_map<std::uint64_t, std::uint32_t> places_;  // taken, of the streams that are behind one
  std::set<std::uint64_t> exempt_;
};

}  // namespace tulle::shim::cuda
