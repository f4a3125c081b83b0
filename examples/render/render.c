// render [WIDTH HEIGHT [FILE.ppm]]: draws a scene with all CUDA devices there are, a band of rows on each at the same time.
//
//   cc -O2 render.c -o render -ldl
//
// A program of CUDA's driver API: it loads libcuda.so.1 itself, so that no toolkit is needed to build it.
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kMostDevices = 64, kMostPixels = 1 << 28 };

// What it uses of the API (https://docs.nvidia.com/cuda/cuda-driver-api).
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
#define FUNCTIONS(X)                                                                                              \
  X(cuInit, "cuInit", (unsigned flags))                                                                           \
  X(cuGetErrorName, "cuGetErrorName", (int error, const char** name))                                             \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int* count))                                                           \
  X(cuDeviceGet, "cuDeviceGet", (int* device, int ordinal))                                                       \
  X(cuDeviceGetName, "cuDeviceGetName", (char* name, int length, int device))                                     \
  X(cuCtxCreate, "cuCtxCreate_v2", (CUcontext* context, unsigned flags, int device))                              \
  X(cuCtxSetCurrent, "cuCtxSetCurrent", (CUcontext context))                                                      \
  X(cuCtxSynchronize, "cuCtxSynchronize", (void))                                                                 \
  X(cuModuleLoadData, "cuModuleLoadData", (CUmodule* module, const void* image))                                  \
  X(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction* function, CUmodule module, const char* name))        \
  X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr* address, size_t bytes))                                            \
  X(cuMemHostAlloc, "cuMemHostAlloc", (void** memory, size_t bytes, unsigned flags))                              \
  X(cuMemcpyHtoD, "cuMemcpyHtoD_v2", (CUdeviceptr to, const void* from, size_t bytes))                            \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void* to, CUdeviceptr from, size_t bytes, CUstream stream))       \
  X(cuLaunchKernel, "cuLaunchKernel",                                                                             \
    (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,           \
     unsigned shared_bytes, CUstream stream, void** parameters, void** extra))
#define DECLARE(name, exported, parameters) static int (*name) parameters;
FUNCTIONS(DECLARE)

static void Fail(const char* what, const char* why) {
  fprintf(stderr, "render: %s: %s\n", what, why);
  exit(1);
}
static void Check(const char* call, int result) {
  const char* name = "?";
  if (result == 0) return;
  cuGetErrorName(result, &name);
  Fail(call, name);
}
#define CHECK(call) Check(#call, call)

static void LoadCuda(void) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == NULL) Fail("there is no CUDA driver here, try `tulle run --api cuda`", dlerror());
#define LOAD(name, exported, parameters)                      \
  *(void**)&name = dlsym(library, exported);                  \
  if (name == NULL) Fail("the CUDA driver has no", exported);
  FUNCTIONS(LOAD)
}

// The text of a file beside this program; the caller's to free.
static char* ReadBeside(const char* program, const char* file) {
  char path[4096];
  const char* const slash = strrchr(program, '/');
  snprintf(path, sizeof path, "%.*s%s", slash == NULL ? 0 : (int)(slash - program + 1), program, file);
  FILE* const in = fopen(path, "rb");
  if (in == NULL) Fail(path, "cannot be read");
  fseek(in, 0, SEEK_END);
  const long size = ftell(in);
  rewind(in);
  char* const text = calloc((size_t)size + 1, 1);
  if (fread(text, 1, (size_t)size, in) != (size_t)size) Fail(path, "cannot be read");
  fclose(in);
  return text;
}

static double Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

typedef struct {
  float x, y, z, radius, red, green, blue, mirror;
} Ball;  // as in render.cu
static const Ball kBalls[] = {
    {0, 1, 1, 1, 0.9f, 0.9f, 0.95f, 0.7f},           {-1.9f, 0.7f, 0, 0.7f, 0.9f, 0.25f, 0.2f, 0.2f},
    {1.8f, 0.6f, -0.4f, 0.6f, 0.2f, 0.5f, 0.9f, 0.2f}, {0.5f, 0.3f, -1.6f, 0.3f, 0.95f, 0.8f, 0.2f, 0.3f},
    {-0.8f, 0.25f, -1.9f, 0.25f, 0.3f, 0.8f, 0.4f, 0.1f}};

int main(int argc, char** argv) {
  int width = argc > 2 ? atoi(argv[1]) : 960, height = argc > 2 ? atoi(argv[2]) : 540, devices = 0;
  const char* const file = argc > 3 ? argv[3] : "render.ppm";
  if (argc == 2 || width <= 0 || height <= 0 || width > kMostPixels / height) {
    Fail("usage", "render [WIDTH HEIGHT [FILE.ppm]], of at most 2^28 pixels");
  }
  LoadCuda();
  CHECK(cuInit(0));
  CHECK(cuDeviceGetCount(&devices));
  if (devices > kMostDevices) devices = kMostDevices;
  if (devices > height) devices = height;
  char* const ptx = ReadBeside(argv[0], "render.ptx");

  struct {
    CUcontext context;
    CUdeviceptr pixels;
    unsigned char* picture;
    int first_row, rows;
  } bands[kMostDevices];
  const double begin = Now();
  for (int i = 0; i < devices; ++i) {
    int device = 0, ball_count = sizeof kBalls / sizeof *kBalls;
    char name[100] = "";
    CUmodule module = NULL;
    CUfunction function = NULL;
    CUdeviceptr balls = 0;
    CHECK(cuDeviceGet(&device, i));
    CHECK(cuDeviceGetName(name, sizeof name, device));
    CHECK(cuCtxCreate(&bands[i].context, 0, device));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&function, module, "render"));
    bands[i].first_row = height * i / devices;
    bands[i].rows = height * (i + 1) / devices - bands[i].first_row;
    const size_t bytes = (size_t)bands[i].rows * (size_t)width * 3;
    CHECK(cuMemAlloc(&balls, sizeof kBalls));
    CHECK(cuMemcpyHtoD(balls, kBalls, sizeof kBalls));
    CHECK(cuMemAlloc(&bands[i].pixels, bytes));
    CHECK(cuMemHostAlloc((void**)&bands[i].picture, bytes, 0));
    void* parameters[] = {&bands[i].pixels, &width, &height, &bands[i].first_row, &bands[i].rows, &balls, &ball_count};
    CHECK(cuLaunchKernel(function, (unsigned)(width + 15) / 16, (unsigned)(bands[i].rows + 7) / 8, 1, 16, 8, 1, 0, NULL, parameters,
                         NULL));
    CHECK(cuMemcpyDtoHAsync(bands[i].picture, bands[i].pixels, bytes, NULL));
    printf("rows %d to %d on %s\n", bands[i].first_row, bands[i].first_row + bands[i].rows - 1, name);
  }

  FILE* const out = fopen(file, "wb");
  if (out == NULL) Fail(file, "cannot be written");
  fprintf(out, "P6\n%d %d\n255\n", width, height);
  for (int i = 0; i < devices; ++i) {
    CHECK(cuCtxSetCurrent(bands[i].context));
    CHECK(cuCtxSynchronize());
    const size_t bytes = (size_t)bands[i].rows * (size_t)width * 3;
    if (fwrite(bands[i].picture, 1, bytes, out) != bytes) Fail(file, "cannot be written");
  }
  if (fclose(out) != 0) Fail(file, "cannot be written");
  fprintf(stderr, "%s after %.0f ms\n", file, (Now() - begin) * 1000);
  return 0;
}
