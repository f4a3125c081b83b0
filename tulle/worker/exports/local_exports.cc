#include "tulle/worker/exports/local_exports.h"

#include <fcntl.h>

namespace tulle::worker::exports {
namespace {

Error NotFound() { return {.code = Code::kNotFound, .message = "there is no such export"}; }

}  // namespace

// Any tenant is the one.
Result<std::string> LocalExports::Export(std::shared_ptr<ExportableMemory> memory, bool writable,
                                         const std::string&) {
  auto state = state_.lock();
  const std::string token = "local." + std::to_string(++state->last);
  state->lent[token] = {.memory = std::move(memory), .writable = writable};
  return token;
}

void LocalExports::Release(const std::string& token, std::uint64_t charged_bytes) {
  std::shared_ptr<ExportableMemory> last;  // not destroyed under the lock
  auto state = state_.lock();
  const auto found = state->lent.find(token);
  if (found == state->lent.end()) return;
  Lent& its = found->second;
  its.released = true;
  if (!its.holders.empty() && its.memory->CountAlone(charged_bytes)) return;
  for (Holder* const holder : its.holders) holder->OnWithdrawn(token);
  last = std::move(its.memory);
  state->lent.erase(found);
}

Status LocalExports::Withdraw(const std::string& token) {
  std::shared_ptr<ExportableMemory> last;
  auto state = state_.lock();
  const auto found = state->lent.find(token);
  if (found == state->lent.end()) return NotFound();
  for (Holder* const holder : found->second.holders) holder->OnWithdrawn(token);
  last = std::move(found->second.memory);
  state->lent.erase(found);
  return OkStatus();
}

Result<Opened> LocalExports::Open(const std::string& token, Holder* holder) {
  auto state = state_.lock();
  const auto found = state->lent.find(token);
  if (found == state->lent.end()) return NotFound();
  Lent& its = found->second;
  UniqueFd fd(fcntl(its.writable ? its.memory->fd() : its.memory->read_only_fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError("a descriptor of memory", errno);
  its.holders.insert(holder);
  return Opened{std::move(fd), its.memory->size_bytes(), its.writable};
}

void LocalExports::Close(const std::string& token, Holder* holder) {
  std::shared_ptr<ExportableMemory> last;
  auto state = state_.lock();
  const auto found = state->lent.find(token);
  if (found == state->lent.end()) return;
  found->second.holders.erase(holder);
  if (!found->second.released || !found->second.holders.empty()) return;
  last = std::move(found->second.memory);
  state->lent.erase(found);
}

}  // namespace tulle::worker::exports
