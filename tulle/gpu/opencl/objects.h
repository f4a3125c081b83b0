// What the backend keeps for each handle of a session: native objects, and what is known of them. Owned by
// the backend's object table, used by its one thread.
#pragma once

#include <sys/mman.h>

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tulle/gpu/api/image_checks.h"
#include "tulle/gpu/api/mappings.h"
#include "tulle/gpu/opencl/program.h"
#include "tulle/gpu/opencl/reporter.h"

namespace tulle::gpu::opencl {

using wire::Handle;
using wire::ObjectKind;

inline constexpr cl_mem_flags kDeviceAccess = CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_READ_ONLY;

// A context of the program. On a device with its own memory it also has a queue of ours, which fills fresh
// buffers; other queues wait for it once after each such command.
struct NativeContext {
  std::vector<OwnedDevice>
      kept;  // a context of PoCL (3.1) does not keep its parts of devices alive, nor do queues
  OwnedContext context;
  std::vector<cl_device_id> devices;
  OwnedQueue service;
  OwnedEvent settled;               // the last command on `service`
  std::uint64_t settled_count = 0;  // commands so far
  // One for each combination of properties that was asked for: drivers (PoCL 3.1) read a sampler when the
  // kernel runs, which may be after the program's was released.
  std::map<std::array<std::uint32_t, 3>, OwnedSampler> samplers;
  OwnedMemory placeholder;  // of commands that need some buffer, and leave it alone
};

struct Object {
  virtual ~Object() = default;
};

struct SubDevice final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kDevice;
  OwnedDevice native;
};

struct Context final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kContext;
  std::shared_ptr<NativeContext> native = std::make_shared<NativeContext>();
};

// Lives from the creation of a buffer or image until the driver has deleted it, which is when no command uses
// it.
struct BufferMemory {
  std::shared_ptr<Reporter> reporter;
  void* mapping = nullptr;  // ours; null: lent with the command, or the device's
  std::size_t mapping_bytes = 0;
  OwnedMemory parent;                  // what the driver does not know that it lies in
  std::uint64_t destroy_sequence = 0;  // the DestroyObject to answer; 0: none

  ~BufferMemory() {
    if (mapping != nullptr) ::munmap(mapping, mapping_bytes);
    if (destroy_sequence != 0) reporter->MemoryFreed(destroy_sequence);
  }
  static void CL_CALLBACK OnDeleted(cl_mem, void* memory) { delete static_cast<BufferMemory*>(memory); }
};

// A buffer, or an image: then the size and flags of the buffer's shape say nothing.
struct Buffer final : Object, BufferShape {
  static constexpr ObjectKind kKind = ObjectKind::kMemory;
  std::shared_ptr<NativeContext> context;
  std::optional<ImageShape> image;
  OwnedMemory native;
  OwnedMemory parent;              // of a sub-buffer, or an image in a buffer
  BufferMemory* memory = nullptr;  // valid as long as `native` is ours; null: an image in a buffer
  MutableByteView bytes;           // the contents, where this process can reach them
  bool in_place = false;           // which is in the memory that was given for it
  Mappings mappings;

  cl_mem root_native() const { return parent ? parent.get() : native.get(); }
};

inline const ImageShape* ShapeOf(const Buffer* image) { return image == nullptr ? nullptr : &*image->image; }

// The buffer that the pixels of a 1D buffer image are, or null. Its transfers are transfers of that: PoCL
// (3.1) crashes filling such an image and copying from it to a buffer, and copies it to no image.
inline cl_mem LinearBuffer(const Buffer& image) {
  return image.image->type == wire::opencl::ImageType::k1DBuffer ? image.parent.get() : nullptr;
}
// Where in it a region begins.
inline std::uint64_t LinearOffset(const Buffer& image, const wire::Vec3& origin) {
  return origin[0] * image.image->pixel_bytes;
}

struct Sampler final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kSampler;
  std::shared_ptr<NativeContext> context;
  cl_sampler native = nullptr;  // the context's
};

struct Program final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kProgram;
  std::shared_ptr<NativeContext> context;
  LoadedProgram loaded;
};

struct Kernel final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kKernel;
  struct Arg {
    Handle memory;  // null: no buffer or image
    Handle sampler;
    std::uint64_t local_bytes = 0;
  };
  std::shared_ptr<NativeContext> context;
  OwnedKernel native;
  std::shared_ptr<const KernelDescription> description;
  std::vector<Arg> args;
  std::uint64_t local_bytes = 0;  // of all local arguments
};

// A box as the driver takes it.
struct NativeRect {
  std::size_t origin[3] = {};
  std::size_t row_pitch;
  std::size_t slice_pitch;

  // By column, row and slice: drivers look at them to tell whether the boxes of a copy overlap. Precondition:
  // the rect has a span.
  explicit NativeRect(const wire::opencl::Rect& rect)
      : origin{rect.offset_bytes % rect.row_pitch_bytes,
               rect.offset_bytes % rect.slice_pitch_bytes / rect.row_pitch_bytes,
               rect.offset_bytes / rect.slice_pitch_bytes},
        row_pitch(rect.row_pitch_bytes),
        slice_pitch(rect.slice_pitch_bytes) {}
  // Packed, as it travels.
  explicit NativeRect(const wire::Vec3& region) : row_pitch(region[0]), slice_pitch(region[0] * region[1]) {}
};

// The pieces of one transfer that have come so far.
struct Pieces {
  Transfer* transfer = nullptr;
  Tracked* last = nullptr;  // a reference of ours; null: none was started
  std::int32_t failed = 0;  // a piece could not be started: the rest is not, either
};

struct Queue final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kQueue;
  std::shared_ptr<NativeContext> context;
  OwnedQueue native;
  bool in_order = true;
  bool profiles = false;
  bool dirty = false;                         // something was enqueued since the last clFlush
  bool untracked = false;                     // something untracked was enqueued since the last Finish
  OwnedEvent last;                            // in-order: the last command, if it is untracked
  std::uint64_t settled_count = 0;            // what of the context's service queue it has waited for
  std::map<std::uint64_t, Pieces> transfers;  // by their number; at most kMaxOpenTransfers
  QueueProgress progress;
};

struct Event final : Object {
  static constexpr ObjectKind kKind = ObjectKind::kEvent;
  Tracked* tracked = nullptr;  // its command
  OwnedEvent user;             // or the user event
  bool is_set = false;         // of a user event
  std::int32_t failed = 0;     // a user event set to an error, or no native event at all

  Event() = default;
  ~Event() override {
    if (tracked != nullptr) tracked->Unref();
  }
  bool has_failed() const { return failed != 0 || (tracked != nullptr && tracked->status() < 0); }
  cl_event native() const { return tracked != nullptr ? tracked->native.get() : user.get(); }
};

}  // namespace tulle::gpu::opencl
