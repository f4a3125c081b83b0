// Ranges and shared memory: seeded random use against a plain model.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "tulle/base/random.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/shared_memory.h"

namespace tulle {
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

TEST(SharedMemory, WhatMayShrinkIsNotTaken) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), 1 << 20), 0);
  EXPECT_FALSE(SharedMemory::Adopt(std::move(fd)).ok());
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[1]);
  EXPECT_FALSE(SharedMemory::Adopt(UniqueFd(ends[0])).ok());
}

}  // namespace
}  // namespace tulle
