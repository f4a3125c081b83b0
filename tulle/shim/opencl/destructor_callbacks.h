// The callbacks that a program registers for the end of a context or memory object: called once each, the
// latest first, when the object's last user is gone.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "tulle/shim/core/callbacks.h"
#include "tulle/shim/core/connection.h"
#include "tulle/shim/opencl/api.h"

namespace tulle::shim::opencl {

template <typename Handle>
class DestructorCallbacks {
 public:
  using Function = void(CL_CALLBACK*)(Handle, void*);

  // False: the thread that may have to call it cannot be had.
  bool Add(CallbackThread& thread, Function function, void* user_data) {
    if (!thread.Start().ok()) return false;
    const std::lock_guard lock(mutex_);
    callbacks_.emplace_back(function, user_data);
    return true;
  }

  // In this thread if it is the program's own, else in the callback thread.
  void Run(CallbackThread& thread, Handle handle) {
    if (callbacks_.empty()) return;
    auto run = [handle, callbacks = std::move(callbacks_)] {
      for (auto it = callbacks.rbegin(); it != callbacks.rend(); ++it) it->first(handle, it->second);
    };
    if (HandlingFrame()) {
      thread.Post(MakeTask(std::move(run)));
    } else {
      run();
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<Function, void*>> callbacks_;
};

}  // namespace tulle::shim::opencl
