// Shared virtual memory: buffers at the program's own addresses, and pointers into them as arguments.
#include "tulle/gpu/opencl/opencl_backend_class.h"

namespace tulle::gpu::opencl {

void OpenClBackend::Run(const wire::opencl::CreateSvm& message, const Command& command) {
  if (!device_.svm) return ReportFailed(completions_, command, CL_INVALID_OPERATION);
  if (!wire::opencl::IsSvmRange(message.address, message.size_bytes))
    return ReportFailed(completions_, command, CL_INVALID_VALUE);
  Report(command, MakeBuffer(command, message.context.handle, message.memory.handle, message.flags,
                             message.size_bytes, message.address));
}

void OpenClBackend::Run(const wire::opencl::SetSvmArg& message, const Command& command) {
  Report(command, SetArg(message));
}

std::int32_t OpenClBackend::SetArg(const wire::opencl::SetSvmArg& message) {
  Kernel* const kernel = table_.Find<Kernel>(message.kernel.handle);
  if (kernel == nullptr) return CL_INVALID_KERNEL;
  if (!device_.svm) return CL_INVALID_OPERATION;
  if (message.index >= kernel->args.size()) return CL_INVALID_ARG_INDEX;
  const ArgShape shape = kernel->description->args[message.index].shape;
  if (shape != ArgShape::kMemory && shape != ArgShape::kUnknown) return CL_INVALID_ARG_VALUE;
  const Buffer* const memory = FindBuffer(message.memory.handle);
  if (const std::int32_t wrong = CheckSvmArg(memory, message); wrong != CL_SUCCESS) return wrong;
  if (memory != nullptr && memory->context != kernel->context) return CL_INVALID_ARG_VALUE;
  const std::byte* const pointer = memory == nullptr ? nullptr : memory->bytes.data() + message.offset_bytes;
  const cl_int status = clSetKernelArgSVMPointer(kernel->native.get(), message.index, pointer);
  if (status != CL_SUCCESS) return status;
  kernel->local_bytes -= kernel->args[message.index].local_bytes;
  kernel->args[message.index] = {.memory = message.memory.handle};
  return CL_SUCCESS;
}

}  // namespace tulle::gpu::opencl
