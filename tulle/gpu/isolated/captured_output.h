// What a jailed process prints, for a person who asks why it ended: a pipe whose contents are kept up to a
// bound; what is beyond it is dropped. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle::gpu::isolated {

inline constexpr std::size_t kMaxCapturedBytes = 64u << 10;

// What a terminal or a log can take: everything else becomes '?'.
std::string Printable(std::string_view text);

class CapturedOutput {
 public:
  // With `drop_when_full` a writer never waits for Drain: what the pipe (64 KiB) cannot take is lost.
  static Result<CapturedOutput> Create(bool drop_when_full);
  // For the child; let go of it once the child has started.
  int child_fd() const { return child_.get(); }
  void CloseChildEnd() { child_.reset(); }
  int fd() const { return read_.get(); }  // readable when Drain has something to do
  // Takes what is there. False: the writers are gone.
  bool Drain();
  // Printable text, the last `max_bytes` of what was kept.
  std::string Tail(std::size_t max_bytes) const;

 private:
  CapturedOutput(UniqueFd read_end, UniqueFd child) : read_(std::move(read_end)), child_(std::move(child)) {}
  UniqueFd read_, child_;
  std::string text_;
};

}  // namespace tulle::gpu::isolated
