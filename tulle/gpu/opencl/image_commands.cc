// Images and samplers.
#include <array>

#include "tulle/gpu/api/pixel.h"
#include "tulle/gpu/opencl/opencl_backend_class.h"

namespace tulle::gpu::opencl {

void OpenClBackend::Run(const wire::opencl::GetImageFormats& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  std::vector<wire::opencl::ImageFormat> formats;
  const std::int32_t status =
      SupportedFormats(context->native->context.get(), message.access.value, message.type.value, &formats);
  if (status != CL_SUCCESS) return ReportFailed(completions_, command, status);
  SendReply(completions_, command.opcode, command.sequence,
            wire::opencl::GetImageFormatsReply{CL_SUCCESS, {formats}});
}

void OpenClBackend::Run(const wire::opencl::CreateImage& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  ImageShape shape;
  std::int32_t status = CheckCreateImage(message, buffer, image_limits_, max_allocation_bytes_, &shape);
  if (status == CL_SUCCESS && buffer != nullptr && buffer->context != context->native) {
    status = CL_INVALID_CONTEXT;
  }
  const std::uint64_t size = wire::opencl::OwnBytes(message);
  if (status == CL_SUCCESS &&
      (!table_.IsFree(message.image.handle) || (!command.memory.empty() && command.memory.size() < size))) {
    status = CL_INVALID_VALUE;
  }
  if (status != CL_SUCCESS) return Report(command, status);

  auto image = std::make_unique<Buffer>();
  image->context = context->native;
  image->image = shape;
  const NativeImage native(message, buffer == nullptr ? nullptr : buffer->native.get());
  if (buffer != nullptr) {
    clRetainMemObject(buffer->native.get());
    image->parent.reset(buffer->native.get());
    image->native.reset(
        native.Create(context->native->context.get(), message.flags.bits & kDeviceAccess, nullptr, &status));
  } else {
    // Where kernels run in this process, the driver takes an image's pixels as they lie in the memory that is
    // lent. Elsewhere it places them as its hardware likes, and what it needs for that beyond the packed
    // pixels nobody is charged for.
    status = CreateNative(
        command, size, message.flags.bits, 0, *image,
        [&](cl_mem_flags flags, void* bytes, cl_int* error) {
          return native.Create(context->native->context.get(), flags, bytes, error);
        },
        [&](cl_command_queue queue, cl_mem memory, cl_event* event) {
          constexpr cl_uint4 kZero = {};
          constexpr wire::Vec3 kOrigin = {};
          return clEnqueueFillImage(queue, memory, &kZero, kOrigin.data(), message.extents.data(), 0, nullptr,
                                    event);
        });
  }
  if (status == CL_SUCCESS) table_.Insert(message.image.handle, image);
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::InitImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  std::int32_t status =
      command.lacks_memory ? CL_MEM_OBJECT_ALLOCATION_FAILURE : CheckInitImage(ShapeOf(image), message);
  if (status != CL_SUCCESS) return Report(command, status);
  if (image->bytes.empty()) {
    status = EnqueueService(*image->context, &command, [&](cl_command_queue queue, cl_event* event) {
      return clEnqueueWriteImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                 message.region.data(), 0, 0, command.payload.data(), 0, nullptr, event);
    });
  } else {
    const wire::Vec3 box = image->image->BytesOf(message.region);
    const wire::opencl::Rect rect = image->image->RectAt(message.origin);
    const std::byte* packed = command.payload.data();
    for (std::uint64_t slice = 0; slice < box[2]; ++slice) {
      for (std::uint64_t row = 0; row < box[1]; ++row, packed += box[0]) {
        std::memcpy(image->bytes.data() + rect.offset_bytes + slice * rect.slice_pitch_bytes +
                        row * rect.row_pitch_bytes,
                    packed, box[0]);
      }
    }
    completions_.PayloadDone(command.sequence);
  }
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::CreateSampler& message, const Command& command) {
  const Context* const context = table_.Find<Context>(message.context.handle);
  if (context == nullptr) return ReportFailed(completions_, command, CL_INVALID_CONTEXT);
  std::int32_t status = CheckSampler(message);
  if (status != CL_SUCCESS) return Report(command, status);
  auto sampler = std::make_unique<Sampler>();
  sampler->context = context->native;
  const std::array<std::uint32_t, 3> properties = {
      message.normalized,
      wire::opencl::kAddressingBase + static_cast<cl_addressing_mode>(message.addressing.value),
      wire::opencl::kFilterBase + static_cast<cl_filter_mode>(message.filter.value)};
  OwnedSampler& native = context->native->samplers[properties];
  if (!native) {
    native.reset(clCreateSampler(context->native->context.get(), properties[0], properties[1], properties[2],
                                 &status));
  }
  sampler->native = native.get();
  if (status == CL_SUCCESS && !table_.Insert(message.sampler.handle, sampler)) status = CL_INVALID_VALUE;
  Report(command, status);
}

void OpenClBackend::Run(const wire::opencl::EnqueueReadImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kReadReply,
      [&] { return CheckReadImage(ShapeOf(image), message, command.payload.size()); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueReadBuffer(queue, linear, CL_FALSE, LinearOffset(*image, message.origin),
                                     message.data.size_bytes, command.payload.data(), wait_count, waits,
                                     event);
        }
        return clEnqueueReadImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                  message.region.data(), 0, 0, command.payload.data(), wait_count, waits,
                                  event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueWriteImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kPayloadDone, [&] { return CheckWriteImage(ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueWriteBuffer(queue, linear, CL_FALSE, LinearOffset(*image, message.origin),
                                      message.data.size_bytes, command.payload.data(), wait_count, waits,
                                      event);
        }
        return clEnqueueWriteImage(queue, image->native.get(), CL_FALSE, message.origin.data(),
                                   message.region.data(), 0, 0, command.payload.data(), wait_count, waits,
                                   event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyImage& message, const Command& command) {
  const Buffer* const source = FindImage(message.source.handle);
  const Buffer* const destination = FindImage(message.destination.handle);
  Enqueue(
      message, command, Duty::kNone,
      [&] { return CheckCopyImage(ShapeOf(source), ShapeOf(destination), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        const cl_mem from = LinearBuffer(*source);
        const cl_mem to = LinearBuffer(*destination);
        const std::uint64_t from_offset = LinearOffset(*source, message.source_origin);
        const std::uint64_t to_offset = LinearOffset(*destination, message.destination_origin);
        if (from != nullptr && to != nullptr) {
          return clEnqueueCopyBuffer(queue, from, to, from_offset, to_offset,
                                     source->image->PackedBytes(message.region), wait_count, waits, event);
        }
        if (from != nullptr) {
          return clEnqueueCopyBufferToImage(queue, from, destination->native.get(), from_offset,
                                            message.destination_origin.data(), message.region.data(),
                                            wait_count, waits, event);
        }
        if (to != nullptr) {
          return clEnqueueCopyImageToBuffer(queue, source->native.get(), to, message.source_origin.data(),
                                            message.region.data(), to_offset, wait_count, waits, event);
        }
        return clEnqueueCopyImage(queue, source->native.get(), destination->native.get(),
                                  message.source_origin.data(), message.destination_origin.data(),
                                  message.region.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueFillImage& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckFillImage(ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          const auto pixel = MakePixel(image->image->format, message.color.bytes);
          if (!pixel.has_value()) return cl_int{CL_IMAGE_FORMAT_NOT_SUPPORTED};
          return clEnqueueFillBuffer(queue, linear, pixel->bytes.data(), pixel->size_bytes,
                                     LinearOffset(*image, message.origin),
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueFillImage(queue, image->native.get(), message.color.bytes.data(),
                                  message.origin.data(), message.region.data(), wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyImageToBuffer& message, const Command& command) {
  const Buffer* const image = FindImage(message.image.handle);
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyImageToBuffer(ShapeOf(image), buffer, message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueCopyBuffer(queue, linear, buffer->native.get(),
                                     LinearOffset(*image, message.origin), message.offset_bytes,
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueCopyImageToBuffer(queue, image->native.get(), buffer->native.get(),
                                          message.origin.data(), message.region.data(), message.offset_bytes,
                                          wait_count, waits, event);
      });
}

void OpenClBackend::Run(const wire::opencl::EnqueueCopyBufferToImage& message, const Command& command) {
  const Buffer* const buffer = FindBuffer(message.buffer.handle);
  const Buffer* const image = FindImage(message.image.handle);
  Enqueue(
      message, command, Duty::kNone, [&] { return CheckCopyBufferToImage(buffer, ShapeOf(image), message); },
      [&](cl_command_queue queue, cl_uint wait_count, const cl_event* waits, cl_event* event) {
        if (const cl_mem linear = LinearBuffer(*image); linear != nullptr) {
          return clEnqueueCopyBuffer(queue, buffer->native.get(), linear, message.offset_bytes,
                                     LinearOffset(*image, message.origin),
                                     image->image->PackedBytes(message.region), wait_count, waits, event);
        }
        return clEnqueueCopyBufferToImage(queue, buffer->native.get(), image->native.get(),
                                          message.offset_bytes, message.origin.data(), message.region.data(),
                                          wait_count, waits, event);
      });
}

}  // namespace tulle::gpu::opencl
