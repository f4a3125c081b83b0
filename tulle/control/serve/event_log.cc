#include "tulle/control/serve/event_log.h"

#include <algorithm>

namespace tulle::control {

EventLog::EventLog(std::size_t capacity, std::uint64_t version) : capacity_(capacity) {
  auto state = state_.lock();
  state->base = state->last = version;
}

Error EventLog::OutOfRange() {
  return Error{
      .code = Code::kOutOfRange,
      .message = "the changes since that resource_version are no longer kept; list again, or watch from 0"};
}

void EventLog::Append(std::vector<Change> changes) {
  if (changes.empty()) return;
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    auto state = state_.lock();
    for (Change& change : changes) {
      state->last = VersionOf(change.resource);
      state->changes.push_back(std::move(change));
    }
    while (state->changes.size() > capacity_) {
      state->base = VersionOf(state->changes.front().resource);
      state->changes.pop_front();
    }
    watchers.assign(state->watchers.begin(), state->watchers.end());
  }
  for (const auto& watcher : watchers) watcher->OnMore();
}

void EventLog::Close(const Status& status) {
  std::set<std::shared_ptr<Watcher>> watchers;
  {
    auto state = state_.lock();
    state->closed = status;
    watchers.swap(state->watchers);
  }
  for (const auto& watcher : watchers) watcher->OnClosed(status);
}

void EventLog::Add(const std::shared_ptr<Watcher>& watcher) {
  std::optional<Status> closed;
  {
    auto state = state_.lock();
    closed = state->closed;
    if (!closed) state->watchers.insert(watcher);
  }
  if (closed) watcher->OnClosed(*closed);
}

void EventLog::Remove(const std::shared_ptr<Watcher>& watcher) { state_.lock()->watchers.erase(watcher); }

}  // namespace tulle::control
