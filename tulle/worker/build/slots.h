// How many builds of one vGPU run at once, over all of its sessions: a compiler takes a core and some 200 MB.
// Thread-safe. Whoever finds none free polls fd() and tries again.
#pragma once

#include "tulle/base/unique_fd.h"

namespace tulle::worker::build {

class Slots {
 public:
  explicit Slots(unsigned count);

  // One build's right to run; gives itself back.
  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept : slots_(std::exchange(other.slots_, nullptr)) {}
    Slot& operator=(Slot&& other) noexcept {
      Release();
      slots_ = std::exchange(other.slots_, nullptr);
      return *this;
    }
    ~Slot() { Release(); }
    explicit operator bool() const { return slots_ != nullptr; }

   private:
    friend class Slots;
    explicit Slot(Slots* slots) : slots_(slots) {}
    void Release();
    Slots* slots_ = nullptr;
  };

  // An empty Slot when none is free.
  Slot TryTake();
  int fd() const { return semaphore_.get(); }  // readable while one is free

 private:
  UniqueFd semaphore_;  // an eventfd that counts the free slots
};

}  // namespace tulle::worker::build
