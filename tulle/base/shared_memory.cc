#include "tulle/base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "tulle/base/check.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#endif

namespace tulle {

Result<SharedMemory> SharedMemory::Create(const char* name, std::uint64_t size_bytes) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!fd.valid() && errno == EINVAL) fd.reset(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoError("shared memory of " + FormatSize(size_bytes) + " for " + name, errno);
  }
  return Adopt(std::move(fd));
}

Result<SharedMemory> SharedMemory::Adopt(UniqueFd fd) {
  struct stat info;
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || fstat(fd.get(), &info) != 0) return ErrnoError("shared memory", errno);
  if ((seals & F_SEAL_SHRINK) == 0) return Error{Code::kInvalidArgument, "shared memory that may shrink"};
  const auto size_bytes = static_cast<std::uint64_t>(info.st_size);
  void* data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoError("mapping " + FormatSize(size_bytes) + " of shared memory", errno);
  return SharedMemory(std::move(fd), static_cast<std::byte*>(data), size_bytes);
}

Result<SharedMemory> SharedMemory::MapDevice(int fd, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  void* data =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset_bytes));
  if (data == MAP_FAILED)
    return ErrnoError("mapping " + FormatSize(size_bytes) + " of a device's memory", errno);
  return SharedMemory(UniqueFd(), static_cast<std::byte*>(data), size_bytes);
}

SharedMemory::SharedMemory(UniqueFd fd, std::byte* data, std::uint64_t size_bytes)
    : fd_(std::move(fd)), data_(data), size_bytes_(size_bytes) {}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::move(other.fd_)), data_(std::exchange(other.data_, nullptr)), size_bytes_(other.size_bytes_) {}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

void SharedMemory::Read(std::uint64_t offset_bytes, MutableByteView bytes) const {
  TULLE_CHECK(offset_bytes <= size_bytes_ && bytes.size() <= size_bytes_ - offset_bytes);
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    TULLE_CHECK(got > 0);  // it is memory
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset_bytes += static_cast<std::uint64_t>(got);
  }
}

void SharedMemory::Write(std::uint64_t offset_bytes, ByteView bytes) {
  TULLE_CHECK(offset_bytes <= size_bytes_ && bytes.size() <= size_bytes_ - offset_bytes);
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (put < 0 && errno == EINTR) continue;
    TULLE_CHECK(put > 0);  // as where it is mapped: a host that has no memory left ends who touches it
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset_bytes += static_cast<std::uint64_t>(put);
  }
}

void SharedMemory::Populate(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  TULLE_CHECK(offset_bytes <= size_bytes_ && size_bytes <= size_bytes_ - offset_bytes);
#ifdef MADV_POPULATE_WRITE
  (void)madvise(data_ + offset_bytes, size_bytes, MADV_POPULATE_WRITE);
#endif
}

void SharedMemory::Scrub(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  TULLE_CHECK(offset_bytes <= size_bytes_ && size_bytes <= size_bytes_ - offset_bytes);
  int result;
  do {
    result = fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(offset_bytes), static_cast<off_t>(size_bytes));
  } while (result != 0 && errno == EINTR);
  TULLE_CHECK(result == 0);  // a memfd can always do it
}

}  // namespace tulle
