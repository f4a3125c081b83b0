#include "tulle/worker/exports/exports.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "tulle/wire/limits.h"

namespace tulle::worker::exports {

Result<std::shared_ptr<ExportableMemory>> ExportableMemory::Create(
    std::uint64_t size_bytes, quota::MemoryQuota* quota, std::shared_ptr<std::atomic<std::uint32_t>> count) {
  // Counted from here on, by what gives it back.
  struct Counted {
    std::shared_ptr<std::atomic<std::uint32_t>> count;
    ~Counted() {
      if (count != nullptr) --*count;
    }
  } counted{count};
  if (++*count > wire::kMaxExports) {
    return Error{.code = Code::kResourceExhausted,
                 .message = "the vGPU has " + std::to_string(wire::kMaxExports) +
                            " pieces of memory that can be lent, as many as it may"};
  }
  const std::uint64_t granules = (size_bytes + kGranuleBytes - 1) / kGranuleBytes;
  TULLE_ASSIGN_OR_RETURN(auto memory, SharedMemory::Create("tulle export", granules * kGranuleBytes));
  const std::string path = "/proc/self/fd/" + std::to_string(memory.fd());
  UniqueFd read_only(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  // Whoever has one of the descriptors cannot make another kind of it, by opening the file again.
  if (!read_only.valid() || fchmod(memory.fd(), 0) != 0) return ErrnoError("memory to be lent", errno);
  counted.count.reset();  // the memory's to give back
  return std::shared_ptr<ExportableMemory>(
      new ExportableMemory(std::move(memory), std::move(read_only), size_bytes, quota, std::move(count)));
}

ExportableMemory::~ExportableMemory() {
  memory_.Scrub(0, memory_.size_bytes());
  quota_.Return(charged_bytes_);
  --*count_;
}

bool ExportableMemory::CountAlone(std::uint64_t charged_bytes) {
  if (charged_bytes_ != 0) return true;
  if (!quota_.TryTake(charged_bytes)) return false;
  charged_bytes_ = charged_bytes;
  return true;
}

}  // namespace tulle::worker::exports
