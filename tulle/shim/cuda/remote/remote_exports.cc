// Memory that other programs have, too.
#include "tulle/shim/cuda/remote/remote_device.h"
#include "tulle/shim/cuda/remote/remote_objects.h"
#include "tulle/wire/schema/exports.h"

namespace tulle::shim::cuda {
namespace {

using namespace tulle::cuda;  // NOLINT: nearly every name here is CUDA's

CUresult ResultOf(wire::ExportStatus status) {
  switch (status) {
    case wire::ExportStatus::kOk: return CUDA_SUCCESS;
    case wire::ExportStatus::kNotExportable: return CUDA_ERROR_INVALID_VALUE;
    case wire::ExportStatus::kNoSuchExport:
    case wire::ExportStatus::kNotOwner: return CUDA_ERROR_NOT_FOUND;
    case wire::ExportStatus::kTooMany: return CUDA_ERROR_OUT_OF_MEMORY;
    case wire::ExportStatus::kUnavailable: break;
  }
  return CUDA_ERROR_TIMEOUT;
}

}  // namespace

CUresult RemoteDevice::AllocateExportable(ContextId id, std::uint64_t bytes, CUdeviceptr* address) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!has_exports()) return CUDA_ERROR_NOT_SUPPORTED;
  if (context->error != CUDA_SUCCESS) return context->error;
  const auto create = [this](wire::Handle handle, std::uint64_t at, std::uint64_t block_bytes) {
    return static_cast<CUresult>(
        connection_->CallForStatus(wire::cuda::AllocateExportable{{handle}, at, block_bytes}, kLost));
  };
  if (const CUresult result = vgpu_memory_->AllocateBlock(bytes, /*charged=*/true, create, address);
      result != CUDA_SUCCESS) {
    return result == kLost ? Heard(*context, result) : result;
  }
  const std::lock_guard lock(mutex_);
  memory_.emplace(*address, Memory{.bytes = bytes, .context = id});
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::ExportAllocation(ContextId id, CUdeviceptr address, bool writable,
                                        const std::string& tenant, std::string* token) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!has_exports()) return CUDA_ERROR_NOT_SUPPORTED;
  const wire::Handle handle = vgpu_memory_->BlockAt(address);
  if (handle.null() || tenant.size() > wire::kMaxTenantBytes) return CUDA_ERROR_INVALID_VALUE;
  CUresult result = CUDA_ERROR_UNKNOWN;
  const auto take = [&](const wire::ExportMemoryReply& reply) {
    result = ResultOf(reply.status.value);
    *token = reply.token.text;
  };
  WaitFor<wire::ExportMemoryReply, decltype(take)> wait(take);
  const wire::ExportMemory message{{handle}, writable ? wire::U8{1} : wire::U8{0}, {tenant}};
  return connection_->Call(message, wait) ? result : Heard(*context, kLost);
}

CUresult RemoteDevice::ImportAllocation(ContextId id, const std::string& token, CUdeviceptr* address,
                                        std::uint64_t* bytes) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!has_exports()) return CUDA_ERROR_NOT_SUPPORTED;
  if (context->error != CUDA_SUCCESS) return context->error;
  CUresult result = CUDA_ERROR_UNKNOWN;
  const auto take = [&](const wire::OpenExportReply& reply) {
    result = ResultOf(reply.status.value);
    *bytes = reply.size_bytes;
  };
  WaitFor<wire::OpenExportReply, decltype(take)> wait(take);
  if (!connection_->Call(wire::OpenExport{{token}}, wait)) return Heard(*context, kLost);
  TULLE_CUDA_RETURN_IF_ERROR(result);
  const auto create = [&](wire::Handle handle, std::uint64_t at, std::uint64_t) {
    return static_cast<CUresult>(
        connection_->CallForStatus(wire::cuda::ImportMemory{{handle}, at, {token}}, kLost));
  };
  result = vgpu_memory_->AllocateBlock(*bytes, /*charged=*/false, create, address);
  if (result != CUDA_SUCCESS) return result == kLost ? Heard(*context, result) : result;
  const std::lock_guard lock(mutex_);
  memory_.emplace(*address, Memory{.bytes = *bytes, .context = id});
  return CUDA_SUCCESS;
}

CUresult RemoteDevice::RevokeExport(ContextId id, const std::string& token) {
  const auto context = Find(id);
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!has_exports()) return CUDA_ERROR_NOT_SUPPORTED;
  CUresult result = CUDA_ERROR_UNKNOWN;
  const auto take = [&](const wire::RevokeExportReply& reply) { result = ResultOf(reply.status.value); };
  WaitFor<wire::RevokeExportReply, decltype(take)> wait(take);
  return connection_->Call(wire::RevokeExport{{token}}, wait) ? result : Heard(*context, kLost);
}

}  // namespace tulle::shim::cuda
