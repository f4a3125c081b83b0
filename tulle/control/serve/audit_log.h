// The calls that changed something, or were to: in memory for readers, and as writes for the store, so that
// an entry is durable together with what it is about. Bounded: the oldest entry goes for each that is too
// many. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "tulle/base/guarded.h"
#include "tulle/control/model/resources.h"
#include "tulle/control/store/store.h"

namespace tulle::control {

class AuditLog {
 public:
  // `entries`: what an earlier one has left, the first of them with number `first`.
  AuditLog(std::size_t most, std::vector<AuditEntry> entries, std::uint64_t first);

  // What is to be written for it.
  std::vector<Store::Write> Append(AuditEntry entry);

  // The latest `most` since then, of that caller (empty: of all), the latest last.
  std::vector<AuditEntry> Read(WallMicros since_us, const std::string& caller, std::size_t most);

 private:
  struct State {
    std::deque<AuditEntry> entries;
    std::uint64_t first = 0;
  };
  const std::size_t most_;
  Guarded<State> state_;
};

}  // namespace tulle::control
