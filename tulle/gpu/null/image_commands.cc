// Images and samplers.
#include "tulle/gpu/api/pixel.h"
#include "tulle/gpu/null/box.h"
#include "tulle/gpu/null/null_backend_class.h"
#include "tulle/gpu/null/null_image.h"

namespace tulle::gpu::null {

void NullBackend::Run(const wire::opencl::GetImageFormats& message, const Command& command) {
  if (table_.Find<Context>(message.context.handle) == nullptr)
    return ReportFailed(completions_, command, status::kInvalidContext);
  if (injected_ != 0) return ReportFailed(completions_, command, injected_);
  SendReply(completions_, command.opcode, command.sequence,
            wire::opencl::GetImageFormatsReply{0, {ImageFormats()}});
}

void NullBackend::Run(const wire::opencl::CreateImage& message, const Command& command) {
  if (table_.Find<Context>(message.context.handle) == nullptr)
    return Report(command, status::kInvalidContext);
  const auto buffer = FindMemory(message.buffer.handle);
  ImageShape shape;
  if (const std::int32_t result =
          CheckCreateImage(message, buffer.get(), kImageLimits, options_.max_allocation_bytes, &shape);
      result != 0) {
    return Report(command, result);
  }
  if (std::ranges::count(ImageFormats(), message.format) == 0)
    return Report(command, status::kImageFormatNotSupported);
  auto memory = std::make_shared<Memory>();
  memory->image = shape;
  memory->parent = buffer;
  const Handle handle = message.image.handle;
  Report(command, buffer != nullptr
                      ? InsertPart(handle, 0, std::move(memory))
                      : InsertMemory(command, handle, wire::opencl::OwnBytes(message), std::move(memory)));
}

void NullBackend::Run(const wire::opencl::InitImage& message, const Command& command) {
  const auto memory = FindImage(message.image.handle);
  std::int32_t result = CheckInitImage(ShapeOf(memory), message);
  if (result == 0) result = injected_;
  if (result != 0) return ReportFailed(completions_, command, result);
  const wire::Vec3 box = memory->image->BytesOf(message.region);
  CopyBox(command.payload.data(), Packed(box), memory->bytes, memory->image->RectAt(message.origin), box);
  completions_.PayloadDone(command.sequence);
  ReportDone(completions_, command);
}

void NullBackend::Run(const wire::opencl::CreateSampler& message, const Command& command) {
  if (table_.Find<Context>(message.context.handle) == nullptr)
    return Report(command, status::kInvalidContext);
  if (const std::int32_t result = CheckSampler(message); result != 0) return Report(command, result);
  Report(command, Insert(message.sampler.handle, std::make_unique<Sampler>()));
}

void NullBackend::Run(const wire::opencl::EnqueueReadImage& message, const Command& command) {
  const auto memory = FindImage(message.image.handle);
  Enqueue(
      message, command, ReadAnswer(command, message.data.size_bytes),
      [&] { return CheckReadImage(ShapeOf(memory), message, command.payload.size()); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, out = command.payload.data(), rect = memory->image->RectAt(message.origin),
                box = memory->image->BytesOf(message.region)] {
          CopyBox(memory->bytes, rect, out, Packed(box), box);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueWriteImage& message, const Command& command) {
  const auto memory = FindImage(message.image.handle);
  Enqueue(
      message, command, WriteAnswer(command), [&] { return CheckWriteImage(ShapeOf(memory), message); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, in = command.payload.data(), rect = memory->image->RectAt(message.origin),
                box = memory->image->BytesOf(message.region)] {
          CopyBox(in, Packed(box), memory->bytes, rect, box);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueCopyImage& message, const Command& command) {
  const auto source = FindImage(message.source.handle);
  const auto destination = FindImage(message.destination.handle);
  Enqueue(
      message, command, {}, [&] { return CheckCopyImage(ShapeOf(source), ShapeOf(destination), message); },
      [&]() -> std::function<std::int32_t()> {
        return [source, destination, from = source->image->RectAt(message.source_origin),
                to = destination->image->RectAt(message.destination_origin),
                box = source->image->BytesOf(message.region)] {
          CopyBox(source->bytes, from, destination->bytes, to, box);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueFillImage& message, const Command& command) {
  const auto memory = FindImage(message.image.handle);
  Enqueue(
      message, command, {}, [&] { return CheckFillImage(ShapeOf(memory), message); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, pixel = MakePixel(memory->image->format, message.color.bytes).value_or(Pixel{}),
                rect = memory->image->RectAt(message.origin), region = message.region] {
          const std::size_t pixel_bytes = memory->image->pixel_bytes;
          for (std::uint64_t slice = 0; slice < region[2]; ++slice) {
            for (std::uint64_t row = 0; row < region[1]; ++row) {
              std::byte* out = memory->bytes + rect.offset_bytes + slice * rect.slice_pitch_bytes +
                               row * rect.row_pitch_bytes;
              for (std::uint64_t i = 0; i < region[0]; ++i, out += pixel_bytes)
                std::memcpy(out, pixel.bytes.data(), pixel_bytes);
            }
          }
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueCopyImageToBuffer& message, const Command& command) {
  const auto image = FindImage(message.image.handle);
  const auto buffer = FindMemory(message.buffer.handle);
  Enqueue(
      message, command, {}, [&] { return CheckCopyImageToBuffer(ShapeOf(image), buffer.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        return [image, buffer, rect = image->image->RectAt(message.origin),
                box = image->image->BytesOf(message.region), offset = message.offset_bytes] {
          CopyBox(image->bytes, rect, buffer->bytes + offset, Packed(box), box);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueCopyBufferToImage& message, const Command& command) {
  const auto buffer = FindMemory(message.buffer.handle);
  const auto image = FindImage(message.image.handle);
  Enqueue(
      message, command, {}, [&] { return CheckCopyBufferToImage(buffer.get(), ShapeOf(image), message); },
      [&]() -> std::function<std::int32_t()> {
        return [image, buffer, rect = image->image->RectAt(message.origin),
                box = image->image->BytesOf(message.region), offset = message.offset_bytes] {
          CopyBox(buffer->bytes + offset, Packed(box), image->bytes, rect, box);
          return 0;
        };
      });
}

}  // namespace tulle::gpu::null
