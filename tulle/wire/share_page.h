// Memory that a node shares with one of its workers, so that a share of the device can change, and what was
// used be seen, many times a second without a message. Same host and same build; both trust each other.
#pragma once

#include <atomic>
#include <cstdint>

namespace tulle::wire {

inline constexpr std::uint32_t kWholeShare = 1'000'000;  // of the device: all of its compute

// All zero at first, which is no share of compute at all: the node writes `share` before the worker starts.
struct SharePage {
  // By the node: what the vGPU may use, in millionths of the device. kWholeShare: as much as it likes.
  std::atomic<std::uint32_t> share;
  // By the worker, totals of all sessions since it started.
  std::atomic<std::uint64_t> used_ns;       // the device's time
  std::atomic<std::uint64_t> waited_ns;     // of the device's time, that others used while work was there
  std::atomic<std::uint64_t> throttled_ns;  // wall time in which work was held up for want of a share

  // Of devices that vGPUs use one after the other. By the node: whether this is one, and how long a turn may
  // be, from the start; how many turns the vGPU was given so far; whether others wait for theirs. By the
  // worker: how many of its turns have ended; whether it wants one. Who writes any of these says so at the
  // socket that they share for it.
  std::atomic<std::uint32_t> by_turns;
  std::atomic<std::uint32_t> longest_turn_ms;  // while others wait; 0: as long as what began in it
  std::atomic<std::uint32_t> others_wait;
  std::atomic<std::uint64_t> turns_given;
  std::atomic<std::uint64_t> turns_ended;
  std::atomic<std::uint32_t> wants_turn;

  // The same of the network: by the node, what its programs may move, both ways together; 0: as much as they
  // like. By the worker, totals since it started.
  std::atomic<std::uint64_t> network_bytes_per_s;
  std::atomic<std::uint64_t> network_bytes;
  std::atomic<std::uint64_t> network_throttled_ns;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
inline constexpr std::uint64_t kSharePageBytes = 4096;

}  // namespace tulle::wire
