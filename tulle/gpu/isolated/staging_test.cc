// Staging: seeded random use against a plain model.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/gpu/isolated/staging.h"

namespace tulle::gpu::isolated {
namespace {

TEST(Staging, RandomUseKeepsBlocksApart) {
  auto staging = Staging::Create(8 << 20);
  ASSERT_TRUE(staging.ok());
  SeededRandom random(7);
  std::vector<std::pair<StagingBlock, std::byte>> held;
  int refused = 0;
  for (int step = 0; step < 5000; ++step) {
    if (held.empty() || random.Below(100) < 60) {
      auto block = staging->Allocate(1 + random.Below(random.Below(8) == 0 ? 2 << 20 : 5000));
      if (!block.has_value()) {
        ++refused;
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(random.Below(held.size())));
        continue;
      }
      const auto mark = static_cast<std::byte>(random.Below(256));
      std::ranges::fill(block->bytes(), mark);
      held.emplace_back(std::move(*block), mark);
    } else {
      std::swap(held[random.Below(held.size())], held.back());
      const auto& [block, mark] = held.back();
      ASSERT_TRUE(std::ranges::all_of(block.bytes(), [m = mark](std::byte b) { return b == m; }));
      held.pop_back();
    }
  }
  EXPECT_GT(refused, 0);
  held.clear();
  EXPECT_EQ(staging->free_bytes(), 8u << 20);
}

TEST(Staging, LargeBlocksGiveTheirPagesBack) {
  auto staging = Staging::Create(64 << 20);
  ASSERT_TRUE(staging.ok());
  const auto resident = [&] {
    std::vector<unsigned char> pages((64 << 20) / 4096);
    EXPECT_EQ(mincore(staging->Allocate(1)->bytes().data(), 64 << 20, pages.data()), 0);
    return std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
  };
  auto block = staging->Allocate(32 << 20);
  std::ranges::fill(block->bytes(), std::byte{1});
  const std::byte* first = block->bytes().data();
  block->Release();
  EXPECT_LE(resident(), 1);
  EXPECT_EQ(staging->Allocate(1)->bytes().data(), first);
  EXPECT_EQ(*first, std::byte{0});
}

}  // namespace
}  // namespace tulle::gpu::isolated
