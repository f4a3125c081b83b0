// Ranges, staging and shared memory: seeded random use against a plain model.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/gpu/isolated/range_allocator.h"
#include "tulle/gpu/isolated/shared_memory.h"
#include "tulle/gpu/isolated/staging.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu::isolated {
namespace {

TEST(RangeAllocator, RandomUseNeverOverlapsAndMergesAgain) {
  constexpr std::uint64_t kSize = 1 << 20;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SeededRandom random(seed);
    RangeAllocator allocator(kSize, 4096);
    std::vector<Range> held;
    std::vector<bool> used(kSize / 4096);
    std::uint64_t used_pages = 0;
    for (int step = 0; step < 2000; ++step) {
      if (held.empty() || random.Below(100) < 55) {
        const std::uint64_t wanted = random.Below(random.Below(4) == 0 ? 200'000 : 10'000);
        const auto range = allocator.Allocate(wanted);
        const std::uint64_t pages = std::max<std::uint64_t>(1, (wanted + 4095) / 4096);
        // Refused exactly when no run of free pages is long enough.
        std::uint64_t run = 0, longest = 0;
        for (const bool page : used) longest = std::max(longest, run = page ? 0 : run + 1);
        ASSERT_EQ(range.has_value(), pages <= longest) << "seed " << seed << " step " << step;
        if (!range.has_value()) continue;
        ASSERT_EQ(range->size_bytes, pages * 4096);
        ASSERT_EQ(range->offset_bytes % 4096, 0u);
        ASSERT_LE(range->offset_bytes + range->size_bytes, kSize);
        for (std::uint64_t page = 0; page < pages; ++page) {
          ASSERT_FALSE(used[range->offset_bytes / 4096 + page]) << "seed " << seed << " step " << step;
          used[range->offset_bytes / 4096 + page] = true;
        }
        used_pages += pages;
        held.push_back(*range);
      } else {
        std::swap(held[random.Below(held.size())], held.back());
        allocator.Free(held.back());
        for (std::uint64_t page = 0; page < held.back().size_bytes / 4096; ++page) {
          used[held.back().offset_bytes / 4096 + page] = false;
        }
        used_pages -= held.back().size_bytes / 4096;
        held.pop_back();
      }
      ASSERT_EQ(allocator.free_bytes(), kSize - used_pages * 4096);
    }
    for (const Range& range : held) allocator.Free(range);
    EXPECT_EQ(allocator.largest_free_bytes(), kSize);
  }
}

TEST(RangeAllocator, TakesTheSmallestThatFits) {
  RangeAllocator allocator(100 * 64, 64);
  std::vector<Range> ranges;
  for (int i = 0; i < 10; ++i) ranges.push_back(*allocator.Allocate(640));
  allocator.Free(ranges[1]);
  allocator.Free(ranges[4]);
  allocator.Free(ranges[5]);
  EXPECT_EQ(allocator.Allocate(600)->offset_bytes, ranges[1].offset_bytes);
  EXPECT_EQ(allocator.Allocate(1280)->offset_bytes, ranges[4].offset_bytes);
  EXPECT_FALSE(allocator.Allocate(1).has_value());
}

TEST(RangeAllocator, OddSizes) {
  RangeAllocator allocator(10'000, 4096);  // two pages
  EXPECT_EQ(allocator.free_bytes(), 8192u);
  EXPECT_FALSE(allocator.Allocate(~std::uint64_t{0}).has_value());
  EXPECT_FALSE(allocator.Allocate(8193).has_value());
  EXPECT_EQ(allocator.Allocate(0)->size_bytes, 4096u);
  EXPECT_EQ(RangeAllocator(4095, 4096).free_bytes(), 0u);
}

TEST(RangeAllocatorDeathTest, FreeingTwiceIsCaught) {
  RangeAllocator allocator(8192, 4096);
  const Range range = *allocator.Allocate(4096);
  allocator.Free(range);
  EXPECT_DEATH(allocator.Free(range), "Check|check");
}

TEST(SharedMemory, ScrubbedPagesReadAsZero) {
  auto memory = SharedMemory::Create("test", 1 << 20);
  ASSERT_TRUE(memory.ok());
  std::ranges::fill(memory->bytes(), std::byte{0xab});
  memory->Scrub(8192, 4096);
  const auto is = [](std::byte value) { return [value](std::byte b) { return b == value; }; };
  EXPECT_TRUE(std::ranges::all_of(memory->bytes().subspan(8192, 4096), is(std::byte{0})));
  EXPECT_TRUE(std::ranges::all_of(memory->bytes().first(8192), is(std::byte{0xab})));
  EXPECT_TRUE(std::ranges::all_of(memory->bytes().subspan(12288), is(std::byte{0xab})));
}

TEST(SharedMemory, NobodyCanCutIt) {
  auto memory = SharedMemory::Create("test", 1 << 20);
  ASSERT_TRUE(memory.ok());
  EXPECT_NE(ftruncate(memory->fd(), 0), 0);
  EXPECT_NE(ftruncate(memory->fd(), 2 << 20), 0);
  EXPECT_NE(fcntl(memory->fd(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

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
