#include <gtest/gtest.h>

#include "tulle/base/bytes.h"
#include "tulle/base/clock.h"
#include "tulle/base/log.h"
#include "tulle/base/random.h"
#include "tulle/base/result.h"

namespace tulle {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return Error{.code = Code::kInvalidArgument, .message = std::to_string(n) + " is odd"};
  return n / 2;
}

Result<int> Quarter(int n) {
  TULLE_ASSIGN_OR_RETURN(const int half, Half(n));
  return Half(half);
}

TEST(Bytes, TextIsCutBetweenCharacters) {
  EXPECT_EQ(CutText("abc", 5), "abc");
  EXPECT_EQ(CutText("abc", 2), "ab");
  EXPECT_EQ(CutText("a\xc3\xa4z", 2), "a");
  EXPECT_EQ(CutText("a\xc3\xa4z", 3), "a\xc3\xa4");
  EXPECT_EQ(CutText("\xf0\x9f\x98\x80", 3), "");
  EXPECT_EQ(CutText("", 0), "");
}

TEST(Result, CarriesTheValueOrTheFirstError) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(ToString(Quarter(6).error()), "invalid argument: 3 is odd");
  EXPECT_EQ(Quarter(6).error().Within("quarter of 6").message, "quarter of 6: 3 is odd");
}

TEST(Bytes, HexGoesBothWays) {
  std::byte out[3];
  ASSERT_TRUE(FromHex("00fFa1", out));
  EXPECT_EQ(ToHex(out), "00ffa1");
  EXPECT_FALSE(FromHex("00ff", out));
  EXPECT_FALSE(FromHex("00ffag", out));
}

TEST(Bytes, SizesAsPeopleWriteThem) {
  std::uint64_t size = 0;
  ASSERT_TRUE(ParseSize("1.5GiB", &size));
  EXPECT_EQ(size, 1610612736u);
  ASSERT_TRUE(ParseSize("64k", &size));
  EXPECT_EQ(size, 65536u);
  ASSERT_TRUE(ParseSize("2GB", &size));
  EXPECT_EQ(size, 2000000000u);
  for (const char* bad : {"", "GiB", "-1", "1 XiB", "1e30GiB", "nan", "inf"})
    EXPECT_FALSE(ParseSize(bad, &size)) << bad;
  EXPECT_EQ(FormatSize(3758096384), "3.5GiB");
  EXPECT_EQ(FormatSize(1023), "1023B");
  EXPECT_EQ(FormatSize((std::uint64_t{3} << 30) - 4096), "2.9GiB");
  EXPECT_EQ(FormatSize((1u << 20) - 1), "1023.9KiB");
  ASSERT_TRUE(ParseSize("3.3GiB", &size));
  EXPECT_EQ(FormatSize(size), "3.3GiB");
}

TEST(Random, SeededIsRepeatableAndBelowStaysBelow) {
  SeededRandom a(7), b(7);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = a.Below(10);
    EXPECT_EQ(value, b.Below(10));
    EXPECT_LT(value, 10u);
  }
}

TEST(Clock, TheFakeOneMovesByHand) {
  FakeClock clock;
  const Instant start = clock.Now();
  clock.Advance(std::chrono::seconds(2));
  EXPECT_EQ(clock.Now() - start, std::chrono::seconds(2));
}

TEST(Log, LevelsParse) {
  LogLevel level;
  EXPECT_TRUE(ParseLogLevel("warn", &level));
  EXPECT_EQ(level, LogLevel::kWarn);
  EXPECT_FALSE(ParseLogLevel("loud", &level));
}

}  // namespace
}  // namespace tulle
