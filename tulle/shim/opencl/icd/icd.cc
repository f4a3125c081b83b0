// What the shared library exports: the three names by which an ICD loader gets at the platform. Everything
// else is reached through the dispatch table in each object.
#include "tulle/shim/opencl/api.h"

#define TULLE_EXPORT extern "C" __attribute__((visibility("default")))

TULLE_EXPORT cl_int CL_API_CALL clIcdGetPlatformIDsKHR(cl_uint num_entries, cl_platform_id* platforms,
                                                       cl_uint* num_platforms) {
  return tulle::shim::opencl::Dispatch().clGetPlatformIDs(num_entries, platforms, num_platforms);
}

TULLE_EXPORT cl_int CL_API_CALL clGetPlatformInfo(cl_platform_id platform, cl_platform_info name, size_t size,
                                                  void* value, size_t* size_ret) {
  return tulle::shim::opencl::Dispatch().clGetPlatformInfo(platform, name, size, value, size_ret);
}

TULLE_EXPORT void* CL_API_CALL clGetExtensionFunctionAddress(const char* name) {
  return tulle::shim::opencl::Dispatch().clGetExtensionFunctionAddress(name);
}
