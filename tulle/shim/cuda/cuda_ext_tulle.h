// Device memory that several programs have, on vGPUs of tulle: the counterpart of OpenCL's cl_ext_tulle.h,
// with the same tokens, so that programs of both can share. What a token is, who has the bytes, and for how
// long, is said there.
//
// libcuda.so.1 of a vGPU exports these functions; programs look them up (dlsym), as other libraries have
// none. Addresses are CUdeviceptr, results CUresult. All need a current context, on the vGPU that it is
// about. CUDA_ERROR_NOT_SUPPORTED: the vGPU, its node or its GPU cannot do it.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_EXPORT_TOKEN_SIZE_TULLE 129  // with its ending zero

// As cuMemAlloc, of memory that can be lent; cuMemFree frees it. It is of whole granules of 2 MiB.
int tulleMemAllocExportable(unsigned long long* address, size_t bytes);

// Lends all of an allocation of tulleMemAllocExportable (else CUDA_ERROR_INVALID_VALUE). `writable`: those
// who open it may write to it, too. `tenant`: whose programs may open it; NULL: those of the same tenant.
// CUDA_ERROR_OUT_OF_MEMORY: too much is lent.
int tulleMemExport(unsigned long long address, int writable, const char* tenant,
                   char token[CUDA_EXPORT_TOKEN_SIZE_TULLE]);

// The memory that was lent, at an address of this program's own; cuMemFree ends that. CUDA_ERROR_NOT_FOUND:
// there is no export of this token that this program may open. To write to what may only be read is an
// illegal address. `bytes` may be NULL.
int tulleMemImport(unsigned long long* address, size_t* bytes, const char* token);

// Takes back what this program has lent; when it returns, no other can reach it. CUDA_ERROR_NOT_FOUND: it is
// not lent by this program. CUDA_ERROR_TIMEOUT: not all that had it may have ended yet.
int tulleExportRevoke(const char* token);

#ifdef __cplusplus
}
#endif
