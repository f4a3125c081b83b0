// A Store in memory, for tests and for meshes that may forget everything when their controller ends.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "tulle/control/store/store.h"

namespace tulle::control {

class MemoryStore final : public Store {
 public:
  // Outlives the stores opened on it: what a disk is to the others.
  using Contents = std::map<std::string, std::string>;

  explicit MemoryStore(std::shared_ptr<Contents> contents = std::make_shared<Contents>())
      : contents_(std::move(contents)) {}

  Status Commit(std::span<const Write> writes) override;
  Result<std::optional<std::string>> Get(const std::string& key) override;
  Result<std::vector<Entry>> Scan(const std::string& prefix) override;

 private:
  std::shared_ptr<Contents> contents_;
};

}  // namespace tulle::control
