#include "tulle/shim/opencl/svm_space.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tulle/shim/opencl/memory.h"
#include "tulle/wire/schema/opencl/svm.h"

namespace tulle::shim::opencl {
namespace {

using wire::opencl::kSvmBase;
using wire::opencl::kSvmBytes;

constexpr std::uintptr_t kEnd = kSvmBase + kSvmBytes;
// Past memory of somebody else's (what a parent had before it forked): a step that crosses the range in a
// few hundred.
constexpr std::uintptr_t kStep = std::uintptr_t{64} << 30;

// Fresh pages just there; null, and errno set, when they cannot be had.
std::byte* MapAt(std::uintptr_t address, std::size_t size) {
  void* wanted = reinterpret_cast<void*>(address);
  void* pages = mmap(wanted, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  if (pages == wanted) return static_cast<std::byte*>(pages);
  munmap(pages, size);  // before Linux 4.17 the address is a hint
  errno = EEXIST;
  return nullptr;
}

}  // namespace

SvmSpace::SvmSpace() = default;
SvmSpace::~SvmSpace() = default;

bool SvmSpace::Available() {
  if (!wire::opencl::kSvmMayBe) return false;
  constexpr std::size_t kPage = wire::opencl::kMemoryGranuleBytes;
  std::byte* page = MapAt(kEnd - kPage, kPage);
  if (page == nullptr) return errno == EEXIST;
  munmap(page, kPage);
  return true;
}

std::byte* SvmSpace::Map(std::size_t size) {
  const std::uint64_t bytes = wire::opencl::ChargedBytes(size);
  if (bytes > kSvmBytes) return nullptr;
  const std::lock_guard lock(mutex_);
  if (allocations_.size() >= wire::kMaxSvmAllocations) return nullptr;
  std::uintptr_t at = next_ == 0 ? kSvmBase : next_;
  // Once round the range, from where the last one ended: addresses are used again as late as can be.
  bool wrapped = false;
  while (true) {
    if (bytes > kEnd - at) {
      if (std::exchange(wrapped, true)) return nullptr;
      at = kSvmBase;
    }
    // What lies over [at, at + bytes) is the last allocation that begins before its end, if any.
    const auto after = allocations_.lower_bound(at + bytes);
    if (after != allocations_.begin()) {
      const auto& [address, allocation] = *std::prev(after);
      const std::uintptr_t end = address + wire::opencl::ChargedBytes(allocation.size);
      if (end > at) {
        at = end;
        continue;
      }
    }
    if (std::byte* pages = MapAt(at, bytes); pages != nullptr) {
      next_ = at + bytes;
      return pages;
    }
    if (errno != EEXIST) return nullptr;
    at += std::min<std::uintptr_t>(kStep, kEnd - at);
  }
}

void SvmSpace::Unmap(std::byte* pages, std::size_t size) { munmap(pages, wire::opencl::ChargedBytes(size)); }

void SvmSpace::Add(Ref<Memory> memory, const std::byte* address, std::size_t size) {
  const std::lock_guard lock(mutex_);
  allocations_.emplace(reinterpret_cast<std::uintptr_t>(address), Allocation{size, std::move(memory)});
}

SvmPlace SvmSpace::Find(const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const std::lock_guard lock(mutex_);
  const auto after = allocations_.upper_bound(at);
  if (after == allocations_.begin()) return {};
  const auto& [begin, allocation] = *std::prev(after);
  return at - begin < allocation.size ? SvmPlace{allocation.memory, at - begin} : SvmPlace{};
}

Ref<Memory> SvmSpace::Take(const void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(reinterpret_cast<std::uintptr_t>(address));
  if (found == allocations_.end()) return {};
  Ref<Memory> memory = std::move(found->second.memory);
  allocations_.erase(found);
  return memory;
}

}  // namespace tulle::shim::opencl
