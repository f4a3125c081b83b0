#include "apps/tulle/join.h"

#include <gtest/gtest.h>

namespace tulle::cli {
namespace {

using namespace std::chrono_literals;

TEST(Join, LifetimesHaveAUnitAndALimit) {
  EXPECT_EQ(*ParseLifetime("--lifetime", "90s"), 90s);
  EXPECT_EQ(*ParseLifetime("--lifetime", "30m"), 30min);
  EXPECT_EQ(*ParseLifetime("--lifetime", "12h"), 12h);
  EXPECT_EQ(*ParseLifetime("--lifetime", "30d"), 720h);
  for (const char* wrong :
       {"", "5", "h", "0m", "-1h", "31d", "1w", "1h ", "99999999999999999999h", "9223372036854775807d"}) {
    const auto parsed = ParseLifetime("--lifetime", wrong);
    ASSERT_FALSE(parsed.ok()) << wrong;
    EXPECT_NE(parsed.error().message.find("--lifetime: \"" + std::string(wrong) + "\""), std::string::npos);
  }
}

TEST(Join, LinesAreReadyToPaste) {
  EXPECT_EQ(JoinLine(control::JoinRole::kNode, "c:7400", "T"), "tulle node join c:7400 --token T");
  EXPECT_EQ(JoinLine(control::JoinRole::kUser, "c:7400", "T"), "tulle login c:7400 --token T");
}

}  // namespace
}  // namespace tulle::cli
