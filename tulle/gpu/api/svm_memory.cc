#include "tulle/gpu/api/svm_memory.h"

#include <sys/mman.h>

#include "tulle/wire/schema/opencl/svm.h"

namespace tulle::gpu {

bool CanMapSvm() {
  if (!wire::opencl::kSvmMayBe) return false;
  void* page = MapSvm(wire::opencl::kSvmBase, wire::opencl::kMemoryGranuleBytes, {});
  if (page != nullptr) ::munmap(page, wire::opencl::kMemoryGranuleBytes);
  return page != nullptr;
}

void* MapSvm(std::uint64_t address, std::uint64_t size_bytes, MutableByteView memory) {
  if (!wire::opencl::IsSvmRange(address, size_bytes)) return nullptr;
  void* const wanted = reinterpret_cast<void*>(address);
  void* mapped = ::mmap(wanted, size_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (mapped != wanted) {  // before Linux 4.17 it is a hint
    ::munmap(mapped, size_bytes);
    return nullptr;
  }
  if (memory.empty()) return mapped;
  // An old size of 0 makes another mapping of the same pages, over the one that has kept the place.
  if (::mremap(memory.data(), 0, size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, wanted) == wanted) return wanted;
  ::munmap(mapped, size_bytes);
  return nullptr;
}

}  // namespace tulle::gpu
