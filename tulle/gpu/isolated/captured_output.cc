#include "tulle/gpu/isolated/captured_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace tulle::gpu::isolated {

std::string Printable(std::string_view text) {
  std::string printable(text);
  const auto odd = [](unsigned char c) { return c != '\n' && c != '\t' && (c < 0x20 || c >= 0x7f); };
  std::replace_if(printable.begin(), printable.end(), odd, '?');
  return printable;
}

Result<CapturedOutput> CapturedOutput::Create(bool drop_when_full) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoError("a pipe for a child's output", errno);
  CapturedOutput output{UniqueFd(fds[0]), UniqueFd(fds[1])};
  // The two ends are two open files: what the child does to its flags does not touch ours.
  if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0 ||
      (drop_when_full && fcntl(fds[1], F_SETFL, O_NONBLOCK) != 0)) {
    return ErrnoError("a pipe for a child's output", errno);
  }
  return output;
}

bool CapturedOutput::Drain() {
  char buffer[4096];
  // Bounded, so that a child that prints without end cannot keep us here.
  for (std::size_t drained = 0; drained < kMaxCapturedBytes;) {
    const ssize_t got = read(read_.get(), buffer, sizeof buffer);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    text_.append(buffer, static_cast<std::size_t>(got));
    if (text_.size() > 2 * kMaxCapturedBytes) text_.erase(0, text_.size() - kMaxCapturedBytes);
    drained += static_cast<std::size_t>(got);
  }
  return true;
}

std::string CapturedOutput::Tail(std::size_t max_bytes) const {
  std::string tail =
      Printable(std::string_view(text_).substr(text_.size() - std::min(text_.size(), max_bytes)));
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return tail;
}

}  // namespace tulle::gpu::isolated
