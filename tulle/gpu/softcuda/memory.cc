#include "tulle/gpu/softcuda/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "tulle/base/bytes.h"

namespace tulle::gpu::softcuda {
namespace {

std::uint64_t InPages(std::uint64_t bytes) {
  return (bytes + DeviceMemory::kPage - 1) / DeviceMemory::kPage * DeviceMemory::kPage;
}

}  // namespace

Result<std::unique_ptr<DeviceMemory>> DeviceMemory::Reserve(std::uint64_t bytes, std::uint64_t address) {
  const std::uint64_t whole = InPages(bytes) * kAddressFactor;
  void* const base =
      bytes == 0 || whole < bytes
          ? MAP_FAILED
          : mmap(reinterpret_cast<void*>(address), whole, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (address != 0 ? MAP_FIXED_NOREPLACE : 0), -1,
                 0);
  if (base == MAP_FAILED && errno == EEXIST)
    return Error{.code = Code::kAlreadyExists, .message = "the addresses are not free"};
  if (base == MAP_FAILED) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "cannot reserve " + FormatSize(bytes) + " of addresses"};
  }
  return std::unique_ptr<DeviceMemory>(new DeviceMemory(reinterpret_cast<std::uint64_t>(base), whole));
}

DeviceMemory::~DeviceMemory() { munmap(reinterpret_cast<void*>(base_), bytes_); }

std::uint64_t DeviceMemory::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return total_bytes() - used_bytes_;
}

Result<std::uint64_t> DeviceMemory::Allocate(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto refuse = [&] {
    return Error{.code = Code::kResourceExhausted,
                 .message = "no " + FormatSize(bytes) + " in one piece are left of the device's " +
                            FormatSize(total_bytes())};
  };
  if (bytes == 0 || bytes > total_bytes()) return refuse();
  const std::uint64_t whole = InPages(bytes);
  if (whole > total_bytes() - used_bytes_) return refuse();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < whole) continue;
    const std::uint64_t at = it->first;
    const std::uint64_t left = it->second - whole;
    free_.erase(it);
    if (left != 0) free_.emplace(at + whole, left);
    used_.emplace(at, Allocation{bytes, whole});
    used_bytes_ += whole;
    std::memset(&pages_[at / kPage], 1, whole / kPage);
    return base_ + at;
  }
  return refuse();
}

Status DeviceMemory::Free(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  const auto it = used_.find(address - base_);
  if (it == used_.end()) return Error{.code = Code::kNotFound, .message = "nothing was allocated there"};
  std::uint64_t at = it->first, bytes = it->second.pages_bytes;
  used_.erase(it);
  used_bytes_ -= bytes;
  std::memset(&pages_[at / kPage], 0, bytes / kPage);
  // They read as zeros from here on, and cost nothing.
  madvise(reinterpret_cast<void*>(base_ + at), bytes, MADV_DONTNEED);
  auto next = free_.lower_bound(at);
  if (next != free_.end() && next->first == at + bytes) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == at) {
      before->second += bytes;
      return OkStatus();
    }
  }
  free_.emplace(at, bytes);
  return OkStatus();
}

bool DeviceMemory::Find(std::uint64_t address, std::uint64_t* begin, std::uint64_t* bytes) const {
  const std::lock_guard lock(mutex_);
  auto it = used_.upper_bound(address - base_);
  if (it == used_.begin()) return false;
  --it;
  if (address - base_ - it->first >= it->second.asked) return false;
  *begin = base_ + it->first;
  *bytes = it->second.asked;
  return true;
}

}  // namespace tulle::gpu::softcuda
