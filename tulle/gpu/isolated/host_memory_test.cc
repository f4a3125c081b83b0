#include "tulle/gpu/isolated/host_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "tulle/base/unique_fd.h"

namespace tulle::gpu::isolated {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

// As the kernel tells it, in either version.
std::uint64_t LimitOf(const sandbox::ControlGroup& group) {
  const std::string text = group.Text(), folder = text.substr(text.find(':') + 1);
  std::uint64_t limit = 0;
  if (!(std::ifstream(folder + "/memory.limit_in_bytes") >> limit))
    std::ifstream(folder + "/memory.max") >> limit;
  return limit;
}

class HostMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    auto base = sandbox::ControlGroup::MakeBase({.name = "tulle-test-host-memory", .parent = ""});
    if (!base.ok()) GTEST_SKIP() << base.error().message;
    memory_ = std::make_unique<HostMemory>(
        std::move(*base),
        HostMemory::Options{.memory_bytes = 64 * kMiB, .own_bytes = 100 * kMiB, .others_bytes = 1000 * kMiB});
  }
  std::uint64_t All() { return LimitOf(memory_->group()) / kMiB; }
  std::uint64_t Each(const sandbox::ControlGroup& executor) { return LimitOf(executor) / kMiB; }
  std::unique_ptr<HostMemory> memory_;
};

TEST_F(HostMemoryTest, FollowsTheVGpuButIsNeverLowered) {
  const auto first = memory_->MakeGroup(), second = memory_->MakeGroup();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(Each(*first), 228u);
  EXPECT_EQ(All(), 1228u);
  memory_->SetMemory(128 * kMiB);
  EXPECT_EQ(Each(*first), 356u);
  EXPECT_EQ(Each(*second), 356u);
  EXPECT_EQ(All(), 1356u);
  memory_->SetMemory(8 * kMiB);
  memory_->SetMemory(16 * kMiB);
  const auto third = memory_->MakeGroup();
  ASSERT_TRUE(third.ok());
  for (const auto& executor : {&*first, &*second, &*third}) EXPECT_EQ(Each(*executor), 356u);
  EXPECT_EQ(All(), 1356u);
  EXPECT_EQ(memory_->each_bytes(), 356 * kMiB);
}

TEST_F(HostMemoryTest, WhatIsBorrowedComesOnTop) {
  const auto executor = memory_->MakeGroup();
  ASSERT_TRUE(executor.ok());
  const UniqueFd one(memfd_create("one", MFD_CLOEXEC)), other(memfd_create("other", MFD_CLOEXEC));
  const UniqueFd again(dup(one.get()));
  const auto file = memory_->Borrow(one.get(), 500 * kMiB);
  EXPECT_EQ(Each(*executor), 728u);
  EXPECT_EQ(All(), 1728u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(memory_->Borrow(again.get(), 500 * kMiB), file);
  EXPECT_EQ(Each(*executor), 728u) << "it is the same memory";
  for (int i = 0; i < 101; ++i) memory_->Return(file);
  memory_->Borrow(other.get(), 400 * kMiB);
  EXPECT_EQ(Each(*executor), 728u);
  memory_->Borrow(one.get(), 500 * kMiB);
  EXPECT_EQ(Each(*executor), 1128u);
}

}  // namespace
}  // namespace tulle::gpu::isolated
