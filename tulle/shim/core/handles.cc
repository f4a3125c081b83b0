#include "tulle/shim/core/handles.h"

namespace tulle::shim {

wire::Handle HandleSpace::New() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    const std::uint32_t first = NewBlock();
    if (first == 0) return {};
    for (std::uint32_t i = kSlotsPerBlock; i-- > 0;) free_.push_back({first + i, 1});
  }
  const wire::Handle handle = free_.back();
  free_.pop_back();
  return handle;
}

void HandleSpace::Recycle(wire::Handle handle) {
  // A slot whose generations are used up is not used again.
  if (++handle.generation == 0) return;
  const std::lock_guard lock(mutex_);
  free_.push_back(handle);
}

}  // namespace tulle::shim
