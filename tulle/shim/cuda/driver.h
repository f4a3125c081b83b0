// What the entry points of CUDA's driver API share: the process's devices and objects, which contexts are
// current in a thread, and which stream a call is about.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "tulle/base/result.h"
#include "tulle/cuda/device.h"
#include "tulle/cuda/driver_api.h"
#include "tulle/shim/cuda/handles.h"

namespace tulle::shim::cuda {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

// The devices of this process. Defined by the library that the entry points become; called once, by cuInit.
// None is no error.
Result<std::vector<std::unique_ptr<Device>>> OpenDevices();

struct Context {
  Device* device = nullptr;
  CUdevice ordinal = 0;
  ContextId id{};
  unsigned long long number = 0;  // never given twice
  std::atomic<unsigned> flags{0};
  bool primary = false;
  CUcontext handle = nullptr;
  std::atomic<bool> destroyed{false};

  // The calling thread's own default stream.
  CUresult ThreadStream(StreamId* stream);
  // Two of our own for copies that other streams wait for: one that does them and stands aside, one that
  // waits for what the program has been told is done.
  CUresult TransferStreams(StreamId* aside, StreamId* behind);

  std::mutex mutex;
  std::map<std::thread::id, StreamId> thread_streams;  // guarded by mutex, as all that follows
  StreamId aside{}, behind{};                          // of TransferStreams; 0: there are none yet
  CUfunc_cache cache_config = CU_FUNC_CACHE_PREFER_NONE;
  std::map<int, std::size_t> limits;
};

struct StreamObject {
  std::shared_ptr<Context> context;
  StreamId id{};
  unsigned flags = 0;
  int priority = 0;
  tulle::cuda::Stream stream() const { return {context->id, id}; }
};

struct EventObject {
  std::shared_ptr<Context> context;
  EventId id{};
  unsigned flags = 0;
};

struct ModuleObject;
struct FunctionObject {
  std::shared_ptr<Context> context;
  std::weak_ptr<ModuleObject> module;
  FunctionId id{};
  std::string name;
  FunctionInfo info;
  std::atomic<int> max_dynamic_shared{0};
};
struct ModuleObject {
  std::shared_ptr<Context> context;
  ModuleId id{};
  CUmodule handle = nullptr;
  std::mutex mutex;
  std::map<std::string, CUfunction> functions;  // guarded by mutex
};

struct LibraryObject {
  ByteVector image;
  std::mutex mutex;
  std::map<unsigned long long, CUmodule> modules;  // by context's number; guarded by mutex
  std::map<std::string, CUkernel> kernels;         // likewise
};
struct KernelObject {
  std::weak_ptr<LibraryObject> library;
  std::string name;
};

struct LinkObject {
  std::vector<CUjit_option> options;  // and their values, which are the program's
  void** values = nullptr;
  std::mutex mutex;
  ByteVector image;  // guarded by mutex; empty: nothing has been added
};

// Says where memory came from; the device has it all the same.
struct PoolObject {
  CUdevice ordinal = 0;
  bool is_default = false;
  std::mutex mutex;
  std::map<CUdeviceptr, std::uint64_t> allocations;  // and their sizes; guarded by mutex, as all that follows
  std::uint64_t used = 0, used_high = 0;
  std::map<int, std::uint64_t> settings;
};

// Memory of the host that the program has from us, or has registered.
class HostMemory {
 public:
  struct Range {
    std::uintptr_t begin = 0;
    std::size_t bytes = 0;
    unsigned flags = 0;
    bool registered = false;  // the program's own
  };
  // False: a part of it is there already.
  bool Add(const Range& range);
  // What begins there; null: nothing does.
  std::unique_ptr<Range> Remove(const void* begin);
  bool Find(std::uintptr_t address, Range* range) const;
  bool Contains(std::uintptr_t address, std::size_t bytes) const {
    Range range;
    return Find(address, &range) && bytes <= range.begin + range.bytes - address;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::map<std::uintptr_t, Range> ranges_;
};

struct Driver {
  std::vector<std::unique_ptr<Device>> devices;
  Handles<CUcontext, Context, HandleKind::kContext> contexts;
  Handles<CUmodule, ModuleObject, HandleKind::kModule> modules;
  Handles<CUfunction, FunctionObject, HandleKind::kFunction> functions;
  Handles<CUlibrary, LibraryObject, HandleKind::kLibrary> libraries;
  Handles<CUkernel, KernelObject, HandleKind::kKernel> kernels;
  Handles<CUstream, StreamObject, HandleKind::kStream> streams;
  Handles<CUevent, EventObject, HandleKind::kEvent> events;
  Handles<CUmemoryPool, PoolObject, HandleKind::kPool> pools;
  Handles<CUlinkState, LinkObject, HandleKind::kLink> links;
  HostMemory host_memory;

  // By device: the pool that cuMemAllocAsync takes from, and the one that it is unless another is set.
  std::mutex pools_mutex;
  std::vector<CUmemoryPool> default_pools, current_pools;  // guarded by pools_mutex
  void TakenFrom(PoolObject& pool, CUdeviceptr address, std::uint64_t bytes);
  void GivenBack(CUdeviceptr address);  // to whichever pool it came from, if any

  struct Primary {
    unsigned users = 0;
    unsigned flags = 0;
    CUcontext handle = nullptr;
  };
  std::mutex primaries_mutex;
  std::vector<Primary> primaries;  // by device; guarded by primaries_mutex

  CUresult CreateContext(CUdevice device, unsigned flags, bool primary, CUcontext* context);
  CUresult DestroyContext(CUcontext context);
};

// The bytes of an image (PTX, a fatbin or its wrapper, a cubin), of which the API passes just the address. It
// may be unaligned, and tells its size itself: nothing else bounds what is read. Empty: it is none.
ByteView ImageAt(const void* image);

// Null before cuInit. Lives as long as the process.
Driver* TheDriver();
// In the child of a fork, where nothing of it works: as if cuInit had not been called.
void ForgetDriver();

// The devices' own; CUDA_ERROR_NOT_INITIALIZED, CUDA_ERROR_INVALID_DEVICE.
CUresult FindDevice(CUdevice ordinal, Device** device);

// The context that is current in this thread.
CUresult CurrentContext(std::shared_ptr<Context>* context);
// The contexts that the thread has made current, the last one last.
std::vector<CUcontext>& ContextStack();

// The stream that a handle means: of the current context for the default streams, else of its own.
struct StreamChoice {
  std::shared_ptr<Context> context;
  tulle::cuda::Stream stream;
  Device& device() const { return *context->device; }
};
CUresult ChooseStream(CUstream handle, StreamChoice* choice);

// While it lives, stream 0 of this thread's calls is the thread's own.
class PerThreadDefault {
 public:
  PerThreadDefault();
  ~PerThreadDefault();

 private:
  const bool before_;
};

// Of a function, or of a kernel in the current context, which may be used as one.
CUresult FindFunction(CUfunction handle, std::shared_ptr<FunctionObject>* function);

// Says that a function is there in name only.
CUresult NotSupported(const char* function);

}  // namespace tulle::shim::cuda
