#include "tulle/shim/opencl/memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/event.h"
#include "tulle/shim/opencl/image.h"
#include "tulle/shim/opencl/shared_transfer.h"
#include "tulle/shim/opencl/transfer.h"
#include "tulle/wire/schema/opencl/memory.h"

namespace tulle::shim::opencl {
namespace {

bool AtMostOne(cl_mem_flags bits) { return (bits & (bits - 1)) == 0; }

// Sends the contents that the program gave at creation.
bool SendContents(Connection& connection, const Memory& memory, ByteView contents) {
  for (std::size_t offset = 0; offset < contents.size();) {
    const ByteView piece =
        contents.subspan(offset, std::min<std::size_t>(contents.size() - offset, wire::kMaxPayloadBytes));
    Attached attached;
    attached.payload = std::span(&piece, 1);
    if (!connection.Submit(wire::opencl::InitBuffer{memory.wire(), offset, {piece.size()}}, attached))
      return false;
    offset += piece.size();
  }
  return true;
}

// Creates what is a part of other memory on the device.
bool SendPart(const Memory& memory) {
  wire::opencl::CreateSubBuffer message;
  message.parent = memory.root().wire();
  message.buffer = {memory.wire().handle};
  message.flags.bits = memory.flags() & kDeviceAccess;
  message.offset_bytes = memory.root_origin();
  message.size_bytes = memory.size();
  return memory.context().connection().Submit(message);
}

bool IsAlignedPart(const Device& device, std::size_t origin) {
  const cl_uint align_bits = device.Info<cl_uint>(CL_DEVICE_MEM_BASE_ADDR_ALIGN);
  return align_bits < 8 || origin % (align_bits / 8) == 0;
}

// A buffer that shares the storage of shared virtual memory, as its host pointer demands.
cl_mem MakeBufferInSvm(const SvmPlace& svm, std::vector<cl_mem_properties> properties, cl_mem_flags flags,
                       std::size_t size, void* host_pointer, cl_int* error) {
  if (!svm.memory->Contains(svm.offset, size)) return Fail(error, CL_INVALID_BUFFER_SIZE);
  const wire::Handle name = svm.memory->context().connection().NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Memory> memory =
      Ref<Memory>::Adopt(new Memory(svm, name, flags, size, host_pointer, std::move(properties)));
  return SendPart(*memory) ? Made(error, std::move(memory)) : Fail(error, CL_OUT_OF_RESOURCES);
}

cl_mem MakeBuffer(cl_context context_handle, std::vector<cl_mem_properties> properties, cl_mem_flags flags,
                  std::size_t size, void* host_pointer, cl_int* error) {
  Context* context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  const bool exportable = (flags & CL_MEM_EXPORTABLE_TULLE) != 0;
  if (!ValidFlags(flags & ~CL_MEM_EXPORTABLE_TULLE) || (exportable && (flags & kHostPointer) != 0))
    return Fail(error, CL_INVALID_VALUE);
  if (exportable && !context->device().has_exports()) return Fail(error, CL_INVALID_OPERATION);
  if ((flags & kDeviceAccess) == 0) flags |= CL_MEM_READ_WRITE;
  if (size == 0 || size > context->device().limits().max_allocation_bytes)
    return Fail(error, CL_INVALID_BUFFER_SIZE);
  const bool wants_pointer = (flags & (CL_MEM_USE_HOST_PTR | CL_MEM_COPY_HOST_PTR)) != 0;
  if (wants_pointer != (host_pointer != nullptr)) return Fail(error, CL_INVALID_HOST_PTR);

  if ((flags & CL_MEM_USE_HOST_PTR) != 0) {
    if (const SvmPlace svm = TheProcess().svm.Find(host_pointer); svm && &svm.memory->context() == context)
      return MakeBufferInSvm(svm, std::move(properties), flags, size, host_pointer, error);
  }

  Connection& connection = context->connection();
  const std::uint64_t charged_bytes = wire::opencl::ChargedBytes(size);
  switch (connection.TakeMemory(charged_bytes)) {
    case Connection::Memory::kTaken: break;
    case Connection::Memory::kFull: return Fail(error, CL_MEM_OBJECT_ALLOCATION_FAILURE);
    case Connection::Memory::kLost: return Fail(error, CL_OUT_OF_RESOURCES);
  }
  const wire::Handle name = connection.NewHandle();
  if (name.null()) {
    connection.GiveMemory(charged_bytes);
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  Ref<Memory> memory = Ref<Memory>::Adopt(
      new Memory(*context, name, flags, size, (flags & CL_MEM_USE_HOST_PTR) != 0 ? host_pointer : nullptr,
                 std::move(properties)));
  wire::opencl::CreateBuffer message;
  message.context = context->wire();
  message.buffer = {name};
  message.flags.bits = flags & kDeviceAccess;
  message.size_bytes = size;
  if (exportable) {
    message.flags.bits |= static_cast<std::uint64_t>(wire::opencl::MemFlag::kExportable);
    const cl_int status = connection.CallForStatus(message, CL_OUT_OF_RESOURCES);
    return status == CL_SUCCESS ? Made(error, std::move(memory)) : Fail(error, status);
  }
  if (!connection.Submit(message) ||
      (wants_pointer &&
       !SendContents(connection, *memory, {static_cast<const std::byte*>(host_pointer), size}))) {
    return Fail(error, CL_OUT_OF_RESOURCES);
  }
  memory->AskForPlace();
  return Made(error, std::move(memory));
}

cl_int CheckTransfer(const Enqueue& enqueue, const Memory* memory, std::size_t offset, std::size_t size) {
  const cl_int status = CheckMemory(enqueue, memory);
  if (status != CL_SUCCESS) return status;
  return memory->Contains(offset, size) ? CL_SUCCESS : CL_INVALID_VALUE;
}

// Of a transfer of no bytes only its place in the queue is left.
cl_int MoveNothing(Enqueue& enqueue, cl_bool blocking = CL_FALSE) {
  if (blocking == CL_FALSE) return enqueue.SubmitNothing();
  if (enqueue.MakeEvent(true) == nullptr || !enqueue.PlaceNothing()) return CL_OUT_OF_RESOURCES;
  const Event& done = *enqueue.event();
  if (!enqueue.connection().AwaitUntil([&] { return done.final(); })) return CL_OUT_OF_RESOURCES;
  const cl_int status = EndBlocking(enqueue, done.sequence(), done.status());
  return status == CL_SUCCESS ? enqueue.Commit() : status;
}

bool Overlap(std::size_t a, std::size_t a_size, std::size_t b, std::size_t b_size) {
  return a < b + b_size && b < a + a_size;
}
// Of one object.
bool Overlap(const Memory::Mapping& a, const Memory::Mapping& b) {
  if (a.size != 0) return Overlap(a.offset, a.size, b.offset, b.size);
  for (std::size_t i = 0; i < a.origin.size(); ++i) {
    if (!Overlap(a.origin[i], a.region[i], b.origin[i], b.region[i])) return false;
  }
  return true;
}

std::size_t PageRound(std::size_t size) { return (size + 4095) & ~std::size_t{4095}; }

}  // namespace

Memory::Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, void* host_pointer,
               std::vector<cl_mem_properties> properties)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&context),
      name_(name),
      flags_(flags),
      size_(size),
      charged_bytes_(wire::opencl::ChargedBytes(size)),
      host_pointer_(host_pointer),
      properties_(std::move(properties)) {
  context_->AddArgument(this, name_);
}

Memory::Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, bool writable)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&context),
      name_(name),
      flags_(flags),
      size_(size),
      writable_(writable),
      host_pointer_(nullptr) {
  context_->AddArgument(this, name_);
}

Memory::Memory(Memory& parent, wire::Handle name, cl_mem_flags flags, std::size_t origin, std::size_t size)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&parent.context()),
      parent_(&parent),
      origin_(origin),
      name_(name),
      flags_(flags),
      size_(size),
      host_pointer_(parent.host_pointer_ == nullptr
                        ? nullptr
                        : static_cast<std::byte*>(parent.host_pointer_) + origin) {
  context_->AddArgument(this, name_);
}

Memory::Memory(const SvmPlace& svm, wire::Handle name, cl_mem_flags flags, std::size_t size,
               void* host_pointer, std::vector<cl_mem_properties> properties)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&svm.memory->context()),
      svm_(svm.memory),
      svm_origin_(svm.offset),
      name_(name),
      flags_(flags),
      size_(size),
      host_pointer_(host_pointer),
      properties_(std::move(properties)) {
  context_->AddArgument(this, name_);
}

Memory::Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::size_t size, std::byte* pages)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&context),
      name_(name),
      flags_(flags),
      size_(size),
      charged_bytes_(wire::opencl::ChargedBytes(size)),
      host_pointer_(nullptr),
      mirror_(pages) {
  context_->AddArgument(this, name_);
}

Memory::Memory(Context& context, wire::Handle name, cl_mem_flags flags, std::unique_ptr<const Image> image,
               std::size_t size, std::uint64_t charged_bytes, Memory* buffer, void* host_pointer,
               std::vector<cl_mem_properties> properties)
    : Object(&Dispatch(), ObjectType::kMemory),
      context_(&context),
      parent_(buffer),
      name_(name),
      flags_(flags),
      image_(std::move(image)),
      size_(size),
      charged_bytes_(charged_bytes),
      host_pointer_(buffer == nullptr ? host_pointer : buffer->host_pointer_),
      properties_(std::move(properties)) {
  context_->AddArgument(this, name_);
}

Memory::~Memory() {
  if (mirror_ != nullptr) munmap(mirror_, PageRound(size_));
}

// Ends a memory object that has destructor callbacks once no command uses it any more.
class Memory::Ending final : public Reply {
 public:
  explicit Ending(Memory* memory) : memory_(memory) {}

 private:
  Status OnReply(ByteView, ByteView) override {
    OnLost();
    return OkStatus();
  }
  void OnLost() override {
    memory_->context_->callbacks().Post(MakeTask([memory = memory_] { memory->End(); }));
    delete this;
  }
  Memory* const memory_;
};

void Memory::Dispose(Memory* memory) {
  memory->MarkDead();
  Context& context = *memory->context_;
  context.RemoveArgument(memory, memory->name_);
  const auto retire = [memory, &context](Reply* unused) {
    context.connection().Retire(wire::ObjectKind::kMemory, memory->name_, memory->charged_bytes_, unused);
  };
  if (memory->destructor_callbacks_.empty() || (!HandlingFrame() && context.idle())) {
    retire(nullptr);
    memory->End();
  } else if (HandlingFrame()) {
    context.callbacks().Post(MakeTask([memory, retire] { retire(new Ending(memory)); }));
  } else {
    retire(new Ending(memory));
  }
}

void Memory::End() {
  destructor_callbacks_.Run(ToHandle(this));
  delete this;
}

std::byte* Memory::Mirror() {
  if (host_pointer_ != nullptr) return static_cast<std::byte*>(host_pointer_);
  if (parent_) {
    std::byte* whole = parent_->Mirror();
    return whole == nullptr ? nullptr : whole + origin_;
  }
  const std::lock_guard lock(mutex_);
  if (mirror_ == nullptr) {
    void* pages = mmap(nullptr, PageRound(size_), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages != MAP_FAILED) mirror_ = static_cast<std::byte*>(pages);
  }
  return mirror_;
}

std::byte* Memory::Shared() {
  if (image() != nullptr) return nullptr;
  if (parent_) {
    std::byte* whole = parent_->Shared();
    return whole == nullptr ? nullptr : whole + origin_;
  }
  return place_ == nullptr ? nullptr : context().connection().Locate(*place_, size_);
}

bool Memory::TryAddMapping(const Mapping& mapping) {
  const std::lock_guard lock(mutex_);
  if (mapping.writes && std::any_of(mappings_.begin(), mappings_.end(), [&](const Mapping& other) {
        return other.writes && Overlap(mapping, other);
      })) {
    return false;
  }
  mappings_.push_back(mapping);
  return true;
}

void Memory::DropMapping(const Mapping& mapping) {
  const std::lock_guard lock(mutex_);
  mappings_.erase(std::find(mappings_.begin(), mappings_.end(), mapping));
}

void Memory::AddMapping(const Mapping& mapping) {
  const std::lock_guard lock(mutex_);
  mappings_.push_back(mapping);
}

bool Memory::TakeMapping(const void* address, Mapping* mapping) {
  const std::lock_guard lock(mutex_);
  auto found = mappings_.end();
  for (auto it = mappings_.begin(); it != mappings_.end(); ++it) {
    if (it->address == address && (found == mappings_.end() || (it->writes && !found->writes))) found = it;
  }
  if (found == mappings_.end()) return false;
  *mapping = *found;
  mappings_.erase(found);
  return true;
}

std::size_t Memory::mapping_count() {
  const std::lock_guard lock(mutex_);
  return mappings_.size();
}

Memory* BufferFromHandle(cl_mem handle) {
  Memory* memory = FromHandle<Memory>(handle);
  return memory == nullptr || memory->image() != nullptr ? nullptr : memory;
}

bool ValidFlags(cl_mem_flags flags) {
  if ((flags & ~(kDeviceAccess | kHostPointer | kHostAccess)) != 0) return false;
  if (!AtMostOne(flags & kDeviceAccess) || !AtMostOne(flags & kHostAccess)) return false;
  return (flags & CL_MEM_USE_HOST_PTR) == 0 || (flags & (CL_MEM_ALLOC_HOST_PTR | CL_MEM_COPY_HOST_PTR)) == 0;
}

bool InheritFlags(const Memory& parent, cl_mem_flags* flags) {
  const auto narrows = [&](cl_mem_flags mask) {
    const cl_mem_flags wanted = *flags & mask;
    const cl_mem_flags given = parent.flags() & mask & ~cl_mem_flags{CL_MEM_READ_WRITE};
    return wanted == 0 || given == 0 || wanted == given || wanted == CL_MEM_HOST_NO_ACCESS;
  };
  if ((*flags & kHostPointer) != 0 || !ValidFlags(*flags) || !narrows(kDeviceAccess) || !narrows(kHostAccess))
    return false;
  if ((*flags & kDeviceAccess) == 0) *flags |= parent.flags() & kDeviceAccess;
  if ((*flags & kHostAccess) == 0) *flags |= parent.flags() & kHostAccess;
  *flags |= parent.flags() & kHostPointer;
  return true;
}

cl_int CheckMap(const Memory& memory, cl_map_flags flags, bool* writes) {
  const bool reads = (flags & CL_MAP_READ) != 0;
  const bool invalidates = (flags & CL_MAP_WRITE_INVALIDATE_REGION) != 0;
  *writes = invalidates || (flags & CL_MAP_WRITE) != 0;
  if ((flags & ~(CL_MAP_READ | CL_MAP_WRITE | CL_MAP_WRITE_INVALIDATE_REGION)) != 0 ||
      (invalidates && (flags & (CL_MAP_READ | CL_MAP_WRITE)) != 0)) {
    return CL_INVALID_VALUE;
  }
  return (reads && !memory.HostMayRead()) || (*writes && !memory.HostMayWrite()) ? CL_INVALID_OPERATION
                                                                                 : CL_SUCCESS;
}

cl_mem CreateBuffer(cl_context context, cl_mem_flags flags, std::size_t size, void* host_pointer,
                    cl_int* error) {
  return MakeBuffer(context, {}, flags, size, host_pointer, error);
}

cl_mem CreateBufferWithProperties(cl_context context, const cl_mem_properties* properties, cl_mem_flags flags,
                                  std::size_t size, void* host_pointer, cl_int* error) {
  if (properties != nullptr && properties[0] != 0) return Fail(error, CL_INVALID_PROPERTY);
  std::vector<cl_mem_properties> copy;
  if (properties != nullptr) copy.push_back(0);
  return MakeBuffer(context, std::move(copy), flags, size, host_pointer, error);
}

cl_mem CreateSubBuffer(cl_mem handle, cl_mem_flags flags, cl_buffer_create_type type, const void* create_info,
                       cl_int* error) {
  Memory* parent = BufferFromHandle(handle);
  if (parent == nullptr || parent->parent() != nullptr) return Fail(error, CL_INVALID_MEM_OBJECT);
  if (!InheritFlags(*parent, &flags) || type != CL_BUFFER_CREATE_TYPE_REGION || create_info == nullptr)
    return Fail(error, CL_INVALID_VALUE);
  cl_buffer_region region;
  std::memcpy(&region, create_info, sizeof region);
  if (region.size == 0) return Fail(error, CL_INVALID_BUFFER_SIZE);
  if (!parent->Contains(region.origin, region.size)) return Fail(error, CL_INVALID_VALUE);
  if (!IsAlignedPart(parent->context().device(), region.origin))
    return Fail(error, CL_MISALIGNED_SUB_BUFFER_OFFSET);

  Connection& connection = parent->context().connection();
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Memory> memory = Ref<Memory>::Adopt(new Memory(*parent, name, flags, region.origin, region.size));
  return SendPart(*memory) ? Made(error, std::move(memory)) : Fail(error, CL_OUT_OF_RESOURCES);
}

cl_int RetainMemObject(cl_mem handle) { return RetainHandle<Memory>(handle); }
cl_int ReleaseMemObject(cl_mem handle) { return ReleaseHandle<Memory>(handle); }

cl_int SetMemObjectDestructorCallback(cl_mem handle, void(CL_CALLBACK* notify)(cl_mem, void*),
                                      void* user_data) {
  Memory* memory = FromHandle<Memory>(handle);
  if (memory == nullptr) return CL_INVALID_MEM_OBJECT;
  if (notify == nullptr) return CL_INVALID_VALUE;
  return memory->destructor_callbacks().Add(memory->context().callbacks(), notify, user_data)
             ? CL_SUCCESS
             : CL_OUT_OF_HOST_MEMORY;
}

cl_int GetMemObjectInfo(cl_mem handle, cl_mem_info name, std::size_t size, void* value,
                        std::size_t* size_ret) {
  Memory* memory = FromHandle<Memory>(handle);
  if (memory == nullptr) return CL_INVALID_MEM_OBJECT;
  const InfoOut out(size, value, size_ret);
  switch (name) {
    case CL_MEM_TYPE:
      return out.Value<cl_mem_object_type>(memory->image() == nullptr ? CL_MEM_OBJECT_BUFFER
                                                                      : memory->image()->object_type());
    case CL_MEM_FLAGS: return out.Value(memory->flags());
    case CL_MEM_SIZE: return out.Value<std::size_t>(memory->size());
    case CL_MEM_HOST_PTR: return out.Value<void*>(memory->host_pointer());
    case CL_MEM_MAP_COUNT: return out.Value<cl_uint>(static_cast<cl_uint>(memory->mapping_count()));
    case CL_MEM_REFERENCE_COUNT: return out.Value<cl_uint>(memory->handles());
    case CL_MEM_CONTEXT: return out.Value<cl_context>(ToHandle(&memory->context()));
    case CL_MEM_ASSOCIATED_MEMOBJECT:
      return out.Value<cl_mem>(memory->parent() == nullptr ? nullptr : ToHandle(memory->parent()));
    case CL_MEM_OFFSET: return out.Value<std::size_t>(memory->origin());
    case CL_MEM_USES_SVM_POINTER: {
      const Memory* buffer = memory->parent() != nullptr ? memory->parent() : memory;
      return out.Value<cl_bool>(buffer->svm() != nullptr ? CL_TRUE : CL_FALSE);
    }
    case CL_MEM_PROPERTIES: return out.Array(std::span(memory->properties()));
    default: return CL_INVALID_VALUE;
  }
}

cl_int EnqueueReadBuffer(cl_command_queue queue, cl_mem handle, cl_bool blocking, std::size_t offset,
                         std::size_t size, void* pointer, cl_uint num_waits, const cl_event* waits,
                         cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_READ_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Memory* memory = BufferFromHandle(handle);
  if (const cl_int status = CheckTransfer(enqueue, memory, offset, size); status != CL_SUCCESS) return status;
  if (pointer == nullptr) return CL_INVALID_VALUE;
  if (!memory->HostMayRead()) return CL_INVALID_OPERATION;
  if (size == 0) return MoveNothing(enqueue, blocking);
  if (event != nullptr && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  if (std::byte* const shared = SharedForCopy(enqueue, blocking, *memory, size); shared != nullptr) {
    return ReadShared(enqueue, *memory, offset, shared + offset, {static_cast<std::byte*>(pointer), size});
  }
  return EndRead(enqueue, blocking,
                 Download::Start(enqueue, *memory, offset, {static_cast<std::byte*>(pointer), size}, {}));
}

cl_int EnqueueWriteBuffer(cl_command_queue queue, cl_mem handle, cl_bool blocking, std::size_t offset,
                          std::size_t size, const void* pointer, cl_uint num_waits, const cl_event* waits,
                          cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_WRITE_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Memory* memory = BufferFromHandle(handle);
  if (const cl_int status = CheckTransfer(enqueue, memory, offset, size); status != CL_SUCCESS) return status;
  if (pointer == nullptr) return CL_INVALID_VALUE;
  if (!memory->HostMayWrite()) return CL_INVALID_OPERATION;
  if (size == 0) return MoveNothing(enqueue, blocking);
  if (!BeginWrite(enqueue, blocking)) return CL_OUT_OF_RESOURCES;
  const ByteView data(static_cast<const std::byte*>(pointer), size);
  std::byte* const shared = SharedForCopy(enqueue, blocking, *memory, size);
  const cl_int status = shared != nullptr ? WriteShared(enqueue, *memory, offset, shared + offset, data)
                                          : Upload(enqueue, *memory, offset, data);
  return status == CL_SUCCESS ? EndWrite(enqueue, blocking) : status;
}

cl_int EnqueueCopyBuffer(cl_command_queue queue, cl_mem source_handle, cl_mem destination_handle,
                         std::size_t source_offset, std::size_t destination_offset, std::size_t size,
                         cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_COPY_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* source = BufferFromHandle(source_handle);
  const Memory* destination = BufferFromHandle(destination_handle);
  if (const cl_int status = CheckTransfer(enqueue, source, source_offset, size); status != CL_SUCCESS)
    return status;
  if (const cl_int status = CheckTransfer(enqueue, destination, destination_offset, size);
      status != CL_SUCCESS) {
    return status;
  }
  if (!destination->writable()) return CL_INVALID_OPERATION;
  if (size == 0) return MoveNothing(enqueue);
  const std::size_t from = source->root_origin() + source_offset;
  const std::size_t to = destination->root_origin() + destination_offset;
  if (&source->root() == &destination->root() && Overlap(from, size, to, size)) return CL_MEM_COPY_OVERLAP;
  wire::opencl::EnqueueCopy message;
  message.source = source->wire();
  message.destination = destination->wire();
  message.source_offset_bytes = source_offset;
  message.destination_offset_bytes = destination_offset;
  message.size_bytes = size;
  return enqueue.Submit(message);
}

cl_int EnqueueFillBuffer(cl_command_queue queue, cl_mem handle, const void* pattern, std::size_t pattern_size,
                         std::size_t offset, std::size_t size, cl_uint num_waits, const cl_event* waits,
                         cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_FILL_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* memory = BufferFromHandle(handle);
  if (const cl_int status = CheckTransfer(enqueue, memory, offset, size); status != CL_SUCCESS) return status;
  if (pattern == nullptr || pattern_size == 0 || pattern_size > wire::kMaxFillPatternBytes ||
      (pattern_size & (pattern_size - 1)) != 0 || offset % pattern_size != 0 || size % pattern_size != 0) {
    return CL_INVALID_VALUE;
  }
  if (!memory->writable()) return CL_INVALID_OPERATION;
  if (size == 0) return MoveNothing(enqueue);
  wire::opencl::EnqueueFill message;
  message.memory = memory->wire();
  message.offset_bytes = offset;
  message.size_bytes = size;
  message.pattern = {{static_cast<const std::byte*>(pattern), pattern_size}};
  return enqueue.Submit(message);
}

void* EnqueueMapBuffer(cl_command_queue queue, cl_mem handle, cl_bool blocking, cl_map_flags flags,
                       std::size_t offset, std::size_t size, cl_uint num_waits, const cl_event* waits,
                       cl_event* event, cl_int* error) {
  Enqueue enqueue(queue, CL_COMMAND_MAP_BUFFER, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return Fail(error, enqueue.status());
  Memory* memory = BufferFromHandle(handle);
  if (const cl_int status = CheckTransfer(enqueue, memory, offset, size); status != CL_SUCCESS)
    return Fail(error, status);
  if (size == 0) return Fail(error, CL_INVALID_VALUE);
  Memory::Mapping mapping;
  if (const cl_int status = CheckMap(*memory, flags, &mapping.writes); status != CL_SUCCESS)
    return Fail(error, status);
  // The program's own memory, where it gave some, is what it wants to see.
  std::byte* whole = memory->host_pointer() == nullptr ? memory->Shared() : nullptr;
  mapping.shared = whole != nullptr;
  if (whole == nullptr) whole = memory->Mirror();
  if (whole == nullptr) return Fail(error, CL_MAP_FAILURE);
  mapping.address = whole + offset;
  mapping.offset = offset;
  mapping.size = size;
  if (!memory->TryAddMapping(mapping)) return Fail(error, CL_INVALID_OPERATION);
  const cl_int status =
      mapping.shared
          ? BeginShared(enqueue, blocking, flags, *memory, mapping)
          : FetchMapping(enqueue, blocking, flags, [&] {
              return Download::Start(enqueue, *memory, offset, {mapping.address, size}, Ref<Memory>(memory));
            });
  if (status != CL_SUCCESS) {
    memory->DropMapping(mapping);
    return Fail(error, status);
  }
  if (error != nullptr) *error = CL_SUCCESS;
  enqueue.Commit();
  return mapping.address;
}

cl_int EnqueueUnmapMemObject(cl_command_queue queue, cl_mem handle, void* address, cl_uint num_waits,
                             const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_UNMAP_MEM_OBJECT, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Memory* memory = FromHandle<Memory>(handle);
  if (const cl_int status = CheckMemory(enqueue, memory); status != CL_SUCCESS) return status;
  Memory::Mapping mapping;
  if (!memory->TakeMapping(address, &mapping)) return CL_INVALID_VALUE;
  return EndMapping(enqueue, *memory, mapping);
}

// A hint: there is one device, and everything is there already. Only its place in the queue is left.
cl_int EnqueueMigrateMemObjects(cl_command_queue queue, cl_uint num_objects, const cl_mem* objects,
                                cl_mem_migration_flags flags, cl_uint num_waits, const cl_event* waits,
                                cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_MIGRATE_MEM_OBJECTS, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  if (num_objects == 0 || objects == nullptr ||
      (flags & ~(CL_MIGRATE_MEM_OBJECT_HOST | CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED)) != 0) {
    return CL_INVALID_VALUE;
  }
  for (cl_uint i = 0; i < num_objects; ++i) {
    const cl_int status = CheckMemory(enqueue, FromHandle<Memory>(objects[i]));
    if (status != CL_SUCCESS) return status;
  }
  return enqueue.SubmitNothing();
}

}  // namespace tulle::shim::opencl
