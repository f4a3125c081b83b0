#include "tulle/control/store/sqlite/sqlite_store.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "tulle/control/store/conformance.h"

namespace tulle::control {
namespace {

struct Folder {
  Folder() {
    char pattern[] = "/tmp/tulle-store-XXXXXX";
    path = mkdtemp(pattern);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

struct Fixture {
  Folder folder;
  std::unique_ptr<Store> Open() {
    auto store = SqliteStore::Open(folder.path + "/mesh.db");
    EXPECT_TRUE(store.ok()) << store.error().message;
    return store.ok() ? std::move(*store) : nullptr;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, StoreConformance, Fixture);

TEST(SqliteStore, HasOneOwnerAndIsPrivate) {
  Folder folder;
  const std::string path = folder.path + "/mesh.db";
  const auto first = SqliteStore::Open(path);
  ASSERT_TRUE(first.ok());
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const auto second = SqliteStore::Open(path);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kFailedPrecondition);
  EXPECT_EQ(second.error().message,
            path + " is in use by another controller; stop that one, or choose another --state-dir");
}

TEST(SqliteStore, RefusesWhatIsNotItsOwn) {
  Folder folder;
  std::ofstream(folder.path + "/text")
      << "this is a text file, and it is longer than the header of a database\n"
      << std::string(4096, 'x');
  EXPECT_EQ(SqliteStore::Open(folder.path + "/text").error().code, Code::kDataLoss);
}

// A process that is killed in the middle of its commits loses none that were acknowledged.
TEST(SqliteStore, SurvivesKill) {
  Folder folder;
  const std::string path = folder.path + "/mesh.db";
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto store = SqliteStore::Open(path);
    for (int i = 0;; ++i) {
      const std::string n = std::to_string(i);
      if (!store.ok() || !(*store)->Commit(std::vector<Store::Write>{{"a" + n, n}, {"b" + n, n}}).ok())
        _exit(1);
      if (write(pipe_ends[1], &i, sizeof i) != sizeof i) _exit(1);
    }
  }
  close(pipe_ends[1]);
  int acknowledged = -1;
  while (acknowledged < 50 && read(pipe_ends[0], &acknowledged, sizeof acknowledged) == sizeof acknowledged) {
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  while (read(pipe_ends[0], &acknowledged, sizeof acknowledged) == sizeof acknowledged) {
  }
  close(pipe_ends[0]);
  ASSERT_GE(acknowledged, 50);
  auto store = SqliteStore::Open(path);
  ASSERT_TRUE(store.ok()) << store.error().message;
  for (int i = 0; i <= acknowledged; ++i) {
    EXPECT_EQ((*store)->Get("a" + std::to_string(i))->value_or(""), std::to_string(i));
  }
  EXPECT_EQ((*store)->Scan("a")->size(), (*store)->Scan("b")->size()) << "half a batch";
}

}  // namespace
}  // namespace tulle::control
