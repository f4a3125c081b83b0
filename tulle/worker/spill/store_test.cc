#include "tulle/worker/spill/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

namespace tulle::worker::spill {
namespace {

ByteVector Text(SeededRandom& random, std::size_t size) {
  ByteVector bytes(size);
  random.Fill(bytes);
  return bytes;
}

// Without a name, as the node makes them.
UniqueFd File() {
  UniqueFd file(memfd_create("spill", MFD_CLOEXEC));
  EXPECT_TRUE(file.valid());
  return file;
}

ByteVector ReadAll(int fd) {
  struct stat what {};
  EXPECT_EQ(fstat(fd, &what), 0);
  ByteVector bytes(static_cast<std::size_t>(what.st_size));
  EXPECT_EQ(pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

TEST(StoreTest, WhatIsSavedComesBackFromMemoryAndFromTheFile) {
  SecureRandom keys;
  SeededRandom random(1);
  Store store(2 * kBlockBytes, File(), 8 * kBlockBytes, keys);
  std::vector<ByteVector> texts;
  std::vector<Store::Block> blocks;
  for (std::size_t size : {kBlockBytes, std::uint64_t{4096}, kBlockBytes, kBlockBytes, std::uint64_t{1}}) {
    texts.push_back(Text(random, size));
    auto block = store.Save(texts.back());
    ASSERT_TRUE(block.ok());
    blocks.push_back(*std::move(block));
  }
  EXPECT_LE(store.memory_bytes(), 2 * kBlockBytes);
  EXPECT_GT(store.file_bytes(), 0u);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto back = store.Take(std::move(blocks[i]));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, texts[i]) << i;
  }
  blocks.clear();
  EXPECT_EQ(store.memory_bytes(), 0u);
  EXPECT_EQ(store.file_bytes(), 0u);
}

TEST(StoreTest, ZeroTakesNoRoom) {
  SecureRandom keys;
  Store store(0, UniqueFd(), 0, keys);
  ByteVector bytes(kBlockBytes);
  auto block = store.Save(bytes);
  ASSERT_TRUE(block.ok());
  EXPECT_TRUE(block->is_zero());
  store.Recycle(ByteVector(kBlockBytes, std::byte{7}));
  EXPECT_EQ(*store.Take(*std::move(block)), bytes);
  bytes.back() = std::byte{1};
  EXPECT_EQ(store.Save(bytes).error().code, Code::kResourceExhausted);
}

TEST(StoreTest, ThereIsAnEnd) {
  SecureRandom keys;
  SeededRandom random(2);
  Store store(kBlockBytes, File(), kBlockBytes, keys);
  auto first = store.Save(Text(random, kBlockBytes));
  auto second = store.Save(Text(random, kBlockBytes));
  ASSERT_TRUE(first.ok() && second.ok());
  auto third = store.Save(Text(random, 4096));
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code, Code::kResourceExhausted);
  *first = {};
  EXPECT_TRUE(store.Save(Text(random, 4096)).ok());
}

// Freed in another order than it was taken, the file has room in pieces only.
TEST(StoreTest, PiecesOfTheFileAreUsedTogether) {
  SecureRandom keys;
  SeededRandom random(3);
  Store store(0, File(), 2 * kBlockBytes, keys);
  std::vector<Store::Block> small;
  for (std::uint64_t i = 0; i < 2 * kBlockBytes / 65536; ++i) {
    auto block = store.Save(Text(random, 65536));
    ASSERT_TRUE(block.ok());
    small.push_back(*std::move(block));
  }
  for (std::size_t i = 0; i < small.size(); i += 2) small[i] = {};
  const ByteVector text = Text(random, kBlockBytes);
  auto large = store.Save(text);
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(*store.Take(*std::move(large)), text);
}

TEST(StoreTest, TheFileTellsNothingAndChangesAreNoticed) {
  SecureRandom keys;
  UniqueFd file = File();
  const int fd = file.get();
  Store store(0, std::move(file), 4 * kBlockBytes, keys);
  const std::string secret = "this is what nobody else may ever read";
  ByteVector bytes(4096);
  std::memcpy(bytes.data(), secret.data(), secret.size());
  auto block = store.Save(bytes);
  auto same = store.Save(bytes);
  ASSERT_TRUE(block.ok() && same.ok());
  ByteVector kept = ReadAll(fd);
  const auto found = std::ranges::search(kept, AsBytes(std::string_view(secret)));
  EXPECT_TRUE(found.empty());
  // Not even that two are the same.
  EXPECT_NE(std::memcmp(kept.data(), kept.data() + 4096, 4096), 0);
  const std::byte other = kept[100] ^ std::byte{1};
  ASSERT_EQ(pwrite(fd, &other, 1, 100), 1);
  EXPECT_EQ(store.Take(*std::move(block)).error().code, Code::kDataLoss);
  EXPECT_EQ(*store.Take(*std::move(same)), bytes);
}

TEST(StoreTest, ADiskThatIsFullLosesNothing) {
  SecureRandom keys;
  SeededRandom random(4);
  UniqueFd file = File();
  // Writes fail from there on.
  ASSERT_EQ(ftruncate(file.get(), kBlockBytes), 0);
  UniqueFd read_only(open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(read_only.valid());
  Store store(kBlockBytes, std::move(read_only), 4 * kBlockBytes, keys);
  const ByteVector text = Text(random, kBlockBytes);
  auto first = store.Save(text);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(store.Save(Text(random, kBlockBytes)).ok());
  EXPECT_EQ(store.memory_bytes(), kBlockBytes);
  EXPECT_EQ(*store.Take(*std::move(first)), text);
}

TEST(StoreTest, SeveralThreadsUseIt) {
  SecureRandom keys;
  Store store(3 * kBlockBytes, File(), 64 * kBlockBytes, keys);
  const auto work = [&](std::uint64_t seed) {
    SeededRandom random(seed);
    std::map<std::uint64_t, std::pair<Store::Block, ByteVector>> kept;
    for (std::uint64_t i = 0; i < 60; ++i) {
      ByteVector text = Text(random, 1 + random.Below(kBlockBytes));
      auto block = store.Save(text);
      ASSERT_TRUE(block.ok());
      kept[i] = {*std::move(block), std::move(text)};
      if (kept.size() < 8) continue;
      const auto oldest = kept.begin();
      ASSERT_EQ(*store.Take(std::move(oldest->second.first)), oldest->second.second);
      kept.erase(oldest);
      if (random.Below(2) == 0) kept.erase(std::prev(kept.end()));
    }
  };
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store.memory_bytes(), 0u);
  EXPECT_EQ(store.file_bytes(), 0u);
}

}  // namespace
}  // namespace tulle::worker::spill
