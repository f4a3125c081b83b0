#include "tulle/gpu/softcuda/memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace tulle::gpu::softcuda {
namespace {

TEST(DeviceMemory, IsGivenZeroedTakenBackAndTold) {
  const auto memory = *DeviceMemory::Reserve(1 << 20);
  const std::uint64_t first = *memory->Allocate(5000), second = *memory->Allocate(100);
  EXPECT_EQ(first % 256, 0u);
  EXPECT_EQ(memory->free_bytes(), (1u << 20) - 3 * 4096);
  EXPECT_TRUE(memory->Holds(first, 5000));
  EXPECT_FALSE(memory->Holds(second, 5000)) << "beyond its page";
  EXPECT_FALSE(memory->Holds(first - 1, 2));
  EXPECT_FALSE(memory->Holds(first, ~std::uint64_t{0}));
  std::uint64_t begin = 0, bytes = 0;
  EXPECT_TRUE(memory->Find(first + 4999, &begin, &bytes));
  EXPECT_EQ(begin, first);
  EXPECT_EQ(bytes, 5000u);
  EXPECT_FALSE(memory->Find(first + 5000, &begin, &bytes));
  std::memset(reinterpret_cast<void*>(first), 7, 5000);
  EXPECT_EQ(memory->Free(first + 4096).error().code, Code::kNotFound);
  ASSERT_TRUE(memory->Free(first).ok());
  EXPECT_EQ(memory->Free(first).error().code, Code::kNotFound) << "twice";
  const std::uint64_t again = *memory->Allocate(8192);
  EXPECT_EQ(again, first) << "the first place that is large enough";
  EXPECT_EQ(*reinterpret_cast<std::uint8_t*>(again), 0) << "nothing of what was there";
  EXPECT_EQ(memory->Allocate(1 << 20).error().code, Code::kResourceExhausted);
  ASSERT_TRUE(memory->Free(again).ok());
  ASSERT_TRUE(memory->Free(second).ok());
  EXPECT_TRUE(memory->Allocate(1 << 20).ok()) << "all of it is one piece again";
  EXPECT_FALSE(DeviceMemory::Reserve(0).ok());
}

TEST(DeviceMemory, IsMappedWhereItIsWantedAndKeepsWhatIsInIt) {
  constexpr std::uint64_t kGranule = DeviceMemory::kGranule;
  const auto memory = *DeviceMemory::Reserve(4 * kGranule);
  const std::uint64_t range = *memory->ReserveAddresses(4 * kGranule, 0);
  EXPECT_EQ(range % kGranule, 0u);
  EXPECT_EQ(memory->ReserveAddresses(kGranule / 2, 0).error().code, Code::kInvalidArgument);
  const MemoryNumber one = *memory->CreateMemory(kGranule), two = *memory->CreateMemory(2 * kGranule);
  EXPECT_EQ(memory->CreateMemory(2 * kGranule).error().code, Code::kResourceExhausted);
  EXPECT_EQ(memory->free_bytes(), kGranule);
  ASSERT_TRUE(memory->Map(range, kGranule, one).ok());
  EXPECT_EQ(memory->Map(range + kGranule, kGranule, one).error().code, Code::kUnimplemented);
  EXPECT_EQ(memory->Map(range, 2 * kGranule, two).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(memory->Map(range + 3 * kGranule, 2 * kGranule, two).error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(memory->Map(range + kGranule, 2 * kGranule, two).ok());
  EXPECT_FALSE(memory->Contains(range, 1)) << "nobody may use it yet";
  ASSERT_TRUE(memory->SetAccess(range, 3 * kGranule, DeviceMemory::Access::kReadWrite).ok());
  EXPECT_TRUE(memory->Contains(range + kGranule - 8, kGranule)) << "across both";
  EXPECT_TRUE(memory->Holds(range + kGranule - 8, 16));
  EXPECT_FALSE(memory->Contains(range + 2 * kGranule, kGranule + 1));
  std::memset(reinterpret_cast<void*>(range + kGranule), 7, kGranule);
  EXPECT_EQ(memory->Unmap(range + kGranule, kGranule).error().code, Code::kNotFound) << "half of it";
  ASSERT_TRUE(memory->Unmap(range, 3 * kGranule).ok());
  EXPECT_FALSE(memory->Holds(range, 1));
  EXPECT_EQ(*reinterpret_cast<std::uint8_t*>(range + kGranule), 0) << "nothing of it is left there";
  ASSERT_TRUE(memory->Map(range + 2 * kGranule, 2 * kGranule, two).ok());
  EXPECT_EQ(*reinterpret_cast<std::uint8_t*>(range + 3 * kGranule - 1), 7);
  ASSERT_TRUE(memory->ReleaseMemory(one).ok());
  ASSERT_TRUE(memory->ReleaseMemory(two).ok());
  EXPECT_EQ(memory->ReleaseMemory(two).error().code, Code::kNotFound);
  EXPECT_EQ(memory->free_bytes(), 2 * kGranule) << "that is mapped yet";
  EXPECT_EQ(memory->FreeAddresses(range, 4 * kGranule).error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(memory->Unmap(range + 2 * kGranule, 2 * kGranule).ok());
  EXPECT_EQ(memory->free_bytes(), 4 * kGranule);
  EXPECT_EQ(memory->FreeAddresses(range, kGranule).error().code, Code::kNotFound);
  ASSERT_TRUE(memory->FreeAddresses(range, 4 * kGranule).ok());
}

TEST(DeviceMemory, IsSharedByWhoHasItsDescriptor) {
  constexpr std::uint64_t kGranule = DeviceMemory::kGranule;
  const auto owner = *DeviceMemory::Reserve(4 * kGranule), guest = *DeviceMemory::Reserve(kGranule);
  const MemoryNumber own = *owner->CreateMemory(2 * kGranule, true);
  EXPECT_EQ(owner->Export(*owner->CreateMemory(kGranule)).error().code, Code::kFailedPrecondition);
  UniqueFd descriptor = *owner->Export(own);
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor.get());
  UniqueFd to_read(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const MemoryNumber had = *guest->Import(std::move(descriptor)),
                     read_only = *guest->Import(std::move(to_read));
  EXPECT_EQ(guest->free_bytes(), kGranule) << "it is not of this device";

  const std::uint64_t at = *owner->ReserveAddresses(2 * kGranule, 0);
  const std::uint64_t there = *guest->ReserveAddresses(4 * kGranule, 0);
  ASSERT_TRUE(owner->Map(at, 2 * kGranule, own).ok());
  ASSERT_TRUE(owner->SetAccess(at, 2 * kGranule, DeviceMemory::Access::kReadWrite).ok());
  ASSERT_TRUE(guest->Map(there, 2 * kGranule, had).ok());
  ASSERT_TRUE(guest->SetAccess(there, 2 * kGranule, DeviceMemory::Access::kReadWrite).ok());
  ASSERT_TRUE(guest->Map(there + 2 * kGranule, 2 * kGranule, read_only).ok());
  EXPECT_EQ(
      guest->SetAccess(there + 2 * kGranule, 2 * kGranule, DeviceMemory::Access::kReadWrite).error().code,
      Code::kPermissionDenied);
  ASSERT_TRUE(guest->SetAccess(there + 2 * kGranule, 2 * kGranule, DeviceMemory::Access::kRead).ok());
  *reinterpret_cast<volatile int*>(at + kGranule) = 41;
  EXPECT_EQ(*reinterpret_cast<volatile int*>(there + kGranule), 41);
  *reinterpret_cast<volatile int*>(there + kGranule) = 42;
  EXPECT_EQ(*reinterpret_cast<volatile int*>(at + kGranule), 42);
  EXPECT_EQ(*reinterpret_cast<volatile int*>(there + 3 * kGranule), 42);
  EXPECT_TRUE(guest->HoldsToWrite(there, 4));
  EXPECT_FALSE(guest->HoldsToWrite(there + 2 * kGranule, 4));
  EXPECT_TRUE(guest->Holds(there + 2 * kGranule, 4));
  EXPECT_FALSE(guest->Contains(there, 2 * kGranule + 1, DeviceMemory::Access::kReadWrite));

  ASSERT_TRUE(owner->Unmap(at, 2 * kGranule).ok());
  EXPECT_EQ(*reinterpret_cast<volatile int*>(at + kGranule), 0) << "nothing of it is left there";
  EXPECT_EQ(*reinterpret_cast<volatile int*>(there + kGranule), 42) << "others have it still";
  ASSERT_TRUE(owner->Map(at, 2 * kGranule, own).ok());
  EXPECT_EQ(*reinterpret_cast<volatile int*>(at + kGranule), 42);
  ASSERT_TRUE(guest->Unmap(there, 4 * kGranule).ok());
  *reinterpret_cast<volatile int*>(there + 3 * kGranule) = 1;
  UniqueFd growing(memfd_create("grows", MFD_CLOEXEC));
  EXPECT_EQ(guest->Import(std::move(growing)).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace tulle::gpu::softcuda
