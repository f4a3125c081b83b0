#include "tulle/shim/cuda/remote/address_map.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tulle/base/random.h"

namespace tulle::shim::cuda {
namespace {

constexpr std::uint64_t kGranule = 2u << 20, kAddress = 0x4000'0000'0000, kBytes = 16 * kGranule;

TEST(AddressMap, SmallOnesShareABlockAndLargeOnesHaveTheirOwn) {
  AddressMap map(kAddress, kBytes, kGranule);
  const auto first = map.Allocate(1);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->fresh.bytes, kGranule);
  const auto second = map.Allocate(kGranule / 2);
  EXPECT_EQ(second->fresh.bytes, 0u);
  EXPECT_EQ(second->address % AddressMap::kAlignment, 0u);
  const auto large = map.Allocate(kGranule + 1);
  EXPECT_EQ(large->fresh.address, large->address);
  EXPECT_EQ(large->fresh.bytes, 2 * kGranule);
  EXPECT_EQ(large->address % kGranule, 0u);
  const auto third = map.Allocate(kGranule / 2);
  EXPECT_EQ(third->fresh.bytes, kGranule) << "the first block has less left";

  EXPECT_EQ(map.Free(first->address).bytes, 0u);
  const AddressMap::Block empty = map.Free(second->address);
  EXPECT_EQ(empty.address, first->fresh.address);
  EXPECT_EQ(empty.bytes, kGranule);
  EXPECT_EQ(map.Free(large->address).bytes, 2 * kGranule);
}

TEST(AddressMap, WhatIsFullSaysSo) {
  AddressMap map(kAddress, kBytes, kGranule);
  EXPECT_FALSE(map.Allocate(kBytes + 1).has_value());
  EXPECT_FALSE(map.Allocate(~std::uint64_t{0}).has_value());
  const auto all = map.Allocate(kBytes);
  ASSERT_TRUE(all.has_value());
  EXPECT_FALSE(map.Allocate(1).has_value());
  map.Free(all->address);
  EXPECT_TRUE(map.Allocate(1).has_value());
}

TEST(AddressMap, NothingOverlapsAndAllComesBack) {
  SeededRandom random(7);
  AddressMap map(kAddress, kBytes, kGranule);
  std::map<std::uint64_t, std::uint64_t> blocks, live;  // addresses and sizes
  for (int i = 0; i < 20'000; ++i) {
    if (live.empty() || random.Below(2) == 0) {
      const std::uint64_t bytes = 1 + random.Below(random.Below(4) == 0 ? 3 * kGranule : 100'000);
      const auto got = map.Allocate(bytes);
      if (!got.has_value()) continue;
      if (got->fresh.bytes != 0) {
        ASSERT_TRUE(blocks.emplace(got->fresh.address, got->fresh.bytes).second);
        ASSERT_LE(got->fresh.address + got->fresh.bytes, kAddress + kBytes);
      }
      auto block = blocks.upper_bound(got->address);
      ASSERT_NE(block, blocks.begin());
      --block;
      ASSERT_LE(got->address + bytes, block->first + block->second) << "within what the vGPU was asked for";
      const auto next = live.lower_bound(got->address);
      ASSERT_TRUE(next == live.end() || next->first >= got->address + bytes);
      if (next != live.begin()) {
        ASSERT_LE(std::prev(next)->first + std::prev(next)->second, got->address);
      }
      live.emplace(got->address, bytes);
    } else {
      const auto it = std::next(live.begin(), static_cast<std::ptrdiff_t>(random.Below(live.size())));
      const AddressMap::Block empty = map.Free(it->first);
      live.erase(it);
      if (empty.bytes != 0) {
        ASSERT_EQ(blocks.at(empty.address), empty.bytes);
        blocks.erase(empty.address);
      }
    }
  }
  for (const auto& [address, bytes] : live) blocks.erase(map.Free(address).address);
  EXPECT_TRUE(blocks.empty());
  EXPECT_TRUE(map.Allocate(kBytes).has_value()) << "in one piece again";
}

}  // namespace
}  // namespace tulle::shim::cuda
