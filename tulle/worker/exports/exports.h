// Memory that the programs of a vGPU lend to others, and that they have of others. Who may have what is the
// node's to say; how much of the vGPU's memory it is, is counted here.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "tulle/base/result.h"
#include "tulle/base/shared_memory.h"
#include "tulle/base/unique_fd.h"
#include "tulle/worker/quota/memory.h"

namespace tulle::worker::exports {

// Memory of its own, which can be lent. Whoever has it mapped, its pages are gone with this object.
class ExportableMemory {
 public:
  // CUDA maps no less.
  static constexpr std::uint64_t kGranuleBytes = 2u << 20;

  // Reads as zero; whole granules. `quota` must outlive it; `count` is of those that there are.
  static Result<std::shared_ptr<ExportableMemory>> Create(std::uint64_t size_bytes, quota::MemoryQuota* quota,
                                                          std::shared_ptr<std::atomic<std::uint32_t>> count);
  ~ExportableMemory();
  ExportableMemory(const ExportableMemory&) = delete;
  ExportableMemory& operator=(const ExportableMemory&) = delete;

  std::uint64_t size_bytes() const { return size_bytes_; }  // as asked for
  std::uint64_t mapped_bytes() const { return memory_.size_bytes(); }
  int fd() const { return memory_.fd(); }
  int read_only_fd() const { return read_only_.get(); }

  // From here on it counts as the vGPU's itself, as no session has it any more. False: there is no room.
  bool CountAlone(std::uint64_t charged_bytes);

 private:
  ExportableMemory(SharedMemory memory, UniqueFd read_only, std::uint64_t size_bytes,
                   quota::MemoryQuota* quota, std::shared_ptr<std::atomic<std::uint32_t>> count)
      : memory_(std::move(memory)),
        read_only_(std::move(read_only)),
        size_bytes_(size_bytes),
        quota_(*quota),
        count_(std::move(count)) {}

  SharedMemory memory_;
  const UniqueFd read_only_;
  const std::uint64_t size_bytes_;
  quota::MemoryQuota& quota_;
  const std::shared_ptr<std::atomic<std::uint32_t>> count_;
  std::uint64_t charged_bytes_ = 0;
};

// Of others.
struct Opened {
  UniqueFd fd;  // read-only if not `writable`
  std::uint64_t size_bytes = 0;
  bool writable = false;
};

// Thread-safe. What asks the node waits for its answer, for seconds at most.
class Exports {
 public:
  // A session that has memory of others.
  class Holder {
   public:
    // It must let go of it, which takes its end. Any thread; not from within a call of Exports.
    virtual void OnWithdrawn(const std::string& token) = 0;

   protected:
    ~Holder() = default;
  };
  virtual ~Exports() = default;

  // Of this vGPU's, at most wire::kMaxExports at once (kResourceExhausted), as each has descriptors.
  Result<std::shared_ptr<ExportableMemory>> NewMemory(std::uint64_t size_bytes, quota::MemoryQuota* quota) {
    return ExportableMemory::Create(size_bytes, quota, count_);
  }

  // The token by which vGPUs of `tenant` (empty: this one's) on this node can open it. kResourceExhausted: it
  // has lent too much; kUnavailable.
  virtual Result<std::string> Export(std::shared_ptr<ExportableMemory> memory, bool writable,
                                     const std::string& tenant) = 0;
  // Its owner has it no more; it counted `charged_bytes`. It stays as long as another has it, and the vGPU
  // has room for it: else it is withdrawn.
  virtual void Release(const std::string& token, std::uint64_t charged_bytes) = 0;
  // Returns when no other has it. kUnavailable: some may have it still.
  virtual Status Withdraw(const std::string& token) = 0;

  // kNotFound: there is none that this vGPU may have. `holder` has it until Close, which comes when nothing
  // of it can reach the memory any more.
  virtual Result<Opened> Open(const std::string& token, Holder* holder) = 0;
  virtual void Close(const std::string& token, Holder* holder) = 0;

 private:
  const std::shared_ptr<std::atomic<std::uint32_t>> count_ = std::make_shared<std::atomic<std::uint32_t>>(0);
};

}  // namespace tulle::worker::exports
