// cl_tulle_memory_export: buffers that several programs have.
//
// A buffer that was created with CL_MEM_EXPORTABLE_TULLE can be lent: clExportMemTULLE gives a token, a text
// that is a secret. Whoever is given it, in whatever way, opens it with clImportMemTULLE and has a buffer of
// the same bytes: another process, on another machine, on another vGPU of the same node, or a program of CUDA
// (cuda_ext_tulle.h). Nothing is copied. What one writes others see once their commands begin after the
// writing one was complete, as between the queues of one program.
//
// The bytes stay until the last that has them has ended. They count as memory of the vGPU that they were
// created on.
//
// The functions are had by clGetExtensionFunctionAddressForPlatform.
#pragma once

#include <CL/cl.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CL_TULLE_MEMORY_EXPORT_EXTENSION_NAME "cl_tulle_memory_export"

// cl_mem_flags of clCreateBuffer. Not together with a host pointer. CL_INVALID_OPERATION: the vGPU's node or
// GPU cannot do it.
#define CL_MEM_EXPORTABLE_TULLE ((cl_mem_flags)1 << 40)

// With its ending zero.
#define CL_EXPORT_TOKEN_SIZE_TULLE 129

// There is no export of this token that this program may open: it was taken back or has ended, is for another
// tenant, or on another node.
#define CL_INVALID_EXPORT_TULLE -9801

// Lends a buffer that is no part of another. `access`: CL_MEM_READ_ONLY or CL_MEM_READ_WRITE, what those who
// open it may do. `tenant`: whose programs may; NULL: those of the same tenant. May be called again, for
// others. CL_INVALID_MEM_OBJECT, CL_INVALID_VALUE (`access`, or a name that is too long);
// CL_INVALID_OPERATION: it was not created so; CL_OUT_OF_RESOURCES: too much is lent, or the session is lost.
typedef cl_int(CL_API_CALL* clExportMemTULLE_fn)(cl_mem buffer, cl_mem_flags access, const char* tenant,
                                                 char token[CL_EXPORT_TOKEN_SIZE_TULLE]);

// A buffer of all the bytes that were lent. `flags`: what this program's kernels do with it (0: all that they
// may) and what its own calls may do. What may only be read can only be CL_MEM_READ_ONLY: calls that would
// write to it are CL_INVALID_OPERATION, and a kernel that does so loses its program the device.
// From then on until it ends, the program has them. CL_INVALID_CONTEXT, CL_INVALID_VALUE,
// CL_INVALID_EXPORT_TULLE, CL_INVALID_OPERATION, CL_OUT_OF_RESOURCES.
typedef cl_mem(CL_API_CALL* clImportMemTULLE_fn)(cl_context context, cl_mem_flags flags, const char* token,
                                                 cl_int* error);

// Takes back what this program has lent, on the vGPU of the context. When it returns, no other can reach the
// bytes: programs that had opened it have lost their device. This one keeps its buffer. CL_INVALID_CONTEXT;
// CL_INVALID_EXPORT_TULLE: it is not lent by this program; CL_OUT_OF_RESOURCES: not all may have ended yet.
typedef cl_int(CL_API_CALL* clRevokeExportTULLE_fn)(cl_context context, const char* token);

#ifdef __cplusplus
}
#endif
