#include "tulle/worker/build/slots.h"

#include <sys/eventfd.h>

#include "tulle/base/check.h"

namespace tulle::worker::build {

Slots::Slots(unsigned count) : semaphore_(eventfd(count, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC)) {
  TULLE_CHECK(semaphore_.valid());
}

Slots::Slot Slots::TryTake() {
  eventfd_t one = 0;
  return eventfd_read(semaphore_.get(), &one) == 0 ? Slot(this) : Slot();
}

void Slots::Slot::Release() {
  if (slots_ == nullptr) return;
  TULLE_CHECK(eventfd_write(std::exchange(slots_, nullptr)->semaphore_.get(), 1) == 0);
}

}  // namespace tulle::worker::build
