// Exports among the sessions of one process, without a node: for tests and fuzzers. A withdrawal does not
// wait for its holders.
#pragma once

#include <map>
#include <set>

#include "tulle/base/guarded.h"
#include "tulle/worker/exports/exports.h"

namespace tulle::worker::exports {

class LocalExports final : public Exports {
 public:
  Result<std::string> Export(std::shared_ptr<ExportableMemory> memory, bool writable,
                             const std::string& tenant) override;
  void Release(const std::string& token, std::uint64_t charged_bytes) override;
  Status Withdraw(const std::string& token) override;
  Result<Opened> Open(const std::string& token, Holder* holder) override;
  void Close(const std::string& token, Holder* holder) override;

 private:
  struct Lent {
    std::shared_ptr<ExportableMemory> memory;
    bool writable = false;
    bool released = false;
    std::set<Holder*> holders;
  };
  struct State {
    std::map<std::string, Lent> lent;  // by token
    std::uint64_t last = 0;
  };
  Guarded<State> state_;
};

}  // namespace tulle::worker::exports
