// Where this process has shared virtual memory: addresses that no two of its allocations share, whatever
// vGPUs they are on, and that the vGPUs' kernels see too (wire/schema/opencl/svm.h).
#pragma once

#include <map>
#include <mutex>

#include "tulle/base/bytes.h"
#include "tulle/shim/core/object.h"

namespace tulle::shim::opencl {

class Memory;

// A place in an allocation; empty when it is in none.
struct SvmPlace {
  Ref<Memory> memory;
  std::size_t offset = 0;
  explicit operator bool() const { return static_cast<bool>(memory); }
};

// Thread-safe.
class SvmSpace {
 public:
  SvmSpace();
  ~SvmSpace();

  // Whether this process can have memory there. Nothing is kept.
  static bool Available();

  // Fresh pages for an allocation of `size` bytes, to be unmapped by the caller or the allocation; null when
  // there are none left, or wire::kMaxSvmAllocations are alive.
  std::byte* Map(std::size_t size);
  static void Unmap(std::byte* pages, std::size_t size);

  // An allocation is found from now on, ...
  void Add(Ref<Memory> memory, const std::byte* address, std::size_t size);
  SvmPlace Find(const void* address);
  // ... until it is taken out. Empty when none begins there.
  Ref<Memory> Take(const void* address);

 private:
  struct Allocation {
    std::size_t size = 0;
    Ref<Memory> memory;
  };
  std::mutex mutex_;
  std::map<std::uintptr_t, Allocation> allocations_;  // guarded by mutex_; by their addresses
  std::uintptr_t next_ = 0;  // guarded by mutex_; where to look next, 0: at the begin
};

}  // namespace tulle::shim::opencl
