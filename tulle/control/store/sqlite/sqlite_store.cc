#include "tulle/control/store/sqlite/sqlite_store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <cerrno>

#include "tulle/base/unique_fd.h"

namespace tulle::control {
namespace {

// Identifies the file as one of ours ("tull"), and the form of its one table.
constexpr int kApplicationId = 0x74756c6c;
constexpr int kSchemaVersion = 1;

struct StatementCloser {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, StatementCloser>;

// A statement that is reset when the scope ends, so that it holds no lock.
class ResetOnExit {
 public:
  explicit ResetOnExit(const Statement& statement) : statement_(statement.get()) {}
  ~ResetOnExit() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  ResetOnExit(const ResetOnExit&) = delete;
  ResetOnExit& operator=(const ResetOnExit&) = delete;

 private:
  sqlite3_stmt* statement_;
};

// Keys are blobs, so that they are compared byte by byte. SQLite reads the bytes before the next call on it.
void BindBlob(const Statement& statement, int index, const std::string& bytes) {
  sqlite3_bind_blob64(statement.get(), index, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_STATIC);
}

std::string Column(const Statement& statement, int index) {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement.get(), index));
  return data == nullptr
             ? ""
             : std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(statement.get(), index)));
}

}  // namespace

struct SqliteStore::Database {
  std::string path;
  sqlite3* connection = nullptr;
  Statement put, remove, get, scan;

  ~Database() {
    put.reset(), remove.reset(), get.reset(), scan.reset();
    sqlite3_close(connection);
  }

  Error Failure(const std::string& what) const {
    const int code = sqlite3_errcode(connection);
    Error error{.code = Code::kInternal,
                .message = what + " " + path + ": " + sqlite3_errmsg(connection),
                .scope = Scope::kNode};
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED) {
      error.code = Code::kFailedPrecondition;
      error.message = path + " is in use by another controller; stop that one, or choose another --state-dir";
    } else if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT) {
      error.code = Code::kDataLoss;
    } else if (code == SQLITE_FULL) {
      error.code = Code::kResourceExhausted;
    }
    return error;
  }
  Status Run(const char* sql) {
    return sqlite3_exec(connection, sql, nullptr, nullptr, nullptr) == SQLITE_OK
               ? OkStatus()
               : Status(Failure("cannot use"));
  }
  Result<Statement> Prepare(const char* sql) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(connection, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
        SQLITE_OK) {
      return Failure("cannot use");
    }
    return Statement(statement);
  }
  Result<int> Pragma(const char* sql) {
    TULLE_ASSIGN_OR_RETURN(const Statement statement, Prepare(sql));
    if (sqlite3_step(statement.get()) != SQLITE_ROW) return Failure("cannot read");
    return sqlite3_column_int(statement.get(), 0);
  }
};

SqliteStore::SqliteStore(std::unique_ptr<Database> database) : database_(std::move(database)) {}
SqliteStore::~SqliteStore() = default;

Result<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& path) {
  // Made here first, so that it is never readable by others (SQLite gives its side files the same mode).
  if (!UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)).valid())
    return ErrnoError("cannot open " + path, errno);
  auto database = std::make_unique<Database>();
  database->path = path;
  if (sqlite3_open_v2(path.c_str(), &database->connection, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                      nullptr) != SQLITE_OK) {
    return database->Failure("cannot open");
  }
  sqlite3_extended_result_codes(database->connection, 0);
  // Exclusive: taken with the first write below and kept, so that two controllers never share a file.
  TULLE_RETURN_IF_ERROR(
      database->Run("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"));
  TULLE_ASSIGN_OR_RETURN(const int application, database->Pragma("PRAGMA application_id"));
  TULLE_ASSIGN_OR_RETURN(const int version, database->Pragma("PRAGMA user_version"));
  TULLE_ASSIGN_OR_RETURN(const int tables, database->Pragma("SELECT count(*) FROM sqlite_master"));
  const bool is_new = application == 0 && tables == 0;
  if (!is_new && (application != kApplicationId || version > kSchemaVersion)) {
    return Error{
        .code = Code::kDataLoss,
        .message = path + (application != kApplicationId ? " is not a mesh's store"
                                                         : " was written by a newer version; use that one")};
  }
  const std::string setup =
      "BEGIN EXCLUSIVE; CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) "
      "WITHOUT ROWID; PRAGMA application_id=" +
      std::to_string(kApplicationId) + "; PRAGMA user_version=" + std::to_string(kSchemaVersion) +
      "; COMMIT;";
  TULLE_RETURN_IF_ERROR(database->Run(setup.c_str()));
  TULLE_ASSIGN_OR_RETURN(
      database->put, database->Prepare("INSERT INTO entries VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET "
                                       "value = excluded.value"));
  TULLE_ASSIGN_OR_RETURN(database->remove, database->Prepare("DELETE FROM entries WHERE key = ?1"));
  TULLE_ASSIGN_OR_RETURN(database->get, database->Prepare("SELECT value FROM entries WHERE key = ?1"));
  TULLE_ASSIGN_OR_RETURN(database->scan,
                         database->Prepare("SELECT key, value FROM entries WHERE key >= ?1 ORDER BY key"));
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(database)));
}

Status SqliteStore::Commit(std::span<const Write> writes) {
  TULLE_RETURN_IF_ERROR(CheckWrites(writes));
  if (writes.empty()) return OkStatus();
  TULLE_RETURN_IF_ERROR(database_->Run("BEGIN IMMEDIATE"));
  const auto write_all = [&]() -> Status {
    for (const Write& write : writes) {
      const Statement& statement = write.value ? database_->put : database_->remove;
      const ResetOnExit reset(statement);
      BindBlob(statement, 1, write.key);
      if (write.value) BindBlob(statement, 2, *write.value);
      if (sqlite3_step(statement.get()) != SQLITE_DONE) return database_->Failure("cannot write");
    }
    return database_->Run("COMMIT");
  };
  Status status = write_all();
  if (!status.ok() && sqlite3_get_autocommit(database_->connection) == 0) {
    sqlite3_exec(database_->connection, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return status;
}

Result<std::optional<std::string>> SqliteStore::Get(const std::string& key) {
  const Statement& statement = database_->get;
  const ResetOnExit reset(statement);
  BindBlob(statement, 1, key);
  switch (sqlite3_step(statement.get())) {
    case SQLITE_ROW: return std::optional(Column(statement, 0));
    case SQLITE_DONE: return std::optional<std::string>();
    default: return database_->Failure("cannot read");
  }
}

Result<std::vector<Store::Entry>> SqliteStore::Scan(const std::string& prefix) {
  const Statement& statement = database_->scan;
  const ResetOnExit reset(statement);
  BindBlob(statement, 1, prefix);
  std::vector<Entry> entries;
  for (;;) {
    const int code = sqlite3_step(statement.get());
    if (code == SQLITE_DONE) return entries;
    if (code != SQLITE_ROW) return database_->Failure("cannot read");
    Entry entry(Column(statement, 0), Column(statement, 1));
    if (!entry.first.starts_with(prefix)) return entries;
    entries.push_back(std::move(entry));
  }
}

}  // namespace tulle::control
