// cl_shares_memory: lends and has memory, by OpenCL (shares_memory.h).
#include "cl_program.h"

#include "shares_memory.h"
#include "tulle/shim/opencl/cl_ext_tulle.h"

static Cl cl;
static cl_kernel kernel;
static cl_mem memory;
static unsigned long count;
static clExportMemTULLE_fn export_mem;
static clImportMemTULLE_fn import_mem;
static clRevokeExportTULLE_fn revoke_export;

static int Create(unsigned long ints) {
  cl_int error = CL_SUCCESS;
  memory = clCreateBuffer(cl.context, CL_MEM_EXPORTABLE_TULLE, ints * sizeof(int), NULL, &error);
  count = ints;
  return error;
}
static int Export(int writable, const char* tenant, char token[129]) {
  return export_mem(memory, writable ? CL_MEM_READ_WRITE : CL_MEM_READ_ONLY, tenant, token);
}
static int Import(const char* token, unsigned long* ints) {
  cl_int error = CL_SUCCESS;
  size_t bytes = 0;
  cl_mem got = import_mem(cl.context, 0, token, &error);
  if (error != CL_SUCCESS) return error;
  memory = got;
  error = clGetMemObjectInfo(memory, CL_MEM_SIZE, sizeof bytes, &bytes, NULL);
  count = *ints = bytes / sizeof(int);
  return error;
}
static int Set(int value) {
  const cl_int error =
      clEnqueueFillBuffer(cl.queue, memory, &value, sizeof value, 0, count * sizeof value, 0, NULL, NULL);
  return error != CL_SUCCESS ? error : clFinish(cl.queue);
}
static int Add(int value) {
  const size_t size = count;
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof memory, &memory));
  Check("clSetKernelArg", clSetKernelArg(kernel, 1, sizeof value, &value));
  const cl_int error = clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &size, NULL, 0, NULL, NULL);
  return error != CL_SUCCESS ? error : clFinish(cl.queue);
}
static int Get(int* value, int* mixed) {
  int* values = malloc(count * sizeof *values);
  const cl_int error =
      clEnqueueReadBuffer(cl.queue, memory, CL_TRUE, 0, count * sizeof *values, values, 0, NULL, NULL);
  if (error == CL_SUCCESS) {
    *value = values[0];
    *mixed = IsMixed(values, count);
  }
  free(values);
  return error;
}
static int Revoke(const char* token) { return revoke_export(cl.context, token); }
static int Release(void) { return clReleaseMemObject(memory); }

int main(void) {
  static const Memory functions = {Create, Export, Import, Set, Add, Get, Revoke, Release};
  cl = OpenDevice(0);
  kernel = MakeKernel(cl, "__kernel void add(__global int* v, int by) { v[get_global_id(0)] += by; }", "add");
  cl_device_id device;
  cl_platform_id platform;
  Check("clGetContextInfo", clGetContextInfo(cl.context, CL_CONTEXT_DEVICES, sizeof device, &device, NULL));
  Check("clGetDeviceInfo", clGetDeviceInfo(device, CL_DEVICE_PLATFORM, sizeof platform, &platform, NULL));
  export_mem = (clExportMemTULLE_fn)clGetExtensionFunctionAddressForPlatform(platform, "clExportMemTULLE");
  import_mem = (clImportMemTULLE_fn)clGetExtensionFunctionAddressForPlatform(platform, "clImportMemTULLE");
  revoke_export =
      (clRevokeExportTULLE_fn)clGetExtensionFunctionAddressForPlatform(platform, "clRevokeExportTULLE");
  if (export_mem == NULL || import_mem == NULL || revoke_export == NULL) {
    fprintf(stderr, "no %s\n", CL_TULLE_MEMORY_EXPORT_EXTENSION_NAME);
    return 1;
  }
  return Serve(&functions);
}
