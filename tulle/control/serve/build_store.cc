#include "tulle/control/serve/build_store.h"

#include <algorithm>

namespace tulle::control {
namespace {

constexpr std::size_t kEntryBytes = 256;  // of lists and maps, about

std::size_t SizeOf(const std::string& key, const std::string& content) {
  return key.size() + content.size() + kEntryBytes;
}

}  // namespace

std::optional<std::string> BuildStore::Find(const std::string& tenant, const std::string& key) {
  auto state = state_.lock();
  if (const auto found = state->tenants.find(tenant); found != state->tenants.end()) {
    Tenant& own = found->second;
    if (const auto entry = own.by_key.find(key); entry != own.by_key.end()) {
      own.entries.splice(own.entries.begin(), own.entries, entry->second);
      ++state->counters.found;
      return entry->second->content;
    }
  }
  ++state->counters.not_found;
  return std::nullopt;
}

void BuildStore::Keep(const std::string& tenant, const std::string& key, std::string content) {
  const std::size_t size = SizeOf(key, content);
  if (size > max_bytes_ / 4) return;
  auto state = state_.lock();
  if (const auto found = state->tenants.find(tenant);
      found != state->tenants.end() && found->second.by_key.contains(key)) {
    return;
  }
  while (state->counters.bytes + size > max_bytes_) EvictOne(*state);
  Tenant& own = state->tenants[tenant];
  own.entries.push_front({key, std::move(content)});
  own.by_key[own.entries.front().key] = own.entries.begin();
  own.bytes += size;
  state->counters.bytes += size;
  ++state->counters.entries;
  ++state->counters.kept;
}

void BuildStore::EvictOne(State& state) {
  const auto largest =
      std::max_element(state.tenants.begin(), state.tenants.end(),
                       [](const auto& a, const auto& b) { return a.second.bytes < b.second.bytes; });
  Tenant& tenant = largest->second;
  const Entry& oldest = tenant.entries.back();
  const std::size_t size = SizeOf(oldest.key, oldest.content);
  tenant.by_key.erase(oldest.key);
  tenant.entries.pop_back();
  tenant.bytes -= size;
  state.counters.bytes -= size;
  --state.counters.entries;
  ++state.counters.evicted;
  if (tenant.entries.empty()) state.tenants.erase(largest);
}

BuildStore::Counters BuildStore::counters() { return state_.lock()->counters; }

}  // namespace tulle::control
