#include "tulle/worker/build/slots.h"

#include <gtest/gtest.h>
#include <poll.h>

namespace tulle::worker::build {
namespace {

bool Readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

TEST(Slots, AreTakenAndGivenBack) {
  Slots slots(2);
  Slots::Slot first = slots.TryTake();
  {
    Slots::Slot second = slots.TryTake();
    EXPECT_TRUE(first && second);
    EXPECT_FALSE(slots.TryTake());
    EXPECT_FALSE(Readable(slots.fd()));
  }
  EXPECT_TRUE(Readable(slots.fd()));
  Slots::Slot moved = std::move(first);
  EXPECT_FALSE(first);
  EXPECT_TRUE(moved);
  moved = slots.TryTake();  // gives the old one back
  EXPECT_TRUE(slots.TryTake());
}

}  // namespace
}  // namespace tulle::worker::build
