#include "tulle/base/paths.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace tulle {
namespace {

TEST(Paths, TheStateDirectoryFollowsTheEnvironment) {
  setenv("HOME", "/someone", 1);
  unsetenv("XDG_STATE_HOME");
  unsetenv("TULLE_STATE_DIR");
  EXPECT_EQ(DefaultStateDir(), "/someone/.local/state/tulle");
  setenv("XDG_STATE_HOME", "/state", 1);
  EXPECT_EQ(DefaultStateDir(), "/state/tulle");
  setenv("TULLE_STATE_DIR", "", 1);
  EXPECT_EQ(DefaultStateDir(), "/state/tulle");
  setenv("TULLE_STATE_DIR", "/mesh", 1);
  EXPECT_EQ(DefaultStateDir(), "/mesh");
}

TEST(Paths, ProgramsAreFoundBesideThisOne) {
  EXPECT_EQ(FindProgram("tulle_base_test"), ExecutableDir() + "/tulle_base_test");
  EXPECT_EQ(FindProgram("no-such-program"), "no-such-program");
  EXPECT_FALSE(FindBesideExecutable({"no/such", "file"}).has_value());
}

}  // namespace
}  // namespace tulle
