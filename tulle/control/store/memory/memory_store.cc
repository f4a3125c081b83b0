#include "tulle/control/store/memory/memory_store.h"

namespace tulle::control {

Status MemoryStore::Commit(std::span<const Write> writes) {
  TULLE_RETURN_IF_ERROR(CheckWrites(writes));
  for (const Write& write : writes) {
    if (write.value) {
      contents_->insert_or_assign(write.key, *write.value);
    } else {
      contents_->erase(write.key);
    }
  }
  return OkStatus();
}

Result<std::optional<std::string>> MemoryStore::Get(const std::string& key) {
  const auto it = contents_->find(key);
  return it == contents_->end() ? std::nullopt : std::optional(it->second);
}

Result<std::vector<Store::Entry>> MemoryStore::Scan(const std::string& prefix) {
  std::vector<Entry> entries;
  for (auto it = contents_->lower_bound(prefix); it != contents_->end() && it->first.starts_with(prefix);
       ++it) {
    entries.push_back(*it);
  }
  return entries;
}

}  // namespace tulle::control
