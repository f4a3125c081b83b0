#include "tulle/shim/core/callbacks.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>
#include <thread>

namespace tulle::shim {

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
  state_->due.notify_one();
}

void CallbackThread::Run(std::shared_ptr<State> state) {
  pthread_setname_np(pthread_self(), "tulle-callbacks");
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->due.wait(lock, [&] { return state->first != nullptr || state->stopping; });
    if (state->first == nullptr) return;
    std::unique_ptr<Task> task(state->first);
    state->first = task->next_;
    if (state->first == nullptr) state->last = &state->first;
    lock.unlock();
    task->Run();
    task.reset();  // the last of an object may go with it, which sends, and posts callbacks of its own
    lock.lock();
  }
}

}  // namespace tulle::shim
