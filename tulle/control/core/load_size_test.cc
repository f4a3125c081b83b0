#include "tulle/control/core/load_size.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "tulle/base/random.h"

namespace tulle::control {
namespace {

using namespace std::chrono_literals;

constexpr Duration kInterval = 2s, kCalm = 60s;

// A vGPU whose programs would use `load` of the GPU, with all the room that it wants. `bursts`: they get it,
// whatever it was promised.
struct Vgpu {
  LoadSize::Range range;
  bool bursts = false;
  std::uint32_t has = 0;
  Instant now{};
  int changes = 0;
  LoadSize size = {};

  void Run(Duration time, const std::function<float()>& load) {
    for (const Instant end = now + time; now < end; now = now + kInterval) {
      const float wants = load();
      const auto may = static_cast<float>(has);
      const float used = bursts ? wants : std::min(wants, may);
      const float throttled = wants > used ? 100 * (1 - used / wants) : 0;
      const std::uint32_t next = size.Follow({used, throttled}, range, has, has, kCalm, now);
      EXPECT_GE(next, range.least);
      EXPECT_LE(next, range.most);
      changes += next != has;
      has = next;
    }
  }
  void Run(Duration time, float load) {
    Run(time, [load] { return load; });
  }
};

TEST(LoadSizeTest, GrowsAtOnceAndShrinksAfterAWhile) {
  Vgpu vgpu{.range = {10, 100}, .has = 100};
  vgpu.Run(58s, 0);
  EXPECT_EQ(vgpu.has, 100u);
  vgpu.Run(10s, 0);
  EXPECT_EQ(vgpu.has, 10u);
  vgpu.Run(3 * kInterval, 80);
  EXPECT_EQ(vgpu.has, 80u) << "twice as much each time";
  vgpu.Run(kInterval, 80);
  EXPECT_EQ(vgpu.has, 100u);
  vgpu.Run(1h, 80);
  EXPECT_EQ(vgpu.has, 100u);
  vgpu.Run(2min, 20);
  EXPECT_EQ(vgpu.has, 30u);
}

TEST(LoadSizeTest, WhatComesAgainAndAgainKeepsIt) {
  Vgpu vgpu{.range = {10, 100}, .has = 100};
  vgpu.Run(10min, [&vgpu] { return vgpu.now.ns / 1'000'000'000 % 50 < 4 ? 95.0f : 0.0f; });
  EXPECT_EQ(vgpu.has, 100u);
  EXPECT_EQ(vgpu.changes, 0);
}

// Held up all the time however much it has: by others' turns, say.
TEST(LoadSizeTest, WhoIsHeldUpKeepsIt) {
  LoadSize size;
  std::uint32_t has = 20;
  for (Instant now{1}; now < Instant{} + 2h; now = now + kInterval) {
    const std::uint32_t next = size.Follow({5, 40}, {20, 80}, has, has, kCalm, now);
    EXPECT_GE(next, has);
    has = next;
  }
  EXPECT_EQ(has, 80u);
}

// Short peaks that are not seen in what is used, but hold the program up where it has little.
TEST(LoadSizeTest, WhatWasTakenTooEarlyIsTakenLessOften) {
  LoadSize size;
  std::uint32_t has = 80;
  int shrunk = 0;
  for (Instant now{1}; now < Instant{} + 4h; now = now + kInterval) {
    const std::uint32_t next = size.Follow({5, has < 60 ? 20.0f : 1.0f}, {20, 80}, has, has, kCalm, now);
    shrunk += next < has;
    has = next;
  }
  EXPECT_LE(shrunk, 20) << "of 240 minutes";
}

TEST(LoadSizeTest, WhoHasNoRoomGoesOnWantingIt) {
  LoadSize size;
  for (Instant now{1}; now < Instant{} + 1h; now = now + kInterval)
    EXPECT_EQ(size.Follow({20, 70}, {10, 100}, 80, 20, kCalm, now), 80u);
}

TEST(LoadSizeTest, ASteadyLoadSettles) {
  const std::uint64_t seed = 20261130;
  SeededRandom random(seed);
  for (int i = 0; i < 2000; ++i) {
    const auto least = static_cast<std::uint32_t>(1 + random.Below(50));
    const auto most = static_cast<std::uint32_t>(least + random.Below(100 - least) + 1);
    Vgpu vgpu{.range = {least, most},
              .bursts = random.Below(2) == 0,
              .has = static_cast<std::uint32_t>(least + random.Below(most - least + 1))};
    const auto load = static_cast<float>(random.Below(1000)) / 10;
    SCOPED_TRACE(testing::Message() << "seed " << seed << ", " << i << ": " << load << " in " << least << ".."
                                    << most << (vgpu.bursts ? ", bursts" : ""));
    // It varies by a tenth of itself.
    const auto varied = [&] { return load * (0.95f + static_cast<float>(random.Below(100)) / 1000); };
    vgpu.Run(10min, varied);
    EXPECT_LE(vgpu.changes, 9) << "up by doubling, and down once or twice";
    vgpu.changes = 0;
    vgpu.Run(2h, varied);
    EXPECT_LE(vgpu.changes, 1) << "at most a window in which less was used than in those before";
    EXPECT_GE(static_cast<float>(vgpu.has), std::min(load, static_cast<float>(most)));
    EXPECT_LE(static_cast<float>(vgpu.has), std::max(2.2f * load + 2, static_cast<float>(least)));
  }
}

TEST(LoadSizeTest, WhoHasNoRoomWantsNoMoreForThat) {
  LoadSize size;
  EXPECT_EQ(size.Follow({10, 50}, {10, 100}, 20, 10, kCalm, Instant{}), 20u);
  EXPECT_EQ(size.Follow({10, 50}, {10, 100}, 20, 20, kCalm, Instant{}), 40u);
}

TEST(LoadSizeTest, ARangeThatChangesIsKept) {
  LoadSize size;
  EXPECT_EQ(size.Follow({90, 0}, {10, 50}, 100, 100, kCalm, Instant{}), 50u);
  EXPECT_EQ(size.Follow({0, 0}, {60, 80}, 50, 50, kCalm, Instant{}), 60u);
}

}  // namespace
}  // namespace tulle::control
