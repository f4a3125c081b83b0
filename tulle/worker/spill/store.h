// Where a vGPU's memory is that its programs have not used for long: in this process as far as that may be,
// then in a file, which has no name and is sealed (AES-256-GCM) with a key that only this process has ever
// had. So what is in the file is nobody's once the process has ended, and what was changed in it is noticed.
//
// Blocks of memory are saved and loaded once each. The oldest are moved to the file.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/base/guarded.h"
#include "tulle/base/random.h"
#include "tulle/base/range_allocator.h"
#include "tulle/base/result.h"
#include "tulle/base/secret.h"
#include "tulle/base/unique_fd.h"

namespace tulle::worker::spill {

// No block is larger. Large enough that a file is written in long runs, small enough that nobody waits for
// one.
inline constexpr std::uint64_t kBlockBytes = 1u << 20;

// Thread-safe; the blocks of one owner are used by one thread at a time. Must outlive its blocks.
class Store {
 private:
  struct Entry;

 public:
  // Memory that was saved; it is forgotten with the block.
  class Block {
   public:
    Block() = default;
    Block(Block&& other) noexcept = default;
    Block& operator=(Block&& other) noexcept;
    ~Block() { Forget(); }
    bool is_zero() const { return entry_ == nullptr; }

   private:
    friend class Store;
    void Forget();
    std::shared_ptr<Entry> entry_;  // none: all zero
    std::uint64_t size_bytes_ = 0;
  };

  // `memory_bytes` in this process; `file_bytes` in the file, if it is one. The random numbers make the key.
  Store(std::uint64_t memory_bytes, UniqueFd file, std::uint64_t file_bytes, Random& random);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // To be filled and saved: of so many bytes, at most kBlockBytes, whatever they are.
  ByteVector Buffer(std::uint64_t size_bytes);
  // One that is not needed any more, as it was taken: there are soon others to save.
  void Recycle(ByteVector bytes);

  // At most kBlockBytes. kResourceExhausted: there is no room. Other errors: the file could not be written.
  // Then the bytes are gone.
  Result<Block> Save(ByteVector bytes);
  // What was saved. kDataLoss: the file is not what was written.
  Result<ByteVector> Take(Block block);

  std::uint64_t memory_bytes() const { return memory_used_bytes_; }  // in use, in this process
  std::uint64_t file_bytes() const { return file_used_bytes_; }      // likewise, in the file

 private:
  struct State {
    explicit State(std::uint64_t file_bytes) : file(file_bytes, kGranuleBytes) {}
    std::list<std::shared_ptr<Entry>> in_memory;  // the oldest first
    RangeAllocator file;
    std::vector<ByteVector> buffers;  // of kBlockBytes each, at most kSpareBuffers
  };
  static constexpr std::uint64_t kGranuleBytes = 4096;
  static constexpr std::size_t kSpareBuffers = 16;  // what is moved at a time, out and in
  // The oldest of them to the file; false: none is in memory.
  Result<bool> MoveOldest();
  // From memory to the file. The entry is the caller's alone, or locked.
  Status Write(Entry& entry);
  void Forget(const std::shared_ptr<Entry>& entry);
  void FreePieces(Entry& entry);

  const std::uint64_t memory_limit_bytes_;
  const UniqueFd file_;
  const Secret key_;
  std::atomic<std::uint64_t> nonces_{0};
  std::atomic<std::uint64_t> memory_used_bytes_{0}, file_used_bytes_{0};
  Guarded<State> state_;
};

}  // namespace tulle::worker::spill
