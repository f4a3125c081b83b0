// Builds that the mesh remembers: bytes by tenant and key, in memory, and nothing but that. Nobody gets
// another tenant's. When it is full, the tenant that takes most loses what it has not used for longest, so
// that no tenant can drive out the others. Thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "tulle/base/guarded.h"

namespace tulle::control {

class BuildStore {
 public:
  struct Counters {
    std::uint64_t entries = 0;  // now
    std::uint64_t bytes = 0;    // now
    std::uint64_t found = 0;
    std::uint64_t not_found = 0;
    std::uint64_t kept = 0;
    std::uint64_t evicted = 0;
  };

  // Contents, keys and what it takes to find them may take `max_bytes`; 0: nothing is kept.
  explicit BuildStore(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<std::string> Find(const std::string& tenant, const std::string& key);
  // What is there already stays: whoever comes second cannot change what others are given. One that takes
  // more than a quarter of the whole is not kept.
  void Keep(const std::string& tenant, const std::string& key, std::string content);
  Counters counters();

 private:
  struct Entry {
    std::string key;
    std::string content;
  };
  struct Tenant {
    std::list<Entry> entries;  // the most recently used first
    std::unordered_map<std::string_view, std::list<Entry>::iterator> by_key;
    std::size_t bytes = 0;
  };
  struct State {
    std::map<std::string, Tenant> tenants;  // those that have something
    Counters counters;
  };
  static void EvictOne(State& state);

  const std::size_t max_bytes_;
  Guarded<State> state_;
};

}  // namespace tulle::control
