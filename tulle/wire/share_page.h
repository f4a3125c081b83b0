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

  // The same of the network: by the node, what its programs may move, both ways together; 0: as much as they
  // like. By the worker, totals since it started.
  std::atomic<std::uint64_t> network_bytes_per_s;
  std::atomic<std::uint64_t> network_bytes;
  std::atomic<std::uint64_t> network_throttled_ns;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
inline constexpr std::uint64_t kSharePageBytes = 4096;

}  // namespace tulle::wire
