#include "tulle/gpu/isolated/build_file.h"

#include <unistd.h>

#include <cerrno>

namespace tulle::gpu::isolated {

namespace {

bool WriteAll(int fd, ByteView bytes, off_t* offset) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), *offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    *offset += written;
  }
  return true;
}

bool ReadAll(int fd, MutableByteView bytes, off_t* offset) {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd, bytes.data(), bytes.size(), *offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    *offset += got;
  }
  return true;
}

}  // namespace

bool WriteBuildFile(int fd, const wire::FrameHeader& header, ByteView body, ByteView payload) {
  off_t offset = 0;
  return WriteAll(fd, std::as_bytes(std::span(&header, 1)), &offset) && WriteAll(fd, body, &offset) &&
         WriteAll(fd, payload, &offset);
}

Result<BuildFile> ReadBuildFile(int fd) {
  BuildFile file;
  off_t offset = 0;
  const Error malformed{Code::kDataLoss, "the file is cut short, or has sizes beyond the limits"};
  if (!ReadAll(fd, std::as_writable_bytes(std::span(&file.header, 1)), &offset)) return malformed;
  if (file.header.body_bytes > wire::kMaxBodyBytes || file.header.payload_bytes > wire::kMaxProgramBytes) {
    return malformed;
  }
  file.body.resize(file.header.body_bytes);
  file.payload.resize(file.header.payload_bytes);
  if (!ReadAll(fd, file.body, &offset) || !ReadAll(fd, file.payload, &offset)) return malformed;
  return file;
}

}  // namespace tulle::gpu::isolated
