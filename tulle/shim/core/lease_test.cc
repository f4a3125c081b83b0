#include "tulle/shim/core/lease.h"

#include <gtest/gtest.h>

namespace tulle::shim {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

TEST(MemoryLease, AsksInChunksAndThenExactly) {
  MemoryLease lease(640 * kMiB);  // chunks of 10 MiB
  EXPECT_FALSE(lease.Take(1));
  EXPECT_EQ(lease.WantedFor(1, false), 10 * kMiB);
  EXPECT_EQ(lease.WantedFor(11 * kMiB, false), 20 * kMiB);
  EXPECT_EQ(lease.WantedFor(11 * kMiB, true), 11 * kMiB);
  lease.Grant(10 * kMiB);
  EXPECT_TRUE(lease.Take(4 * kMiB));
  EXPECT_FALSE(lease.Take(7 * kMiB));
  EXPECT_EQ(lease.WantedFor(7 * kMiB, true), 1 * kMiB);
  EXPECT_TRUE(lease.Take(6 * kMiB));
  EXPECT_EQ(lease.used(), lease.granted());
}

TEST(MemoryLease, GivesBackWhatLiesUnused) {
  MemoryLease lease(640 * kMiB);
  lease.Grant(100 * kMiB);
  ASSERT_TRUE(lease.Take(100 * kMiB));
  lease.Give(20 * kMiB);
  EXPECT_EQ(lease.Trim(), 0u);
  lease.Give(10 * kMiB);
  EXPECT_EQ(lease.Trim(), 20 * kMiB);
  EXPECT_EQ(lease.granted(), 80 * kMiB);
  EXPECT_EQ(lease.Trim(), 0u);
  // What was given back has to be asked for again.
  EXPECT_TRUE(lease.Take(10 * kMiB));
  EXPECT_FALSE(lease.Take(1));
}

TEST(MemoryLease, BeginsWithLittle) {
  EXPECT_EQ(MemoryLease::WantedAtFirst(640 * kMiB), kMiB);
  EXPECT_EQ(MemoryLease::WantedAtFirst(64 << 10), 1u << 10);
  EXPECT_EQ(MemoryLease::WantedAtFirst(0), 0u);
}

TEST(MemoryLease, AbsurdSizesStayAbsurd) {
  MemoryLease lease(64 * kMiB);
  lease.Grant(5 * kMiB);
  EXPECT_FALSE(lease.Take(UINT64_MAX));
  EXPECT_GE(lease.WantedFor(UINT64_MAX, false), UINT64_MAX - 5 * kMiB);
}

TEST(MemoryLease, GivesAllThatIsUnusedBackWhenItMust) {
  MemoryLease lease(640 * kMiB);
  lease.Grant(10 * kMiB);
  EXPECT_TRUE(lease.Take(3 * kMiB));
  EXPECT_EQ(lease.TakeUnused(), 7 * kMiB);
  EXPECT_EQ(lease.TakeUnused(), 0u);
  EXPECT_EQ(lease.granted(), 3 * kMiB);
  EXPECT_FALSE(lease.Take(1));
}

}  // namespace
}  // namespace tulle::shim
