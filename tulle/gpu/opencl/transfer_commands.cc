// What moves bytes of buffers.
#include "tulle/gpu/opencl/opencl_backend_class.h"

namespace tulle::gpu::opencl {

void OpenClBackend::Run(const wire::opencl::EnqueueRead& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  const std::uint64_t size = message.data.size_bytes;
  Enqueue(
      message, command, Duty::kReadReply, [&] { return CheckRead(buffer, message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueReadBuffer(queue, buffer->native.get(), CL_FALSE, message.offset_bytes, size,
                                   command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWrite& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWrite(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueWriteBuffer(queue, buffer->native.get(), CL_FALSE, message.offset_bytes,
                                    command.payload.size(), command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopy& message, const Command& command) {
  const Buffer* const source = FindBuffer(message.source.handle);
  const Buffer* const destination = FindBuffer(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopy(source, destination, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueCopyBuffer(queue, source->native.get(), destination->native.get(),
                                   message.source_offset_bytes, message.destination_offset_bytes,
                                   message.size_bytes, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueFill& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  const ByteView pattern = message.pattern.bytes;
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckFill(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueFillBuffer(queue, buffer->native.get(), pattern.data(), pattern.size(),
                                   message.offset_bytes, message.size_bytes, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueMap& message, const Command& command) {
  Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kNone,
      [&] { return CheckMap(buffer, buffer != nullptr && buffer->in_place, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits,
          cl_event* event) -> std::int32_t {
        if (!buffer->mappings.Add(message.offset_bytes, message.size_bytes)) return CL_OUT_OF_RESOURCES;
        cl_int status = CL_SUCCESS;
        // By its host pointer it is where the bytes are.
        clEnqueueMapBuffer(queue, buffer->native.get(), CL_FALSE, message.access.bits, message.offset_bytes,
                           message.size_bytes, wait_count, waits, event, &status);
        if (status != CL_SUCCESS) buffer->mappings.Take(message.offset_bytes, message.size_bytes);
        return status;
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueUnmap& message, const Command& command) {
  Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kNone,
      [&]() -> std::int32_t {
        if (buffer == nullptr) return CL_INVALID_MEM_OBJECT;
        return buffer->mappings.Take(message.offset_bytes, message.size_bytes) ? CL_SUCCESS
                                                                               : CL_INVALID_VALUE;
      },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        return clEnqueueUnmapMemObject(queue, buffer->native.get(),
                                       buffer->bytes.data() + message.offset_bytes, wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueReadRect& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kReadReply,
      [&] { return CheckReadRect(buffer, message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const NativeRect from(message.rect);
        const NativeRect packed(message.region);
        return clEnqueueReadBufferRect(queue, buffer->native.get(), CL_FALSE, from.origin, packed.origin,
                                       message.region.data(), from.row_pitch, from.slice_pitch,
                                       packed.row_pitch, packed.slice_pitch, command.payload.data(),
                                       wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWriteRect& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.memory.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWriteRect(buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const NativeRect to(message.rect);
        const NativeRect packed(message.region);
        return clEnqueueWriteBufferRect(queue, buffer->native.get(), CL_FALSE, to.origin, packed.origin,
                                        message.region.data(), to.row_pitch, to.slice_pitch, packed.row_pitch,
                                        packed.slice_pitch, command.payload.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyRect& message, const Command& command) {
  const Buffer* const source = FindBuffer(message.source.handle);
  const Buffer* const destination = FindBuffer(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyRect(source, destination, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        // In the root buffers: PoCL 3.1 dies of rectangular copies between sub-buffers.
        const NativeRect from(InRoot(message.from, *source));
        const NativeRect to(InRoot(message.to, *destination));
        return clEnqueueCopyBufferRect(queue, source->root_native(), destination->root_native(), from.origin,
                                       to.origin, message.region.data(), from.row_pitch, from.slice_pitch,
                                       to.row_pitch, to.slice_pitch, wait_count, waits, event);
      });
}

}  // namespace tulle::gpu::opencl
