#include "tulle/gpu/softcuda/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "tulle/base/check.h"
#include "tulle/base/random.h"

namespace tulle::gpu::softcuda {
namespace {

std::uint64_t InPages(std::uint64_t bytes) {
  return (bytes + DeviceMemory::kPage - 1) / DeviceMemory::kPage * DeviceMemory::kPage;
}

void* At(std::uint64_t address) { return reinterpret_cast<void*>(address); }

// Where processes have nothing of their own, if nothing else was asked for: so that the addresses are likely
// to be free in the process of who uses the device from elsewhere, too. 0: there are none.
std::uint64_t ReserveHost(std::uint64_t bytes, std::uint64_t wanted) {
  constexpr std::uint64_t kFirst = 0x2000'0000'0000, kSpread = 0x1000'0000'0000;
  if (wanted == 0) {
    SecureRandom random;
    wanted = kFirst + random.Below(kSpread / DeviceMemory::kGranule) * DeviceMemory::kGranule;
  }
  // A wish only: elsewhere if something is there.
  void* const there =
      mmap(At(wanted), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return there == MAP_FAILED ? 0 : reinterpret_cast<std::uint64_t>(there);
}

// They read as zeros from here on, and cost nothing.
void Empty(std::uint64_t address, std::uint64_t bytes) { madvise(At(address), bytes, MADV_DONTNEED); }

bool InGranules(std::uint64_t bytes) { return bytes != 0 && bytes % DeviceMemory::kGranule == 0; }

Error Exhausted(std::uint64_t bytes, std::uint64_t total) {
  return {.code = Code::kResourceExhausted,
          .message = "no " + FormatSize(bytes) + " are left of the device's " + FormatSize(total)};
}
Error NotInGranules() {
  return {.code = Code::kInvalidArgument,
          .message = "not a multiple of " + FormatSize(DeviceMemory::kGranule)};
}
Error NotFound(const char* what) { return {.code = Code::kNotFound, .message = what}; }

}  // namespace

Result<std::unique_ptr<DeviceMemory>> DeviceMemory::Reserve(std::uint64_t bytes) {
  const std::uint64_t total = InPages(bytes);
  const std::uint64_t base =
      bytes == 0 || total * kAddressFactor < bytes ? 0 : ReserveHost(total * kAddressFactor, 0);
  if (base == 0) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "cannot reserve " + FormatSize(bytes) + " of addresses"};
  }
  return std::unique_ptr<DeviceMemory>(new DeviceMemory(base, total));
}

DeviceMemory::DeviceMemory(std::uint64_t base, std::uint64_t total_bytes)
    : base_(base),
      total_bytes_(total_bytes),
      leaves_(static_cast<std::atomic<std::uint8_t*>*>(
          std::calloc((std::uint64_t{1} << kAddressBits) / kPage / kLeafPages, sizeof leaves_[0]))),
      free_({{0, total_bytes * kAddressFactor}}) {
  TULLE_CHECK(leaves_ != nullptr);
}

DeviceMemory::~DeviceMemory() {
  for (std::uint64_t i = 0; i < (std::uint64_t{1} << kAddressBits) / kPage / kLeafPages; ++i)
    std::free(leaves_[i].load());
  for (const auto& [address, bytes] : reserved_) munmap(At(address), bytes);
  munmap(At(base_), total_bytes_ * kAddressFactor);
}

std::uint64_t DeviceMemory::free_bytes() const {
  const std::lock_guard lock(mutex_);
  return total_bytes_ - used_bytes_;
}

// False: this process has no memory for it.
bool DeviceMemory::MarkPages(std::uint64_t address, std::uint64_t bytes, Access access) {
  const std::uint64_t end = (address + bytes) / kPage;
  for (std::uint64_t page = address / kPage; page < end;) {
    std::atomic<std::uint8_t*>& leaf = leaves_[page / kLeafPages];
    std::uint8_t* pages = leaf.load(std::memory_order_relaxed);
    if (pages == nullptr) {
      pages = static_cast<std::uint8_t*>(std::calloc(2 * kLeafPages, 1));
      if (pages == nullptr) return false;
      leaf.store(pages, std::memory_order_release);
    }
    const std::uint64_t count = std::min(end - page, kLeafPages - page % kLeafPages);
    std::memset(pages + page % kLeafPages, static_cast<int>(access), count);
    if (access == Access::kNone) std::memset(pages + kLeafPages + page % kLeafPages, 0, count);
    page += count;
  }
  return true;
}

bool DeviceMemory::TakeLocked(std::uint64_t bytes) {
  if (bytes > total_bytes_ - used_bytes_) return false;
  used_bytes_ += bytes;
  return true;
}

Result<std::uint64_t> DeviceMemory::Allocate(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes == 0 || bytes > total_bytes_) return Exhausted(bytes, total_bytes_);
  const std::uint64_t whole = InPages(bytes);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->second < whole) continue;
    if (!TakeLocked(whole)) break;
    const std::uint64_t at = it->first, left = it->second - whole;
    if (!MarkPages(base_ + at, whole, Access::kReadWrite)) {
      used_bytes_ -= whole;
      break;
    }
    free_.erase(it);
    if (left != 0) free_.emplace(at + whole, left);
    allocations_.emplace(base_ + at, Allocation{bytes, whole});
    return base_ + at;
  }
  return Exhausted(bytes, total_bytes_);
}

Status DeviceMemory::Free(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  const auto it = allocations_.find(address);
  if (it == allocations_.end()) return NotFound("nothing was allocated there");
  std::uint64_t at = address - base_, bytes = it->second.pages_bytes;
  allocations_.erase(it);
  used_bytes_ -= bytes;
  (void)MarkPages(address, bytes, Access::kNone);
  Empty(address, bytes);
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

Result<std::uint64_t> DeviceMemory::ReserveAddresses(std::uint64_t bytes, std::uint64_t wanted) {
  if (!InGranules(bytes) || wanted % kGranule != 0) return NotInGranules();
  std::uint64_t address = ReserveHost(bytes, wanted);
  if (address % kGranule != 0) {
    // One granule more, of which what is too much goes.
    munmap(At(address), bytes);
    address = bytes + kGranule < bytes ? 0 : ReserveHost(bytes + kGranule, 0);
    if (address != 0) {
      const std::uint64_t before = (kGranule - address % kGranule) % kGranule;
      if (before != 0) munmap(At(address), before);
      address += before;
      munmap(At(address + bytes), kGranule - before);
    }
  }
  if (address == 0) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "cannot reserve " + FormatSize(bytes) + " of addresses"};
  }
  const std::lock_guard lock(mutex_);
  reserved_.emplace(address, bytes);
  return address;
}

Status DeviceMemory::FreeAddresses(std::uint64_t address, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto it = reserved_.find(address);
  if (it == reserved_.end() || it->second != bytes) return NotFound("these addresses were not reserved");
  const auto mapped = mappings_.lower_bound(address);
  if (mapped != mappings_.end() && mapped->first < address + bytes)
    return Error{.code = Code::kFailedPrecondition, .message = "memory is mapped there"};
  munmap(At(address), bytes);
  reserved_.erase(it);
  return OkStatus();
}

Result<MemoryNumber> DeviceMemory::CreateMemory(std::uint64_t bytes, bool shareable) {
  if (!InGranules(bytes)) return NotInGranules();
  Memory memory;
  memory.bytes = bytes;
  if (shareable) {
    memory.file.reset(memfd_create("CUDA memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory.file.valid() || ftruncate(memory.file.get(), static_cast<off_t>(bytes)) != 0 ||
        fcntl(memory.file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      return ErrnoError("memory that others may have", errno);
    }
  }
  const std::lock_guard lock(mutex_);
  if (!TakeLocked(bytes)) return Exhausted(bytes, total_bytes_);
  return InsertLocked(std::move(memory));
}

Result<MemoryNumber> DeviceMemory::Import(UniqueFd file) {
  struct stat status;
  const int seals = fcntl(file.get(), F_GET_SEALS), flags = fcntl(file.get(), F_GETFL);
  if (fstat(file.get(), &status) != 0 || seals < 0 || (seals & F_SEAL_SHRINK) == 0 || flags < 0)
    return Error{.code = Code::kInvalidArgument, .message = "not a file of memory that cannot shrink"};
  Memory memory;
  memory.bytes = static_cast<std::uint64_t>(status.st_size);
  if (!InGranules(memory.bytes)) return NotInGranules();
  memory.file = std::move(file);
  memory.writable = (flags & O_ACCMODE) == O_RDWR;
  memory.counted = false;
  const std::lock_guard lock(mutex_);
  return InsertLocked(std::move(memory));
}

Result<UniqueFd> DeviceMemory::Export(MemoryNumber number) {
  const std::lock_guard lock(mutex_);
  const auto it = memory_.find(number);
  if (it == memory_.end() || it->second.released) return NotFound("there is no such memory");
  if (!it->second.file.valid())
    return Error{.code = Code::kFailedPrecondition, .message = "memory that was not made for others"};
  UniqueFd copy(fcntl(it->second.file.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return ErrnoError("a descriptor of memory", errno);
  return copy;
}

MemoryNumber DeviceMemory::InsertLocked(Memory memory) {
  const MemoryNumber number{++last_number_};
  memory_.emplace(number, std::move(memory));
  return number;
}

void DeviceMemory::EraseLocked(std::map<MemoryNumber, Memory>::iterator memory) {
  if (memory->second.counted) used_bytes_ -= memory->second.bytes;
  memory_.erase(memory);
}

Status DeviceMemory::ReleaseMemory(MemoryNumber number) {
  const std::lock_guard lock(mutex_);
  const auto it = memory_.find(number);
  if (it == memory_.end() || it->second.released) return NotFound("there is no such memory");
  it->second.released = true;
  if (it->second.mapped_at != 0) return OkStatus();
  EraseLocked(it);
  return OkStatus();
}

Status DeviceMemory::Map(std::uint64_t address, std::uint64_t bytes, MemoryNumber number) {
  if (address % kGranule != 0) return NotInGranules();
  const std::lock_guard lock(mutex_);
  const auto it = memory_.find(number);
  if (it == memory_.end() || it->second.released) return NotFound("there is no such memory");
  Memory& memory = it->second;
  if (bytes != memory.bytes) {
    return Error{.code = Code::kInvalidArgument,
                 .message = FormatSize(bytes) + " are to be mapped of memory of " + FormatSize(memory.bytes)};
  }
  if (memory.mapped_at != 0)
    return Error{.code = Code::kUnimplemented, .message = "memory that is mapped already is mapped again"};
  auto range = reserved_.upper_bound(address);
  const bool reserved = range != reserved_.begin() && (--range, address - range->first < range->second) &&
                        bytes <= range->first + range->second - address;
  const auto next = mappings_.upper_bound(address);
  const bool behind_another =
      next != mappings_.begin() && address - std::prev(next)->first < std::prev(next)->second.bytes;
  if (!reserved || behind_another || (next != mappings_.end() && next->first - address < bytes)) {
    return Error{.code = Code::kFailedPrecondition,
                 .message = reserved ? "memory is mapped there" : "these addresses are not reserved"};
  }
  if (memory.file.valid() && mmap(At(address), bytes, PROT_READ | (memory.writable ? PROT_WRITE : 0),
                                  MAP_SHARED | MAP_FIXED, memory.file.get(), 0) == MAP_FAILED) {
    return ErrnoError("memory of others", errno);
  }
  mappings_.emplace(address, Mapping{bytes, number});
  memory.mapped_at = address;
  if (const auto kept = std::move(memory.kept); kept != nullptr) std::memcpy(At(address), kept.get(), bytes);
  return OkStatus();
}

Status DeviceMemory::ForEachMappingLocked(std::uint64_t address, std::uint64_t bytes,
                                          const std::function<void(std::uint64_t, Mapping&)>& f) {
  std::uint64_t at = address, left = bytes;
  for (auto it = mappings_.find(at); left != 0; ++it) {
    if (it == mappings_.end() || it->first != at || it->second.bytes > left)
      return NotFound("that is not mapped memory from its beginning to its end");
    at += it->second.bytes;
    left -= it->second.bytes;
  }
  for (auto it = mappings_.find(address); it != mappings_.end() && it->first < at;) {
    const auto here = it++;
    f(here->first, here->second);
  }
  return OkStatus();
}

Status DeviceMemory::Unmap(std::uint64_t address, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  return ForEachMappingLocked(address, bytes, [this](std::uint64_t at, Mapping& mapping) {
    (void)MarkPages(at, mapping.bytes, Access::kNone);
    const auto it = memory_.find(mapping.number);
    it->second.mapped_at = 0;
    const bool in_file = it->second.file.valid();
    if (it->second.released) {
      EraseLocked(it);
    } else if (!in_file) {
      it->second.kept.reset(static_cast<std::byte*>(std::malloc(mapping.bytes)));
      TULLE_CHECK(it->second.kept != nullptr);
      std::memcpy(it->second.kept.get(), At(at), mapping.bytes);
    }
    if (in_file) {
      TULLE_CHECK(mmap(At(at), mapping.bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == At(at));
    } else {
      Empty(at, mapping.bytes);
    }
    mappings_.erase(at);
  });
}

Status DeviceMemory::SetAccess(std::uint64_t address, std::uint64_t bytes, Access access) {
  const std::lock_guard lock(mutex_);
  bool marked = true, denied = false;
  TULLE_RETURN_IF_ERROR(ForEachMappingLocked(address, bytes, [&](std::uint64_t at, Mapping& mapping) {
    if (access == Access::kReadWrite && !memory_.at(mapping.number).writable) {
      denied = true;
      return;
    }
    marked = marked && MarkPages(at, mapping.bytes, access);
    mapping.access = marked ? access : Access::kNone;
  }));
  if (denied) return Error{.code = Code::kPermissionDenied, .message = "memory that can only be read"};
  if (!marked) return Exhausted(bytes, total_bytes_);
  return OkStatus();
}

bool DeviceMemory::Find(std::uint64_t address, std::uint64_t* begin, std::uint64_t* bytes) const {
  const std::lock_guard lock(mutex_);
  const auto in = [&](const auto& map, auto bytes_of) {
    auto it = map.upper_bound(address);
    if (it == map.begin()) return false;
    --it;
    if (address - it->first >= bytes_of(it->second)) return false;
    *begin = it->first;
    *bytes = bytes_of(it->second);
    return true;
  };
  return in(allocations_, [](const Allocation& a) { return a.asked; }) ||
         in(mappings_, [](const Mapping& m) { return m.bytes; });
}

std::vector<DeviceMemory::Written> DeviceMemory::TakeWritten() {
  const std::lock_guard lock(mutex_);
  std::vector<Written> all;
  const auto take = [&](std::uint64_t address, std::uint64_t bytes) {
    for (std::uint64_t page = address / kPage; page < (address + bytes) / kPage; ++page) {
      std::uint8_t* const leaf = leaves_[page / kLeafPages].load(std::memory_order_relaxed);
      const std::atomic_ref<std::uint8_t> written(leaf[kLeafPages + page % kLeafPages]);
      if (written.load(std::memory_order_relaxed) == 0 || written.exchange(0, std::memory_order_acquire) == 0)
        continue;
      if (!all.empty() && all.back().address + all.back().bytes == page * kPage) {
        all.back().bytes += kPage;
      } else {
        all.push_back({page * kPage, kPage});
      }
    }
  };
  for (const auto& [address, allocation] : allocations_) take(address, allocation.pages_bytes);
  for (const auto& [address, mapping] : mappings_) {
    if (mapping.access != Access::kNone) take(address, mapping.bytes);
  }
  std::sort(all.begin(), all.end(), [](const Written& a, const Written& b) { return a.address < b.address; });
  return all;
}

bool DeviceMemory::Contains(std::uint64_t address, std::uint64_t bytes, Access access) const {
  std::uint64_t begin = 0, size = 0;
  while (Find(address, &begin, &size)) {
    if (bytes == 0) return true;
    const std::uint64_t there = begin + size - address;
    const std::uint64_t here = std::min(bytes, there);
    if (!(access == Access::kReadWrite ? HoldsToWrite(address, here) : Holds(address, here))) return false;
    if (bytes <= there) return true;
    address += there;
    bytes -= there;
  }
  return false;
}

}  // namespace tulle::gpu::softcuda
