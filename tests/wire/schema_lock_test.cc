// schema.lock changes only by addition: a row that was released stays as it was.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "tulle/wire/command_table.h"

namespace tulle::wire {
namespace {

std::set<std::string> Lines(std::istream& in) {
  std::set<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.insert(line);
  return lines;
}

TEST(SchemaLock, HoldsEveryRowAndNoneHasChanged) {
  std::ifstream file(TULLE_SCHEMA_LOCK);
  ASSERT_TRUE(file.good()) << "no " TULLE_SCHEMA_LOCK "; run `tools/dev schema`";
  const std::set<std::string> locked = Lines(file);
  std::istringstream described(DescribeTable());
  const std::set<std::string> current = Lines(described);
  for (const std::string& line : locked) {
    EXPECT_TRUE(current.contains(line))
        << "a released row changed or went away; it must stay, beside a new one:\n  " << line;
  }
  for (const std::string& line : current) {
    EXPECT_TRUE(locked.contains(line))
        << "a new row is not in schema.lock; run `tools/dev schema`:\n  " << line;
  }
}

}  // namespace
}  // namespace tulle::wire
