// What programs hold pointers to is none: a handle names a slot of a table, its kind and which use of the
// slot it is, so that one that is stale, of another kind or never was one is told apart without touching
// memory.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

namespace tulle::shim::cuda {

enum class HandleKind : std::uint64_t {
  kContext = 1,
  kModule,
  kFunction,
  kLibrary,
  kKernel,
  kStream,
  kEvent,
  kPool,
  kLink
};

// Thread-safe. H: the API's pointer type; T: what it names.
template <typename H, typename T, HandleKind kKind>
class Handles {
 public:
  H Add(std::shared_ptr<T> object) {
    const std::lock_guard lock(mutex_);
    std::uint64_t slot = slots_.size();
    if (free_.empty()) {
      slots_.push_back({});
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    slots_[slot].object = std::move(object);
    return ToHandle(slot, ++slots_[slot].use);
  }

  // Null: it names none.
  std::shared_ptr<T> Find(H handle) const {
    const std::shared_lock lock(mutex_);
    const std::uint64_t slot = SlotOf(handle);
    return slot < slots_.size() ? slots_[slot].object : nullptr;
  }

  // Of the one that `is` true of; null: of none.
  template <typename F>
  H FindHandle(F&& is) const {
    const std::shared_lock lock(mutex_);
    for (std::uint64_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].object != nullptr && is(*slots_[slot].object)) return ToHandle(slot, slots_[slot].use);
    }
    return nullptr;
  }

  // The first that `is` true of; null: of none.
  template <typename F>
  std::shared_ptr<T> FindFirst(F&& is) const {
    const std::shared_lock lock(mutex_);
    for (const Slot& slot : slots_) {
      if (slot.object != nullptr && is(*slot.object)) return slot.object;
    }
    return nullptr;
  }

  template <typename F>
  void ForEach(F&& f) const {
    const std::shared_lock lock(mutex_);
    for (const Slot& slot : slots_) {
      if (slot.object != nullptr) f(*slot.object);
    }
  }

  std::shared_ptr<T> Remove(H handle) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t slot = SlotOf(handle);
    if (slot >= slots_.size()) return nullptr;
    free_.push_back(slot);
    return std::exchange(slots_[slot].object, nullptr);
  }

  template <typename F>
  void RemoveIf(F&& gone) {
    const std::lock_guard lock(mutex_);
    for (std::uint64_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].object == nullptr || !gone(*slots_[slot].object)) continue;
      slots_[slot].object = nullptr;
      free_.push_back(slot);
    }
  }

 private:
  struct Slot {
    std::shared_ptr<T> object;
    std::uint64_t use = 0;
  };
  static constexpr std::uint64_t kUseShift = 32, kSlotShift = 8, kSlotMask = 0xff'ffff;

  static H ToHandle(std::uint64_t slot, std::uint64_t use) {
    return reinterpret_cast<H>(use << kUseShift | slot << kSlotShift |
                               static_cast<std::uint64_t>(kKind) << 4);
  }
  // Beyond all slots when the handle is none.
  std::uint64_t SlotOf(H handle) const {
    const std::uint64_t slot = reinterpret_cast<std::uint64_t>(handle) >> kSlotShift & kSlotMask;
    const bool is_one =
        slot < slots_.size() && slots_[slot].object != nullptr && handle == ToHandle(slot, slots_[slot].use);
    return is_one ? slot : ~std::uint64_t{0};
  }

  mutable std::shared_mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<std::uint64_t> free_;
};

}  // namespace tulle::shim::cuda
