// A Store in one SQLite file: write-ahead log, synced to disk with each commit. The caller commits what has
// gathered since the last sync as one batch, so one sync serves many. The file is locked for as long as it is
// open.
#pragma once

#include <memory>
#include <string>

#include "tulle/control/store/store.h"

namespace tulle::control {

class SqliteStore final : public Store {
 public:
  // Opens or makes the file (mode 0600). kFailedPrecondition when another process has it, kDataLoss when it
  // is not a database of this kind.
  static Result<std::unique_ptr<SqliteStore>> Open(const std::string& path);
  ~SqliteStore() override;

  Status Commit(std::span<const Write> writes) override;
  Result<std::optional<std::string>> Get(const std::string& key) override;
  Result<std::vector<Entry>> Scan(const std::string& prefix) override;

 private:
  struct Database;
  explicit SqliteStore(std::unique_ptr<Database> database);
  std::unique_ptr<Database> database_;
};

}  // namespace tulle::control
