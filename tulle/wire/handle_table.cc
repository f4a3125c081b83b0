#include "tulle/wire/handle_table.h"

namespace tulle::wire {

WireResult HandleTable::CheckLive(ObjectKind kind, Handle handle) const {
  if (handle.null() || handle.slot >= slots_.size()) return WireResult::kBadHandle;
  const Slot& slot = slots_[handle.slot];
  if (kPlantedBug != PlantedBug::kStaleHandleAccepted && slot.generation != handle.generation)
    return WireResult::kStale;
  if (slot.kind == ObjectKind::kNone) return WireResult::kStale;
  return slot.kind == kind ? WireResult::kOk : WireResult::kWrongKind;
}

WireResult HandleTable::CheckNew(Handle handle) const {
  if (handle.null() || handle.slot > kMaxObjects) return WireResult::kBadHandle;
  if (handle.slot >= slots_.size()) return handle.generation != 0 ? WireResult::kOk : WireResult::kBadHandle;
  const Slot& slot = slots_[handle.slot];
  return slot.kind == ObjectKind::kNone && handle.generation > slot.generation ? WireResult::kOk
                                                                               : WireResult::kStale;
}

void HandleTable::Insert(ObjectKind kind, Handle handle) {
  TULLE_CHECK(CheckNew(handle) == WireResult::kOk);
  if (handle.slot >= slots_.size()) slots_.resize(handle.slot + 1);
  slots_[handle.slot] = {handle.generation, kind};
  ++live_count_;
}

void HandleTable::Erase(Handle handle) {
  TULLE_CHECK(handle.slot != 0 && handle.slot < slots_.size() &&
              slots_[handle.slot].kind != ObjectKind::kNone);
  slots_[handle.slot].kind = ObjectKind::kNone;
  --live_count_;
}

}  // namespace tulle::wire
