// Memory that programs lend to each other: cl_ext_tulle.h says what the functions do.
#pragma once

#include "tulle/shim/opencl/api.h"

namespace tulle::shim::opencl {

cl_int CL_API_CALL ExportMem(cl_mem buffer, cl_mem_flags access, const char* tenant, char* token);
cl_mem CL_API_CALL ImportMem(cl_context context, cl_mem_flags flags, const char* token, cl_int* error);
cl_int CL_API_CALL RevokeExport(cl_context context, const char* token);

}  // namespace tulle::shim::opencl
