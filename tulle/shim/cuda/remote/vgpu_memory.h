// A vGPU's memory as a program allocates it: the addresses are this process's to give, the memory comes from
// the worker in blocks, without waiting for it as long as the lease has them.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "tulle/cuda/types.h"
#include "tulle/shim/core/connection.h"
#include "tulle/shim/cuda/remote/address_map.h"

namespace tulle::shim::cuda {

inline std::byte* At(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

// Thread-safe.
class VgpuMemory {
 public:
  // In `bytes` addresses from `address` on, which this process keeps free. `connection` must outlive it.
  VgpuMemory(Connection* connection, std::uint64_t address, std::uint64_t bytes, std::uint64_t granule_bytes)
      : connection_(*connection), granule_bytes_(granule_bytes), map_(address, bytes, granule_bytes) {}
  ~VgpuMemory();

  // CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_DEVICE_UNAVAILABLE. Waits for what is to be freed where else there
  // is not enough. Precondition: bytes != 0.
  tulle::cuda::CUresult Allocate(std::uint64_t bytes, tulle::cuda::CUdeviceptr* address);
  // In a block of its own, which `create(handle, address, bytes)` has the vGPU make: what that returns
  // counts. `charged`: it is of the lease.
  using Create = std::function<tulle::cuda::CUresult(wire::Handle, std::uint64_t, std::uint64_t)>;
  tulle::cuda::CUresult AllocateBlock(std::uint64_t bytes, bool charged, const Create& create,
                                      tulle::cuda::CUdeviceptr* address);
  // What the vGPU has it as; null: no block begins there.
  wire::Handle BlockAt(tulle::cuda::CUdeviceptr address);
  // Precondition: Allocate gave it, and nothing that is under way uses it.
  void Free(tulle::cuda::CUdeviceptr address);
  // The same as soon as the stream has done what it has to do now.
  void FreeAfter(wire::Handle stream, tulle::cuda::CUdeviceptr address);
  // Gives back what streams have got past; costs nothing where there is none.
  void FreePassed();

  // Addresses that the vGPU has chosen (of a module's variable): from here on nothing else of this process is
  // there. CUDA_ERROR_ALREADY_MAPPED: something is.
  tulle::cuda::CUresult KeepClear(std::uint64_t address, std::uint64_t bytes);

 private:
  // What streams have got past, told by whoever reads the connection, which must not wait.
  struct Passed {
    std::mutex mutex;
    std::vector<std::uint64_t> addresses;  // guarded by mutex
    std::atomic<std::size_t> awaited{0};
    std::atomic<bool> any{false};
  };
  struct Freed;

  void FreePassedLocked();
  void FreeLocked(std::uint64_t address);

  Connection& connection_;
  const std::uint64_t granule_bytes_;
  const std::shared_ptr<Passed> passed_ = std::make_shared<Passed>();
  std::mutex mutex_;  // held while the worker is asked for memory: who finds room in a block comes after it
  AddressMap map_;    // guarded by mutex_, as all that follows
  struct Block {
    wire::Handle handle;
    bool charged = true;
  };
  std::unordered_map<std::uint64_t, Block> blocks_;  // by address
  std::set<std::uint64_t> kept_clear_;               // pages
};

}  // namespace tulle::shim::cuda
