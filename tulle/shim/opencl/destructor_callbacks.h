// The callbacks that a program registers for the end of a context or memory object: called once each, the
// latest first, when the object's last user is gone.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "tulle/shim/core/callbacks.h"
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

  // The rest is for the one who ends the object.
  bool empty() const { return callbacks_.empty(); }
  void Run(Handle handle) const {
    for (auto it = callbacks_.rbegin(); it != callbacks_.rend(); ++it) it->first(handle, it->second);
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<Function, void*>> callbacks_;
};

}  // namespace tulle::shim::opencl
