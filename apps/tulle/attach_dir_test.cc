#include "apps/tulle/attach_dir.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

namespace tulle::cli {
namespace {

namespace fs = std::filesystem;

std::string Read(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class AttachDirTest : public testing::Test {
 protected:
  AttachDirTest() {
    std::string name = testing::TempDir() + "attach-XXXXXX";
    parent_ = mkdtemp(name.data());
  }
  ~AttachDirTest() override { fs::remove_all(parent_); }
  fs::path parent_;
  const session::Target target_{.vgpu = "v1", .grant = "g1", .endpoints = {"127.0.0.1:1"}};
};

TEST_F(AttachDirTest, HoldsGrantAndIcdPrivately) {
  fs::path folder;
  {
    auto made = AttachDir::Create({.parent = parent_, .icd_library = "/lib/libtulle-opencl.so"}, {target_});
    ASSERT_TRUE(made.ok()) << made.error().message;
    folder = fs::path(made->attach_file()).parent_path();
    EXPECT_EQ(fs::status(folder).permissions(), fs::perms::owner_all);
    const auto read = session::ReadAttachFile(made->attach_file());
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(read->at(0).vgpu, "v1");
    EXPECT_EQ(Read(made->vendors_dir() + "/00-tulle.icd"), "/lib/libtulle-opencl.so\n");
    EXPECT_EQ(std::distance(fs::directory_iterator(made->vendors_dir()), {}), 1);
  }
  EXPECT_FALSE(fs::exists(folder));
}

TEST_F(AttachDirTest, OnlyAbandonedFoldersAreRemoved) {
  auto made = AttachDir::Create({.parent = parent_, .icd_library = "/lib/x.so"}, {target_});
  ASSERT_TRUE(made.ok()) << made.error().message;
  const AttachDir kept = *std::move(made);
  fs::create_directories(parent_ / "tulle-run-killed/vendors");
  std::ofstream(parent_ / "tulle-run-killed/attach") << "tulle-attach 1\n";
  fs::create_directories(parent_ / "other");
  fs::create_directory_symlink(parent_ / "other", parent_ / "tulle-run-link");
  std::ofstream(parent_ / "tulle-run-file") << "not a folder\n";
  AttachDir::RemoveAbandoned(parent_);
  EXPECT_FALSE(fs::exists(parent_ / "tulle-run-killed"));
  EXPECT_TRUE(fs::exists(kept.attach_file()));
  for (const char* name : {"other", "tulle-run-link", "tulle-run-file"})
    EXPECT_TRUE(fs::exists(parent_ / name)) << name;
  AttachDir::RemoveAbandoned(parent_ / "missing");
}

TEST_F(AttachDirTest, FoldersAreMadeWhileOthersTidyUp) {
  std::atomic<bool> over{false};
  std::thread tidier([&] {
    while (!over) AttachDir::RemoveAbandoned(parent_);
  });
  for (int i = 0; i < 300; ++i) {
    const auto made = AttachDir::Create({.parent = parent_, .icd_library = "/lib/x.so"}, {target_});
    ASSERT_TRUE(made.ok()) << made.error().message;
    ASSERT_TRUE(fs::exists(made->attach_file()));
  }
  over = true;
  tidier.join();
  EXPECT_TRUE(fs::is_empty(parent_));
}

TEST_F(AttachDirTest, ShowsLocalIcdsWhenAsked) {
  fs::create_directories(parent_ / "a");
  fs::create_directories(parent_ / "b");
  std::ofstream(parent_ / "a/pocl.icd") << "libpocl.so\n";
  std::ofstream(parent_ / "b/pocl.icd") << "libother.so\n";
  std::ofstream(parent_ / "b/readme") << "no ICD\n";
  auto made = AttachDir::Create({.parent = parent_,
                                 .icd_library = "/lib/x.so",
                                 .local_vendors = {parent_ / "a", parent_ / "b", parent_ / "missing"}},
                                {target_});
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(Read(made->vendors_dir() + "/pocl.icd"), "libpocl.so\n");
  EXPECT_EQ(Read(made->vendors_dir() + "/x-pocl.icd"), "libother.so\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(made->vendors_dir()), {}), 3);
}

TEST_F(AttachDirTest, AnotherUsersRuntimeFolderIsNotTrusted) {
  setenv("XDG_RUNTIME_DIR", parent_.c_str(), 1);
  EXPECT_EQ(AttachParent("/state"), parent_);
  fs::permissions(parent_, fs::perms::others_read, fs::perm_options::add);
  EXPECT_EQ(AttachParent("/state"), "/state/run");
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(AttachParent("/state"), "/state/run");
}

TEST(ChangeEnvironment, SetsAndRemoves) {
  const char* const before[] = {"A=1", "AB=2", "B=3", nullptr};
  EXPECT_EQ(ChangeEnvironment(before, {{"A", "9"}, {"B", std::nullopt}, {"C", "4"}}),
            (std::vector<std::string>{"AB=2", "A=9", "C=4"}));
}

}  // namespace
}  // namespace tulle::cli
