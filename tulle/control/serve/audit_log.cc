#include "tulle/control/serve/audit_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "tulle/control/serve/records.h"

namespace tulle::control {

AuditLog::AuditLog(std::size_t most, std::vector<AuditEntry> entries, std::uint64_t first) : most_(most) {
  auto state = state_.lock();
  state->entries.assign(std::make_move_iterator(entries.begin()), std::make_move_iterator(entries.end()));
  state->first = first;
}

std::vector<Store::Write> AuditLog::Append(AuditEntry entry) {
  auto state = state_.lock();
  std::vector<Store::Write> writes = {AuditWrite(state->first + state->entries.size(), &entry)};
  state->entries.push_back(std::move(entry));
  while (state->entries.size() > most_) {
    writes.push_back(AuditWrite(state->first++, nullptr));
    state->entries.pop_front();
  }
  return writes;
}

std::vector<AuditEntry> AuditLog::Read(WallMicros since_us, const std::string& caller, std::size_t most) {
  std::vector<AuditEntry> found;
  auto state = state_.lock();
  for (auto it = state->entries.rbegin(); it != state->entries.rend() && found.size() < most; ++it) {
    // The clock may have been set back, so an older one may be newer than those after it.
    if (it->time_us >= since_us && (caller.empty() || it->caller == caller)) found.push_back(*it);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace tulle::control
