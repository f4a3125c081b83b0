// Every bound of one session in its worker, with its reason. (What one message may hold is in wire/limits.h.)
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "tulle/base/clock.h"

namespace tulle::worker::exec {

struct SessionLimits {
  // Builds under way; the next one waits, and with it the session. Programs are rarely built two at a time,
  // and each takes a compiler process.
  std::size_t builds = 4;

  // Source and binaries of the session's programs, in the worker's memory. The largest program allowed fits,
  // with its binary. Over it the session ends (kResource).
  std::uint64_t program_bytes = 192ull << 20;

  // Arguments of kernels that are memory, of those sessions that must know: some 64 B each.
  std::size_t kernel_arguments = 1u << 18;

  // Output that waits for the client. Over it no command and no reply is taken until the client has read:
  // enough to keep a socket busy meanwhile.
  std::size_t pending_output_bytes = 1u << 20;

  // Replies taken in a row before commands get their turn.
  unsigned replies_per_turn = 64;

  // A session that waits for memory or room while an event that only its program can complete is pending may
  // wait for ever: after this it ends (kResource). Long enough for a program that sets the event from another
  // thread; without such an event there is no limit, since commands then finish by themselves.
  Duration wait_on_user_event = std::chrono::seconds(30);
};

}  // namespace tulle::worker::exec
