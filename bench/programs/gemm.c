// C = A B of two square matrices by CLBlast, again and again, and a sum of C at the end: a program that
// computes.
#define CL_TARGET_OPENCL_VERSION 120
#include <clblast_c.h>
#include <stdio.h>
#include <stdlib.h>

enum { kSize = 1024, kRounds = 20 };

static void must(int status, const char* what) {
  if (status == 0) return;
  fprintf(stderr, "%s failed: %d\n", what, status);
  exit(1);
}

int main(void) {
  const size_t bytes = (size_t)kSize * kSize * sizeof(float);
  cl_platform_id platform;
  cl_device_id device;
  cl_int status;
  must(clGetPlatformIDs(1, &platform, NULL), "clGetPlatformIDs");
  must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "clGetDeviceIDs");
  cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
  must(status, "clCreateContext");
  cl_command_queue queue = clCreateCommandQueue(context, device, 0, &status);
  must(status, "clCreateCommandQueue");

  float* host = malloc(bytes);
  if (host == NULL) must(1, "malloc");
  cl_mem matrices[3];
  for (int m = 0; m < 3; ++m) {
    for (size_t i = 0; i < (size_t)kSize * kSize; ++i) host[i] = (float)((i * (size_t)(m + 3)) % 7) / 7;
    matrices[m] = clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, bytes, host, &status);
    must(status, "clCreateBuffer");
  }
  for (int round = 0; round < kRounds; ++round) {
    must(CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo, kSize, kSize, kSize, 1,
                      matrices[0], 0, kSize, matrices[1], 0, kSize, 0, matrices[2], 0, kSize, &queue, NULL),
         "CLBlastSgemm");
  }
  must(clEnqueueReadBuffer(queue, matrices[2], CL_TRUE, 0, bytes, host, 0, NULL, NULL),
       "clEnqueueReadBuffer");
  double sum = 0;
  for (size_t i = 0; i < (size_t)kSize * kSize; ++i) sum += host[i];
  printf("%.6g\n", sum);
  return 0;
}
