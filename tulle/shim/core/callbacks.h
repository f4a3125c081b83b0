// The thread that runs the program's callbacks, with none of our locks held, in the order in which they
// became due. It starts with the first Start() and is detached: a program may exit or fork at any time.
// Bounded by what the program registers: a task is made at registration, so Post never fails or allocates.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "tulle/base/result.h"

namespace tulle::shim {

class CallbackThread {
 public:
  class Task {
   public:
    virtual ~Task() = default;
    virtual void Run() = 0;

   private:
    friend class CallbackThread;
    friend class Event;
    Task* next_ = nullptr;
  };

  CallbackThread() : state_(std::make_shared<State>()) {}
  // Tasks that are due still run; nobody waits for them.
  ~CallbackThread();

  // Call before the first Post, whenever a task is registered.
  Status Start();

  // Runs the task soon, then deletes it. Any thread, any lock held.
  void Post(std::unique_ptr<Task> task);

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable due;
    Task* first = nullptr;
    Task** last = &first;
    bool started = false;
    bool stopping = false;
  };
  static void Run(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// A task from a function object.
template <typename F>
std::unique_ptr<CallbackThread::Task> MakeTask(F&& function) {
  class FunctionTask final : public CallbackThread::Task {
   public:
    explicit FunctionTask(F&& f) : function_(std::forward<F>(f)) {}
    void Run() override { function_(); }

   private:
    std::decay_t<F> function_;
  };
  return std::make_unique<FunctionTask>(std::forward<F>(function));
}

}  // namespace tulle::shim
