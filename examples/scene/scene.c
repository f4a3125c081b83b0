/* scene: one program computes a scene, others look at it while it changes. They share one buffer on the vGPUs' node: nothing of it
 * passes through any of the programs. Build: cc scene.c -o scene -lOpenCL -lm
 *
 *   scene simulate [PARTICLES]         prints a token, then computes on until its standard input ends
 *   scene view TOKEN FILE.ppm [SIDE]   a picture of what is there now
 *
 * `tulle run -- ./scene simulate`, and with the token, from any machine of the same tenant: `tulle run -- ./scene view TOKEN a.ppm`.
 * Viewers may read the scene and not change it. The simulation needs no lock: a picture may be of two steps at once, as one of a
 * moving thing is. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As cl_ext_tulle.h has them, so that this needs no header but OpenCL's. */
#define CL_MEM_EXPORTABLE_TULLE ((cl_mem_flags)1 << 40)
typedef cl_int(CL_API_CALL* ExportMem)(cl_mem, cl_mem_flags, const char* tenant, char token[129]);
typedef cl_mem(CL_API_CALL* ImportMem)(cl_context, cl_mem_flags, const char* token, cl_int*);

static const char kSource[] =
    /* A particle is its place, from -1 to 1, and its speed. Three masses on orbits pull at it. */
    "kernel void advance(global float4* particles, float time, float dt) {\n"
    "  float4 p = particles[get_global_id(0)];\n"
    "  for (int i = 0; i < 3; ++i) {\n"
    "    const float angle = time * (0.4f + 0.25f * i) + 2.1f * i;\n"
    "    const float2 to = (float2)(0.55f * cos(angle), 0.55f * sin(angle * (i == 1 ? -1 : 1))) - p.xy;\n"
    "    const float square = dot(to, to) + 0.02f;\n"
    "    p.zw += to * (dt * 0.12f / (square * sqrt(square)));\n"
    "  }\n"
    "  p.zw *= 1 - 0.05f * dt;\n"
    "  p.xy += p.zw * dt;\n"
    "  if (fabs(p.x) > 1) { p.z = -0.5f * p.z; p.x = copysign(1.0f, p.x); }\n"
    "  if (fabs(p.y) > 1) { p.w = -0.5f * p.w; p.y = copysign(1.0f, p.y); }\n"
    "  particles[get_global_id(0)] = p;\n"
    "}\n"
    "kernel void gather(global const float4* particles, global uint* counts, int side) {\n"
    "  const float4 p = particles[get_global_id(0)];\n"
    "  const int x = clamp((int)((p.x + 1) * 0.5f * side), 0, side - 1), y = clamp((int)((p.y + 1) * 0.5f * side), 0, side - 1);\n"
    "  atomic_inc(&counts[y * side + x]);\n"
    "}\n"
    "kernel void shade(global const uint* counts, global uchar* pixels, float scale) {\n"
    "  const int i = get_global_id(0);\n"
    "  const float light = 1 - exp(-scale * counts[i]);\n"
    "  pixels[3 * i] = convert_uchar_sat(255 * pow(light, 1.6f));\n"
    "  pixels[3 * i + 1] = convert_uchar_sat(255 * pow(light, 1.1f));\n"
    "  pixels[3 * i + 2] = convert_uchar_sat(40 + 215 * pow(light, 0.6f));\n"
    "}\n";

static void Check(const char* call, cl_int error) {
  if (error == CL_SUCCESS) return;
  fprintf(stderr, "scene: %s: error %d%s\n", call, error,
          error == -9801 ? " (no such scene: is the simulation running, on the same node?)" : "");
  exit(1);
}

static cl_platform_id platform;
static cl_device_id device;
static cl_context context;
static cl_command_queue queue;
static cl_program program;

static void Open(void) {
  cl_int error;
  Check("clGetPlatformIDs", clGetPlatformIDs(1, &platform, NULL));
  Check("clGetDeviceIDs", clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL));
  context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
  Check("clCreateContext", error);
  queue = clCreateCommandQueue(context, device, 0, &error);
  Check("clCreateCommandQueue", error);
  const char* source = kSource;
  program = clCreateProgramWithSource(context, 1, &source, NULL, &error);
  Check("clCreateProgramWithSource", error);
  Check("clBuildProgram", clBuildProgram(program, 1, &device, "", NULL, NULL));
}

static cl_kernel Kernel(const char* name) {
  cl_int error;
  cl_kernel kernel = clCreateKernel(program, name, &error);
  Check("clCreateKernel", error);
  return kernel;
}

static cl_mem Buffer(cl_mem_flags flags, size_t bytes) {
  cl_int error;
  cl_mem buffer = clCreateBuffer(context, flags, bytes, NULL, &error);
  Check("clCreateBuffer", error);
  return buffer;
}

static void* Extension(const char* name) {
  void* function = clGetExtensionFunctionAddressForPlatform(platform, name);
  if (function != NULL) return function;
  fprintf(stderr, "scene: this device cannot share memory; run it with: tulle run -- ...\n");
  exit(1);
}

static void Run(cl_kernel kernel, size_t items) {
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, NULL, 0, NULL, NULL));
}

static int Simulate(size_t count) {
  char token[129];
  cl_float4* particles = malloc(count * sizeof *particles);
  unsigned random = 1;
  for (size_t i = 0; i < count; ++i) {
    float unit[4];
    for (int k = 0; k < 4; ++k) unit[k] = (float)((random = random * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1;
    const float far = sqrtf(0.5f * (unit[1] + 1)), angle = 3.14159f * unit[0];
    particles[i].s[0] = far * cosf(angle);
    particles[i].s[1] = far * sinf(angle);
    particles[i].s[2] = -0.4f * particles[i].s[1] + 0.02f * unit[2];
    particles[i].s[3] = 0.4f * particles[i].s[0] + 0.02f * unit[3];
  }
  cl_mem scene = Buffer(CL_MEM_EXPORTABLE_TULLE, count * sizeof *particles);
  Check("clEnqueueWriteBuffer",
        clEnqueueWriteBuffer(queue, scene, CL_TRUE, 0, count * sizeof *particles, particles, 0, NULL, NULL));
  Check("clExportMemTULLE", ((ExportMem)Extension("clExportMemTULLE"))(scene, CL_MEM_READ_ONLY, NULL, token));
  puts(token);
  fflush(stdout);
  cl_kernel advance = Kernel("advance");
  const float dt = 0.01f;
  Check("clSetKernelArg", clSetKernelArg(advance, 0, sizeof scene, &scene));
  Check("clSetKernelArg", clSetKernelArg(advance, 2, sizeof dt, &dt));
  unsigned steps = 0;
  for (struct pollfd input = {0, POLLIN, 0}; poll(&input, 1, 0) == 0; ++steps) {
    const float time = (float)steps * dt;
    Check("clSetKernelArg", clSetKernelArg(advance, 1, sizeof time, &time));
    Run(advance, count);
    Check("clFinish", clFinish(queue));
  }
  printf("%u steps\n", steps);
  return 0;
}

static int View(const char* token, const char* file, int side) {
  cl_int error;
  cl_mem scene = ((ImportMem)Extension("clImportMemTULLE"))(context, 0, token, &error);
  Check("clImportMemTULLE", error);
  size_t bytes = 0;
  Check("clGetMemObjectInfo", clGetMemObjectInfo(scene, CL_MEM_SIZE, sizeof bytes, &bytes, NULL));
  const size_t count = bytes / sizeof(cl_float4), pixels = (size_t)side * (size_t)side;
  const cl_uint zero = 0;
  const float scale = 1.2f * (float)pixels / (float)count;
  cl_mem counts = Buffer(CL_MEM_READ_WRITE, pixels * sizeof(cl_uint)), picture = Buffer(CL_MEM_READ_WRITE, pixels * 3);
  cl_kernel gather = Kernel("gather"), shade = Kernel("shade");
  Check("clEnqueueFillBuffer",
        clEnqueueFillBuffer(queue, counts, &zero, sizeof zero, 0, pixels * sizeof zero, 0, NULL, NULL));
  Check("clSetKernelArg", clSetKernelArg(gather, 0, sizeof scene, &scene));
  Check("clSetKernelArg", clSetKernelArg(gather, 1, sizeof counts, &counts));
  Check("clSetKernelArg", clSetKernelArg(gather, 2, sizeof side, &side));
  Run(gather, count);
  Check("clSetKernelArg", clSetKernelArg(shade, 0, sizeof counts, &counts));
  Check("clSetKernelArg", clSetKernelArg(shade, 1, sizeof picture, &picture));
  Check("clSetKernelArg", clSetKernelArg(shade, 2, sizeof scale, &scale));
  Run(shade, pixels);
  unsigned char* rgb = malloc(pixels * 3);
  Check("clEnqueueReadBuffer", clEnqueueReadBuffer(queue, picture, CL_TRUE, 0, pixels * 3, rgb, 0, NULL, NULL));
  FILE* out = fopen(file, "wb");
  if (out == NULL || fprintf(out, "P6\n%d %d\n255\n", side, side) < 0 || fwrite(rgb, 3, pixels, out) != pixels ||
      fclose(out) != 0) {
    perror(file);
    return 1;
  }
  printf("%s: %zu particles\n", file, count);
  return 0;
}

int main(int argc, char** argv) {
  const int simulates = argc >= 2 && argc <= 3 && strcmp(argv[1], "simulate") == 0;
  const int views = argc >= 4 && argc <= 5 && strcmp(argv[1], "view") == 0;
  const long number = simulates && argc == 3 ? atol(argv[2]) : views && argc == 5 ? atol(argv[4]) : simulates ? 200000 : 512;
  if ((!simulates && !views) || number < 1 || number > (views ? 16384 : 50000000)) {
    fprintf(stderr, "usage: scene simulate [PARTICLES, at most 50,000,000] | scene view TOKEN FILE.ppm [SIDE, at most 16,384]\n");
    return 2;
  }
  Open();
  return simulates ? Simulate((size_t)number) : View(argv[2], argv[3], (int)number);
}
