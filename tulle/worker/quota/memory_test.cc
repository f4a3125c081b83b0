#include "tulle/worker/quota/memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tulle/base/random.h"

namespace tulle::worker::quota {
namespace {

constexpr std::uint64_t kMax = ~std::uint64_t{0};

TEST(Lease, GrantsAllOrNothing) {
  MemoryQuota quota(100);
  Lease a(&quota);
  Lease b(&quota);
  EXPECT_TRUE(a.Acquire(60));
  EXPECT_FALSE(b.Acquire(41));
  EXPECT_TRUE(b.Acquire(40));
  EXPECT_EQ(quota.available_bytes(), 0u);
  EXPECT_TRUE(a.Release(60));
  EXPECT_EQ(quota.available_bytes(), 60u);
}

TEST(Lease, SizesThatWrapAreRefused) {
  MemoryQuota quota(100);
  Lease lease(&quota);
  EXPECT_TRUE(lease.Acquire(10));
  EXPECT_FALSE(lease.Acquire(kMax));
  EXPECT_EQ(lease.TakeForObject(kMax, false), Lease::Take::kBeyondLease);
  EXPECT_EQ(lease.TakeForObject(kMax, true), Lease::Take::kNoMemory);
  EXPECT_FALSE(lease.Release(kMax));
  EXPECT_EQ(quota.used_bytes(), 10u);
}

TEST(Lease, AnObjectBeyondTheLeaseGrowsItByWhatIsMissing) {
  MemoryQuota quota(100);
  Lease lease(&quota);
  EXPECT_TRUE(lease.Acquire(10));
  EXPECT_EQ(lease.TakeForObject(30, false), Lease::Take::kBeyondLease);
  EXPECT_EQ(lease.TakeForObject(30, true), Lease::Take::kTaken);
  EXPECT_EQ(lease.lease_bytes(), 30u);
  EXPECT_EQ(quota.used_bytes(), 30u);
  EXPECT_EQ(lease.TakeForObject(71, true), Lease::Take::kNoMemory);
  EXPECT_EQ(quota.used_bytes(), 30u);
  EXPECT_FALSE(lease.Release(1));
}

TEST(Lease, DestroyedMemoryIsChargedUntilTheDeviceLetsGo) {
  MemoryQuota quota(100);
  Lease lease(&quota);
  EXPECT_TRUE(lease.Acquire(80));
  EXPECT_EQ(lease.TakeForObject(80, false), Lease::Take::kTaken);
  lease.Destroyed(80);
  // The client may create again at once; the quota only has 20 more.
  EXPECT_EQ(lease.TakeForObject(20, false), Lease::Take::kTaken);
  EXPECT_EQ(quota.used_bytes(), 100u);
  EXPECT_EQ(lease.TakeForObject(60, false), Lease::Take::kNotYet);
  lease.Reclaim(80);
  EXPECT_EQ(quota.used_bytes(), 80u);
  EXPECT_EQ(lease.TakeForObject(60, false), Lease::Take::kTaken);
  EXPECT_EQ(quota.used_bytes(), 80u);
}

TEST(Lease, GivesEverythingBackWhenItGoes) {
  MemoryQuota quota(100);
  {
    Lease lease(&quota);
    EXPECT_TRUE(lease.Acquire(50));
    EXPECT_EQ(lease.TakeForObject(60, true), Lease::Take::kTaken);
    lease.Destroyed(60);
    EXPECT_EQ(quota.used_bytes(), 60u);
  }
  EXPECT_EQ(quota.used_bytes(), 0u);
}

// Whatever sessions do, the quota is never over its limit and always the sum of what they hold.
TEST(Lease, RandomHistoriesKeepTheBooksExact) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SeededRandom random(seed);
    MemoryQuota quota(1000);
    struct Session {
      explicit Session(MemoryQuota* quota) : lease(quota) {}
      Lease lease;
      std::vector<std::uint64_t> live, dying;
    };
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < 3; ++i) sessions.push_back(std::make_unique<Session>(&quota));
    for (int step = 0; step < 500; ++step) {
      auto& session = sessions[random.Below(sessions.size())];
      const std::uint64_t size = random.Below(200);
      const auto pop = [&](std::vector<std::uint64_t>& from) {
        const std::size_t at = random.Below(from.size());
        const std::uint64_t taken = from[at];
        from.erase(from.begin() + static_cast<std::ptrdiff_t>(at));
        return taken;
      };
      switch (random.Below(6)) {
        case 0: (void)session->lease.Acquire(size); break;
        case 1: (void)session->lease.Release(size); break;
        case 2:
          if (session->lease.TakeForObject(size, random.Below(2) == 0) == Lease::Take::kTaken) {
            session->live.push_back(size);
          }
          break;
        case 3:
          if (!session->live.empty()) {
            session->dying.push_back(pop(session->live));
            session->lease.Destroyed(session->dying.back());
          }
          break;
        case 4:
          if (!session->dying.empty()) session->lease.Reclaim(pop(session->dying));
          break;
        case 5:
          if (random.Below(20) == 0) session = std::make_unique<Session>(&quota);
          break;
      }
      std::uint64_t held = 0;
      for (const auto& s : sessions) {
        std::uint64_t live = 0, dying = 0;
        for (const auto bytes : s->live) live += bytes;
        for (const auto bytes : s->dying) dying += bytes;
        EXPECT_EQ(s->lease.live_bytes(), live);
        EXPECT_EQ(s->lease.dying_bytes(), dying);
        EXPECT_LE(live, s->lease.lease_bytes());
        held += std::max(s->lease.lease_bytes(), live + dying);
      }
      ASSERT_EQ(quota.used_bytes(), held) << "seed " << seed << " step " << step;
      ASSERT_LE(held, 1000u);
    }
  }
}

TEST(MemoryQuota, ItsLimitMayChange) {
  MemoryQuota quota(100);
  Lease lease(&quota), other(&quota);
  ASSERT_EQ(lease.TakeForObject(80, true), Lease::Take::kTaken);
  EXPECT_EQ(other.TakeForObject(40, true), Lease::Take::kNoMemory);
  quota.SetLimit(150);
  EXPECT_EQ(quota.available_bytes(), 70u);
  EXPECT_EQ(other.TakeForObject(40, true), Lease::Take::kTaken);
  // Less than is in use: that stays, and there is nothing more until enough has gone.
  quota.SetLimit(60);
  EXPECT_EQ(quota.used_bytes(), 120u);
  EXPECT_EQ(quota.available_bytes(), 0u);
  EXPECT_FALSE(quota.TryTake(1));
  EXPECT_FALSE(lease.Acquire(1));
  EXPECT_FALSE(other.Acquire(30)) << "its own lease is within the limit, but not with the other";
  EXPECT_EQ(lease.TakeForObject(1, true), Lease::Take::kNoMemory);
  lease.Destroyed(80);
  lease.Reclaim(80);
  EXPECT_TRUE(lease.Release(80));
  EXPECT_EQ(quota.available_bytes(), 20u);
  EXPECT_TRUE(lease.Acquire(20));
  EXPECT_FALSE(lease.Acquire(~std::uint64_t{0}));
}

}  // namespace
}  // namespace tulle::worker::quota
