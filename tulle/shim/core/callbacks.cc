#include "tulle/shim/core/callbacks.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>
#include <thread>
#include <utility>

namespace tulle::shim {
namespace {

thread_local bool t_held = false;

}  // namespace

CallbackThread::Held::Held() : before_(std::exchange(t_held, true)) {}
CallbackThread::Held::~Held() { t_held = before_; }

CallbackThread::~CallbackThread() {
  const std::lock_guard lock(state_->mutex);
  state_->stopping = true;
  state_->due.notify_one();
}

Status CallbackThread::Start() {
  const std::lock_guard lock(state_->mutex);
  if (state_->started) return OkStatus();
  // The program's signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  Status status;
  try {
    std::thread([state = state_] { Run(state); }).detach();
    state_->started = true;
  } catch (const std::system_error& error) {
    status = Error{Code::kResourceExhausted,
                   std::string("cannot start the thread for callbacks: ") + error.what()};
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

void CallbackThread::Post(std::unique_ptr<Task> task) {
  const std::lock_guard lock(state_->mutex);
  task->next_ = nullptr;
  *state_->last = task.get();
  state_->last = &task.release()->next_;
  state_->has_due.store(true, std::memory_order_release);
  if (!t_held && !state_->running) state_->due.notify_one();
}

void CallbackThread::Wake() {
  const std::lock_guard lock(state_->mutex);
  if (state_->first != nullptr && !state_->running) state_->due.notify_one();
}

void CallbackThread::RunDue() {
  const std::shared_ptr<State> state = state_;
  std::unique_lock lock(state->mutex);
  if (!state->running) RunTasks(*state, lock);
}

void CallbackThread::Run(std::shared_ptr<State> state) {
  pthread_setname_np(pthread_self(), "tulle-callbacks");
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->due.wait(lock, [&] { return !state->running && (state->first != nullptr || state->stopping); });
    if (state->first == nullptr) return;
    RunTasks(*state, lock);
  }
}

// Until nothing is due. `lock` is held, and released while a task runs.
void CallbackThread::RunTasks(State& state, std::unique_lock<std::mutex>& lock) {
  state.running = true;
  while (state.first != nullptr) {
    std::unique_ptr<Task> task(state.first);
    state.first = task->next_;
    if (state.first == nullptr) {
      state.last = &state.first;
      state.has_due.store(false, std::memory_order_release);
    }
    lock.unlock();
    task->Run();
    task.reset();  // the last of an object may go with it, which sends, and posts callbacks of its own
    lock.lock();
  }
  state.running = false;
  if (state.stopping) state.due.notify_one();
}

}  // namespace tulle::shim
