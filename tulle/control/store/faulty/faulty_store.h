// A Store that fails when it is told to, for tests: before a commit takes effect, or after.
#pragma once

#include "tulle/control/store/store.h"

namespace tulle::control {

class FaultyStore final : public Store {
 public:
  enum class Fault { kNone, kBeforeCommit, kAfterCommit };

  // `store` must outlive this.
  explicit FaultyStore(Store& store) : store_(store) {}

  // The commit after `commits` more good ones fails, and then everything does, as on a dead disk.
  void FailAfter(int commits, Fault fault) {
    good_commits_ = commits;
    fault_ = fault;
  }

  Status Commit(std::span<const Write> writes) override {
    if (dead_) return Failure();
    if (fault_ == Fault::kNone || good_commits_-- > 0) return store_.Commit(writes);
    dead_ = true;
    if (fault_ == Fault::kAfterCommit) TULLE_RETURN_IF_ERROR(store_.Commit(writes));
    return Failure();
  }
  Result<std::optional<std::string>> Get(const std::string& key) override {
    if (dead_) return Failure();
    return store_.Get(key);
  }
  Result<std::vector<Entry>> Scan(const std::string& prefix) override {
    if (dead_) return Failure();
    return store_.Scan(prefix);
  }

 private:
  static Error Failure() {
    return Error{.code = Code::kInternal, .message = "a planned fault of the store", .scope = Scope::kNode};
  }
  Store& store_;
  Fault fault_ = Fault::kNone;
  int good_commits_ = 0;
  bool dead_ = false;
};

}  // namespace tulle::control
