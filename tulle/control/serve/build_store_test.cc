#include "tulle/control/serve/build_store.h"

#include <gtest/gtest.h>

namespace tulle::control {
namespace {

std::string Key(int number) { return std::string(31, 'k') + static_cast<char>('a' + number); }

TEST(BuildStore, GivesATenantOnlyItsOwn) {
  BuildStore store(1 << 20);
  store.Keep("alice", Key(0), "alice's");
  EXPECT_EQ(store.Find("alice", Key(0)), "alice's");
  EXPECT_EQ(store.Find("bob", Key(0)), std::nullopt);
  EXPECT_EQ(store.Find("alice", Key(1)), std::nullopt);
  store.Keep("bob", Key(0), "bob's");
  EXPECT_EQ(store.Find("alice", Key(0)), "alice's");
  EXPECT_EQ(store.Find("bob", Key(0)), "bob's");
  EXPECT_EQ(store.counters().found, 3u);
  EXPECT_EQ(store.counters().not_found, 2u);
}

TEST(BuildStore, WhatIsThereStays) {
  BuildStore store(1 << 20);
  store.Keep("t", Key(0), "first");
  store.Keep("t", Key(0), "second");
  EXPECT_EQ(store.Find("t", Key(0)), "first");
  EXPECT_EQ(store.counters().entries, 1u);
}

TEST(BuildStore, TheLargestTenantMakesRoom) {
  constexpr std::size_t kMax = 40'000;
  BuildStore store(kMax);
  store.Keep("small", Key(0), std::string(3000, 's'));
  for (int i = 0; i < 20; ++i) {
    store.Keep("large", Key(i), std::string(3000, 'l'));
    EXPECT_TRUE(store.Find("large", Key(0)).has_value()) << "used all the time";
    EXPECT_LE(store.counters().bytes, kMax);
  }
  EXPECT_TRUE(store.Find("small", Key(0)).has_value());
  EXPECT_FALSE(store.Find("large", Key(1)).has_value()) << "not used since it came";
  EXPECT_TRUE(store.Find("large", Key(19)).has_value());
  const auto counters = store.counters();
  EXPECT_EQ(counters.kept, 21u);
  EXPECT_EQ(counters.entries + counters.evicted, counters.kept);
}

TEST(BuildStore, KeepsNothingThatIsTooLarge) {
  BuildStore store(10'000);
  store.Keep("t", Key(0), std::string(2600, 'x'));
  EXPECT_FALSE(store.Find("t", Key(0)).has_value());
  BuildStore none(0);
  none.Keep("t", Key(0), "x");
  EXPECT_FALSE(none.Find("t", Key(0)).has_value());
}

}  // namespace
}  // namespace tulle::control
