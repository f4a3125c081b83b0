// The arithmetic of a memory lease: how much the worker has granted, how much objects use, when to ask for
// more and when to give back. Pure; the caller locks.
#pragma once

#include <cstdint>

namespace tulle::shim {

class MemoryLease {
 public:
  // A chunk is what one round trip asks for at least, and half of what may lie unused: small next to the
  // vGPU, so that other sessions of it are not starved, yet enough for many small objects.
  explicit MemoryLease(std::uint64_t limit_bytes);

  // What to ask for before any object is made, so that small programs need not wait for it: little, as other
  // sessions cannot have it meanwhile.
  static std::uint64_t WantedAtFirst(std::uint64_t limit_bytes);

  // Takes `size` bytes for an object; false when the lease is too short.
  bool Take(std::uint64_t size);
  void Give(std::uint64_t size) { used_ -= size; }

  // What to ask the worker for, so that Take(size) would succeed: rounded up to chunks, or (`exact`, for a
  // second try after the first was refused) only what is missing.
  std::uint64_t WantedFor(std::uint64_t size, bool exact) const;
  void Grant(std::uint64_t size) { granted_ += size; }

  // Unused bytes to give back now, 0 while there are few; they are gone from the lease.
  std::uint64_t Trim();
  // All of them.
  std::uint64_t TakeUnused();

  std::uint64_t granted() const { return granted_; }
  std::uint64_t used() const { return used_; }

 private:
  std::uint64_t chunk_;
  std::uint64_t granted_ = 0;
  std::uint64_t used_ = 0;
};

}  // namespace tulle::shim
