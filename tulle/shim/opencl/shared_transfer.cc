#include "tulle/shim/opencl/shared_transfer.h"

#include <cstring>

#include "tulle/shim/opencl/transfer.h"

namespace tulle::shim::opencl {
namespace {

// From this size on a copy costs more than the messages around it.
constexpr std::size_t kLeastCopyBytes = 64u << 10;

wire::opencl::EnqueueMap MapOf(const Memory& memory, std::size_t offset, std::size_t size,
                               cl_map_flags flags) {
  wire::opencl::EnqueueMap message;
  message.memory = memory.wire();
  message.offset_bytes = offset;
  message.size_bytes = size;
  message.access.bits = flags == 0 ? CL_MAP_READ : flags;
  return message;
}

wire::opencl::EnqueueUnmap UnmapOf(const Memory& memory, std::size_t offset, std::size_t size) {
  wire::opencl::EnqueueUnmap message;
  message.memory = memory.wire();
  message.offset_bytes = offset;
  message.size_bytes = size;
  return message;
}

// `copy` runs on this thread when the command's turn has come. `sequence`: of a command whose end was seen.
template <typename Copy>
cl_int CopyInTurn(Enqueue& enqueue, const Memory& memory, std::size_t offset, std::size_t size,
                  cl_map_flags flags, std::uint64_t* sequence, const Copy& copy) {
  auto map = MapOf(memory, offset, size, flags);
  auto unmap = UnmapOf(memory, offset, size);
  return enqueue.DoHere(map, unmap, sequence, copy);
}

}  // namespace

cl_int BeginShared(Enqueue& enqueue, cl_bool blocking, cl_map_flags flags, Memory& memory,
                   const Memory::Mapping& mapping) {
  Event* const event = enqueue.MakeEvent(true);
  if (event == nullptr) return CL_OUT_OF_RESOURCES;
  const Ref<Event> done(event);
  auto message = MapOf(memory, mapping.offset, mapping.size, flags);
  if (blocking != CL_FALSE) {
    if (!enqueue.SubmitPiece(message, true)) return CL_OUT_OF_RESOURCES;
    if (!enqueue.connection().AwaitUntil([&] { return done->final(); })) return CL_OUT_OF_RESOURCES;
    return EndBlocking(enqueue, done->sequence(), done->status());
  }
  // Until then the bytes are not what the program will see, should it name them in a write.
  Context& context = memory.context();
  if (!context.callbacks().Start().ok()) return CL_OUT_OF_HOST_MEMORY;
  const HostBox box{mapping.address, {mapping.size, 1, 1}};
  context.incoming().Add(box);
  if (!enqueue.SubmitPiece(message, true)) {
    context.incoming().Remove(box);
    return CL_OUT_OF_RESOURCES;
  }
  done->Observe(context.callbacks(), MakeTask([box, done, keep = Ref<Memory>(&memory)] {
                  keep->context().incoming().Remove(box);
                }));
  return CL_SUCCESS;
}

cl_int EndShared(Enqueue& enqueue, Memory& memory, const Memory::Mapping& mapping) {
  auto message = UnmapOf(memory, mapping.offset, mapping.size);
  return enqueue.Submit(message);
}

std::byte* SharedForCopy(const Enqueue& enqueue, cl_bool blocking, Memory& memory, std::size_t size) {
  if (blocking == CL_FALSE || size < kLeastCopyBytes) return nullptr;
  // The times of an event shall be the transfer's, as the device has them.
  const bool profiles = (enqueue.queue().flags() & CL_QUEUE_PROFILING_ENABLE) != 0;
  return profiles && enqueue.wants_event() ? nullptr : memory.Shared();
}

cl_int ReadShared(Enqueue& enqueue, Memory& memory, std::size_t offset, const std::byte* shared,
                  MutableByteView target) {
  std::uint64_t sequence = 0;
  const cl_int status = CopyInTurn(enqueue, memory, offset, target.size(), CL_MAP_READ, &sequence,
                                   [&] { std::memmove(target.data(), shared, target.size()); });
  if (const cl_int end = EndBlocking(enqueue, sequence, status); end != CL_SUCCESS) return end;
  return enqueue.Commit();
}

cl_int WriteShared(Enqueue& enqueue, Memory& memory, std::size_t offset, std::byte* shared, ByteView data) {
  // What is still to come into the program's memory comes on the connection.
  const HostBox box{const_cast<std::byte*>(data.data()), {data.size(), 1, 1}};
  if (memory.context().incoming().Touches(box)) return Upload(enqueue, memory, offset, data);
  std::uint64_t sequence = 0;
  return CopyInTurn(enqueue, memory, offset, data.size(), CL_MAP_WRITE_INVALIDATE_REGION, &sequence,
                    [&] { std::memmove(shared, data.data(), data.size()); });
}

}  // namespace tulle::shim::opencl
