// Clients that are built already must go on working: what api.lock has is never taken away or changed, only
// added to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "tests/api/api_text.h"

namespace tulle::api {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> Missing(const std::vector<std::string>& from, const std::vector<std::string>& in) {
  std::vector<std::string> missing;
  std::set_difference(from.begin(), from.end(), in.begin(), in.end(), std::back_inserter(missing));
  return missing;
}

TEST(Api, NothingThatClientsKnowIsGone) {
  const std::vector<std::string> locked = LinesOf(Contents(TULLE_API_LOCK));
  ASSERT_GT(locked.size(), 200u);
  const std::vector<std::string> now = LockLines(TULLE_API_DESCRIPTORS);
  EXPECT_THAT(Missing(locked, now), testing::IsEmpty())
      << "clients that are built already depend on these: keep them, with their numbers and types";
  EXPECT_THAT(Missing(now, locked), testing::IsEmpty()) << "new: `tools/dev api` adds them to api.lock";
}

TEST(Api, TheReferenceIsOfThisDefinition) {
  EXPECT_EQ(Contents(TULLE_API_REFERENCE), Reference(TULLE_API_DESCRIPTORS))
      << "`tools/dev api` writes it anew";
}

// Every method, field and value says what it is, unless its name does.
TEST(Api, MethodsAreDocumentedWhereTheyDoMoreThanRead) {
  const std::string reference = Contents(TULLE_API_REFERENCE);
  for (const std::string& line : LinesOf(reference)) {
    if (!line.starts_with("| `Get") && !line.starts_with("| `List") &&
        line.find("Request](#") != std::string::npos) {
      EXPECT_FALSE(line.ends_with("|  |")) << line;
    }
  }
}

}  // namespace
}  // namespace tulle::api
