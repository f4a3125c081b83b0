#include "tulle/shim/opencl/exports.h"

#include <cstring>
#include <string_view>

#include "tulle/shim/opencl/memory.h"
#include "tulle/wire/schema/exports.h"

namespace tulle::shim::opencl {
namespace {

using wire::ExportStatus;

static_assert(CL_EXPORT_TOKEN_SIZE_TULLE == wire::kMaxExportTokenBytes + 1);

cl_int ResultOf(ExportStatus status) {
  switch (status) {
    case ExportStatus::kOk: return CL_SUCCESS;
    case ExportStatus::kNotExportable: return CL_INVALID_OPERATION;
    case ExportStatus::kNoSuchExport:
    case ExportStatus::kNotOwner: return CL_INVALID_EXPORT_TULLE;
    case ExportStatus::kTooMany:
    case ExportStatus::kUnavailable: break;
  }
  return CL_OUT_OF_RESOURCES;
}

// Null: none can be one of these.
const char* CheckToken(const char* token) {
  return token != nullptr && *token != '\0' &&
                 strnlen(token, CL_EXPORT_TOKEN_SIZE_TULLE) <= wire::kMaxExportTokenBytes
             ? token
             : nullptr;
}

}  // namespace

cl_int ExportMem(cl_mem handle, cl_mem_flags access, const char* tenant, char* token) {
  Memory* const memory = BufferFromHandle(handle);
  if (memory == nullptr || memory->parent() != nullptr) return CL_INVALID_MEM_OBJECT;
  const std::string_view whose = tenant == nullptr ? "" : tenant;
  if ((access != CL_MEM_READ_ONLY && access != CL_MEM_READ_WRITE) || token == nullptr ||
      whose.size() > wire::kMaxTenantBytes) {
    return CL_INVALID_VALUE;
  }
  if ((memory->flags() & CL_MEM_EXPORTABLE_TULLE) == 0) return CL_INVALID_OPERATION;
  cl_int result = CL_OUT_OF_RESOURCES;
  const auto take = [&](const wire::ExportMemoryReply& reply) {
    result = ResultOf(reply.status.value);
    if (result != CL_SUCCESS) return;
    reply.token.text.copy(token, reply.token.text.size());
    token[reply.token.text.size()] = '\0';
  };
  WaitFor<wire::ExportMemoryReply, decltype(take)> wait(take);
  const wire::U8 writable = access == CL_MEM_READ_WRITE ? 1 : 0;
  const bool answered =
      memory->context().connection().Call(wire::ExportMemory{memory->wire(), writable, {whose}}, wait);
  return answered ? result : CL_OUT_OF_RESOURCES;
}

cl_mem ImportMem(cl_context context_handle, cl_mem_flags flags, const char* token, cl_int* error) {
  Context* const context = FromHandle<Context>(context_handle);
  if (context == nullptr) return Fail(error, CL_INVALID_CONTEXT);
  if (CheckToken(token) == nullptr) return Fail(error, CL_INVALID_EXPORT_TULLE);
  if (!ValidFlags(flags) || (flags & kHostPointer) != 0) return Fail(error, CL_INVALID_VALUE);
  if (!context->device().has_exports()) return Fail(error, CL_INVALID_OPERATION);
  Connection& connection = context->connection();
  cl_int result = CL_OUT_OF_RESOURCES;
  std::size_t size = 0;
  bool writable = false;
  const auto take = [&](const wire::OpenExportReply& reply) {
    result = ResultOf(reply.status.value);
    size = reply.size_bytes;
    writable = reply.writable != 0;
  };
  WaitFor<wire::OpenExportReply, decltype(take)> wait(take);
  if (!connection.Call(wire::OpenExport{{token}}, wait)) return Fail(error, CL_OUT_OF_RESOURCES);
  if (result != CL_SUCCESS) return Fail(error, result);
  if (!writable) {
    if ((flags & (CL_MEM_READ_WRITE | CL_MEM_WRITE_ONLY | CL_MEM_HOST_WRITE_ONLY)) != 0)
      return Fail(error, CL_INVALID_VALUE);
    flags |= CL_MEM_READ_ONLY;
    if ((flags & kHostAccess) == 0) flags |= CL_MEM_HOST_READ_ONLY;
  } else if ((flags & kDeviceAccess) == 0) {
    flags |= CL_MEM_READ_WRITE;
  }
  const wire::Handle name = connection.NewHandle();
  if (name.null()) return Fail(error, CL_OUT_OF_RESOURCES);
  Ref<Memory> memory = Ref<Memory>::Adopt(new Memory(*context, name, flags, size, writable));
  wire::opencl::ImportBuffer message;
  message.context = context->wire();
  message.buffer = {name};
  message.flags.bits = flags & kDeviceAccess;
  message.token = {token};
  const cl_int status = connection.CallForStatus(message, CL_OUT_OF_RESOURCES);
  return status == CL_SUCCESS ? Made(error, std::move(memory)) : Fail(error, status);
}

cl_int RevokeExport(cl_context context_handle, const char* token) {
  Context* const context = FromHandle<Context>(context_handle);
  if (context == nullptr) return CL_INVALID_CONTEXT;
  if (CheckToken(token) == nullptr || !context->device().has_exports()) return CL_INVALID_EXPORT_TULLE;
  cl_int result = CL_OUT_OF_RESOURCES;
  const auto take = [&](const wire::RevokeExportReply& reply) { result = ResultOf(reply.status.value); };
  WaitFor<wire::RevokeExportReply, decltype(take)> wait(take);
  return context->connection().Call(wire::RevokeExport{{token}}, wait) ? result : CL_OUT_OF_RESOURCES;
}

}  // namespace tulle::shim::opencl
