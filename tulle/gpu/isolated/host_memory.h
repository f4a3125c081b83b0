// What the executors of a vGPU may have of the host's memory beside what their worker touches: each so much,
// all together so much, by control groups. Who takes more is ended by the kernel, so a limit is never lowered
// while it may be in use. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <utility>

#include "tulle/base/guarded.h"
#include "tulle/base/result.h"
#include "tulle/sandbox/control_group.h"

namespace tulle::gpu::isolated {

// Of the vGPU's memory an executor may have twice: memory of destroyed buffers that commands still use
// overlaps with that of new ones.
inline constexpr std::uint64_t kTimesTheMemory = 2;

class HostMemory {
 public:
  struct Options {
    std::uint64_t memory_bytes = 0;  // the vGPU's
    std::uint64_t own_bytes = 0;     // of one executor, beside that: its driver, its /tmp, what is on its way
    std::uint64_t others_bytes = 0;  // of all but the largest, together
  };
  // `group`: in which all executors get theirs.
  HostMemory(sandbox::ControlGroup group, const Options& options);

  // For one that is about to start.
  Result<sandbox::ControlGroup> MakeGroup();
  // The vGPU has so much memory now.
  void SetMemory(std::uint64_t bytes);
  // Executors have memory of others, until Return: who touches memory first is charged with it. However often
  // they have a file, it counts once.
  using FileId = std::pair<dev_t, ino_t>;
  FileId Borrow(int file, std::uint64_t bytes);
  void Return(const FileId& file);

  // What each may have now.
  std::uint64_t each_bytes() const { return state_.lock()->each_bytes; }
  const sandbox::ControlGroup& group() const { return group_; }

 private:
  struct Borrowed {
    std::uint64_t bytes = 0, times = 0;
  };
  struct State {
    std::uint64_t memory_bytes = 0, borrowed_bytes = 0;
    std::map<FileId, Borrowed> borrowed;
    std::uint64_t each_bytes = 0;  // the most that there ever was
    std::uint64_t made = 0;        // groups
  };
  void Raise(State& state);

  const sandbox::ControlGroup group_;
  const Options options_;
  mutable Guarded<State> state_;
};

}  // namespace tulle::gpu::isolated
