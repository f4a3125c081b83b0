// Data and the mutex that guards it, as one thing: the data is reachable only while the lock is held.
#pragma once

#include <mutex>
#include <utility>

namespace tulle {

template <typename T>
class Guarded {
 public:
  template <typename... Args>
  explicit Guarded(Args&&... args) : data_(std::forward<Args>(args)...) {}

  // Holds the lock for its own life.
  class Lock {
   public:
    T* operator->() { return &guarded_.data_; }
    T& operator*() { return guarded_.data_; }
    // For condition variables: wait on this lock, then use the data again.
    std::unique_lock<std::mutex>& native() { return lock_; }

   private:
    friend class Guarded;
    explicit Lock(Guarded& guarded) : guarded_(guarded), lock_(guarded.mutex_) {}
    Guarded& guarded_;
    std::unique_lock<std::mutex> lock_;
  };

  Lock lock() { return Lock(*this); }

 private:
  std::mutex mutex_;
  T data_;
};

}  // namespace tulle
