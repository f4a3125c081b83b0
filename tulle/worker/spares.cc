#include "tulle/worker/spares.h"

#include <poll.h>

#include "tulle/base/log.h"

namespace tulle::worker {
namespace {

constexpr Duration kPauseAfterFailure = std::chrono::seconds(5);

bool IsDead(const exec::Executor& executor) {
  pollfd entry{executor.death_fd(), POLLIN, 0};
  return executor.death_fd() >= 0 && poll(&entry, 1, 0) == 1;
}

}  // namespace

Spares::Spares(exec::ExecutorFactory* factory, std::size_t count, const Clock* clock)
    : factory_(*factory), count_(count), clock_(*clock) {
  if (count_ != 0) thread_ = std::thread([this] { Replenish(); });
}

Spares::~Spares() {
  state_.lock()->stopping = true;
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<exec::Executor>> Spares::Take() {
  for (;;) {
    std::unique_ptr<exec::Executor> executor;
    {
      auto state = state_.lock();
      if (state->ready.empty()) break;
      executor = std::move(state->ready.front());
      state->ready.pop_front();
    }
    changed_.notify_all();
    if (!IsDead(*executor)) return executor;
    Log(LogLevel::kWarn, "worker", "a spare executor died", {{"reason", executor->EndText()}});
  }
  return factory_.Start();
}

void Spares::Replenish() {
  auto state = state_.lock();
  while (!state->stopping) {
    const Duration wait = state->not_before - clock_.Now();
    if (state->ready.size() >= count_) {
      changed_.wait(state.native());
    } else if (wait > Duration::zero()) {
      changed_.wait_for(state.native(), wait);
    } else {
      state.native().unlock();
      auto started = factory_.Start();
      state.native().lock();
      if (started.ok()) {
        state->ready.push_back(std::move(*started));
      } else {
        state->not_before = clock_.Now() + kPauseAfterFailure;
        Log(LogLevel::kWarn, "worker", "cannot start a spare executor",
            {{"error", ToString(started.error())}});
      }
    }
  }
}

}  // namespace tulle::worker
