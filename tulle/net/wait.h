// Waiting for a descriptor, with a deadline on the system's monotonic clock.
#pragma once

#include "tulle/base/clock.h"
#include "tulle/base/result.h"

namespace tulle::net {

Instant Now();

// Waits for `events` of poll() on `fd`. What happened (error and hang-up states too); 0 when the deadline
// passed first. Signals do not end the wait.
short WaitFor(int fd, short events, Instant deadline);

}  // namespace tulle::net
