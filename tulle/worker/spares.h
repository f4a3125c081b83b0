// Executors that wait ready-made for the next session: starting one and opening its device takes a while that
// no program should see. Thread-safe; a thread of its own starts them, one at a time.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <thread>

#include "tulle/base/clock.h"
#include "tulle/base/guarded.h"
#include "tulle/worker/exec/executor.h"

namespace tulle::worker {

class Spares {
 public:
  // Keeps `count` ready (0: none, each Take starts one). `factory` and `clock` must outlive it.
  Spares(exec::ExecutorFactory* factory, std::size_t count, const Clock* clock);
  ~Spares();  // ends them

  // A ready one, or a new one if there is none.
  Result<std::unique_ptr<exec::Executor>> Take();

 private:
  struct State {
    std::deque<std::unique_ptr<exec::Executor>> ready;
    bool stopping = false;
    Instant not_before{};  // after a failure: starting at once again would only burn the CPU
  };
  void Replenish();

  exec::ExecutorFactory& factory_;
  const std::size_t count_;
  const Clock& clock_;
  Guarded<State> state_;
  std::condition_variable changed_;
  std::thread thread_;
};

}  // namespace tulle::worker
