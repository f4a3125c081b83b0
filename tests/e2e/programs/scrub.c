// scrub: "scrub leave" puts a mark into all memory that it can have; "scrub seek" says in how many places it finds it, in fresh
// memory of every kind and in what lies around that, where kernels are native code and can look.
#include <string.h>

#include "cl_program.h"

enum { kBuffers = 12, kBytes = 3 << 20, kSide = 512, kGroup = 64, kMarks = kBytes / 8 };
static const cl_ulong kMark = 0x5ec4e7f00dcafe42;

static const char kSource[] =
    "__kernel void leave(__global ulong* out, ulong mark, __local ulong* own) {\n"
    "  own[get_local_id(0)] = mark;\n"
    "  ulong private_marks[64];\n"
    "  for (int i = 0; i < 64; ++i) private_marks[i] = mark + (i == (int)out[0]);\n"
    "  barrier(CLK_LOCAL_MEM_FENCE);\n"
    "  out[get_global_id(0)] = own[get_local_id(0)] + (private_marks[get_local_id(0) % 64] == 1);\n"
    "}\n"
    // `around`: so many words before and behind the buffer, which lies in a larger mapping.
    "__kernel void seek(__global const ulong* in, __global uint* found, ulong mark, __local ulong* own, ulong words, ulong before,\n"
    "                   ulong behind) {\n"
    "  const ulong id = get_global_id(0), all = get_global_size(0);\n"
    "  ulong private_marks[64];\n"
    "  volatile ulong* looked = private_marks;\n"
    "  for (int i = 0; i < 64; ++i) if (looked[i] == mark) atomic_inc(&found[0]);\n"
    "  if (own[get_local_id(0)] == mark) atomic_inc(&found[1]);\n"
    "  for (ulong i = id; i < words; i += all) if (in[i] == mark) atomic_inc(&found[2]);\n"
    "  for (ulong i = id; i < before; i += all) if (in[(long)i - (long)before] == mark) atomic_inc(&found[3]);\n"
    "  for (ulong i = id; i < behind; i += all) if (in[words + i] == mark) atomic_inc(&found[3]);\n"
    "}\n";

int main(int argc, char** argv) {
  const int leaves = argc == 2 && strcmp(argv[1], "leave") == 0;
  static cl_ulong marks[kMarks];
  const Cl cl = OpenDevice(0);
  cl_kernel kernel = MakeKernel(cl, kSource, leaves ? "leave" : "seek");
  cl_int error = CL_SUCCESS;
  cl_mem buffers[kBuffers];
  for (int i = 0; i < kBuffers; ++i) buffers[i] = MakeBuffer(cl, CL_MEM_READ_WRITE, kBytes, NULL);
  const cl_image_format format = {CL_RGBA, CL_UNSIGNED_INT32};
  cl_image_desc desc = {0};
  desc.image_type = CL_MEM_OBJECT_IMAGE2D;
  desc.image_width = desc.image_height = kSide;
  cl_mem image = clCreateImage(cl.context, CL_MEM_READ_WRITE, &format, &desc, NULL, &error);
  Check("clCreateImage", error);
  const size_t origin[3] = {0, 0, 0}, region[3] = {kSide, kSide, 1};
  static cl_ulong pixels[kSide * kSide * 2];
  const size_t items = 1024, group = kGroup;

  if (leaves) {
    for (int i = 0; i < kMarks; ++i) marks[i] = kMark;
    for (int i = 0; i < kSide * kSide * 2; ++i) pixels[i] = kMark;
    for (int i = 0; i < kBuffers; ++i)
      Check("clEnqueueWriteBuffer", clEnqueueWriteBuffer(cl.queue, buffers[i], CL_TRUE, 0, kBytes, marks, 0, NULL, NULL));
    Check("clEnqueueWriteImage", clEnqueueWriteImage(cl.queue, image, CL_TRUE, origin, region, 0, 0, pixels, 0, NULL, NULL));
    Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffers[0], &buffers[0]));
    Check("clSetKernelArg", clSetKernelArg(kernel, 1, sizeof kMark, &kMark));
    Check("clSetKernelArg", clSetKernelArg(kernel, 2, kGroup * sizeof kMark, NULL));
    Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL));
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffers[0], CL_TRUE, 0, kBytes, marks, 0, NULL, NULL));
    puts(marks[0] == kMark && marks[kMarks - 1] == kMark ? "left" : "it was not left");
    fflush(stdout);
    // Half of the memory is given back while the session lives, half of it goes with it.
    for (int i = 0; i < kBuffers; i += 2) Check("clReleaseMemObject", clReleaseMemObject(buffers[i]));
    Check("clFinish", clFinish(cl.queue));
    if (getchar() == EOF) return 0;
    return 1;
  }

  cl_uint found[4] = {0}, in_buffers = 0, in_image = 0;
  for (int i = 0; i < kBuffers; ++i) {
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffers[i], CL_TRUE, 0, kBytes, marks, 0, NULL, NULL));
    for (int at = 0; at < kMarks; ++at) in_buffers += marks[at] != 0;
  }
  Check("clEnqueueReadImage", clEnqueueReadImage(cl.queue, image, CL_TRUE, origin, region, 0, 0, pixels, 0, NULL, NULL));
  for (int at = 0; at < kSide * kSide * 2; ++at) in_image += pixels[at] != 0;
  cl_mem counts = MakeBuffer(cl, CL_MEM_READ_WRITE, sizeof found, NULL);
  const cl_ulong words = kMarks, around = (cl_ulong)kBuffers / 2 * kMarks;
  const cl_ulong before = around - kMarks, behind = around - kMarks;
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffers[0], &buffers[kBuffers / 2]));
  Check("clSetKernelArg", clSetKernelArg(kernel, 1, sizeof counts, &counts));
  Check("clSetKernelArg", clSetKernelArg(kernel, 2, sizeof kMark, &kMark));
  Check("clSetKernelArg", clSetKernelArg(kernel, 3, kGroup * sizeof kMark, NULL));
  Check("clSetKernelArg", clSetKernelArg(kernel, 4, sizeof words, &words));
  Check("clSetKernelArg", clSetKernelArg(kernel, 5, sizeof before, &before));
  Check("clSetKernelArg", clSetKernelArg(kernel, 6, sizeof behind, &behind));
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL));
  Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, counts, CL_TRUE, 0, sizeof found, found, 0, NULL, NULL));
  printf("private %u local %u buffer %u around %u buffers %u image %u\n", found[0], found[1], found[2], found[3], in_buffers,
         in_image);
  return 0;
}
