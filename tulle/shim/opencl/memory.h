// Buffers. The contents live on the vGPU; what the program may touch directly is a mirror in its own memory,
// brought up to date by a map and written back by the unmap.
#pragma once

#include <mutex>
#include <vector>

#include "tulle/shim/opencl/context.h"

namespace tulle::shim::opencl {

class Memory final : public Object {
 public:
  // Its bytes of the lease go back when the buffer dies.
  Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, void* host_pointer,
         std::vector<cl_mem_properties> properties);
  // A sub-buffer, which has no memory of its own.
  Memory(Memory& parent, wire::Handle name, cl_mem_flags flags, std::size_t origin, std::size_t size);
  static void Dispose(Memory* memory);

  Context& context() const { return *context_; }
  wire::Ref<wire::ObjectKind::kMemory> wire() const { return {name_}; }
  cl_mem_flags flags() const { return flags_; }
  std::size_t size() const { return size_; }
  // What the program gave with CL_MEM_USE_HOST_PTR, else null.
  void* host_pointer() const { return host_pointer_; }
  const std::vector<cl_mem_properties>& properties() const { return properties_; }
  // Of a sub-buffer; else null.
  Memory* parent() const { return parent_.get(); }
  // The buffer that the memory belongs to, and where in that this one begins.
  const Memory& root() const { return parent_ ? *parent_ : *this; }
  std::size_t origin() const { return origin_; }
  DestructorCallbacks<cl_mem>& destructor_callbacks() { return destructor_callbacks_; }

  bool Contains(std::size_t offset, std::size_t size) const {
    return offset <= size_ && size <= size_ - offset;
  }
  bool HostMayRead() const { return (flags_ & (CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_NO_ACCESS)) == 0; }
  bool HostMayWrite() const { return (flags_ & (CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS)) == 0; }

  // The mirror of the whole buffer (a part of its parent's for a sub-buffer); null when there is no address
  // space for it. The same for the buffer's life; pages that no map touched cost nothing.
  std::byte* Mirror();

  struct Mapping {
    std::byte* address = nullptr;
    std::size_t offset = 0;
    std::size_t size = 0;
    bool writes = false;
  };
  void AddMapping(const Mapping& mapping);
  // Ends one mapping at this address: one that writes, if there is one. False: there is none.
  bool TakeMapping(const void* address, Mapping* mapping);
  std::size_t mapping_count();

 private:
  ~Memory();

  const Ref<Context> context_;
  const Ref<Memory> parent_;
  const std::size_t origin_ = 0;
  const wire::Handle name_;
  const cl_mem_flags flags_;
  const std::size_t size_;
  void* const host_pointer_;
  const std::vector<cl_mem_properties> properties_;
  DestructorCallbacks<cl_mem> destructor_callbacks_;
  std::mutex mutex_;
  std::byte* mirror_ = nullptr;    // guarded by mutex_
  std::vector<Mapping> mappings_;  // guarded by mutex_; one for each map call not yet ended
};
TULLE_API_OBJECT(Memory, cl_mem, ObjectType::kMemory, CL_INVALID_MEM_OBJECT);

}  // namespace tulle::shim::opencl
