// Programs, kernels and their arguments.
#include "tulle/gpu/null/box.h"
#include "tulle/gpu/null/null_backend_class.h"
#include "tulle/gpu/null/null_device.h"

namespace tulle::gpu::null {
namespace {

using BuiltIn = std::uint32_t (*)(std::uint32_t, std::uint32_t);
BuiltIn FindBuiltIn(std::string_view name) {
  if (name == "null_add" || name == "null_add_constant")
    return [](std::uint32_t a, std::uint32_t b) { return a + b; };
  if (name == "null_mul") return [](std::uint32_t a, std::uint32_t b) { return a * b; };
  return nullptr;
}

}  // namespace

void NullBackend::Run(const wire::opencl::SetSamplerArg& message, const Command& command) {
  Report(command, SetArg(message));
}

void NullBackend::Run(const wire::exec::LoadProgram& message, const Command& command) {
  if (injected_ != 0) return ReportFailed(completions_, command, injected_);
  if (table_.Find<Context>(message.context) == nullptr) {
    return ReportFailed(completions_, command, status::kInvalidContext);
  }
  auto program = std::make_unique<Program>();
  program->loaded = LoadNull(command.payload);
  const ByteVector body = EncodeReply(program->loaded);
  table_.Take<Program>(message.program);
  if (!table_.Insert(message.program, program))
    return ReportFailed(completions_, command, status::kInvalidProgram);
  if (!command.payload.empty()) completions_.PayloadDone(command.sequence);
  completions_.Reply(command.opcode, command.sequence, body, 0);
}

void NullBackend::Run(const wire::opencl::CreateKernel& message, const Command& command) {
  const Program* const program = table_.Find<Program>(message.program.handle);
  if (program == nullptr) return Report(command, status::kInvalidProgramExecutable);
  auto kernel = std::make_unique<Kernel>();
  kernel->kernel = program->loaded.Find(message.name.text);
  if (kernel->kernel == nullptr) return Report(command, status::kInvalidKernelName);
  Report(command, Insert(message.kernel.handle, std::move(kernel)));
}

void NullBackend::Run(const wire::opencl::SetKernelArg& message, const Command& command) {
  Report(command, SetArg(message));
}

void NullBackend::Run(const wire::opencl::SetSvmArg& message, const Command& command) {
  Report(command, SetArg(message));
}

void NullBackend::Run(const wire::opencl::GetKernelSubGroups& message, const Command& command) {
  using wire::opencl::SubGroupQuery;
  wire::opencl::GetKernelSubGroupsReply reply;
  std::int32_t result = injected_;
  if (table_.Find<Kernel>(message.kernel.handle) == nullptr) result = status::kInvalidKernel;
  if (message.dimensions < 1 || message.dimensions > message.sizes.size()) result = status::kInvalidValue;
  if (result != 0) return ReportFailed(completions_, command, result);
  std::uint64_t items = 1;
  for (std::uint32_t i = 0; i < message.dimensions; ++i)
    items = std::min(items, kMaxWorkGroupSize) * std::min(message.sizes[i], kMaxWorkGroupSize);
  items = std::min(items, kMaxWorkGroupSize);
  constexpr std::uint64_t kMost = kMaxWorkGroupSize / kSubGroupSize;
  switch (message.query.value) {
    case SubGroupQuery::kMaxSizeForRange: reply.values[0] = std::min(items, kSubGroupSize); break;
    case SubGroupQuery::kCountForRange: reply.values[0] = (items + kSubGroupSize - 1) / kSubGroupSize; break;
    case SubGroupQuery::kLocalSizeForCount:
      if (message.sizes[0] != 0 && message.sizes[0] <= kMost)
        reply.values = {message.sizes[0] * kSubGroupSize, message.dimensions > 1, message.dimensions > 2};
      break;
    case SubGroupQuery::kMaxCount: reply.values[0] = kMost; break;
    case SubGroupQuery::kCompiledCount: break;
  }
  SendReply(completions_, command.opcode, command.sequence, reply);
}

void NullBackend::Run(const wire::opencl::EnqueueKernel& message, const Command& command) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  Enqueue(
      message, command, {}, [&] { return CheckKernel(message, kernel); },
      [&]() -> std::function<std::int32_t()> { return KernelBody(message, *kernel); });
}

std::int32_t NullBackend::SetArg(const wire::opencl::SetKernelArg& message) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return status::kInvalidKernel;
  const NullKernel& known = *kernel->kernel;
  if (message.index >= (known.takes_anything ? wire::kMaxKernelArgs : known.args.size()))
    return status::kInvalidArgIndex;
  if (!known.takes_anything &&
      (known.args[message.index].is_sampler || known.args[message.index].kind != message.kind.value)) {
    return status::kInvalidArgValue;
  }
  Kernel::Arg arg;
  switch (message.kind.value) {
    case ArgKind::kMemory: {
      const auto memory = FindAny(message.memory.handle);
      if (!message.memory.handle.null() && memory == nullptr) return status::kInvalidMemObject;
      if (!known.takes_anything) {
        std::optional<wire::opencl::ImageType> given;
        if (memory != nullptr && memory->image.has_value()) given = memory->image->type;
        if (given != known.args[message.index].image) return status::kInvalidArgValue;
      }
      arg.memory = message.memory.handle;
      break;
    }
    case ArgKind::kLocal:
      if (message.local_bytes == 0 || message.local_bytes > kLocalMemoryBytes) return status::kInvalidArgSize;
      break;
    case ArgKind::kValue: {
      const ByteView value = message.value.bytes;
      if (value.empty()) return status::kInvalidArgSize;
      if (!known.takes_anything && known.args[message.index].type_name == "uint" &&
          value.size() != sizeof(std::uint32_t)) {
        return status::kInvalidArgSize;
      }
      arg.value.assign(value.begin(), value.end());
      break;
    }
  }
  if (injected_ != 0) return injected_;
  kernel->args[message.index] = std::move(arg);
  return 0;
}

std::int32_t NullBackend::SetArg(const wire::opencl::SetSamplerArg& message) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return status::kInvalidKernel;
  const NullKernel& known = *kernel->kernel;
  if (message.index >= (known.takes_anything ? wire::kMaxKernelArgs : known.args.size()))
    return status::kInvalidArgIndex;
  if (!known.takes_anything && !known.args[message.index].is_sampler) return status::kInvalidArgValue;
  if (table_.Find<Sampler>(message.sampler.handle) == nullptr) return status::kInvalidSampler;
  if (injected_ != 0) return injected_;
  kernel->args[message.index] = {.sampler = message.sampler.handle};
  return 0;
}

std::int32_t NullBackend::SetArg(const wire::opencl::SetSvmArg& message) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return status::kInvalidKernel;
  const NullKernel& known = *kernel->kernel;
  if (message.index >= (known.takes_anything ? wire::kMaxKernelArgs : known.args.size()))
    return status::kInvalidArgIndex;
  if (!known.takes_anything &&
      (known.args[message.index].kind != ArgKind::kMemory || known.args[message.index].image.has_value())) {
    return status::kInvalidArgValue;
  }
  if (const std::int32_t result = CheckSvmArg(FindMemory(message.memory.handle).get(), message); result != 0)
    return result;
  if (injected_ != 0) return injected_;
  kernel->args[message.index] = {.memory = message.memory.handle, .offset_bytes = message.offset_bytes};
  return 0;
}

std::int32_t NullBackend::CheckKernel(const wire::opencl::EnqueueKernel& message,
                                      const Kernel* kernel) const {
  if (kernel == nullptr) return status::kInvalidKernel;
  if (const std::int32_t result = CheckRange(message); result != 0) return result;
  std::uint64_t group = 1;
  for (std::uint32_t i = 0; i < message.work_dim; ++i) {
    if (message.local_size[i] == 0) continue;
    if (message.local_size[i] > kMaxWorkGroupSize || message.global_size[i] % message.local_size[i] != 0) {
      return status::kInvalidWorkGroupSize;
    }
    group *= message.local_size[i];
    if (group > kMaxWorkGroupSize) return status::kInvalidWorkGroupSize;
  }
  if (kernel->args.size() < kernel->kernel->args.size()) return status::kInvalidKernelArgs;
  for (const auto& [index, arg] : kernel->args) {
    if (!arg.memory.null() && FindAny(arg.memory) == nullptr) return status::kInvalidKernelArgs;
    if (!arg.sampler.null() && table_.Find<Sampler>(arg.sampler) == nullptr)
      return status::kInvalidKernelArgs;
  }
  return 0;
}

std::function<std::int32_t()> NullBackend::KernelBody(const wire::opencl::EnqueueKernel& message,
                                                      const Kernel& kernel) const {
  std::vector<std::shared_ptr<Memory>> used;  // as a driver would: they live until the command has run
  for (const auto& [index, arg] : kernel.args) {
    if (!arg.memory.null()) used.push_back(FindAny(arg.memory));
  }
  if (kernel.kernel->name == "null_copy_image") return CopyImageBody(message, kernel);
  const BuiltIn op = FindBuiltIn(kernel.kernel->name);
  const auto data = kernel.args.find(0);
  if (op == nullptr || data == kernel.args.end() || data->second.memory.null()) return [used] { return 0; };
  std::uint32_t operand = kernel.kernel->constant;
  if (kernel.kernel->name != "null_add_constant") {
    const auto value = kernel.args.find(1);
    if (value == kernel.args.end() || value->second.value.size() != sizeof operand)
      return [used] { return 0; };
    std::memcpy(&operand, value->second.value.data(), sizeof operand);
  }
  return [used, op, operand, memory = used.front(), offset = data->second.offset_bytes,
          begin = message.global_offset[0], count = message.global_size[0]] {
    std::byte* const bytes = memory->bytes + offset;
    const std::uint64_t elements = (memory->size_bytes - offset) / sizeof operand;
    for (std::uint64_t i = begin; i < elements && i - begin < count; ++i) {
      std::uint32_t element = 0;
      std::memcpy(&element, bytes + i * sizeof element, sizeof element);
      element = op(element, operand);
      std::memcpy(bytes + i * sizeof element, &element, sizeof element);
    }
    return 0;
  };
}

std::function<std::int32_t()> NullBackend::CopyImageBody(const wire::opencl::EnqueueKernel& message,
                                                         const Kernel& kernel) const {
  const auto image = [&](std::uint32_t index) {
    const auto arg = kernel.args.find(index);
    return arg == kernel.args.end() ? nullptr : FindImage(arg->second.memory);
  };
  return [source = image(0), destination = image(1), origin = message.global_offset,
          size = message.global_size] {
    if (source == nullptr || destination == nullptr || source->image->format != destination->image->format)
      return 0;
    wire::Vec3 region = {1, 1, 1};
    for (std::size_t i = 0; i < 2; ++i) {
      const std::uint64_t most = std::min(source->image->extents[i], destination->image->extents[i]);
      if (origin[i] >= most || size[i] == 0) return 0;
      region[i] = std::min(size[i], most - origin[i]);
    }
    const wire::Vec3 at = {origin[0], origin[1], 0};
    CopyBox(source->bytes, source->image->RectAt(at), destination->bytes, destination->image->RectAt(at),
            source->image->BytesOf(region));
    return 0;
  };
}

}  // namespace tulle::gpu::null
