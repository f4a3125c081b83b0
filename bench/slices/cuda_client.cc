// tulle_bench_cuda_slices: a tenant (see tenant.h) with CUDA.
#include "bench/cuda/client.h"
#include "bench/slices/tenant.h"

namespace {

constexpr unsigned kBlocks = 64, kThreads = 32;
constexpr const char* kKernels = R"(.version 6.4
.target sm_50
.address_size 64
.visible .entry turn(.param .u64 out, .param .u32 turns) {
  .reg .pred %p; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<4>;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3;
  ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r4, 4; add.u64 %rd3, %rd1, %rd2;
  ld.param.u32 %r5, [turns]; mov.u32 %r6, 0; cvt.rn.f32.u32 %f1, %r4;
AGAIN:
  fma.rn.f32 %f1, %f1, 0f3F7FBE77, 0f3F800000;
  add.u32 %r6, %r6, 1; setp.lt.u32 %p, %r6, %r5; @%p bra AGAIN;
  st.global.f32 [%rd3], %f1;
  ret;
}
.visible .entry stream(.param .u64 out, .param .u32 turns) {
  .reg .pred %p; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<4>;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.u32 %r4, %r1, %r2, %r3;
  ld.param.u64 %rd1, [out]; ld.param.u32 %r5, [turns]; mov.u32 %r6, 0;
AGAIN:
  mul.wide.u32 %rd2, %r4, 4; add.u64 %rd3, %rd1, %rd2;
  ld.global.f32 %f1, [%rd3]; fma.rn.f32 %f1, %f1, 0f3F000000, 0f3F800000; st.global.f32 [%rd3], %f1;
  add.u32 %r4, %r4, 2048; and.b32 %r4, %r4, 16777215;
  add.u32 %r6, %r6, 1; setp.lt.u32 %p, %r6, %r5; @%p bra AGAIN;
  ret;
}
)";
static_assert(kBlocks * kThreads == 2048 && kStreamBytes == 4u * 16777216);

class Tenant {
 public:
  explicit Tenant(bool streams) {
    CUdevice device = 0;
    CUcontext context = nullptr;
    CUmodule module = nullptr;
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, 0));
    MUST(cuCtxCreate_v2(&context, 0, device));
    MUST(cuModuleLoadData(&module, kKernels));
    MUST(cuModuleGetFunction(&kernel_, module, streams ? "stream" : "turn"));
    MUST(cuMemAlloc_v2(&out_, kStreamBytes));
    AddQueue();
  }
  void AddQueue() { MUST(cuStreamCreate(&queues_.emplace_back(), CU_STREAM_NON_BLOCKING)); }
  void SetTurns(unsigned turns) { turns_ = turns; }
  void Launch(std::size_t queue) {
    void* parameters[] = {&out_, &turns_};
    MUST(cuLaunchKernel(kernel_, kBlocks, 1, 1, kThreads, 1, 1, 0, queues_[queue], parameters, nullptr));
  }
  void Flush(std::size_t) {}
  void Finish(std::size_t queue) { MUST(cuStreamSynchronize(queues_[queue])); }

 private:
  CUfunction kernel_ = nullptr;
  CUdeviceptr out_ = 0;
  unsigned turns_ = 1;
  std::vector<CUstream> queues_;
};

}  // namespace

int main(int argc, char** argv) {
  if (const int code = TenantMain<Tenant>(argc, argv); code >= 0) return code;
  std::fprintf(stderr, "usage: tulle_bench_cuda_slices calibrate US | run TURNS one|deep|memory [QUEUES]\n");
  return 2;
}
