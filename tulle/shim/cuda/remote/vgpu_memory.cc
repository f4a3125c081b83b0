#include "tulle/shim/cuda/remote/vgpu_memory.h"

#include <sys/mman.h>

#include <utility>

#include "tulle/base/log.h"

namespace tulle::shim::cuda {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

// Deletes itself.
struct VgpuMemory::Freed final : Reply {
  std::shared_ptr<Passed> passed;
  std::uint64_t address = 0;

  Status OnReply(ByteView, ByteView) override {
    OnLost();
    return OkStatus();
  }
  void OnLost() override {
    const std::unique_ptr<Freed> self(this);
    {
      const std::lock_guard lock(passed->mutex);
      passed->addresses.push_back(address);
    }
    passed->any = true;
    --passed->awaited;
  }
};

VgpuMemory::~VgpuMemory() {
  for (const std::uint64_t page : kept_clear_) munmap(At(page), kPage);
}

CUresult VgpuMemory::Allocate(std::uint64_t bytes, CUdeviceptr* address) {
  const std::lock_guard lock(mutex_);
  for (;;) {
    FreePassedLocked();
    const auto got = map_.Allocate(bytes);
    auto taken = Connection::Memory::kFull;
    if (got.has_value()) {
      taken = got->fresh.bytes == 0 ? Connection::Memory::kTaken : connection_.TakeMemory(got->fresh.bytes);
      if (taken == Connection::Memory::kTaken) {
        *address = got->address;
        if (got->fresh.bytes == 0) return CUDA_SUCCESS;
        const wire::Handle handle = connection_.NewHandle();
        if (!handle.null()) {
          blocks_.emplace(got->fresh.address, Block{handle});
          const wire::cuda::AllocateMemory message{{handle}, got->fresh.address, got->fresh.bytes};
          return connection_.Submit(message) ? CUDA_SUCCESS : CUDA_ERROR_DEVICE_UNAVAILABLE;
        }
        connection_.GiveMemory(got->fresh.bytes);
        taken = Connection::Memory::kFull;
      }
      (void)map_.Free(got->address);
    }
    if (taken == Connection::Memory::kLost) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    // What streams have still to get past may be enough.
    if (passed_->awaited == 0 && !passed_->any) return CUDA_ERROR_OUT_OF_MEMORY;
    connection_.Flush();
    if (!connection_.AwaitUntil([this] { return passed_->any.load(); })) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  }
}

CUresult VgpuMemory::AllocateBlock(std::uint64_t bytes, bool charged, const Create& create,
                                   CUdeviceptr* address) {
  const std::lock_guard lock(mutex_);
  FreePassedLocked();
  if (bytes > ~std::uint64_t{0} - granule_bytes_) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto got = map_.Allocate((bytes + granule_bytes_ - 1) / granule_bytes_ * granule_bytes_);
  if (!got.has_value()) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto undo = [&](CUresult result) {
    (void)map_.Free(got->address);
    return result;
  };
  if (charged) {
    switch (connection_.TakeMemory(got->fresh.bytes)) {
      case Connection::Memory::kTaken: break;
      case Connection::Memory::kFull: return undo(CUDA_ERROR_OUT_OF_MEMORY);
      case Connection::Memory::kLost: return undo(CUDA_ERROR_DEVICE_UNAVAILABLE);
    }
  }
  const wire::Handle handle = connection_.NewHandle();
  if (handle.null()) {
    if (charged) connection_.GiveMemory(got->fresh.bytes);
    return undo(CUDA_ERROR_OUT_OF_MEMORY);
  }
  if (const CUresult result = create(handle, got->address, got->fresh.bytes); result != CUDA_SUCCESS) {
    connection_.Retire(wire::ObjectKind::kMemory, handle, charged ? got->fresh.bytes : 0);
    return undo(result);
  }
  blocks_.emplace(got->fresh.address, Block{handle, charged});
  *address = got->address;
  return CUDA_SUCCESS;
}

wire::Handle VgpuMemory::BlockAt(CUdeviceptr address) {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(address);
  return block == blocks_.end() ? wire::Handle() : block->second.handle;
}

void VgpuMemory::Free(CUdeviceptr address) {
  const std::lock_guard lock(mutex_);
  FreeLocked(address);
}

void VgpuMemory::FreeLocked(std::uint64_t address) {
  const AddressMap::Block empty = map_.Free(address);
  if (empty.bytes == 0) return;
  const auto block = blocks_.find(empty.address);
  if (block == blocks_.end()) return;
  connection_.Retire(wire::ObjectKind::kMemory, block->second.handle,
                     block->second.charged ? empty.bytes : 0);
  blocks_.erase(block);
}

void VgpuMemory::FreePassed() {
  if (!passed_->any) return;
  const std::lock_guard lock(mutex_);
  FreePassedLocked();
}

void VgpuMemory::FreePassedLocked() {
  if (!passed_->any.exchange(false)) return;
  std::vector<std::uint64_t> addresses;
  {
    const std::lock_guard lock(passed_->mutex);
    addresses.swap(passed_->addresses);
  }
  for (const std::uint64_t address : addresses) FreeLocked(address);
}

void VgpuMemory::FreeAfter(wire::Handle stream, CUdeviceptr address) {
  auto freed = std::make_unique<Freed>();
  freed->passed = passed_;
  freed->address = address;
  Attached attached;
  attached.reply = freed.get();
  attached.queue = stream;
  ++passed_->awaited;
  if (connection_.Submit(wire::cuda::SynchronizeStream{{stream}}, attached)) {
    freed.release();  // NOLINT: it deletes itself when it is answered
    connection_.Flush();
  } else {
    --passed_->awaited;
  }
}

CUresult VgpuMemory::KeepClear(std::uint64_t address, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  for (std::uint64_t page = address / kPage * kPage; page < address + bytes; page += kPage) {
    if (kept_clear_.contains(page)) continue;
    void* const there = mmap(At(page), kPage, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (there != At(page)) {
      if (there != MAP_FAILED) munmap(there, kPage);
      Log(LogLevel::kError, "cuda", "the vGPU has a variable where this process has something of its own",
          {{"address", page}, {"bytes", bytes}});
      return CUDA_ERROR_ALREADY_MAPPED;
    }
    kept_clear_.insert(page);
  }
  return CUDA_SUCCESS;
}

}  // namespace tulle::shim::cuda
