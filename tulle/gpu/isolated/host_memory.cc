#include "tulle/gpu/isolated/host_memory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "tulle/base/log.h"

namespace tulle::gpu::isolated {

HostMemory::HostMemory(sandbox::ControlGroup group, const Options& options)
    : group_(std::move(group)), options_(options) {
  auto state = state_.lock();
  state->memory_bytes = options.memory_bytes;
  Raise(*state);
}

void HostMemory::Raise(State& state) {
  const std::uint64_t each_bytes =
      kTimesTheMemory * state.memory_bytes + options_.own_bytes + state.borrowed_bytes;
  if (each_bytes <= state.each_bytes) return;
  if (const Status raised = group_.LimitMemory(each_bytes + options_.others_bytes); !raised.ok()) {
    Log(LogLevel::kError, "worker", "what executors have together of the host's memory is not limited anew",
        {{"error", ToString(raised.error())}});
    return;
  }
  state.each_bytes = each_bytes;
  for (const sandbox::ControlGroup& executor : group_.Below())
    (void)executor.LimitMemory(each_bytes);  // one that is gone needs none
}

Result<sandbox::ControlGroup> HostMemory::MakeGroup() {
  auto state = state_.lock();
  TULLE_ASSIGN_OR_RETURN(
      auto made, group_.Make("executor-" + std::to_string(getpid()) + "-" + std::to_string(++state->made)));
  if (state->each_bytes != 0) TULLE_RETURN_IF_ERROR(made.LimitMemory(state->each_bytes));
  return made;
}

void HostMemory::SetMemory(std::uint64_t bytes) {
  auto state = state_.lock();
  state->memory_bytes = bytes;
  Raise(*state);
}

HostMemory::FileId HostMemory::Borrow(int file, std::uint64_t bytes) {
  struct stat is = {};
  (void)fstat(file, &is);
  const FileId id = {is.st_dev, is.st_ino};
  auto state = state_.lock();
  Borrowed& borrowed = state->borrowed[id];
  if (borrowed.times++ == 0) {
    borrowed.bytes = bytes;
    state->borrowed_bytes += bytes;
    Raise(*state);
  }
  return id;
}

void HostMemory::Return(const FileId& file) {
  auto state = state_.lock();
  const auto found = state->borrowed.find(file);
  if (found == state->borrowed.end() || --found->second.times != 0) return;
  state->borrowed_bytes -= found->second.bytes;
  state->borrowed.erase(found);
}

}  // namespace tulle::gpu::isolated
