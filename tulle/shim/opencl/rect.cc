// Rectangular transfers of buffers.
#include "tulle/wire/schema/opencl/rect.h"

#include "tulle/shim/opencl/entry_points.h"
#include "tulle/shim/opencl/transfer.h"

namespace tulle::shim::opencl {
namespace {

using wire::opencl::Rect;

// The box that OpenCL describes by origin, region and pitches (0: as tight as can be), in 64 bits. False when
// there is no such box, or its offset goes beyond them.
bool MakeRect(const std::size_t* origin, const wire::Vec3& region, std::size_t row_pitch,
              std::size_t slice_pitch, Rect* rect) {
  rect->row_pitch_bytes = row_pitch == 0 ? region[0] : row_pitch;
  rect->slice_pitch_bytes = slice_pitch;
  std::size_t row = 0;
  std::size_t slice = 0;
  if (slice_pitch == 0 &&
      __builtin_mul_overflow(region[1], rect->row_pitch_bytes, &rect->slice_pitch_bytes)) {
    return false;
  }
  return !__builtin_mul_overflow(origin[1], rect->row_pitch_bytes, &row) &&
         !__builtin_mul_overflow(origin[2], rect->slice_pitch_bytes, &slice) &&
         !__builtin_add_overflow(origin[0], row, &rect->offset_bytes) &&
         !__builtin_add_overflow(rect->offset_bytes, slice, &rect->offset_bytes) &&
         wire::opencl::SpanOf(*rect, region).has_value();
}

bool Contains(const Memory& memory, const Rect& rect, const wire::Vec3& region) {
  return memory.Contains(rect.offset_bytes, *wire::opencl::SpanOf(rect, region));
}

// A read or write with its arguments checked.
struct Transfer {
  Memory* memory = nullptr;
  Rect rect;
  HostBox host;
  std::vector<BoxPiece> pieces;

  // The start of a piece, in the buffer or in the program's memory.
  static std::size_t Offset(const wire::Vec3& at, std::size_t row_pitch, std::size_t slice_pitch) {
    return at[0] + at[1] * row_pitch + at[2] * slice_pitch;
  }
  template <typename M>
  void operator()(std::size_t i, M* message, HostBox* box) const {
    const auto& [origin, region] = pieces[i];
    message->memory = memory->wire();
    message->rect = rect;
    message->rect.offset_bytes += Offset(origin, rect.row_pitch_bytes, rect.slice_pitch_bytes);
    message->region = region;
    *box = {host.bytes + Offset(origin, host.row_pitch, host.slice_pitch), region, host.row_pitch,
            host.slice_pitch};
  }
};

cl_int MakeTransfer(const Enqueue& enqueue, cl_mem handle, const std::size_t* buffer_origin,
                    const std::size_t* host_origin, const std::size_t* region, std::size_t row_pitch,
                    std::size_t slice_pitch, std::size_t host_row_pitch, std::size_t host_slice_pitch,
                    const void* pointer, Transfer* transfer) {
  transfer->memory = BufferFromHandle(handle);
  if (const cl_int status = CheckMemory(enqueue, transfer->memory); status != CL_SUCCESS) return status;
  if (buffer_origin == nullptr || host_origin == nullptr || region == nullptr || pointer == nullptr)
    return CL_INVALID_VALUE;
  const wire::Vec3 extents = {region[0], region[1], region[2]};
  Rect host;
  if (!MakeRect(buffer_origin, extents, row_pitch, slice_pitch, &transfer->rect) ||
      !Contains(*transfer->memory, transfer->rect, extents) ||
      !MakeRect(host_origin, extents, host_row_pitch, host_slice_pitch, &host)) {
    return CL_INVALID_VALUE;
  }
  auto* bytes = static_cast<std::byte*>(const_cast<void*>(pointer));  // a read's target, or not written
  transfer->host = {bytes + host.offset_bytes, extents, host.row_pitch_bytes, host.slice_pitch_bytes};
  transfer->pieces = CutBox(extents);
  return CL_SUCCESS;
}

}  // namespace

cl_int EnqueueReadBufferRect(cl_command_queue queue, cl_mem handle, cl_bool blocking,
                             const std::size_t* buffer_origin, const std::size_t* host_origin,
                             const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                             std::size_t host_row_pitch, std::size_t host_slice_pitch, void* pointer,
                             cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_READ_BUFFER_RECT, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Transfer transfer;
  if (const cl_int status = MakeTransfer(enqueue, handle, buffer_origin, host_origin, region, row_pitch,
                                         slice_pitch, host_row_pitch, host_slice_pitch, pointer, &transfer);
      status != CL_SUCCESS) {
    return status;
  }
  if (!transfer.memory->HostMayRead()) return CL_INVALID_OPERATION;
  if (event != nullptr && enqueue.MakeEvent() == nullptr) return CL_OUT_OF_RESOURCES;
  return EndRead(
      enqueue, blocking,
      Download::Start<wire::opencl::EnqueueReadRect>(enqueue, transfer.pieces.size(), {}, transfer));
}

cl_int EnqueueWriteBufferRect(cl_command_queue queue, cl_mem handle, cl_bool blocking,
                              const std::size_t* buffer_origin, const std::size_t* host_origin,
                              const std::size_t* region, std::size_t row_pitch, std::size_t slice_pitch,
                              std::size_t host_row_pitch, std::size_t host_slice_pitch, const void* pointer,
                              cl_uint num_waits, const cl_event* waits, cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_WRITE_BUFFER_RECT, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  Transfer transfer;
  if (const cl_int status = MakeTransfer(enqueue, handle, buffer_origin, host_origin, region, row_pitch,
                                         slice_pitch, host_row_pitch, host_slice_pitch, pointer, &transfer);
      status != CL_SUCCESS) {
    return status;
  }
  if (!transfer.memory->HostMayWrite()) return CL_INVALID_OPERATION;
  if (!BeginWrite(enqueue, blocking)) return CL_OUT_OF_RESOURCES;
  const cl_int status =
      Upload<wire::opencl::EnqueueWriteRect>(enqueue, *transfer.memory, transfer.pieces.size(), transfer);
  return status == CL_SUCCESS ? EndWrite(enqueue, blocking) : status;
}

cl_int EnqueueCopyBufferRect(cl_command_queue queue, cl_mem source_handle, cl_mem destination_handle,
                             const std::size_t* source_origin, const std::size_t* destination_origin,
                             const std::size_t* region, std::size_t source_row_pitch,
                             std::size_t source_slice_pitch, std::size_t destination_row_pitch,
                             std::size_t destination_slice_pitch, cl_uint num_waits, const cl_event* waits,
                             cl_event* event) {
  Enqueue enqueue(queue, CL_COMMAND_COPY_BUFFER_RECT, num_waits, waits, event);
  if (enqueue.status() != CL_SUCCESS) return enqueue.status();
  const Memory* source = BufferFromHandle(source_handle);
  const Memory* destination = BufferFromHandle(destination_handle);
  for (const Memory* memory : {source, destination}) {
    if (const cl_int status = CheckMemory(enqueue, memory); status != CL_SUCCESS) return status;
  }
  if (source_origin == nullptr || destination_origin == nullptr || region == nullptr) return CL_INVALID_VALUE;
  wire::opencl::EnqueueCopyRect message;
  message.source = source->wire();
  message.destination = destination->wire();
  message.region = {region[0], region[1], region[2]};
  if (!MakeRect(source_origin, message.region, source_row_pitch, source_slice_pitch, &message.from) ||
      !MakeRect(destination_origin, message.region, destination_row_pitch, destination_slice_pitch,
                &message.to) ||
      !Contains(*source, message.from, message.region) ||
      !Contains(*destination, message.to, message.region)) {
    return CL_INVALID_VALUE;
  }
  if (&source->root() == &destination->root()) {
    if (source == destination && message.from.row_pitch_bytes != message.to.row_pitch_bytes &&
        message.from.slice_pitch_bytes != message.to.slice_pitch_bytes) {
      return CL_INVALID_VALUE;
    }
    Rect from = message.from;
    Rect to = message.to;
    from.offset_bytes += source->root_origin();
    to.offset_bytes += destination->root_origin();
    if (wire::opencl::Overlap(from, to, message.region)) return CL_MEM_COPY_OVERLAP;
  }
  if (!destination->writable()) return CL_INVALID_OPERATION;
  return enqueue.Submit(message);
}

}  // namespace tulle::shim::opencl
