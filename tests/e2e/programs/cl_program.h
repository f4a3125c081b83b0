// What the test programs share: the first device, a context, a queue, a program, and errors that name the
// call.
#pragma once

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>

// Exit code of a program whose OpenCL call failed.
enum { kClFailed = 3 };

static inline void Check(const char* call, cl_int error) {
  if (error == CL_SUCCESS) return;
  printf("%s: error %d\n", call, error);
  fflush(stdout);
  _Exit(kClFailed);
}

typedef struct {
  cl_device_id device;
  cl_context context;
  cl_command_queue queue;
} Cl;

static inline Cl OpenDevice(cl_uint index) {
  cl_platform_id platform;
  cl_device_id devices[16];
  cl_uint count = 0;
  cl_int error;
  Cl cl;
  Check("clGetPlatformIDs", clGetPlatformIDs(1, &platform, NULL));
  Check("clGetDeviceIDs", clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 16, devices, &count));
  if (index >= count) {
    printf("no device %u, there are %u\n", index, count);
    exit(kClFailed);
  }
  cl.device = devices[index];
  cl.context = clCreateContext(NULL, 1, &cl.device, NULL, NULL, &error);
  Check("clCreateContext", error);
  cl.queue = clCreateCommandQueue(cl.context, cl.device, 0, &error);
  Check("clCreateCommandQueue", error);
  return cl;
}

static inline cl_kernel MakeKernel(Cl cl, const char* source, const char* name) {
  cl_int error;
  cl_program program = clCreateProgramWithSource(cl.context, 1, &source, NULL, &error);
  Check("clCreateProgramWithSource", error);
  Check("clBuildProgram", clBuildProgram(program, 1, &cl.device, "", NULL, NULL));
  cl_kernel kernel = clCreateKernel(program, name, &error);
  Check("clCreateKernel", error);
  return kernel;
}

static inline cl_mem MakeBuffer(Cl cl, cl_mem_flags flags, size_t size, void* host) {
  cl_int error;
  cl_mem buffer = clCreateBuffer(cl.context, flags, size, host, &error);
  Check("clCreateBuffer", error);
  return buffer;
}
