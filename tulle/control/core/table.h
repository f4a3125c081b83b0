// The resources of one kind in the core: found by uid, by name within a tenant, and listed in the order of
// names.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "tulle/base/check.h"
#include "tulle/control/model/resources.h"

namespace tulle::control {

// `State` has a member function metadata(). References stay valid until their element is erased.
template <typename State>
class Table {
 public:
  using NameKey = std::pair<std::string, std::string>;  // tenant, name

  State* Find(const std::string& uid) {
    const auto it = by_uid_.find(uid);
    return it == by_uid_.end() ? nullptr : &it->second;
  }
  const State* Find(const std::string& uid) const { return const_cast<Table*>(this)->Find(uid); }

  // By name, or else by uid.
  State* Find(const std::string& tenant, const std::string& name) {
    if (const auto it = by_name_.find({tenant, name}); it != by_name_.end()) return Find(it->second);
    State* state = Find(name);
    return state != nullptr && state->metadata().tenant == tenant ? state : nullptr;
  }
  const State* Find(const std::string& tenant, const std::string& name) const {
    return const_cast<Table*>(this)->Find(tenant, name);
  }

  bool HasName(const std::string& tenant, const std::string& name) const {
    return by_name_.contains({tenant, name});
  }

  // Precondition: neither uid nor name is there.
  State& Insert(State state) {
    const Metadata metadata = state.metadata();
    const auto [it, inserted] = by_uid_.emplace(metadata.uid, std::move(state));
    TULLE_CHECK(inserted && by_name_.emplace(NameKey{metadata.tenant, metadata.name}, metadata.uid).second);
    return it->second;
  }

  void Erase(const std::string& uid) {
    const auto it = by_uid_.find(uid);
    if (it == by_uid_.end()) return;
    by_name_.erase({it->second.metadata().tenant, it->second.metadata().name});
    by_uid_.erase(it);
  }

  std::size_t size() const { return by_uid_.size(); }

  // Visits the tenant's elements in the order of names, from the first after `after`, until `visit` returns
  // false.
  template <typename F>
  void Visit(const std::string& tenant, const std::string& after, F visit) const {
    for (auto it = by_name_.upper_bound({tenant, after}); it != by_name_.end() && it->first.first == tenant;
         ++it) {
      if (!visit(by_uid_.at(it->second))) return;
    }
  }
  // The same for all tenants, one after the other, from the first after `after`.
  template <typename F>
  void VisitAll(const NameKey& after, F visit) const {
    for (auto it = by_name_.upper_bound(after); it != by_name_.end(); ++it) {
      if (!visit(by_uid_.at(it->second))) return;
    }
  }
  template <typename F>
  void ForEach(F visit) {
    for (const auto& [name, uid] : by_name_) visit(by_uid_.at(uid));
  }
  template <typename F>
  void ForEach(F visit) const {
    for (const auto& [name, uid] : by_name_) visit(by_uid_.at(uid));
  }

 private:
  std::unordered_map<std::string, State> by_uid_;
  std::map<NameKey, std::string> by_name_;
};

}  // namespace tulle::control
