// A backend's own objects by the client's handles. The worker has checked the handles, so a miss means that
// the object's creation failed, never a breach; kinds are compared all the same, and nothing is trusted.
// Bounded by wire::kMaxObjects slots (16 B each). Not thread-safe: the submitting thread owns it.
#pragma once

#include <memory>
#include <vector>

#include "tulle/wire/handle.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu {

// `Object` is the base of all kinds: `static constexpr ObjectKind kKind` in each derived class, a virtual
// destructor in the base.
template <typename Object>
class ObjectTable {
 public:
  // Null when there is no such object, or it is of another kind.
  template <typename T>
  T* Find(wire::Handle handle) const {
    if (handle.slot >= slots_.size()) return nullptr;
    const Slot& slot = slots_[handle.slot];
    if (slot.generation != handle.generation || slot.kind != T::kKind) return nullptr;
    return static_cast<T*>(slot.object.get());
  }

  // False, and `object` untouched, when the name is taken or impossible.
  template <typename T>
  bool Insert(wire::Handle handle, std::unique_ptr<T>& object) {
    if (handle.null() || handle.slot > wire::kMaxObjects) return false;
    if (handle.slot >= slots_.size()) slots_.resize(handle.slot + 1);
    Slot& slot = slots_[handle.slot];
    if (slot.object != nullptr) return false;
    slot = Slot{handle.generation, T::kKind, std::move(object)};
    return true;
  }

  // True when Insert would succeed.
  bool IsFree(wire::Handle handle) const {
    if (handle.null() || handle.slot > wire::kMaxObjects) return false;
    return handle.slot >= slots_.size() || slots_[handle.slot].object == nullptr;
  }

  // Takes the object out; null when there is none.
  template <typename T>
  std::unique_ptr<T> Take(wire::Handle handle) {
    if (Find<T>(handle) == nullptr) return nullptr;
    Slot& slot = slots_[handle.slot];
    slot.kind = wire::ObjectKind::kNone;
    return std::unique_ptr<T>(static_cast<T*>(slot.object.release()));
  }

  // Calls f(handle, object) for each object of kind T, by slot.
  template <typename T, typename F>
  void ForEach(F&& f) {
    for (std::uint32_t i = 1; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      if (slot.kind == T::kKind) f(wire::Handle{i, slot.generation}, *static_cast<T*>(slot.object.get()));
    }
  }

 private:
  struct Slot {
    std::uint32_t generation = 0;
    wire::ObjectKind kind = wire::ObjectKind::kNone;
    std::unique_ptr<Object> object;
  };
  std::vector<Slot> slots_;
};

}  // namespace tulle::gpu
