#include "tulle/gpu/isolated/kernel_output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <thread>

namespace tulle::gpu::isolated {

Status KernelOutput::Capture() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("no pipe for what kernels print", errno);
  read_.reset(ends[0]);
  const UniqueFd write_end(ends[1]);
  if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0 || dup2(write_end.get(), STDOUT_FILENO) < 0)
    return ErrnoError("no pipe for what kernels print", errno);
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // for drivers that print with C's own
  buffer_.resize(wire::kMaxKernelOutputBytes);
  std::thread([this] {
    pollfd readable = {read_.get(), POLLIN, 0};
    while (poll(&readable, 1, -1) >= 0 || errno == EINTR) {
      if (!Flush()) return;
    }
  }).detach();
  return OkStatus();
}

bool KernelOutput::Flush() {
  const std::lock_guard lock(mutex_);
  ssize_t size;
  while ((size = read(read_.get(), buffer_.data(), buffer_.size())) > 0) {
    const ByteView text = ByteView(buffer_).first(static_cast<std::size_t>(size));
    SendNotice(next_, wire::opencl::KernelOutput{{text}});
  }
  return size < 0;
}

}  // namespace tulle::gpu::isolated
