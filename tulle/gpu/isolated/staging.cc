#include "tulle/gpu/isolated/staging.h"

#include "tulle/base/check.h"
#include "tulle/wire/limits.h"

namespace tulle::gpu::isolated {

namespace {

// A cache line: small payloads lie side by side, and the same few pages serve them again and again.
constexpr std::uint64_t kGranuleBytes = 64;
constexpr std::uint64_t kPageBytes = 4096;

}  // namespace

Result<Staging> Staging::Create(std::uint64_t size_bytes) {
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle staging", size_bytes));
  return Staging(std::move(memory), std::make_unique<RangeAllocator>(size_bytes, kGranuleBytes));
}

Staging::Staging(SharedMemory memory, std::unique_ptr<RangeAllocator> ranges)
    : memory_(std::move(memory)), ranges_(std::move(ranges)) {}

std::optional<StagingBlock> Staging::Allocate(std::uint64_t size_bytes) {
  const auto range = ranges_->Allocate(size_bytes);
  if (!range.has_value()) return std::nullopt;
  return StagingBlock(this, *range, size_bytes);
}

StagingBlock& StagingBlock::operator=(StagingBlock&& other) noexcept {
  if (this != &other) {
    Release();
    staging_ = std::exchange(other.staging_, nullptr);
    range_ = other.range_;
    size_bytes_ = std::exchange(other.size_bytes_, 0);
  }
  return *this;
}

MutableByteView StagingBlock::bytes() const {
  if (staging_ == nullptr) return {};
  return staging_->memory_.bytes().subspan(range_.offset_bytes, size_bytes_);
}

void StagingBlock::Shrink(std::uint64_t size_bytes) {
  TULLE_CHECK(size_bytes <= size_bytes_);
  size_bytes_ = size_bytes;
}

void StagingBlock::Release() {
  if (staging_ == nullptr) return;
  // A program's binary comes once; pieces of transfers come again, and keep their pages.
  if (range_.size_bytes > wire::kMaxPayloadBytes) {
    const std::uint64_t begin = (range_.offset_bytes + kPageBytes - 1) & ~(kPageBytes - 1);
    const std::uint64_t end = (range_.offset_bytes + range_.size_bytes) & ~(kPageBytes - 1);
    staging_->memory_.Scrub(begin, end - begin);
  }
  std::exchange(staging_, nullptr)->ranges_->Free(range_);
  size_bytes_ = 0;
}

}  // namespace tulle::gpu::isolated
