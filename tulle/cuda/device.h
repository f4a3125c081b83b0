// What is beneath the entry points of CUDA's driver API: one device with contexts, memory, modules and
// streams, named by numbers. The entry points keep what a program can ask for without the device (current
// contexts, handles, attributes, kinds of pointers) and check arguments; a Device does the rest, in this
// process or in a worker of the mesh.
//
// All methods are thread-safe. They return CUDA's own results: what they did, or the error that the context
// has had before, which stays with it (CUDA_ERROR_ILLEGAL_ADDRESS, ...). Ids come from this device and are
// live, unless said otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tulle/base/bytes.h"
#include "tulle/cuda/types.h"

namespace tulle::cuda {

enum class ContextId : std::uint64_t {};
enum class StreamId : std::uint64_t {};
enum class EventId : std::uint64_t {};
enum class ModuleId : std::uint64_t {};
enum class FunctionId : std::uint64_t {};
enum class MemoryId : std::uint64_t {};

// The legacy default stream of each context, which waits for all its blocking streams and which all of them
// wait for.
inline constexpr StreamId kLegacyStream{0};

struct Stream {
  ContextId context{};
  StreamId id = kLegacyStream;
};

// Of a stream's flags, beside CUDA's own: it waits for nothing that others do, not even for copies that the
// program has been told are done; and nobody waits for its copies but who synchronizes it. For work that
// others wait for.
inline constexpr unsigned kStreamStandsAside = 1u << 31;

struct DeviceProperties {
  std::string name;
  CUuuid uuid{};
  std::uint64_t memory_bytes = 0;
  std::uint64_t granule_bytes = 0;  // of memory apart from its addresses; 0: it cannot be had so
  std::array<int, CU_DEVICE_ATTRIBUTE_MAX> attributes{};  // by CUdevice_attribute; 0: not there
  int attribute(CUdevice_attribute which) const { return attributes[static_cast<std::size_t>(which)]; }
};

struct FunctionInfo {
  struct Parameter {
    std::uint32_t offset = 0, bytes = 0;
  };
  std::vector<Parameter> parameters;
  std::uint32_t parameter_bytes = 0;
  std::uint32_t max_threads = 0;  // of a block
  std::uint32_t shared_bytes = 0, constant_bytes = 0, local_bytes = 0, registers = 0;
  std::uint32_t ptx_version = 0, binary_version = 0;  // 7.0: 70
};

struct Dimensions {
  std::uint32_t x = 1, y = 1, z = 1;
  std::uint64_t all() const { return std::uint64_t{x} * y * z; }
};

struct LaunchShape {
  Dimensions grid, block;
  std::uint32_t shared_bytes = 0;  // dynamic
  bool cooperative = false;        // all blocks are there at once: no more than the device has room for
};

// Rows of bytes, from one place to another.
struct CopyShape {
  struct Place {
    std::uint64_t address = 0;
    bool on_host = false;
    std::uint64_t pitch = 0;  // bytes from a row to the next
    std::uint64_t slice = 0;  // bytes from a plane to the next
  };
  Place to, from;
  std::uint64_t width = 0;  // bytes of a row
  std::uint64_t height = 1, depth = 1;
  std::uint64_t bytes() const { return width * height * depth; }
  // From the first to the last byte of a place; false: more than there are addresses. Of no bytes it is
  // nothing.
  bool ExtentOf(const Place& place, std::uint64_t* extent) const {
    return RowsExtent(width, height, place.pitch, depth, place.slice, extent);
  }

  static bool RowsExtent(std::uint64_t width, std::uint64_t height, std::uint64_t pitch, std::uint64_t depth,
                         std::uint64_t slice, std::uint64_t* extent) {
    *extent = 0;
    if (width == 0 || height == 0 || depth == 0) return true;
    std::uint64_t rows = 0, planes = 0;
    return !__builtin_mul_overflow(height - 1, pitch, &rows) &&
           !__builtin_mul_overflow(depth - 1, slice, &planes) &&
           !__builtin_add_overflow(rows, planes, extent) && !__builtin_add_overflow(*extent, width, extent);
  }
};

enum class CopyMode {
  kBlocking,  // returns when it is done
  kStaged,    // memory of the host is read before it returns, and is written before it returns
  kAsync      // memory of the host stays until the stream is past it: it is used when the stream gets there
};

struct FillShape {
  std::uint64_t address = 0;
  std::uint32_t value = 0, element_bytes = 1;  // 1, 2 or 4
  std::uint64_t width = 0;                     // elements of a row
  std::uint64_t height = 1, pitch = 0;         // bytes from a row to the next
  bool Extent(std::uint64_t* extent) const {   // as of CopyShape
    std::uint64_t row = 0;
    return !__builtin_mul_overflow(width, std::uint64_t{element_bytes}, &row) &&
           CopyShape::RowsExtent(row, height, pitch, 1, 0, extent);
  }
};

class Device {
 public:
  virtual ~Device() = default;

  // As long as the device.
  virtual const DeviceProperties& properties() const = 0;

  virtual CUresult CreateContext(ContextId* context) = 0;
  // Waits for what it still does, then frees everything in it.
  virtual CUresult DestroyContext(ContextId context) = 0;
  virtual CUresult SynchronizeContext(ContextId context) = 0;

  // --- memory; addresses are the device's, and the same in all of its contexts
  virtual CUresult GetMemoryInfo(ContextId context, std::uint64_t* free_bytes,
                                 std::uint64_t* total_bytes) = 0;
  virtual CUresult Allocate(ContextId context, std::uint64_t bytes, CUdeviceptr* address) = 0;
  // Waits for all that the context does. CUDA_ERROR_INVALID_VALUE: no allocation of this context begins
  // there.
  virtual CUresult Free(ContextId context, CUdeviceptr address) = 0;
  // Once the stream has got there.
  virtual CUresult FreeAsync(const Stream& stream, CUdeviceptr address) = 0;
  // The allocation, variable of a module, or mapped memory (of no context: 0) that an address is in. False:
  // none.
  virtual bool FindMemory(CUdeviceptr address, ContextId* context, CUdeviceptr* base,
                          std::uint64_t* bytes) = 0;

  // --- memory apart from its addresses, in multiples of the granule, where the device has one
  // At `wanted` if those are free, else elsewhere.
  virtual CUresult ReserveAddresses(std::uint64_t /*bytes*/, CUdeviceptr /*wanted*/,
                                    CUdeviceptr* /*address*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  // As they were reserved, with nothing mapped there. Waits for all that the device does.
  virtual CUresult FreeAddresses(CUdeviceptr /*address*/, std::uint64_t /*bytes*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  // `shareable`: it can be exported.
  virtual CUresult CreateMemory(std::uint64_t /*bytes*/, bool /*shareable*/, MemoryId* /*memory*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  // Between processes, as a descriptor, which is the caller's.
  virtual CUresult ExportMemory(MemoryId /*memory*/, int* /*fd*/) { return CUDA_ERROR_NOT_SUPPORTED; }
  virtual CUresult ImportMemory(int /*fd*/, MemoryId* /*memory*/) { return CUDA_ERROR_NOT_SUPPORTED; }
  // It goes once it is mapped nowhere.
  virtual CUresult ReleaseMemory(MemoryId /*memory*/) { return CUDA_ERROR_NOT_SUPPORTED; }
  // All of it, at addresses that are reserved and free. Nobody may use it before access is set.
  virtual CUresult MapMemory(CUdeviceptr /*address*/, std::uint64_t /*bytes*/, MemoryId /*memory*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  virtual CUresult UnmapMemory(CUdeviceptr /*address*/, std::uint64_t /*bytes*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  virtual CUresult SetAccess(CUdeviceptr /*address*/, std::uint64_t /*bytes*/, CUmemAccess_flags /*access*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }

  // --- memory that other programs have, too (cuda_ext_tulle.h): allocations, freed as such
  virtual CUresult AllocateExportable(ContextId /*context*/, std::uint64_t /*bytes*/,
                                      CUdeviceptr* /*address*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  virtual CUresult ExportAllocation(ContextId /*context*/, CUdeviceptr /*address*/, bool /*writable*/,
                                    const std::string& /*tenant*/, std::string* /*token*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  virtual CUresult ImportAllocation(ContextId /*context*/, const std::string& /*token*/,
                                    CUdeviceptr* /*address*/, std::uint64_t* /*bytes*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  virtual CUresult RevokeExport(ContextId /*context*/, const std::string& /*token*/) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }

  // --- modules
  // PTX as text, or a fatbin or cubin as it is. On an error `log` says what is wrong.
  virtual CUresult LoadModule(ContextId context, ByteView image, ModuleId* module, std::string* log) = 0;
  virtual CUresult UnloadModule(ContextId context, ModuleId module) = 0;
  // Functions live as long as their module. CUDA_ERROR_NOT_FOUND: it has none of this name; likewise of
  // variables.
  virtual CUresult FindFunction(ContextId context, ModuleId module, const std::string& name,
                                FunctionId* function, FunctionInfo* info) = 0;
  virtual CUresult FindVariable(ContextId context, ModuleId module, const std::string& name,
                                CUdeviceptr* address, std::uint64_t* bytes) = 0;

  // --- streams
  virtual CUresult CreateStream(ContextId context, unsigned flags, int priority, StreamId* stream) = 0;
  // What it still has to do is done.
  virtual CUresult DestroyStream(const Stream& stream) = 0;
  virtual CUresult SynchronizeStream(const Stream& stream) = 0;
  // CUDA_ERROR_NOT_READY while it has something to do.
  virtual CUresult QueryStream(const Stream& stream) = 0;

  // --- what streams do, in order
  // Precondition: the shape is possible on the device, and there are info.parameter_bytes of parameters.
  virtual CUresult Launch(const Stream& stream, FunctionId function, const LaunchShape& shape,
                          ByteView parameters) = 0;
  // CUDA_ERROR_INVALID_VALUE where a part of the device's memory is not allocated. Shapes have extents, and
  // rows and planes that do not overlap.
  virtual CUresult Copy(const Stream& stream, const CopyShape& shape, CopyMode mode) = 0;
  virtual CUresult Fill(const Stream& stream, const FillShape& shape) = 0;
  // Calls it once, in a thread that belongs to no caller; the stream goes on when it has returned. `result`:
  // the context's error then.
  virtual CUresult CallHost(const Stream& stream, void (*function)(void* argument, CUresult result),
                            void* argument) = 0;

  // --- events; one that was never recorded is complete
  virtual CUresult CreateEvent(ContextId context, unsigned flags, EventId* event) = 0;
  virtual CUresult DestroyEvent(ContextId context, EventId event) = 0;
  virtual CUresult RecordEvent(const Stream& stream, EventId event) = 0;
  virtual CUresult WaitForEvent(const Stream& stream, EventId event) = 0;  // of any context of this device
  virtual CUresult QueryEvent(ContextId context, EventId event) = 0;
  virtual CUresult SynchronizeEvent(ContextId context, EventId event) = 0;
  // CUDA_ERROR_INVALID_HANDLE: one was never recorded; CUDA_ERROR_NOT_READY: one is not complete.
  virtual CUresult GetElapsedTime(ContextId context, EventId start, EventId end, float* milliseconds) = 0;
};

}  // namespace tulle::cuda

#define TULLE_CUDA_RETURN_IF_ERROR(call)                                                                  \
  do {                                                                                                    \
    if (const ::tulle::cuda::CUresult tulle_result = (call); tulle_result != ::tulle::cuda::CUDA_SUCCESS) \
      return tulle_result;                                                                                \
  } while (false)
