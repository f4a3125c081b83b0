#include "apps/tulle/text.h"

#include <gtest/gtest.h>

namespace tulle::cli {
namespace {

TEST(Text, ComputeMayBeARange) {
  std::uint32_t least = 0, most = 0;
  ASSERT_TRUE(ParseCompute("--compute", "50%", &least, &most).ok());
  EXPECT_EQ(least, 0u);
  EXPECT_EQ(most, 50u);
  for (const char* text : {"25%..100%", "25..100"}) {
    ASSERT_TRUE(ParseCompute("--compute", text, &least, &most).ok());
    EXPECT_EQ(least, 25u);
    EXPECT_EQ(most, 100u);
  }
  for (const char* text : {"", "..", "25%..", "..100%", "0..50", "50..101", "60..50", "1..2..3", "25%-100%"})
    EXPECT_EQ(ParseCompute("--compute", text, &least, &most).error().code, Code::kInvalidArgument) << text;
}

TEST(Text, MemoryIsASizeAboveZero) {
  EXPECT_EQ(*ParseMemory("--memory", "1GiB"), 1u << 30);
  EXPECT_EQ(*ParseMemory("--memory", "1.5MiB"), 3u << 19);
  for (const char* bad : {"", "0", "8GiBs", "-1GiB", "much", "99999999999999GiB"}) {
    const auto parsed = ParseMemory("--memory", bad);
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_EQ(
        parsed.error().message,
        std::string("--memory ") + bad + ": not a size; write a number and a unit, such as 512MiB or 1.5GiB");
  }
}

TEST(Text, SharesAreWholePercentages) {
  EXPECT_EQ(*ParsePercent("--compute", "50%"), 50u);
  EXPECT_EQ(*ParsePercent("--compute", "1"), 1u);
  EXPECT_EQ(*ParsePercent("--compute", "100%"), 100u);
  for (const char* bad : {"", "0", "101%", "50 %", "0.5", "half", "%", "-3%"}) {
    EXPECT_FALSE(ParsePercent("--compute", bad).ok()) << bad;
  }
  EXPECT_EQ(ParsePercent("--compute", "101%").error().message,
            "--compute 101%: not a share of a GPU; write a whole percentage from 1% to 100%");
}

TEST(Text, LevelsAndLabels) {
  EXPECT_EQ(*ParseLevel("--level", "best-effort"), control::PerformanceLevel::kBestEffort);
  EXPECT_FALSE(ParseLevel("--level", "fast").ok());
  EXPECT_EQ(*ParseLabel("--label", "zone=a=b"), (std::pair<std::string, std::string>("zone", "a=b")));
  EXPECT_FALSE(ParseLabel("--label", "=a").ok());
  EXPECT_FALSE(ParseLabel("--label", "zone").ok());
  EXPECT_EQ(Word("BEST_EFFORT"), "best-effort");
}

TEST(Text, AgesAreShort) {
  EXPECT_EQ(FormatAge(-5), "0s");
  EXPECT_EQ(FormatAge(119'999'999), "119s");
  EXPECT_EQ(FormatAge(120'000'000), "2m");
  EXPECT_EQ(FormatAge(7'200'000'000), "2h");
  EXPECT_EQ(FormatAge(172'800'000'000), "2d");
}

TEST(Text, TablesAlign) {
  Table table({"NAME", "STATE", "WHY"});
  table.Add({"a", "READY", ""});
  table.Add({"longer-name", "", "none"});
  EXPECT_EQ(table.TakeText(),
            "NAME          STATE   WHY\n"
            "a             READY   -\n"
            "longer-name   -       none\n");
  table.Add({"b", "LEFT", "it left"});
  EXPECT_EQ(table.TakeText(), "b             LEFT    it left\n");
}

}  // namespace
}  // namespace tulle::cli
