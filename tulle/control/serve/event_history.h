// What has happened to resources lately, in words, made of the changes that watchers see. In memory, and
// bounded: the oldest event goes for each that is too many. Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "tulle/base/guarded.h"
#include "tulle/control/core/events.h"
#include "tulle/control/model/resources.h"

namespace tulle::control {

class EventHistory {
 public:
  explicit EventHistory(std::size_t most) : most_(most) {}

  // The state of resources before any change, so that what is there already is not told as new.
  void Begin(const Resource& resource);
  void Append(const std::vector<Change>& changes, WallMicros now_us);

  // The latest `most` that `wanted` accepts, the latest last.
  std::vector<ResourceEvent> Read(std::size_t most, const std::function<bool(const ResourceEvent&)>& wanted);

 private:
  struct State {
    std::deque<ResourceEvent> events;
    std::unordered_map<std::string, std::string> last;  // by uid: what was told of it last
  };
  const std::size_t most_;
  Guarded<State> state_;
};

}  // namespace tulle::control
