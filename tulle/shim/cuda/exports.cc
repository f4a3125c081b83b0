// Memory that other programs have, too: cuda_ext_tulle.h says what the functions do.
#include <cstring>

#include "tulle/shim/cuda/cuda_ext_tulle.h"
#include "tulle/shim/cuda/driver.h"

using namespace tulle::shim::cuda;  // NOLINT

namespace {

// As long as a token may be, or a tenant's name; longer ones are none.
bool IsShort(const char* text) {
  return text != nullptr && strnlen(text, CUDA_EXPORT_TOKEN_SIZE_TULLE) < CUDA_EXPORT_TOKEN_SIZE_TULLE;
}

}  // namespace

#define TULLE_VISIBLE __attribute__((visibility("default")))

TULLE_VISIBLE int tulleMemAllocExportable(unsigned long long* address, size_t bytes) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  CUdeviceptr got = 0;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->AllocateExportable(context->id, bytes, &got));
  *address = got;
  return CUDA_SUCCESS;
}

TULLE_VISIBLE int tulleMemExport(unsigned long long address, int writable, const char* tenant,
                                 char token[CUDA_EXPORT_TOKEN_SIZE_TULLE]) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (token == nullptr || (tenant != nullptr && !IsShort(tenant))) return CUDA_ERROR_INVALID_VALUE;
  std::string got;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->ExportAllocation(context->id, address, writable != 0,
                                                               tenant == nullptr ? "" : tenant, &got));
  if (got.size() >= CUDA_EXPORT_TOKEN_SIZE_TULLE) return CUDA_ERROR_UNKNOWN;
  std::memcpy(token, got.c_str(), got.size() + 1);
  return CUDA_SUCCESS;
}

TULLE_VISIBLE int tulleMemImport(unsigned long long* address, size_t* bytes, const char* token) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  if (address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!IsShort(token)) return CUDA_ERROR_NOT_FOUND;
  CUdeviceptr got = 0;
  std::uint64_t size = 0;
  TULLE_CUDA_RETURN_IF_ERROR(context->device->ImportAllocation(context->id, token, &got, &size));
  *address = got;
  if (bytes != nullptr) *bytes = size;
  return CUDA_SUCCESS;
}

TULLE_VISIBLE int tulleExportRevoke(const char* token) {
  std::shared_ptr<Context> context;
  TULLE_CUDA_RETURN_IF_ERROR(CurrentContext(&context));
  return IsShort(token) ? context->device->RevokeExport(context->id, token) : CUDA_ERROR_NOT_FOUND;
}
