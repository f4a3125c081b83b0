// The last changes of all resources, for watchers. A watcher keeps a position in it and nothing is queued per
// watcher, so a slow one costs nothing; one that falls behind what is kept is told to list again.
// Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tulle/base/guarded.h"
#include "tulle/base/result.h"
#include "tulle/control/core/events.h"

namespace tulle::control {

inline std::uint64_t VersionOf(const Resource& resource) {
  return std::visit([](const auto& r) { return r.metadata.resource_version; }, resource);
}
inline const std::string& TenantOf(const Resource& resource) {
  return std::visit([](const auto& r) -> const std::string& { return r.metadata.tenant; }, resource);
}
inline Kind KindOf(const Resource& resource) { return static_cast<Kind>(resource.index() + 1); }

class EventLog {
 public:
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // There is more to read. Called by the thread that appends; must not block.
    virtual void OnMore() = 0;
    // There will be no more.
    virtual void OnClosed(const Status& status) = 0;
  };

  // Keeps the last `capacity` changes; those up to `version` are not there.
  EventLog(std::size_t capacity, std::uint64_t version);

  void Append(std::vector<Change> changes);
  // Tells all watchers, and each that comes later.
  void Close(const Status& status);

  void Add(const std::shared_ptr<Watcher>& watcher);
  void Remove(const std::shared_ptr<Watcher>& watcher);

  // The first change after `version` that `wanted` accepts, or nothing yet; moves `version` past what it has
  // seen. kOutOfRange when changes after `version` are no longer there, or it is not of this controller.
  template <typename F>
  Result<std::optional<Change>> Next(std::uint64_t* version, F wanted) {
    auto state = state_.lock();
    if (*version < state->base || *version > state->last) return OutOfRange();
    auto it = std::upper_bound(
        state->changes.begin(), state->changes.end(), *version,
        [](std::uint64_t v, const Change& change) { return v < VersionOf(change.resource); });
    for (; it != state->changes.end(); ++it) {
      *version = VersionOf(it->resource);
      if (wanted(*it)) return std::optional(*it);
    }
    *version = state->last;
    return std::optional<Change>();
  }

 private:
  struct State {
    std::deque<Change> changes;  // versions grow
    std::uint64_t base = 0;      // what comes after it is in `changes`
    std::uint64_t last = 0;
    std::set<std::shared_ptr<Watcher>> watchers;
    std::optional<Status> closed;
  };
  static Error OutOfRange();

  const std::size_t capacity_;
  Guarded<State> state_;
};

}  // namespace tulle::control
