// A memfd and its mapping in this process. Sealed against shrinking and growing, so that no other holder can
// make an access fault by truncating it.
#pragma once

#include <cstdint>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle {

class SharedMemory {
 public:
  // Sparse: pages come when they are touched, and read as zero. `name` shows in /proc/<pid>/maps.
  static Result<SharedMemory> Create(const char* name, std::uint64_t size_bytes);
  // Maps one that was inherited, or came from another process; takes the descriptor. Its size is the file's.
  // An error if it could shrink.
  static Result<SharedMemory> Adopt(UniqueFd fd);
  // Maps a part of a device, whose memory it stays; the descriptor is needed for that only, and fd() is none.
  // Read, Write and Scrub are for memfds.
  static Result<SharedMemory> MapDevice(int fd, std::uint64_t offset_bytes, std::uint64_t size_bytes);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) = delete;
  ~SharedMemory();

  MutableByteView bytes() const { return {data_, static_cast<std::size_t>(size_bytes_)}; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }
  // Copies by a system call, which maps no pages: where memory comes and goes, each page that is touched for
  // the first time costs more than all of its bytes.
  void Read(std::uint64_t offset_bytes, MutableByteView bytes) const;
  void Write(std::uint64_t offset_bytes, ByteView bytes);
  // Maps pages that are going to be written to, all at once; a hint.
  void Populate(std::uint64_t offset_bytes, std::uint64_t size_bytes);
  // Gives the pages back to the kernel: they read as zero afterwards. Whole pages only.
  void Scrub(std::uint64_t offset_bytes, std::uint64_t size_bytes);

 private:
  SharedMemory(UniqueFd fd, std::byte* data, std::uint64_t size_bytes);
  UniqueFd fd_;
  std::byte* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace tulle
