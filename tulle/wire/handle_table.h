// Which handles of one session are alive, and of what kind: the worker's first check of every command.
// Bounded by kMaxObjects. Not thread-safe: the session's thread owns it.
#pragma once

#include <vector>

#include "tulle/wire/codec.h"

namespace tulle::wire {

class HandleTable {
 public:
  WireResult CheckLive(ObjectKind kind, Handle handle) const;
  WireResult CheckNew(Handle handle) const;
  // Preconditions: the checks above said kOk.
  void Insert(ObjectKind kind, Handle handle);
  void Erase(Handle handle);

  std::size_t live_count() const { return live_count_; }

  // Calls f(kind, handle) for each live object.
  template <typename F>
  void ForEachLive(F&& f) const {
    for (std::uint32_t slot = 1; slot < slots_.size(); ++slot) {
      if (slots_[slot].kind != ObjectKind::kNone) f(slots_[slot].kind, Handle{slot, slots_[slot].generation});
    }
  }

 private:
  struct Slot {
    std::uint32_t generation = 0;  // of the object that lives or lived here
    ObjectKind kind = ObjectKind::kNone;
  };
  std::vector<Slot> slots_{1};  // slot 0 is the null handle
  std::size_t live_count_ = 0;
};

// The handles of one message against the table: references live and of the right kind, new names free.
template <Message M>
WireResult CheckHandles(const M& message, const HandleTable& table) {
  WireResult result = WireResult::kOk;
  const auto check = [&](const auto& field, const auto& self) -> void {
    using T = std::remove_cvref_t<decltype(field)>;
    if (result != WireResult::kOk) return;
    if constexpr (internal::IsHandle<T>::value) {
      if (field.handle.null()) return;  // the decoder refused null where an object is required
      if constexpr (T::kUse == Use::kRef || T::kUse == Use::kOptRef) {
        result = table.CheckLive(T::kKind, field.handle);
      } else {
        result = table.CheckNew(field.handle);
      }
    } else if constexpr (std::same_as<T, Drop>) {
      result = table.CheckLive(field.kind, field.handle);
    } else if constexpr (internal::IsList<T>::value) {
      if constexpr (internal::IsHandle<typename T::Element>::value) {
        for (const auto& item : field.items) self(item, self);
      }
    }
  };
  M::ForEachField(message, [&](std::string_view, const auto& field) { check(field, check); });
  return result;
}

// Makes the message's effect on the table: its new names live, its dropped ones dead.
// Precondition: CheckHandles said kOk.
template <Message M>
void ApplyHandles(const M& message, HandleTable& table) {
  M::ForEachField(message, [&](std::string_view, const auto& field) {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (internal::IsHandle<T>::value) {
      if constexpr (T::kUse == Use::kNew || T::kUse == Use::kOptNew) {
        if (!field.handle.null()) table.Insert(T::kKind, field.handle);
      }
    } else if constexpr (std::same_as<T, Drop>) {
      table.Erase(field.handle);
    }
  });
}

// A message that was decoded, whose handles are live, and whose effect on the table was made. Handlers
// take this, so none can be reached with raw input.
template <Message M>
class Checked {
 public:
  const M& operator*() const { return *message_; }
  const M* operator->() const { return message_; }

  // The only way to make one. On any result but kOk nothing has changed.
  static WireResult Make(const M& message, HandleTable& table, Checked* checked) {
    const WireResult result = CheckHandles(message, table);
    if (result != WireResult::kOk) return result;
    ApplyHandles(message, table);
    checked->message_ = &message;
    return WireResult::kOk;
  }

 private:
  const M* message_ = nullptr;
};

}  // namespace tulle::wire
