// The program's callbacks: run one at a time, with none of our locks held, in the order in which they became
// due, by a thread of their own or by one that has the time. Their own starts with the first Start() and is
// detached: a program may exit or fork at any time.
// Bounded by what the program registers: a task is made at registration, so Post never fails or allocates.
#pragma once

#include <atomic>
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

  // While one lives, Post() on this thread leaves the thread asleep: whoever made it sees afterwards to it
  // that what has become due is run.
  class Held {
   public:
    Held();
    ~Held();

   private:
    const bool before_;
  };
  bool has_due() const { return state_->has_due.load(std::memory_order_acquire); }
  // Runs what is due on this thread, unless another one is about it, which then goes on to run the rest. No
  // lock may be held.
  void RunDue();
  // Leaves it to the thread.
  void Wake();

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable due;
    bool running = false;  // a task is being run
    std::atomic<bool> has_due{false};
    Task* first = nullptr;
    Task** last = &first;
    bool started = false;
    bool stopping = false;
  };
  static void Run(std::shared_ptr<State> state);
  static void RunTasks(State& state, std::unique_lock<std::mutex>& lock);
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
