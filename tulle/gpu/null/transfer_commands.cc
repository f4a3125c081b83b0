// What moves bytes of buffers.
#include "tulle/gpu/null/box.h"
#include "tulle/gpu/null/null_backend_class.h"

namespace tulle::gpu::null {

void NullBackend::Run(const wire::opencl::InitBuffer& message, const Command& command) {
  Memory* const memory = FindMemory(message.buffer.handle).get();
  std::int32_t result = CheckInit(memory, message);
  if (result == 0) result = injected_;
  if (result != 0) return ReportFailed(completions_, command, result);
  if (!command.payload.empty()) {
    std::memcpy(memory->bytes + message.offset_bytes, command.payload.data(), command.payload.size());
    completions_.PayloadDone(command.sequence);
  }
  ReportDone(completions_, command);
}

void NullBackend::Run(const wire::opencl::EnqueueRead& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  const std::uint64_t size = message.data.size_bytes;
  Enqueue(
      message, command, ReadAnswer(command, size),
      [&] { return CheckRead(memory.get(), message, command.payload.size()); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, out = command.payload.data(), offset = message.offset_bytes, size] {
          std::memcpy(out, memory->bytes + offset, size);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueWrite& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, WriteAnswer(command), [&] { return CheckWrite(memory.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, data = ByteView(command.payload), offset = message.offset_bytes] {
          std::memcpy(memory->bytes + offset, data.data(), data.size());
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueCopy& message, const Command& command) {
  const auto source = FindMemory(message.source.handle);
  const auto destination = FindMemory(message.destination.handle);
  Enqueue(
      message, command, {}, [&] { return CheckCopy(source.get(), destination.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        return [source, destination, from = message.source_offset_bytes,
                to = message.destination_offset_bytes, size = message.size_bytes] {
          std::memcpy(destination->bytes + to, source->bytes + from, size);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueFill& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, {}, [&] { return CheckFill(memory.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        const ByteView bytes = message.pattern.bytes;
        return [memory, pattern = ByteVector(bytes.begin(), bytes.end()), offset = message.offset_bytes,
                size = message.size_bytes] {
          for (std::uint64_t i = 0; i < size; i += pattern.size()) {
            std::memcpy(memory->bytes + offset + i, pattern.data(), pattern.size());
          }
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueMap& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, {},
      [&] {
        const std::int32_t result = CheckMap(memory.get(), memory != nullptr && memory->in_place(), message);
        if (result != 0) return result;
        return memory->mappings.Add(message.offset_bytes, message.size_bytes) ? 0 : status::kOutOfResources;
      },
      [memory]() -> std::function<std::int32_t()> { return [memory] { return 0; }; });
}

void NullBackend::Run(const wire::opencl::EnqueueUnmap& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, {},
      [&] {
        if (memory == nullptr) return status::kInvalidMemObject;
        return memory->mappings.Take(message.offset_bytes, message.size_bytes) ? 0 : status::kInvalidValue;
      },
      [memory]() -> std::function<std::int32_t()> { return [memory] { return 0; }; });
}

void NullBackend::Run(const wire::opencl::EnqueueReadRect& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, ReadAnswer(command, message.data.size_bytes),
      [&] { return CheckReadRect(memory.get(), message, command.payload.size()); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, out = command.payload.data(), rect = message.rect, region = message.region] {
          CopyBox(memory->bytes, rect, out, Packed(region), region);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueWriteRect& message, const Command& command) {
  const auto memory = FindMemory(message.memory.handle);
  Enqueue(
      message, command, WriteAnswer(command), [&] { return CheckWriteRect(memory.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        return [memory, in = command.payload.data(), rect = message.rect, region = message.region] {
          CopyBox(in, Packed(region), memory->bytes, rect, region);
          return 0;
        };
      });
}

void NullBackend::Run(const wire::opencl::EnqueueCopyRect& message, const Command& command) {
  const auto source = FindMemory(message.source.handle);
  const auto destination = FindMemory(message.destination.handle);
  Enqueue(
      message, command, {}, [&] { return CheckCopyRect(source.get(), destination.get(), message); },
      [&]() -> std::function<std::int32_t()> {
        return [source, destination, from = message.from, to = message.to, region = message.region] {
          CopyBox(source->bytes, from, destination->bytes, to, region);
          return 0;
        };
      });
}

std::function<void(std::int32_t)> NullBackend::ReadAnswer(const Command& command, std::uint64_t size) {
  return [this, opcode = command.opcode, sequence = command.sequence, size](std::int32_t result) {
    const std::uint64_t bytes = result == 0 ? size : 0;
    SendReply(completions_, opcode, sequence, wire::opencl::EnqueueReadReply{result, {bytes}}, bytes);
  };
}

std::function<void(std::int32_t)> NullBackend::WriteAnswer(const Command& command) {
  return [this, sequence = command.sequence](std::int32_t) { completions_.PayloadDone(sequence); };
}

}  // namespace tulle::gpu::null
