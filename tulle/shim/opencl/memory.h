// Memory objects: buffers and images. The contents live on the vGPU; what the program may touch directly is a
// mirror in its own memory, brought up to date by a map and written back by the unmap, or, for buffers of a
// vGPU on this host, the contents themselves.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "tulle/shim/opencl/context.h"
#include "tulle/shim/opencl/svm_space.h"

namespace tulle::shim::opencl {

struct Image;

inline constexpr cl_mem_flags kDeviceAccess = CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_READ_ONLY;
inline constexpr cl_mem_flags kHostPointer =
    CL_MEM_USE_HOST_PTR | CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR;
// What the program's own calls may do, which is checked here. The device is not told, since a map reads
// there what the program may only write.
inline constexpr cl_mem_flags kHostAccess =
    CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS;

class Memory final : public Object {
 public:
  // Its bytes of the lease go back when the buffer dies.
  Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, void* host_pointer,
         std::vector<cl_mem_properties> properties);
  // Memory of others, of which the lease knows nothing; `writable`: it may be written to.
  Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, bool writable);
  // A sub-buffer, which has no memory of its own.
  Memory(Memory& parent, wire::Handle name, cl_mem_flags flags, std::size_t origin, std::size_t size);
  // A buffer on a part of shared virtual memory.
  Memory(const SvmPlace& svm, wire::Handle name, cl_mem_flags flags, std::size_t size, void* host_pointer,
         std::vector<cl_mem_properties> properties);
  // Shared virtual memory at `pages`, which are its mirror, and its own to unmap.
  Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, std::byte* pages);
  // An image of `size` bytes with its pitches, which charges the lease as it says; `buffer`: what its pixels
  // lie in, null if in memory of its own.
  Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::unique_ptr<const Image> image,
         std::size_t size, std::uint64_t charged_bytes, Memory* buffer, void* host_pointer,
         std::vector<cl_mem_properties> properties);
  static void Dispose(Memory* memory);

  Context& context() const { return *context_; }
  wire::Ref<wire::ObjectKind::kMemory> wire() const { return {name_}; }
  cl_mem_flags flags() const { return flags_; }
  std::size_t size() const { return size_; }
  const Image* image() const { return image_.get(); }  // null: a buffer
  // What the program gave with CL_MEM_USE_HOST_PTR, else null.
  void* host_pointer() const { return host_pointer_; }
  const std::vector<cl_mem_properties>& properties() const { return properties_; }
  // Of a sub-buffer, and of an image in a buffer; else null.
  Memory* parent() const { return parent_.get(); }
  std::size_t origin() const { return origin_; }  // in its parent
  // The shared virtual memory that a buffer was put on by its host pointer; else null.
  Memory* svm() const { return svm_.get(); }
  // What the bytes belong to in the end, and where in that this one begins.
  const Memory& root() const { return parent_ ? parent_->root() : svm_ ? *svm_ : *this; }
  std::size_t root_origin() const { return parent_ ? origin_ + parent_->root_origin() : svm_origin_; }
  DestructorCallbacks<cl_mem>& destructor_callbacks() { return destructor_callbacks_; }

  bool Contains(std::size_t offset, std::size_t size) const {
    return offset <= size_ && size <= size_ - offset;
  }
  // By anyone here; else it is memory of others that can only be read.
  bool writable() const { return root().writable_; }
  bool HostMayRead() const { return (flags_ & (CL_MEM_HOST_WRITE_ONLY | CL_MEM_HOST_NO_ACCESS)) == 0; }
  bool HostMayWrite() const {
    return (flags_ & (CL_MEM_HOST_READ_ONLY | CL_MEM_HOST_NO_ACCESS)) == 0 && writable();
  }

  // The mirror of the whole object (a part of its parent's, if it has one); null when there is no address
  // space for it. The same for the object's life; pages that no map touched cost nothing.
  std::byte* Mirror();

  // Where the bytes of a buffer lie on the vGPU, if this process can reach them there; else null. May wait
  // for the worker the first time. They may be touched only between a map and an unmap that the device knows
  // of.
  std::byte* Shared();
  // Asks for that, and does not wait. Once, after the worker was told of the buffer.
  void AskForPlace() { place_ = context().connection().AskForPlace(wire()); }

  struct Mapping {
    std::byte* address = nullptr;
    std::size_t offset = 0;
    std::size_t size = 0;
    bool writes = false;
    bool shared = false;            // of the bytes on the vGPU, not of a mirror
    wire::Vec3 origin{}, region{};  // of an image, which has no offset and size
    bool operator==(const Mapping&) const = default;
  };
  // Adds one, unless both it and one that it overlaps are for writing: then returns false. Whoever cannot
  // finish the map drops it again.
  bool TryAddMapping(const Mapping& mapping);
  void DropMapping(const Mapping& mapping);
  void AddMapping(const Mapping& mapping);
  // Ends one mapping at this address: one that writes, if there is one. False: there is none.
  bool TakeMapping(const void* address, Mapping* mapping);
  std::size_t mapping_count();

 private:
  class Ending;
  ~Memory();
  void End();

  const Ref<Context> context_;
  const Ref<Memory> parent_;
  const std::size_t origin_ = 0;
  const Ref<Memory> svm_;
  const std::size_t svm_origin_ = 0;
  const wire::Handle name_;
  const cl_mem_flags flags_;
  const std::unique_ptr<const Image> image_;
  const std::size_t size_;
  const std::uint64_t charged_bytes_ = 0;
  const bool writable_ = true;
  void* const host_pointer_;
  const std::vector<cl_mem_properties> properties_;
  DestructorCallbacks<cl_mem> destructor_callbacks_;
  // Fixed before the program has the object. Null but of a plain buffer: what lies in shared virtual memory,
  // or is an image, is reached otherwise.
  std::shared_ptr<Connection::Place> place_;
  std::mutex mutex_;
  std::byte* mirror_ = nullptr;    // guarded by mutex_
  std::vector<Mapping> mappings_;  // guarded by mutex_; one for each map call not yet ended
};
TULLE_API_OBJECT(Memory, cl_mem, ObjectType::kMemory, CL_INVALID_MEM_OBJECT);

// Null also for an image.
Memory* BufferFromHandle(cl_mem handle);

// The flags of a creation, but for what they mean to its host pointer.
bool ValidFlags(cl_mem_flags flags);
// Fills in what an object that lies in `parent` does not say itself. False: it would widen what that allows,
// or speaks of a host pointer, which is its parent's.
bool InheritFlags(const Memory& parent, cl_mem_flags* flags);
// Of a map; says whether it writes.
cl_int CheckMap(const Memory& memory, cl_map_flags flags, bool* writes);

}  // namespace tulle::shim::opencl
